"""The parent's side of a job: prepare its folder, start it, say how it ended."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from omegaconf import OmegaConf

from qbench import records
from qbench.train import cells, job
from qbench.train.cells import Cell

RESULTS = ("records.jsonl", "summary.json", "status.json")


class Outcome(NamedTuple):
    """The state of a cell, in the words of status.json, and the exit code it deserves alone."""

    state: str
    exit_code: int = 0
    reason: str | None = None


def prepare(cell: Cell) -> bool:
    """Make the folder, move or remove what an earlier attempt left, write the config.

    Returns:
        False if the cell turned out to be finished; then nothing is touched.

    Raises:
        job.Busy: another process trains this cell.
        OSError: the folder cannot be written.
    """
    cell.run_dir.mkdir(parents=True, exist_ok=True)
    with job.cell_lock(cell.run_dir):
        if cells.is_done(cell):
            return False
        _retire_results(cell.run_dir)
        write_config(cell)
        # Before the job starts: a job that dies at once must not inherit an old state.
        records.write_status(cell.run_dir, "running")
    return True


def skip(cell: Cell, reason: str) -> Outcome:
    """Leave a folder that says why this combination was not trained."""
    cell.run_dir.mkdir(parents=True, exist_ok=True)
    write_config(cell)
    return settle(cell, Outcome("skipped", job.EXIT_REFUSED, reason))


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
    if base is not None:
        command += ["--base", str(base.run_dir)]
    if not has_log_file:
        return _spawn(command, None)
    with open(cell.run_dir / "log.txt", "wb") as log:
        return _spawn(command, log.fileno())


def conclude(cell: Cell, exit_code: int) -> Outcome:
    """How an ended job ended; if it could not say so itself, say it for it."""
    if exit_code == job.EXIT_BUSY:
        return Outcome("failed", job.EXIT_FAILED, "it is being trained by another process")
    status = records.read_status(cell.run_dir)
    if status["state"] in ("running", None):
        return settle(cell, _last_words(exit_code))
    return Outcome(status["state"], exit_code, status["reason"])


def _spawn(command: list[str], output: int | None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        start_new_session=True,
    )


def _last_words(exit_code: int) -> Outcome:
    """What can be said of a job that said nothing: its exit code, or minus the signal's number."""
    if -exit_code in (signal.SIGINT, signal.SIGTERM):
        return Outcome("interrupted", 128 - exit_code, job.interruption(-exit_code))
    if exit_code >= 0:
        reason = f"ended with exit code {exit_code} before it could say why"
    else:
        hint = ", often out of memory" if -exit_code == signal.SIGKILL else ""
        reason = f"killed by signal {-exit_code} ({signal.Signals(-exit_code).name}){hint}"
    return Outcome("failed", job.EXIT_FAILED, reason)


def _retire_results(run_dir: Path) -> None:
    """Remove what an unfinished attempt left; keep a finished one's under `previous/`."""
    was_done = records.read_status(run_dir)["state"] == "done"
    for path in (run_dir / name for name in RESULTS):
        if was_done and path.exists():
            (run_dir / "previous").mkdir(exist_ok=True)
            path.replace(run_dir / "previous" / path.name)
        else:
            path.unlink(missing_ok=True)
