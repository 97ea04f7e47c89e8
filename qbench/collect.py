"""Acting: envs and policy -> replay."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qbench.replay import Replay
from qbench.types import BehaviourPolicy, Envs, Exploration, State


class Episode(NamedTuple):
    """An episode that has just ended, by the env's own rules or its time limit."""

    seed_index: int
    env_step: int
    episode_return: float
    length: int


class NotWhereItWas(Exception):
    """An env cannot be continued exactly: its reset does not build it anew."""


class Collector:
    """Steps S envs and stores exactly one transition per seed and env step.

    Args:
        envs: one env per seed; they reset whoever has ended, from its own generator.
        env_seeds: seeds the generator of each env at its first reset.
        policy: its greedy actions are taken where exploration does not replace them.
        explore: (greedy, env_step) -> actions [S, *action_shape].
        replay: receives the transitions.
    """

    def __init__(
        self,
        *,
        envs: Envs,
        env_seeds: Sequence[int],
        policy: BehaviourPolicy,
        explore: Exploration,
        replay: Replay,
    ) -> None:
        self.env_step = 0
        self._envs = envs
        self.policy = policy
        self._explore = explore
        self._replay = replay
        self._obs = envs.reset(env_seeds)
        self._return = np.zeros(len(env_seeds))
        self._length = np.zeros(len(env_seeds), np.int64)

    def collect(self, num_env_steps: int) -> list[Episode]:
        """Take `num_env_steps` steps in every env; the episodes that ended on the way."""
        episodes: list[Episode] = []
        for _ in range(num_env_steps):
            episodes += self._step()
        return episodes

    def _step(self) -> list[Episode]:
        action = self._explore(lambda: self.policy(self._obs), self.env_step)
        self.env_step += 1
        stepped = self._envs.step(action)
        self._replay.add(
            self._obs,
            action,
            stepped.reward,
            stepped.terminated,
            stepped.next_obs,
            stepped.ended,
        )
        self._obs = stepped.obs
        self._return += stepped.score
        self._length += 1
        return [self._end(int(k)) for k in np.flatnonzero(stepped.is_over)]

    def _end(self, k: int) -> Episode:
        episode = Episode(k, self.env_step, float(self._return[k]), int(self._length[k]))
        self._return[k], self._length[k] = 0.0, 0
        return episode

    def state(self) -> State:
        """The running episodes, and what acts."""
        return {
            "env_step": self.env_step,
            "obs": self._obs,
            "returns": self._return,
            "lengths": self._length,
            "envs": self._envs.state(),
            "policy": self.policy.state_dict(),
        }

    def load_state(self, state: State) -> None:
        """Go on with them.

        Raises:
            NotWhereItWas: an env has come out elsewhere.
        """
        obs, is_same = self._envs.load_state(state["envs"])
        if not is_same.all() or obs.tobytes() != np.asarray(state["obs"]).tobytes():
            raise NotWhereItWas("an env, played again from its reset, is not where it was")
        self.policy.load_state_dict(state["policy"])
        self.env_step, self._obs = state["env_step"], obs
        self._return, self._length = np.asarray(state["returns"]), np.asarray(state["lengths"])

    def close(self) -> None:
        """Close the envs."""
        self._envs.close()
