"""Envs from Gymnasium's registry."""

from collections.abc import Mapping
from typing import Any

import gymnasium

from qbench.types import EnvSpec


class GymnasiumEnv:
    """A registered Gymnasium env with a Discrete action space.

    Args:
        id: registered id, such as "CartPole-v1".
        kwargs: passed to `gymnasium.make`.
    """

    def __init__(self, *, id: str, kwargs: Mapping[str, Any]) -> None:
        self._id = id
        self._kwargs = dict(kwargs)

    def make(self) -> gymnasium.Env[Any, Any]:
        """One env with its time limit; the checker is off, it costs 40 % of a CartPole step."""
        return gymnasium.make(self._id, disable_env_checker=True, **self._kwargs)

    def describe(self) -> EnvSpec:
        """Shapes and limits, read off an instance."""
        env = self.make()
        spec = EnvSpec(
            id=self._id,
            obs_shape=tuple(env.observation_space.shape or ()),
            num_actions=int(env.action_space.n),  # type: ignore[attr-defined]
            max_episode_steps=env.spec.max_episode_steps if env.spec else None,
        )
        env.close()
        return spec
