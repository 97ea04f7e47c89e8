"""The parent's side of a job: prepare its folder, start it, say how it ended."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from omegaconf import OmegaConf

from qbench import records
from qbench.train import cells, job, points
from qbench.train.cells import Cell
from qbench.train.errors import ConfigError

RESULTS = ("records.jsonl", "summary.json", "log.txt")
"""What an attempt leaves; status.json is replaced, so that a report never finds it gone."""
APPENDED = (".lock", "records.jsonl", "log.txt")
"""What is opened as it is; other files are replaced, and a link with them."""
TUNABLES, HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
"""The variable that glibc reads its settings from, and malloc's advice to use huge pages."""
MORE = "more"
"""Folder in a cell's own in which seeds are trained that are asked for later."""


class Outcome(NamedTuple):
    """The state of a cell, in the words of status.json, and the exit code it deserves alone."""

    state: str
    exit_code: int = 0
    reason: str | None = None


def prepare(cell: Cell) -> bool:
    """Make the folder, write the config, remove what an attempt left that cannot be continued.

    Returns:
        False if the cell turned out to be finished; then nothing is touched.

    Raises:
        job.Busy: another process trains this cell.
        ConfigError: the folder holds other settings.
        OSError: the folder cannot be written.
    """
    cell.run_dir.mkdir(parents=True, exist_ok=True)
    _check_no_links(cell.run_dir)
    with job.cell_lock(cell.run_dir):
        if cells.is_done(cell):
            return False
        check_settings(cell)
        if not _can_be_continued(cell.run_dir):
            for name in RESULTS:
                (cell.run_dir / name).unlink(missing_ok=True)
        write_config(cell)
        # Before the job starts: a job that dies at once must not inherit an old state.
        records.write_status(cell.run_dir, "running")
    return True


def _check_no_links(run_dir: Path) -> None:
    """A folder that came from elsewhere must not make anybody write outside of it."""
    for name in APPENDED:
        if (run_dir / name).is_symlink():
            raise ConfigError(f"{run_dir / name} is a link to somewhere else: remove it.")


def _can_be_continued(run_dir: Path) -> bool:
    return (run_dir / "summary.json").exists() or points.has_any(run_dir)


def beginning(cell: Cell) -> str:
    """One plain line about a cell whose job is about to start."""
    is_more = (cell.run_dir / "summary.json").exists()
    folder = cell.run_dir / MORE if is_more else cell.run_dir
    if found := points.find(folder):
        return f"continue {cell.name}  from env step {found[0].env_step}"
    if points.last(folder).exists():
        return f"continue {cell.name}  after its training"
    return f"{'add to' if is_more else 'start':<8} {cell.name}"


def check_settings(cell: Cell) -> None:
    """Refuse to train on in a folder that was made with other settings.

    Its name tells nearly all of them; eight digits may coincide, and a config may be edited.

    Raises:
        ConfigError: shows the differences.
    """
    stored = cells.stored_config(cell.run_dir)
    if stored is None or not _can_be_continued(cell.run_dir):
        return
    hidden = {*records.NOT_IDENTITY, *cells.NAMED}
    if (cell.run_dir / "summary.json").exists() and not cells.is_done(cell):
        hidden -= {"formats"}  # Agents that are added would have other files than those there.
    differing = cells.differences(stored, cells.plain(cell.cfg, ("hydra",)), hidden)
    if differing:
        told = ", ".join(f"{key} is {old} there and {new} here" for key, old, new in differing)
        raise ConfigError(
            f"{cell.run_dir} holds other settings: {told}. Take those, or another name for sweep."
        )


def skip(cell: Cell, reason: str) -> Outcome:
    """Leave a folder that says why this combination was not trained."""
    try:
        cell.run_dir.mkdir(parents=True, exist_ok=True)
        write_config(cell)
    except OSError as error:
        return Outcome("failed", job.EXIT_FAILED, cannot_be_written(cell, error))
    return settle(cell, Outcome("skipped", job.EXIT_REFUSED, reason))


def cannot_be_written(cell: Cell, error: OSError) -> str:
    """The sentence on a folder that takes nothing."""
    return f"{cell.run_dir} cannot be written: {error.strerror or error}."


def found_done(cell: Cell) -> Outcome:
    """The outcome of a finished cell, even if an addition of seeds was stopped or failed."""
    outcome = Outcome("done", 0, "was there already")
    if records.read_status(cell.run_dir)["state"] not in ("interrupted", "failed"):
        return outcome
    return settle(cell, outcome)


def settle(cell: Cell, outcome: Outcome) -> Outcome:
    """Write an outcome to status.json and hand it on."""
    try:
        records.write_status(cell.run_dir, outcome.state, outcome.reason)
    except OSError as error:
        message = f"{outcome.reason}; status.json cannot be written either: {error.strerror}"
        return Outcome("failed", job.EXIT_FAILED, message)
    return outcome


def write_config(cell: Cell) -> None:
    """The three files that Hydra would write, resolved, and only when this cell is started.

    Hydra writes them before the task runs, even over those of a finished cell.
    """
    folder = cell.run_dir / ".hydra"
    with cells.writable(cell.cfg.hydra):
        cell.cfg.hydra.runtime.output_dir = str(cell.run_dir.absolute())
    contents = {
        "config": OmegaConf.create(cells.plain(cell.cfg, ("hydra",))),
        "hydra": OmegaConf.create({"hydra": cell.cfg.hydra}),
        "overrides": cell.cfg.hydra.overrides.task,
    }
    for name, content in contents.items():
        records.write_text(folder / f"{name}.yaml", OmegaConf.to_yaml(content))


def start(cell: Cell, base: Cell | None, *, has_log_file: bool) -> subprocess.Popen[bytes]:
    """Start the job of a prepared cell, in a session of its own.

    Of its own, so that Ctrl-C in a terminal reaches the parent only, which passes it on once.
    """
    command = [sys.executable, "-m", "qbench.train.job", str(cell.run_dir)]
    command += ["--parent", str(os.getpid())]
    if base is not None:
        command += ["--base", str(base.run_dir)]
    if not has_log_file:
        return _spawn(command, None)
    with open(cell.run_dir / "log.txt", "ab") as log:
        return _spawn(command, log.fileno())


def conclude(cell: Cell, exit_code: int, *, was_killed: bool = False) -> Outcome:
    """How an ended job ended; if it could not say so itself, say it for it.

    Args:
        cell: that was trained.
        exit_code: of the job.
        was_killed: by this command, which was asked twice to stop.
    """
    if exit_code == job.EXIT_BUSY:
        return Outcome("failed", job.EXIT_FAILED, "it is being trained by another process")
    status = records.read_status(cell.run_dir)
    if status["state"] in ("running", None):
        stopped = Outcome("interrupted", 130, "stopped at once, by a second signal")
        return settle(cell, stopped if was_killed else _last_words(exit_code))
    return Outcome(status["state"], exit_code, status["reason"])


def _spawn(command: list[str], output: int | None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        start_new_session=True,
        env=environment(os.environ),
    )


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """The environment of a job: `own`, with glibc's malloc asking Linux for huge pages.

    Updates go through more memory than a processor keeps the addresses of in pages of 4 KiB, which
    took 7 to 11 % of a training's time on a virtual machine. glibc reads the variable when a
    process starts, from 2.35 on; other C libraries ignore it.
    """
    known = own.get(TUNABLES, "")
    if HUGE_PAGES.partition("=")[0] in known:  # The user has decided.
        return dict(own)
    return {**own, TUNABLES: f"{known}:{HUGE_PAGES}".lstrip(":")}


def _last_words(exit_code: int) -> Outcome:
    """What can be said of a job that said nothing: its exit code, or minus the signal's number."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if exit_code in (-number, 128 + number):
            return Outcome("interrupted", 128 + number, job.interruption(number))
    if exit_code >= 0:
        reason = f"ended with exit code {exit_code} before it could say why"
    else:
        hint = ", often out of memory" if -exit_code == signal.SIGKILL else ""
        reason = f"killed by signal {-exit_code} ({signal.Signals(-exit_code).name}){hint}"
    return Outcome("failed", job.EXIT_FAILED, reason)
