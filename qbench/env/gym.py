"""Envs from Gymnasium's registry."""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from qbench.env import cartpole
from qbench.env.extras import tame_mujoco, without_memory
from qbench.env.stepping import SERIAL, VECTOR, check_stepping, make_envs
from qbench.types import Envs, EnvSpec

MIN_VECTOR_SEEDS = 4
"""Below, arrays are slower than envs one after the other; the bits are the same."""


def spec_of(
    env: gymnasium.Env[Any, Any], *, id: str, frame_stack: int = 1, max_episode_steps: int | None
) -> EnvSpec:
    """What an instance shows of itself."""
    obs: Any = env.observation_space
    action: Any = env.action_space
    is_bytes = obs.dtype == np.uint8
    is_box = isinstance(action, spaces.Box)
    return EnvSpec(
        id=id,
        obs_shape=tuple(obs.shape or ()),
        obs_high=int(obs.high.max()) if is_bytes else None,
        frame_stack=frame_stack,
        num_actions=None if is_box else int(action.n),
        action_low=tuple(action.low.tolist()) if is_box else (),
        action_high=tuple(action.high.tolist()) if is_box else (),
        max_episode_steps=max_episode_steps,
    )


class GymnasiumEnv:
    """A registered Gymnasium env with a Discrete or one-dimensional Box action space.

    Args:
        id: registered id, such as "CartPole-v1".
        kwargs: passed to `gymnasium.make`.
        stepping: how the envs of a population are stepped: serial, processes or vector.
    """

    def __init__(self, *, id: str, kwargs: Mapping[str, Any], stepping: str) -> None:
        check_stepping(stepping, id, has_vector=id == cartpole.ID and not kwargs)
        self._id = id
        self._kwargs = dict(kwargs)
        self._stepping = stepping

    def make(self) -> gymnasium.Env[Any, Any]:
        """One env with its time limit; the checker is off, it costs 40 % of a CartPole step."""
        registered = gymnasium.registry.get(self._id)
        if registered and str(registered.entry_point).startswith("gymnasium.envs.mujoco"):
            tame_mujoco()
        env: gymnasium.Env[Any, Any] = gymnasium.make(
            self._id, disable_env_checker=True, **self._kwargs
        )
        return without_memory(env)

    def make_training(self, num_seeds: int) -> Envs:
        """The envs of a population: the same as evaluated."""
        if self._stepping != VECTOR:
            return make_envs(self._stepping, self.make, num_seeds)
        if num_seeds < MIN_VECTOR_SEEDS:
            return make_envs(SERIAL, self.make, num_seeds)
        return cartpole.CartPoleEnvs(num_seeds)

    def describe(self) -> EnvSpec:
        """Shapes and limits, read off an instance."""
        env = self.make()
        limit = env.spec.max_episode_steps if env.spec else None
        spec = spec_of(env, id=self._id, max_episode_steps=limit)
        env.close()
        return spec
