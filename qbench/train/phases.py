"""When a scheme's networks change what they are: a delayed start, ranges that freeze."""

import math

from qbench.types import Learner, PhasedScheme, QuantScheme, State


class Phases:
    """Brings every network of a learner to its phase; a scheme without phases costs nothing.

    Args:
        scheme: whose networks they are.
        learner: holds them.

    Attributes:
        num_changes: times that the networks were brought to another phase.
    """

    def __init__(self, scheme: QuantScheme, learner: Learner) -> None:
        self._scheme = scheme if isinstance(scheme, PhasedScheme) else None
        self._learner = learner
        self.num_changes = 0
        self._env_step: float = 0
        self._next_change: float = -math.inf

    def __call__(self, env_step: float) -> None:
        """Bring the networks to `env_step`, which never decreases."""
        self._env_step = env_step
        if self._scheme is None or env_step < self._next_change:
            return
        for network in self._learner.trained().values():
            self._scheme.advance(network, env_step, is_target=False)
        for network in self._learner.targets().values():
            self._scheme.advance(network, env_step, is_target=True)
        self._next_change = self._scheme.next_change(env_step)
        self.num_changes += 1

    def state(self) -> State:
        """The env step to which the networks were brought last."""
        return {"env_step": self._env_step}

    def load_state(self, state: State) -> None:
        """Bring new networks to the same phase."""
        self(state["env_step"])
