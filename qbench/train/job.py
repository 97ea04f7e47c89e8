"""One cell in a process of its own: `python -m qbench.train.job RUN_DIR`.

Its peak memory, its threads and its death are its own. All that it needs to know is in the
run folder; all that it has to say is there too, and in its exit code.
"""

import argparse
import ctypes
import errno
import fcntl
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import yaml  # type: ignore[import-untyped, unused-ignore]
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from qbench import records
from qbench.train import cells
from qbench.train.errors import ConfigError, Incompatible
from qbench.train.stop import Stop

EXIT_FAILED = 1
EXIT_REFUSED = 2
EXIT_BUSY = 75  # EX_TEMPFAIL of sysexits.h: another process holds the lock

PR_SET_PDEATHSIG = 1  # prctl(2), Linux

OUT_OF_MEMORY = ("DefaultCPUAllocator: can't allocate", "CUDA out of memory")
"""How torch says it, with a RuntimeError on a CPU."""

DISK_FAULTS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file has reached the size that is allowed",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "a file may not be written",
    errno.EPERM: "a file may not be written",
    errno.EIO: "the disk does not work",
}
"""What is wrong with the machine and not with the program."""


def thread_variables(num_threads: int) -> dict[str, str]:
    """What OpenMP, MKL and OpenBLAS read when they are loaded, before torch is imported.

    OpenBLAS is NumPy's, multiplies a row per seed and has one thread: its others would go on
    spinning on the cores of torch's, and made a step of Pong five times as long instead of shorter.
    """
    both = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(num_threads))
    return {**both, "OPENBLAS_NUM_THREADS": "1"}


class Busy(Exception):
    """Another process trains this cell."""


class End(NamedTuple):
    """How a job ended: what status.json shall say, and the exit code."""

    state: str
    exit_code: int
    reason: str | None = None
    traceback: str | None = None


@contextmanager
def cell_lock(run_dir: Path) -> Iterator[None]:
    """Hold the cell; the kernel lets go when the process dies, however it dies.

    Raises:
        Busy: another process holds it.
    """
    with open(run_dir / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"{run_dir.name} is being trained by another process") from None
        yield


def main(argv: list[str] | None = None) -> int:
    """Train the cell of a run folder; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m qbench.train.job", description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--base", type=Path, help="the finished quant=none cell, for PTQ")
    parser.add_argument("--parent", type=int, help="process whose death stops the training")
    args = parser.parse_args(argv)
    if args.parent is not None:
        _die_with(args.parent)
    try:
        cfg = load_config(args.run_dir)
        os.environ.update(thread_variables(cfg.trainer.num_threads))
        with cell_lock(args.run_dir):
            end = _train(cfg, args.run_dir, args.base)
            _record(args.run_dir, end)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_REFUSED
    except Busy as busy:
        print(f"{busy}.", file=sys.stderr)
        return EXIT_BUSY
    return end.exit_code


def _die_with(parent: int) -> None:
    """Let the kernel send SIGTERM when the parent dies, however it dies.

    Its jobs would otherwise train on unseen, and the next command would find their cells locked.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)


def load_config(run_dir: Path) -> DictConfig:
    """The composed config of a run folder, with its `hydra` node.

    Raises:
        ConfigError: the folder is not a run folder.
    """
    try:
        task = OmegaConf.load(run_dir / ".hydra" / "config.yaml")
        hydra = OmegaConf.load(run_dir / ".hydra" / "hydra.yaml")
    except OSError as error:
        raise ConfigError(f"{run_dir} is not a run folder: it has no {error.filename}.") from error
    except (ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException):
        task = hydra = OmegaConf.create([])
    if not (isinstance(task, DictConfig) and isinstance(hydra, DictConfig) and "hydra" in hydra):
        raise ConfigError(f"{run_dir}/.hydra holds a damaged config: remove that folder.")
    return OmegaConf.create({**task, "hydra": hydra.hydra})


def _train(cfg: DictConfig, run_dir: Path, base_dir: Path | None) -> End:
    """Train and say how it ended, whatever happens."""
    stop = Stop()
    stop.listen()
    try:
        records.write_status(run_dir, "running")
        _check_accelerator(cfg)
        _call_train_cell(cfg, run_dir, base_dir, stop)
    except BaseException as error:
        stop.ignore()
        if stop.received is None:
            return failure(error)
        return End("interrupted", 128 + stop.received, interruption(stop.received))
    # Whoever was asked to stop too late has nothing left to continue.
    stop.ignore()
    return End("done", 0)


def interruption(signum: int) -> str:
    """The reason of an interrupted cell."""
    return f"interrupted by {signal.Signals(signum).name}"


def _call_train_cell(cfg: DictConfig, run_dir: Path, base_dir: Path | None, stop: Stop) -> None:
    axes = cells.axes_of(cfg)
    task = OmegaConf.create(cells.plain(cfg, ("hydra",)))
    from qbench.train.cell import train_cell  # Imports torch: not before the threads are set.

    train_cell(task, run_dir, axes, base_dir, stop)


def _check_accelerator(cfg: DictConfig) -> None:
    """Only torch knows, and only the job may import it."""
    if cfg.trainer.accelerator != "gpu":
        return
    import torch

    if not torch.cuda.is_available():
        lack = "none is available" if torch.version.cuda else "this PyTorch is built without CUDA"
        raise ConfigError(f"trainer=gpu needs a CUDA device and {lack}: use trainer=cpu.")


def failure(error: BaseException) -> End:
    """How an exception ends a job; only a mistake of the program is worth its traceback."""
    if isinstance(error, Incompatible):
        return End("skipped", EXIT_REFUSED, str(error))
    if isinstance(error, ConfigError):
        return End("failed", EXIT_REFUSED, str(error))
    if isinstance(error, records.RunFolderError):
        return End("failed", EXIT_REFUSED, str(error))
    if fault := disk_fault(error):
        return End("failed", EXIT_FAILED, fault)
    text = " ".join(str(error).split())
    reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, MemoryError) or any(mark in text for mark in OUT_OF_MEMORY):
        reason = f"out of memory, lower num_seeds, replay.capacity or n_jobs: {reason}"
    return End("failed", EXIT_FAILED, reason, "".join(traceback.format_exception(error)))


def disk_fault(error: BaseException | None) -> str | None:
    """A sentence on the disk if that is what an exception, or one that it came from, is about.

    `torch.save` says of a full disk that a position was unexpected, with the truth behind it.
    """
    seen = 0
    while error is not None and seen < 8:  # Chains are short; one that bites its tail must end.
        if isinstance(error, OSError) and error.errno in DISK_FAULTS:
            place = f" ({error.filename})" if error.filename else ""
            return (
                f"{DISK_FAULTS[error.errno]}{place}: mend that, then the same command with"
                " retry_failed=true goes on."
            )
        error, seen = error.__cause__ or error.__context__, seen + 1
    return None


def _record(run_dir: Path, end: End) -> None:
    """Write status.json; on a full disk the exit code must do."""
    if end.traceback:
        print(end.traceback, file=sys.stderr)
    try:
        records.write_status(run_dir, end.state, end.reason, end.traceback)
    except OSError as error:
        print(f"{run_dir}/status.json cannot be written: {error.strerror}.", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
