"""CPU time of one process, and a core of its own where the system can pin."""

import os
import sys
import time
from collections.abc import Callable

import torch

from qbench.train.job import THREAD_VARIABLES

ONE_THREAD = dict.fromkeys(THREAD_VARIABLES, "1")
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


def restart_with_one_thread() -> None:
    """Start this program anew where its BLAS may have more: NumPy's cannot be taken back."""
    if not os.environ.items() >= ONE_THREAD.items():
        os.execve(sys.executable, sys.orig_argv, os.environ | ONE_THREAD)


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
