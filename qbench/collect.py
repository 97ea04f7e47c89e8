"""Envs + policy -> replay: one env per seed, in lockstep."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch

from qbench.replay import ReplayBuffer
from qbench.types import IntArray, Learner

Explore = Callable[[Callable[[], IntArray], int], IntArray]


class Episode(NamedTuple):
    """An episode that has just ended, by termination or time limit."""

    seed_index: int
    env_step: int
    episode_return: float
    length: int


class Collector:
    """Steps S envs and stores exactly one transition per seed and env step.

    Autoreset is off: the Collector resets the envs that have finished, each from its own
    generator, and stores the final observation as `next_obs`.

    Args:
        envs: one env per seed.
        env_seeds: seeds the generator of each env at its first reset.
        learner: its greedy actions are taken where exploration does not replace them.
        explore: (greedy, env_step) -> actions [S].
        replay: receives the transitions.
    """

    def __init__(
        self,
        *,
        envs: Sequence[gymnasium.Env[Any, Any]],
        env_seeds: Sequence[int],
        learner: Learner,
        explore: Explore,
        replay: ReplayBuffer,
    ) -> None:
        self.env_step = 0
        self._envs = envs
        self._learner = learner
        self._explore = explore
        self._replay = replay
        resets = [env.reset(seed=seed)[0] for env, seed in zip(envs, env_seeds, strict=True)]
        self._obs = np.stack(resets).astype(np.float32)
        self._return = [0.0] * len(envs)
        self._length = [0] * len(envs)

    def collect(self, num_env_steps: int) -> list[Episode]:
        """Take `num_env_steps` steps in every env; the episodes that ended on the way."""
        episodes: list[Episode] = []
        for _ in range(num_env_steps):
            episodes += self._step()
        return episodes

    def _greedy(self) -> IntArray:
        obs = torch.from_numpy(self._obs).unsqueeze(1)  # [S, 1, *obs_shape]
        device = self._learner.alive.device
        return self._learner.act(obs.to(device))[:, 0].cpu().numpy()

    def _step(self) -> list[Episode]:
        action = self._explore(self._greedy, self.env_step)
        self.env_step += 1
        episodes = []
        obs, next_obs = self._obs, np.empty_like(self._obs)
        after = np.empty_like(self._obs)
        reward = np.empty(len(action), np.float32)
        terminated = np.empty(len(action), np.bool_)
        for k, env in enumerate(self._envs):
            next_obs[k], reward[k], terminated[k], truncated, _ = env.step(action[k])
            self._return[k] += float(reward[k])
            self._length[k] += 1
            if terminated[k] or truncated:
                episodes.append(Episode(k, self.env_step, self._return[k], self._length[k]))
                self._return[k], self._length[k] = 0.0, 0
                after[k] = env.reset()[0]
            else:
                after[k] = next_obs[k]
        self._replay.add(obs, action, reward, terminated, next_obs)
        self._obs = after
        return episodes

    def close(self) -> None:
        """Close the envs."""
        for env in self._envs:
            env.close()
