"""Exploration: what is done instead of the greedy action, or added to it."""

from collections.abc import Callable, Sequence

import numpy as np

from qbench.schedule import Linear
from qbench.streams import Normals, Uniforms
from qbench.types import ActionArray, EnvSpec, State


class EpsilonGreedy:
    """A random action with probability epsilon(env_step); Mnih et al. (2015), Algorithm 1.

    Two numbers are drawn per seed and env step, used or not.

    Args:
        start: epsilon at env step 0.
        end: epsilon from `env_steps` on; linear in between.
        env_steps: length of the schedule.
        learning_starts: env steps of random actions at the start.
        spec: of an env with Discrete actions.
        seeds: one generator each.
    """

    def __init__(
        self,
        *,
        start: float,
        end: float,
        env_steps: int,
        learning_starts: int,
        spec: EnvSpec,
        seeds: Sequence[int],
    ) -> None:
        self._epsilon = Linear(start=start, end=end, env_steps=env_steps)
        self._learning_starts = learning_starts
        self._num_actions = spec.num_actions or 0
        self._uniforms = Uniforms(seeds, "explore")

    def rates(self, env_step: int) -> dict[str, float]:
        """What is recorded of the exploration at `env_step`."""
        return {"epsilon": self._epsilon(env_step)}

    def state(self) -> State:
        """The random numbers to come; the schedule is one of env steps."""
        return {"uniforms": self._uniforms.state()}

    def load_state(self, state: State) -> None:
        """Go on with them."""
        self._uniforms.load_state(state["uniforms"])

    def __call__(self, greedy: Callable[[], ActionArray], env_step: int) -> ActionArray:
        """Actions [S]; `greedy` is called only if some seed needs its greedy action."""
        u = self._uniforms.next(2)
        action = (u[:, 1] * self._num_actions).astype(np.int64)
        if env_step < self._learning_starts:
            return action
        exploits = u[:, 0] >= self._epsilon(env_step)
        return np.where(exploits, greedy(), action) if exploits.any() else action


class GaussianNoise:
    """The greedy action plus normal noise, clipped to the Box.

    Fujimoto et al. (2018), section 5, https://arxiv.org/abs/1802.09477, found it as good as
    the Ornstein-Uhlenbeck process of Lillicrap et al. (2016).

    Args:
        noise: standard deviation, in half widths of the Box.
        learning_starts: env steps of uniformly random actions at the start.
        spec: of an env with a Box of actions.
        seeds: one generator each.
    """

    def __init__(
        self, *, noise: float, learning_starts: int, spec: EnvSpec, seeds: Sequence[int]
    ) -> None:
        self._noise = noise
        self._learning_starts = learning_starts
        self._low = np.array(spec.action_low, np.float32)
        self._high = np.array(spec.action_high, np.float32)
        self._uniforms = Uniforms(seeds, "explore")
        self._normals = Normals(seeds, "noise")

    def rates(self, env_step: int) -> dict[str, float]:
        """What is recorded of the exploration at `env_step`."""
        return {"noise": self._noise}

    def state(self) -> State:
        """The random numbers to come."""
        return {"uniforms": self._uniforms.state(), "normals": self._normals.state()}

    def load_state(self, state: State) -> None:
        """Go on with them."""
        self._uniforms.load_state(state["uniforms"])
        self._normals.load_state(state["normals"])

    def __call__(self, greedy: Callable[[], ActionArray], env_step: int) -> ActionArray:
        """Actions [S, A] float32 within the bounds."""
        width = self._high - self._low
        if env_step < self._learning_starts:
            action = self._low + width * self._uniforms.next(len(width))
        else:
            action = greedy() + self._noise * width / 2 * self._normals.next(len(width))
        return np.clip(action.astype(np.float32), self._low, self._high)
