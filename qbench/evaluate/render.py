"""One greedy episode as a moving picture."""

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from qbench.deploy.stored import load_env
from qbench.evaluate.play import EVAL_ENV_SEED
from qbench.types import EnvSpec, FloatArray, ObsArray

SUFFIXES = (".gif", ".mp4")
DEFAULT_FPS = 30
"""Where an env does not say: most of Gymnasium's run at 30 to 60."""


def check_file(path: Path) -> None:
    """Refuse a file that could not be written.

    Raises:
        ValueError: another ending than .gif and .mp4, no such folder, or a library is missing.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"--render {path} is neither a .gif nor a .mp4.")
    if not path.parent.is_dir():
        raise ValueError(f"--render {path}: there is no folder {path.parent}.")
    if path.suffix == ".mp4" and not (find_spec("imageio") and find_spec("imageio_ffmpeg")):
        raise ValueError(
            f"--render {path} needs pip install imageio imageio-ffmpeg; a .gif needs neither."
        )
    if path.suffix == ".gif" and not find_spec("PIL"):
        raise ValueError(f"--render {path} needs pip install pillow.")


def make_drawn(run_dir: Path, trusted: Sequence[str]) -> gymnasium.Env[Any, Any]:
    """The env of a run, so made that it can be drawn.

    Raises:
        ValueError: it cannot.
    """
    env = load_env(run_dir, trusted).make()
    name = env.spec.id if env.spec else type(env.unwrapped).__name__
    modes = env.metadata.get("render_modes", [])
    if "rgb_array" not in modes:
        env.close()
        raise ValueError(f"--render: {name} cannot be drawn, it renders to {modes}, not rgb_array.")
    if env.render_mode == "rgb_array":
        return env
    env.close()
    # Pygame draws into memory; without this it may look for a display.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    drawn = load_env(run_dir, trusted, is_drawn=True).make()
    if drawn.render_mode is None:
        drawn.unwrapped.render_mode = "rgb_array"  # Atari looks at it when it draws.
    drawn.reset(seed=EVAL_ENV_SEED)
    try:
        _frame(drawn)
    except Exception as error:  # an env's own drawing may lack anything
        raise ValueError(f"--render: {name} cannot be drawn: {error}.") from error
    return drawn


def episode(
    policy: Callable[[ObsArray], FloatArray], env: gymnasium.Env[Any, Any], spec: EnvSpec
) -> tuple[list[npt.NDArray[np.uint8]], float]:
    """The frames [height, width, 3] of the first evaluation episode, and its return."""
    obs, _ = env.reset(seed=EVAL_ENV_SEED)
    frames, total, is_over = [_frame(env)], 0.0, False
    while not is_over:
        row = np.asarray(obs)
        row = row if row.dtype == np.uint8 else row.astype(np.float32)
        output = policy(row[None])[0]
        action = output.argmax() if spec.num_actions is not None else output
        obs, reward, terminated, truncated, _ = env.step(action)
        frames.append(_frame(env))
        total += float(reward)
        is_over = terminated or truncated
    env.close()
    return frames, total


def _frame(env: gymnasium.Env[Any, Any]) -> npt.NDArray[np.uint8]:
    frame: Any = env.render()
    return np.asarray(frame, np.uint8)


def write(path: Path, frames: list[npt.NDArray[np.uint8]], fps: float) -> None:
    """Write a .gif or .mp4; a whole file or none."""
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        if path.suffix == ".gif":
            _write_gif(partial, frames, fps)
        else:
            _write_mp4(partial, frames, fps)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write_gif(path: Path, frames: list[npt.NDArray[np.uint8]], fps: float) -> None:
    from PIL import Image

    first, *rest = (Image.fromarray(frame) for frame in frames)
    # A GIF counts in hundredths of a second, and viewers slow down what is shorter than two.
    duration_ms = max(20, 10 * round(100 / fps))
    first.save(path, save_all=True, append_images=rest, duration=duration_ms, loop=0)


def _write_mp4(path: Path, frames: list[npt.NDArray[np.uint8]], fps: float) -> None:
    import imageio

    imageio.mimwrite(path, list(frames), fps=fps)
