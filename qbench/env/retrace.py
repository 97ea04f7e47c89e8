"""Where an env stands, as the way there: its random numbers at the reset and the actions since.

Few simulators can be copied exactly (Box2D's not at all, MuJoCo's and the ALE's copies go on
otherwise than the original), but all of them do the same again from a reset that builds them anew.
"""

from typing import Any

import gymnasium
import numpy as np

from qbench.types import ObsArray, State


class Retraced:
    """One env and the way to where it stands.

    An env whose random numbers are not Gymnasium's `np_random` tells them by a method
    `random_state`, and takes them back, for its next reset, by `load_random_state`.

    Args:
        env: without autoreset; `is_over` in its info tells an end of the env's own episode from
            one of a life, after which a reset goes on with the same game.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        self._env = env
        self._owner = _owner_of_random_state(env)
        self._is_over = True
        self._start: State = {}
        self._actions: list[Any] = []
        self._lives: list[int] = []  # actions taken before each reset within the episode
        self._score = 0.0

    def reset(self, seed: int | None = None) -> ObsArray:
        """First observation of the next episode, or of the next life."""
        if self._is_over or seed is not None:
            self._start = {"seed": seed} if seed is not None else {"random": self._random_state()}
            self._actions, self._lives, self._score = [], [], 0.0
        else:
            self._lives.append(len(self._actions))
        self._is_over = False
        obs: ObsArray = self._env.reset(seed=seed)[0]
        return obs

    def step(self, action: Any) -> tuple[ObsArray, Any, bool, bool, dict[str, Any]]:
        """Step the env."""
        stepped = self._env.step(action)
        _, reward, terminated, truncated, info = stepped
        self._actions.append(action)
        self._score += float(reward)
        self._is_over = info.get("is_over", terminated or truncated)
        return stepped

    def state(self) -> State:
        """The way to where the env stands."""
        actions = np.array(self._actions) if self._actions else None
        lives = list(self._lives)
        return {"start": self._start, "actions": actions, "lives": lives, "score": self._score}

    def load_state(self, state: State) -> tuple[ObsArray, bool]:
        """Go the way again: the last observation, and whether the rewards were the same."""
        start, lives = state["start"], state["lives"]
        actions = [] if state["actions"] is None else list(np.asarray(state["actions"]))
        if "random" in start:
            self._load_random_state(start["random"])
        self._is_over = True
        obs = self.reset(start.get("seed"))
        self._start = start
        for number, action in enumerate(actions):
            obs = self.step(action)[0]
            if number + 1 in lives:
                obs = self.reset()
        return obs, self._score == state["score"]

    def close(self) -> None:
        """Close the env."""
        self._env.close()

    def _random_state(self) -> State:
        if self._owner is not None:
            state: State = self._owner.random_state()
            return state
        return {"np_random": self._env.unwrapped.np_random.bit_generator.state}

    def _load_random_state(self, state: State) -> None:
        if self._owner is not None:
            self._owner.load_random_state(state)
        else:
            self._env.unwrapped.np_random.bit_generator.state = state["np_random"]


def _owner_of_random_state(env: Any) -> Any:
    """The wrapper that knows where the env's random numbers are; None for Gymnasium's own place."""
    while True:
        if hasattr(type(env), "random_state"):
            return env
        if not isinstance(env, gymnasium.Wrapper):
            return None
        env = env.env
