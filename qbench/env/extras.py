"""Libraries that only some envs need, imported when such an env is made."""

import importlib
import warnings
from types import ModuleType


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


def tame_mujoco() -> None:
    """MuJoCo's warnings become Python's: it would print each, and log to the working directory."""
    load("mujoco", "mujoco").set_mju_user_warning(warnings.warn)
