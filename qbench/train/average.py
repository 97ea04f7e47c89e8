"""Averaged weights: what is scored and deployed is steadier than the last update."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from qbench.types import Learner, State


class Average:
    """Exponential moving average of the acting network's parameters, of every seed.

    Polyak and Juditsky (1992); Izmailov et al. (2018), https://arxiv.org/abs/1803.05407.
    Training never sees it. Ranges of quantized layers are those of the trained network.

    Args:
        learner: whose `network` is averaged.
        weight: of the newest parameters, per update round; 1 is the trained network itself.
    """

    def __init__(self, learner: Learner, weight: float) -> None:
        self._network = learner.network
        self._flat = learner.optimizers()[0].flat
        self._weight = weight
        self.flat = self._flat.clone() if weight < 1 else self._flat
        self._is_empty = True

    @property
    def num_bytes(self) -> int:
        """Bytes it takes beside the network, all seeds."""
        return self.flat.nbytes if self._weight < 1 else 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters after an update round."""
        if self._weight < 1:
            # The first ones are taken whole: before them, learned steps are no steps yet.
            self.flat.lerp_(self._flat, 1.0 if self._is_empty else self._weight)
            self._is_empty = False

    def state(self) -> State:
        """The average, where there is one beside the network."""
        return {"flat": self.flat, "is_empty": self._is_empty} if self._weight < 1 else {}

    @torch.no_grad()
    def load_state(self, state: State) -> None:
        """Go on from there."""
        if self._weight < 1:
            self.flat.copy_(state["flat"])
            self._is_empty = state["is_empty"]

    @torch.no_grad()
    def apply(self) -> None:
        """Make the average the network's own parameters."""
        self._flat.copy_(self.flat)
        self._network.eval()

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network is the averaged one inside."""
        if self._weight == 1:
            yield
            return
        trained = self._flat.clone()
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                self._flat.copy_(trained)
            self._network.eval()
