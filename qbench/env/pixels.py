"""Any env that can be drawn, observed through its picture alone."""

import os
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation

from qbench.env.extras import load_cv2, without_memory
from qbench.env.gym import spec_of
from qbench.env.stepping import check_stepping, make_envs
from qbench.types import Envs, EnvSpec, ObsArray


class RenderedEnv:
    """A Gymnasium env that shows grey, shrunken pictures of itself, the newest few stacked.

    Args:
        id: registered id of an env that renders to "rgb_array".
        kwargs: passed to `gymnasium.make`.
        screen_size: width and height of an observation, in pixels.
        frame_stack: pictures in one observation, the oldest first.
        invert: black for white: a background of zeros, where an env draws on white.
        stepping: how the envs of a population are stepped: serial or processes.
    """

    def __init__(
        self,
        *,
        id: str,
        kwargs: Mapping[str, Any],
        screen_size: int,
        frame_stack: int,
        invert: bool,
        stepping: str,
    ) -> None:
        check_stepping(stepping, f"the picture of {id}")
        self._id = id
        self._kwargs = dict(kwargs)
        self._screen_size = screen_size
        self._frame_stack = frame_stack
        self._invert = invert
        self._stepping = stepping

    def make(self) -> gymnasium.Env[Any, Any]:
        """One env with its time limit."""
        # Pygame draws into memory; without this it may look for a display.
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        try:
            env = gymnasium.make(
                self._id, render_mode="rgb_array", disable_env_checker=True, **self._kwargs
            )
        except TypeError as error:
            raise ValueError(f"{self._id} cannot be drawn: {error}") from error
        picture = GreyPicture(without_memory(env), self._screen_size, invert=self._invert)
        return FrameStackObservation(picture, self._frame_stack)

    def make_training(self, num_seeds: int) -> Envs:
        """The envs of a population: the same as evaluated."""
        return make_envs(self._stepping, self.make, num_seeds)

    def describe(self) -> EnvSpec:
        """Shapes and limits, read off an instance."""
        env = self.make()
        limit = env.spec.max_episode_steps if env.spec else None
        spec = spec_of(env, id=self._id, frame_stack=self._frame_stack, max_episode_steps=limit)
        env.close()
        return spec


class GreyPicture(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Observes the rendered frame: grey first, then shrunk by area, [size, size] bytes.

    Grey first is within 1 of shrinking in colour and takes two thirds of the time.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], size: int, *, invert: bool) -> None:
        super().__init__(env)
        modes = env.metadata.get("render_modes", [])
        if "rgb_array" not in modes:
            name = env.spec.id if env.spec else env
            raise ValueError(f"{name} cannot be drawn: it renders to {modes}, not to rgb_array.")
        self.observation_space = spaces.Box(0, 255, (size, size), np.uint8)
        self._size = size
        self._invert = invert
        self._cv2 = load_cv2()

    def observation(self, observation: Any) -> ObsArray:
        cv2 = self._cv2
        grey = cv2.cvtColor(self.env.render(), cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, (self._size, self._size), interpolation=cv2.INTER_AREA)
        return cv2.bitwise_not(small) if self._invert else small
