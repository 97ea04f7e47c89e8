"""Where the points lie from which a training can go on; imports no torch.

    checkpoints/resume-<number>-<env_step>/

A folder of that name is whole: it is written under another one. The one before is removed
when the next is there.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

FOLDER = "checkpoints"
_PARTIAL = ".resume.tmp"
_NAME = re.compile(r"resume-(\d{1,9})-(\d{1,15})")


class Point(NamedTuple):
    """One of them."""

    number: int
    env_step: int
    folder: Path


def find(run_dir: Path) -> list[Point]:
    """The points of a run folder, the newest first."""
    names = (_NAME.fullmatch(path.name) for path in (run_dir / FOLDER).glob("resume-*"))
    found = [(int(name[1]), int(name[2]), run_dir / FOLDER / name[0]) for name in names if name]
    return sorted((Point(*entry) for entry in found), reverse=True)


def has_any(run_dir: Path) -> bool:
    """Whether there is a point, or agents whose training has ended."""
    return bool(find(run_dir)) or last(run_dir).exists()


def last(run_dir: Path) -> Path:
    """The file of the agents of a training that has ended."""
    return run_dir / FOLDER / "last.ckpt"


@contextmanager
def new(run_dir: Path, env_step: int) -> Iterator[Path]:
    """A folder to fill, which becomes the newest point when the block ends well."""
    older = find(run_dir)
    partial = run_dir / FOLDER / _PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in partial.iterdir():
            _sync(path)
        number = older[0].number + 1 if older else 0
        partial.rename(run_dir / FOLDER / f"resume-{number}-{env_step}")
        _sync(run_dir / FOLDER)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _remove(older)


def clear(run_dir: Path) -> None:
    """Remove all points: the training has ended, or begins anew."""
    _remove(find(run_dir))
    shutil.rmtree(run_dir / FOLDER / _PARTIAL, ignore_errors=True)


def _remove(points: list[Point]) -> None:
    for point in points:
        shutil.rmtree(point.folder, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
