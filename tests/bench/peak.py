"""Peak RSS in MiB of one side in a plain process: `python -m tests.bench.peak SIDE WORK`.

SIDE is qbench or sb3, WORK cartpole or pong. Only the libraries of that side are loaded.
"""

import sys
from collections.abc import Callable

import torch

from qbench.train import ledger
from tests.bench import workload

CARTPOLE_SEEDS = 8  # against one of Stable-Baselines3
CARTPOLE_ENV_STEPS = 3000
PONG_TRANSITIONS = 100_000
PONG_UPDATES = 20


def qbench(work: str) -> None:
    """Train until the peak is reached."""
    if work == "cartpole":
        overrides, env_steps = workload.cartpole(CARTPOLE_SEEDS, 1), CARTPOLE_ENV_STEPS
    else:
        overrides = workload.pong(1, PONG_TRANSITIONS, _pong_starts())
        env_steps = PONG_TRANSITIONS
    workload.qbench_runner(overrides)(env_steps)


def sb3(work: str) -> None:
    """The same of Stable-Baselines3."""
    from tests.bench import sb3 as peer

    if work == "cartpole":
        peer.cartpole(1).learn(CARTPOLE_ENV_STEPS, log_interval=None)
    else:
        peer.pong(PONG_TRANSITIONS, _pong_starts()).learn(PONG_TRANSITIONS, log_interval=None)


def _pong_starts() -> int:
    return PONG_TRANSITIONS - PONG_UPDATES * workload.PONG_TRAIN_FREQUENCY


SIDES: dict[str, Callable[[str], None]] = {"qbench": qbench, "sb3": sb3}

if __name__ == "__main__":
    torch.set_num_threads(1)
    SIDES[sys.argv[1]](sys.argv[2])
    print(f"{ledger.peak_rss_bytes() / 2**20:.0f}")
