"""MinAtar: five Atari games on 10x10 boards (Young and Tian 2019)."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from qbench.env.extras import load
from qbench.env.gym import spec_of
from qbench.env.stepping import check_stepping, make_envs
from qbench.types import Envs, EnvSpec, ObsArray, State


class MinAtarEnv:
    """A MinAtar game with its minimal action set, https://arxiv.org/abs/1903.03176.

    Args:
        game: breakout, asterix, space_invaders, freeway or seaquest.
        sticky_action_prob: chance that the action before is repeated instead.
        max_episode_steps: longer episodes are truncated.
        stepping: how the envs of a population are stepped: serial or processes.
    """

    def __init__(
        self, *, game: str, sticky_action_prob: float, max_episode_steps: int, stepping: str
    ) -> None:
        # v1 has the actions that do something in this game, v0 all six.
        self._id = f"MinAtar/{game.title().replace('_', '')}-v1"
        check_stepping(stepping, self._id)
        self._sticky_action_prob = sticky_action_prob
        self._max_episode_steps = max_episode_steps
        self._stepping = stepping

    def make(self) -> gymnasium.Env[Any, Any]:
        """One env with its time limit."""
        register()
        env = gymnasium.make(
            self._id,
            max_episode_steps=self._max_episode_steps,
            disable_env_checker=True,
            sticky_action_prob=self._sticky_action_prob,
        )
        return PlanesFirst(env)

    def make_training(self, num_seeds: int) -> Envs:
        """The envs of a population: the same as evaluated."""
        return make_envs(self._stepping, self.make, num_seeds)

    def describe(self) -> EnvSpec:
        """Shapes and limits, read off an instance."""
        env = self.make()
        spec = spec_of(env, id=self._id, max_episode_steps=self._max_episode_steps)
        env.close()
        return spec


def register() -> None:
    """Give Gymnasium the MinAtar ids."""
    if "MinAtar/Breakout-v1" in gymnasium.registry:
        return
    with _without_plotting():
        load("minatar.gym", "minatar").register_envs()


@contextlib.contextmanager
def _without_plotting() -> Iterator[None]:
    """Hide the plotting libraries, and MinAtar's warnings that it misses them.

    It draws for people with them; importing them takes seconds and tens of megabytes.
    """
    plotting = {name: sys.modules.get(name) for name in ("matplotlib", "seaborn")}
    sys.modules.update(dict.fromkeys(plotting, None))  # type: ignore[arg-type]
    # The first warning of a process would set up the root logger.
    root, quiet = logging.getLogger(), logging.NullHandler()
    root.addHandler(quiet)
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        root.removeHandler(quiet)
        for name, module in plotting.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


class PlanesFirst(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Boards as [planes, 10, 10] bytes of 0 and 1; an episode is a function of its seed."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        height, width, planes = env.observation_space.shape or ()
        self.observation_space = spaces.Box(0, 1, (planes, height, width), np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObsArray, dict[str, Any]]:
        """Begin an episode, with no action to stick to."""
        obs, info = self.env.reset(seed=seed, options=options)
        # MinAtar leaves the last action of the episode before, for a sticky first step.
        self.unwrapped.game.last_action = 0  # type: ignore[attr-defined]
        return _planes_first(obs), info

    def step(self, action: Any) -> tuple[ObsArray, Any, bool, bool, dict[str, Any]]:
        """Step the game."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        return _planes_first(obs), reward, terminated, truncated, info

    def random_state(self) -> State:
        """MinAtar's own random numbers."""
        state: Any = self._random().get_state(legacy=True)
        kind, key, position, *normal = state
        return {"kind": kind, "key": key.tolist(), "position": position, "normal": normal}

    def load_random_state(self, state: State) -> None:
        """Go on with them."""
        key = np.array(state["key"], np.uint32)
        self._random().set_state((state["kind"], key, state["position"], *state["normal"]))

    def _random(self) -> np.random.RandomState:
        random: np.random.RandomState = self.unwrapped.game.random  # type: ignore[attr-defined]
        return random


def _planes_first(board: Any) -> ObsArray:
    return np.ascontiguousarray(board.transpose(2, 0, 1)).view(np.uint8)
