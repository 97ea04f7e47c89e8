"""Libraries that only some envs need, imported when such an env is made."""

import importlib
import warnings
from types import ModuleType
from typing import Any

import gymnasium


def load(module: str, extra: str) -> ModuleType:
    """Import an optional library.

    Raises:
        ImportError: it is missing; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'This env needs {module}, which cannot be imported: pip install ".[{extra}]".'
        ) from error


def load_cv2() -> ModuleType:
    """OpenCV on one thread: jobs share the machine, and frames are small."""
    cv2 = load("cv2", "atari")
    cv2.setNumThreads(1)
    return cv2


class FreshWorld(gymnasium.Wrapper[Any, Any, Any, Any]):
    """BipedalWalker in a Box2D world of its own for every episode.

    It empties one world and fills it again, which remembers: four of six episodes went otherwise
    when their actions were played again from their reset. LunarLander makes a new one itself.
    """

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        env: Any = self.env.unwrapped
        env._destroy()
        env.world = load("Box2D", "box2d").b2World()
        return self.env.reset(seed=seed, options=options)


def without_memory(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """An env whose episodes are functions of the random numbers at their reset and the actions."""
    return FreshWorld(env) if type(env.unwrapped).__name__ == "BipedalWalker" else env


def tame_mujoco() -> None:
    """MuJoCo's warnings become Python's: it would print each, and log to the working directory."""
    load("mujoco", "mujoco").set_mju_user_warning(warnings.warn)
