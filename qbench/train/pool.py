"""Runs jobs side by side: longest first, a PTQ cell after the cell it is made from."""

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from qbench import records
from qbench.train import cells, job, process
from qbench.train.cells import Cell
from qbench.train.errors import ConfigError
from qbench.train.process import Outcome

POLL_S = 0.05
BUSY_GRACE_S = 15.0
"""For a job whose command was killed a moment ago: it saves, and lets go of its cell."""
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
"""What Slurm sends before it ends a job; heard only where a launcher waits for it."""


class Interrupted(KeyboardInterrupt):
    """The command was told to stop; its jobs have been stopped."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


@dataclass(frozen=True)
class Job:
    """A cell to train and the cell that must be done before, if any."""

    cell: Cell
    base: Cell | None = None

    @property
    def cost(self) -> float:
        """A guess at the work, in float updates of one seed; only its order matters."""
        scheme = str(self.cell.cfg.quant.get("_target_")).rpartition(".")[2]
        factor = 0.05 if cells.needs_base(self.cell.cfg) else 1.0 if scheme == "NoQuant" else 1.7
        return factor * float(self.cell.cfg.total_env_steps * self.cell.cfg.num_seeds)


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    started: float
    was_killed: bool = False


@dataclass(kw_only=True)
class Pool:
    """A few slots and the jobs that take turns in them.

    Args:
        num_slots: jobs that run at once.
        has_log_files: jobs write to `<cell>/log.txt` instead of this terminal.
        waits_for_others: wait for a cell that another process trains, instead of giving it up.
        retries_failed: train cells that have failed before.
        fails_fast: after the first failure, stop what runs and start nothing more.
    """

    num_slots: int
    has_log_files: bool
    waits_for_others: bool
    retries_failed: bool
    fails_fast: bool = False
    _gave_up: bool = field(default=False, init=False)
    _busy_since: dict[Path, float] = field(default_factory=dict, init=False)
    _pending: list[Job] = field(default_factory=list, init=False)
    _running: list[_Running] = field(default_factory=list, init=False)
    _outcomes: dict[Path, Outcome] = field(default_factory=dict, init=False)

    def run(self, jobs: Sequence[Job]) -> dict[Path, Outcome]:
        """Run all jobs, each cell once; a job's base must be among the jobs.

        Raises:
            Interrupted: this process was told to stop and has stopped its jobs.
        """
        unique = {one.cell.run_dir: one for one in jobs}
        self._pending = sorted(unique.values(), key=lambda one: -one.cost)
        try:
            with _caught_signals() as received:
                self._work(received)
        finally:
            self._abandon()
        if received:
            raise Interrupted(received[0])
        return self._outcomes

    def _work(self, received: Sequence[int]) -> None:
        """Until all jobs have ended, or those that were running when a signal came."""
        num_forwarded = 0
        while self._running or (self._pending and not received and not self._gave_up):
            if not received and not self._gave_up:
                self._start_ready()
            for signum in received[num_forwarded:]:
                self._forward(signum, is_first=num_forwarded == 0)
                num_forwarded += 1
            self._reap()
            time.sleep(POLL_S)

    def _start_ready(self) -> None:
        """Start what has its base, as far as there are slots; nothing is looked at without one."""
        waiting: list[Job] = []
        pending = deque(self._pending)
        while pending and len(self._running) < self.num_slots and not self._gave_up:
            candidate = pending.popleft()
            base = self._outcomes.get(candidate.base.run_dir) if candidate.base else None
            # What waits for its base takes no slot meanwhile.
            has_base = candidate.base is None or base is not None
            if not has_base or not self._start(candidate, base):
                waiting.append(candidate)
        self._pending = [*waiting, *pending]

    def _start(self, candidate: Job, base: Outcome | None) -> bool:
        """Settle or start a job whose turn has come; False if it must come again."""
        cell = candidate.cell
        try:
            if cells.is_done(cell):
                self._end(cell, process.found_done(cell))
                return True
            if base is not None and base.state != "done":
                cell.run_dir.mkdir(parents=True, exist_ok=True)
                self._end(cell, process.settle(cell, _orphaned(candidate, base)))
                return True
            if not self.retries_failed and (reason := _earlier_failure(cell)):
                hint = f"{reason} (retry_failed=true tries it again)"
                self._end(cell, Outcome("failed", job.EXIT_FAILED, hint))
                return True
            line = process.beginning(cell)
            if not process.prepare(cell):
                self._end(cell, process.found_done(cell))
                return True
            started = process.start(cell, candidate.base, has_log_file=self.has_log_files)
        except job.Busy:
            return self._meet_busy(cell)
        except OSError as error:
            return self._refuse(cell, process.cannot_be_written(cell, error))
        except (ConfigError, records.RunFolderError) as error:
            return self._refuse(cell, str(error))
        print(line, flush=True)
        self._running.append(_Running(candidate, started, time.monotonic()))
        return True

    def _meet_busy(self, cell: Cell) -> bool:
        since = self._busy_since.setdefault(cell.run_dir, time.monotonic())
        if self.waits_for_others or time.monotonic() - since < BUSY_GRACE_S:
            return False
        self._end(cell, process.conclude(cell, job.EXIT_BUSY))
        return True

    def _refuse(self, cell: Cell, reason: str) -> bool:
        self._end(cell, Outcome("failed", job.EXIT_REFUSED, reason))
        return True

    def _abandon(self) -> None:
        """Stop what still runs: nothing, unless the pool itself failed, on a broken pipe, say."""
        self._forward(signal.SIGTERM, is_first=True)
        for running in self._running:
            process.conclude(running.job.cell, running.process.wait())

    def _reap(self) -> None:
        for running in list(self._running):
            exit_code = running.process.poll()
            if exit_code is None:
                continue
            self._running.remove(running)
            if exit_code == job.EXIT_BUSY and self.waits_for_others:
                self._pending.append(running.job)
                continue
            minutes = (time.monotonic() - running.started) / 60
            outcome = process.conclude(running.job.cell, exit_code, was_killed=running.was_killed)
            self._end(running.job.cell, outcome, f"  {minutes:.1f} min")

    def _end(self, cell: Cell, outcome: Outcome, duration: str = "") -> None:
        self._outcomes[cell.run_dir] = outcome
        announce(cell, outcome, duration)
        if outcome.state == "failed" and self.fails_fast and not self._gave_up:
            self._gave_up = True
            print("fail_fast=true: nothing more is started, what runs is saved.", flush=True)
            self._forward(signal.SIGTERM, is_first=True)

    def _forward(self, signum: int, *, is_first: bool) -> None:
        """Pass a signal on; whoever presses Ctrl-C twice does not want to wait."""
        for running in self._running:
            # A job knows SIGINT and SIGTERM; the others mean the latter.
            gentle = signal.SIGINT if signum == signal.SIGINT else signal.SIGTERM
            running.was_killed |= not is_first and signum == signal.SIGINT
            running.process.send_signal(signal.SIGKILL if running.was_killed else gentle)


def announce(cell: Cell, outcome: Outcome, duration: str = "") -> None:
    """One plain line about a cell that has ended."""
    reason = f"  ({outcome.reason})" if outcome.reason else ""
    print(f"{outcome.state:<8} {cell.name}{duration}{reason}", flush=True)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _earlier_failure(cell: Cell) -> str | None:
    """Why a cell has failed before; None if it has not, or only because its base had."""
    status = records.read_status(cell.run_dir)
    reason = status["reason"] or "it failed before"
    is_own = status["state"] == "failed" and not str(reason).startswith(ORPHANED)
    return str(reason) if is_own else None


ORPHANED = "its quant=none cell"


def _orphaned(candidate: Job, base: Outcome) -> Outcome:
    assert candidate.base is not None
    reason = f"{ORPHANED} {candidate.base.name} is {base.state}: {base.reason}"
    return Outcome("failed", base.exit_code, reason)


@contextmanager
def _caught_signals() -> Iterator[list[int]]:
    """The signals received inside, in their order; Python allows it on the main thread only."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(signum: int, frame: FrameType | None) -> None:
        received.append(signum)

    # nohup ignores SIGHUP and means it.
    numbers = [n for n in FORWARDED if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    numbers += [n for n in WARNINGS if callable(signal.getsignal(n))]
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for warning in [number for number in WARNINGS if number in received]:
            # The jobs have saved; whoever waited for this, submitit, asks Slurm to come again.
            handler = before[warning]
            assert callable(handler)
            handler(warning, None)
