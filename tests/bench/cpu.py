"""CPU time of one process, and a core of its own where the system can pin."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from qbench.train import process
from qbench.train.job import thread_variables

ONE_THREAD = thread_variables(1)
"""The environment of a process whose BLAS has one thread, as every job's has.

NumPy's starts one per core, and on one core they spin against each other.
"""


def pin() -> str:
    """One torch thread on one core; what was done, in words."""
    torch.set_num_threads(1)
    if not hasattr(os, "sched_setaffinity"):
        return "not pinned"
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return f"pinned to core {core}"


def job_environment() -> dict[str, str]:
    """The environment of a job with one thread."""
    return process.environment(os.environ | ONE_THREAD)


def plain_environment() -> dict[str, str]:
    """The environment of any process with one thread."""
    return {k: v for k, v in job_environment().items() if k != process.TUNABLES}


def restart_as_job() -> None:
    """Start this program anew in a job's environment: glibc and NumPy's BLAS read it only then."""
    if os.environ != job_environment():
        os.execve(sys.executable, sys.orig_argv, job_environment())


def seconds_of(work: Callable[[], object], count: int) -> float:
    """CPU seconds of one of `count` calls."""
    started = time.process_time()
    for _ in range(count):
        work()
    return (time.process_time() - started) / count


def slowed(work: Callable[[], object], share: float) -> Callable[[], None]:
    """`work` that takes so much more CPU time, 0.15 for 15 %: what a gate must catch."""

    def slow() -> None:
        started = time.process_time()
        work()
        end = started + (1 + share) * (time.process_time() - started)
        while time.process_time() < end:
            pass

    return slow


class Timed:
    """A method of a class or of one object that adds up the CPU seconds of its calls.

    Attributes:
        spent_s: CPU seconds of all calls.
        began_s: of the process when the first call began, CPU seconds.
        ended_s: of the process when the last call had ended, CPU seconds.
        first_call_s: wall seconds from the process's start to the first call.
    """

    def __init__(self, owner: Any, name: str) -> None:
        self.spent_s = self.began_s = self.ended_s = self.first_call_s = 0.0
        method = getattr(owner, name)

        def timed(*arguments: Any) -> Any:
            started = time.process_time()
            if not self.began_s:
                self.began_s, self.first_call_s = started, _age_s()
            result = method(*arguments)
            self.ended_s = time.process_time()
            self.spent_s += self.ended_s - started
            return result

        setattr(owner, name, timed)


def _age_s() -> float:
    """Wall seconds since this process was started."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return uptime - ticks / os.sysconf("SC_CLK_TCK")
