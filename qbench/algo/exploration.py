"""Exploration: what is done instead of the greedy action."""

from collections.abc import Callable

import numpy as np

from qbench.streams import Uniforms
from qbench.types import IntArray


class EpsilonGreedy:
    """A random action with probability epsilon(env_step); Mnih et al. (2015), Algorithm 1.

    Args:
        epsilon: schedule in env steps.
        learning_starts: env steps of random actions at the start.
        num_actions: A.
        uniforms: two numbers are drawn per seed and env step, used or not.
    """

    def __init__(
        self,
        *,
        epsilon: Callable[[int], float],
        learning_starts: int,
        num_actions: int,
        uniforms: Uniforms,
    ) -> None:
        self.epsilon = epsilon
        self._learning_starts = learning_starts
        self._num_actions = num_actions
        self._uniforms = uniforms

    def __call__(self, greedy: Callable[[], IntArray], env_step: int) -> IntArray:
        """Actions [S]; `greedy` is called only if some seed needs its greedy action."""
        u = self._uniforms.next(2)
        action = (u[:, 1] * self._num_actions).astype(np.int64)
        if env_step < self._learning_starts:
            return action
        exploits = u[:, 0] >= self.epsilon(env_step)
        return np.where(exploits, greedy(), action) if exploits.any() else action
