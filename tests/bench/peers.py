"""Speed and memory of qbench's DQN and of Stable-Baselines3's on the same work.

`make bench-peers`. One process, one torch thread, one core. Sides alternate, round by round, and
every round starts from an untrained network; its clock starts after a warm-up that passes
`learning_starts`. Ratios are taken within a round, so that a slower spell of the machine meets
both sides. Peak memory is that of a process of its own per side.

Both sides build their env without Gymnasium's checker and keep episode returns.
"""

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from qbench.train import ledger
from tests.bench import sb3, workload

WARM_UP_ENV_STEPS = 1500
NUM_SEEDS = 8
PONG_BUFFER_SIZE = 10_000
PEAK_TRANSITIONS = 100_000
PEAK_UPDATES = 20

Side = Callable[[int], float]
"""Timed env steps per seed -> seed-steps per CPU-second."""


class Comparison(NamedTuple):
    """Two sides on the same work, and the ratio that the project asks for."""

    title: str
    sides: dict[str, Side]
    env_steps: int
    goal: str


def peer(make: Callable[[], sb3.DQN]) -> Side:
    """One seed of Stable-Baselines3's DQN."""
    return lambda env_steps: sb3.speed(make, WARM_UP_ENV_STEPS, env_steps)


def qbench(num_seeds: int, overrides: list[str]) -> Side:
    """A population of qbench's DQN."""

    def run(env_steps: int) -> float:
        advance = workload.qbench_runner(overrides)
        advance(WARM_UP_ENV_STEPS)
        began = time.process_time()
        advance(env_steps)
        return num_seeds * env_steps / (time.process_time() - began)

    return run


def cartpole(train_frequency: int, quant: str = "none") -> Side:
    """qbench on CartPole."""
    return qbench(NUM_SEEDS, workload.cartpole(NUM_SEEDS, train_frequency, quant))


COMPARISONS = [
    Comparison(
        f"CartPole, 1 update per env step, {NUM_SEEDS} seeds",
        {"qbench": cartpole(1), "SB3": peer(lambda: sb3.cartpole(1))},
        2000,
        ">= 3.5",
    ),
    Comparison(
        f"CartPole, 1 update per 10 env steps, {NUM_SEEDS} seeds",
        {"qbench": cartpole(10), "SB3": peer(lambda: sb3.cartpole(10))},
        10_000,
        ">= 5",
    ),
    Comparison(
        f"CartPole, float against qat8, {NUM_SEEDS} seeds",
        {"none": cartpole(1), "qat8": cartpole(1, "qat8")},
        2000,
        "<= 1.9",
    ),
    Comparison(
        "Pong, Nature's CNN, 1 update per 4 env steps, 1 seed",
        {
            "qbench": qbench(1, workload.pong(1, PONG_BUFFER_SIZE)),
            "SB3": peer(lambda: sb3.pong(PONG_BUFFER_SIZE)),
        },
        1000,
        ">= 1.3",
    ),
]


def pin() -> str:
    """One torch thread on one core, where the system can pin."""
    torch.set_num_threads(1)
    if not hasattr(os, "sched_setaffinity"):
        return "not pinned"
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return f"pinned to core {core}"


def measure(comparison: Comparison, num_rounds: int) -> dict[str, list[float]]:
    """Seed-steps per CPU-second of each side, one value per round."""
    speeds: dict[str, list[float]] = {name: [] for name in comparison.sides}
    for _ in track(range(num_rounds), comparison.title, console=Console(stderr=True)):
        for name, run in comparison.sides.items():
            speeds[name].append(run(comparison.env_steps))
    return speeds


def speed_table(comparisons: list[Comparison], num_rounds: int) -> Table:
    """Measure every comparison."""
    table = Table(
        title=f"Seed-steps per CPU-second, median of {num_rounds} rounds",
        caption=f"one torch thread, {pin()}; ratio: median (min - max) within rounds",
    )
    for column in ("work", "first", "second", "ratio", "goal"):
        table.add_column(column, justify="left" if column == "work" else "right")
    for comparison in comparisons:
        speeds = measure(comparison, num_rounds)
        first, second = speeds.values()
        ratios = [a / b for a, b in zip(first, second, strict=True)]
        table.add_row(
            comparison.title,
            *(f"{name} {statistics.median(values):.0f}" for name, values in speeds.items()),
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})",
            comparison.goal,
        )
    return table


def peak_of_qbench() -> int:
    """Peak RSS of a Pong training with a full replay."""
    torch.set_num_threads(1)
    updates = PEAK_UPDATES * workload.PONG_TRAIN_FREQUENCY
    starts = PEAK_TRANSITIONS - updates
    workload.qbench_runner(workload.pong(1, PEAK_TRANSITIONS, starts))(PEAK_TRANSITIONS)
    return ledger.peak_rss_bytes()


def peak_of_sb3() -> int:
    """The same of Stable-Baselines3."""
    torch.set_num_threads(1)
    updates = PEAK_UPDATES * workload.PONG_TRAIN_FREQUENCY
    sb3.pong(PEAK_TRANSITIONS, PEAK_TRANSITIONS - updates).learn(
        PEAK_TRANSITIONS, log_interval=None
    )
    return ledger.peak_rss_bytes()


def peak_table() -> Table:
    """Peak memory of both sides, each in a process of its own."""
    table = Table(title=f"Peak RSS on Pong with {PEAK_TRANSITIONS} transitions, MiB")
    spawn = multiprocessing.get_context("spawn")
    for name, peak_of in (("qbench", peak_of_qbench), ("SB3", peak_of_sb3)):
        with spawn.Pool(1) as pool:
            table.add_column(name, footer=f"{pool.apply(peak_of) / 2**20:.0f}")
    table.show_footer = True
    return table


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds per comparison (default 5)")
    parser.add_argument("--only", default="", help="comparisons whose title has this word")
    parser.add_argument("--peak", action="store_true", help="peak memory instead (minutes)")
    args = parser.parse_args()
    console = Console(width=None if Console().is_terminal else 120)
    if args.peak:
        console.print(peak_table())
        return
    comparisons = [c for c in COMPARISONS if args.only.lower() in c.title.lower()]
    console.print(speed_table(comparisons, args.rounds))


if __name__ == "__main__":
    main()
