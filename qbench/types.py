"""The words that every part of qbench shares: transitions, env descriptions, protocols."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]
Metrics = Mapping[str, Tensor]
"""Scalars of one update, one per seed: name -> [S]."""


class Transition(NamedTuple):
    """A minibatch of transitions, leading axes [S, B].

    Truncation is not stored: a truncated episode bootstraps from its final `next_obs`
    (Pardo et al. 2018, https://arxiv.org/abs/1712.00378).
    """

    obs: Tensor  # [S, B, *obs_shape] float32
    action: Tensor  # [S, B] int64
    reward: Tensor  # [S, B] float32
    terminated: Tensor  # [S, B] bool
    next_obs: Tensor  # [S, B, *obs_shape] float32


@dataclass(frozen=True, kw_only=True)
class EnvSpec:
    """What the rest of qbench needs to know of an env."""

    id: str
    obs_shape: tuple[int, ...]
    num_actions: int
    max_episode_steps: int | None


class Policy(Protocol):
    """Greedy actions of S agents: obs [S, B, *obs_shape] -> actions [S, B]."""

    def __call__(self, obs: FloatArray, /) -> IntArray: ...


class Learner(Protocol):
    """An algorithm over S seeds. It knows nothing of quantization, env libraries or Lightning."""

    network: nn.Module
    alive: Tensor
    """[S] bool: False once a seed's loss or gradient was not finite; the seed is then frozen."""

    def update(self, batch: Transition) -> Metrics:
        """One gradient step for every seed on its own minibatch."""
        ...

    def act(self, obs: Tensor) -> Tensor:
        """Greedy actions [S, B] at obs [S, B, *obs_shape]; moves no range."""
        ...

    def sync_target(self, tau: float) -> None:
        """Move the target network towards the online one; 1 copies it."""
        ...

    def set_learning_rate(self, learning_rate: float) -> None:
        """Learning rate of the following updates."""
        ...


class IntegerPolicy(Protocol):
    """A converted network of one agent: plain arrays, no torch."""

    def __call__(self, obs: FloatArray, /) -> FloatArray:
        """Outputs [B, A] float32 at obs [B, *obs_shape]."""
        ...

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Everything that has to be stored to run the network."""
        ...


class QuantScheme(Protocol):
    """prepare -> train -> calibrate -> convert, each a transform of any network.

    A scheme whose class is called PTQ-something trains nothing of its own: it takes the
    agents of the `none` cell. The name tells, because sweeps are planned without importing it.
    """

    def prepare(self, module: nn.Module) -> nn.Module:
        """Swap layers for quantized ones that hold the same Parameters under the same names."""
        ...

    def calibrate(self, module: nn.Module, batches: Iterable[Tensor]) -> None:
        """Set the ranges of a prepared module from batches of obs [S, B, *obs_shape]."""
        ...

    def convert(self, module: nn.Module) -> IntegerPolicy:
        """The deployed form of a population of one (see `layers.take_seed`)."""
        ...
