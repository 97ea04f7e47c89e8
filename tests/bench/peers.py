"""Speed and memory of qbench's DQN and of Stable-Baselines3's on the same work.

`make bench-peers`. One torch thread, one core. Sides alternate, round by round, in processes of
their own, and every round starts from an untrained network; its clock starts after a warm-up that
passes `learning_starts`. Ratios are taken within a round, so that a slower spell of the machine
meets both sides. qbench has the memory settings of its jobs (huge pages, `process.environment`, and
`ledger.keep_freed_memory`), the peer those of a plain process; with `--same-memory` both have them.
`--scaling` is one process, for qbench alone.

Both sides build their env without Gymnasium's checker and keep episode returns.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from rich.console import Console
from rich.progress import track
from rich.table import Table

from qbench.train import ledger
from tests.bench import cpu, peak, sb3, workload

WARM_UP_ENV_STEPS = 1500
NUM_SEEDS = 8
PEER = "SB3"
NUM_ACTORS = 4
SCALING_ENV_STEPS = 300
PONG_BUFFER_SIZE = 10_000

Side = Callable[[int], float]
"""Timed env steps per seed -> seed-steps per CPU-second."""


class Comparison(NamedTuple):
    """Two sides on the same work, and the ratio that the project asks for."""

    title: str
    sides: dict[str, Side]
    env_steps: int
    goal: str


def peer(make: Callable[[], sb3.DQN | sb3.DDPG]) -> Side:
    """One seed of Stable-Baselines3."""
    return lambda env_steps: sb3.speed(make, WARM_UP_ENV_STEPS, env_steps)


def qbench(num_seeds: int, overrides: list[str]) -> Side:
    """A population of qbench's."""

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
        {"qbench": cartpole(1), PEER: peer(lambda: sb3.cartpole(1))},
        2000,
        ">= 5",
    ),
    Comparison(
        f"CartPole, 1 update per 10 env steps, {NUM_SEEDS} seeds",
        {"qbench": cartpole(10), PEER: peer(lambda: sb3.cartpole(10))},
        10_000,
        ">= 9",
    ),
    Comparison(
        f"CartPole, float against qat8, {NUM_SEEDS} seeds",
        {"none": cartpole(1), "qat8": cartpole(1, "qat8")},
        2000,
        "<= 1.6",
    ),
    Comparison(
        "Pong, Nature's CNN, 1 update per 4 env steps, 1 seed",
        {
            "qbench": qbench(1, workload.pong(1, PONG_BUFFER_SIZE)),
            PEER: peer(lambda: sb3.pong(PONG_BUFFER_SIZE)),
        },
        1000,
        ">= 1.5",
    ),
    Comparison(
        f"Pendulum, DDPG, 1 update per env step, {NUM_ACTORS} seeds",
        {
            "qbench": qbench(NUM_ACTORS, workload.pendulum(NUM_ACTORS)),
            PEER: peer(sb3.pendulum),
        },
        300,
        ">= 1.5",
    ),
    Comparison(
        "Pong, Nature's CNN, float against qat8, 1 seed",
        {
            quant: qbench(1, workload.pong(1, PONG_BUFFER_SIZE, quant=quant))
            for quant in ("none", "qat8")
        },
        1000,
        "<= 1.5",
    ),
]


def scaling() -> Iterator[tuple[str, Side]]:
    """CartPole in float, an update every step, with one thing changed at a time."""
    for num_seeds in (1, 2, 4, 8, 16):
        yield f"{num_seeds} seeds", qbench(num_seeds, workload.cartpole(num_seeds, 1))
    work = workload.cartpole(NUM_SEEDS, 1)
    for batch_size in (32, 64, 256, 512):
        yield (
            f"batch {batch_size}",
            qbench(NUM_SEEDS, [*work, f"algo.loop.batch_size={batch_size}"]),
        )
    for width in (32, 64, 256, 512):
        sizes = f"network.hidden_sizes=[{width},{width}]"
        yield f"width {width}, {width}", qbench(NUM_SEEDS, [*work, sizes])


def scaling_table(num_rounds: int, env_steps: int) -> Table:
    """CPU time per seed-step of everything in `scaling`."""
    table = Table(title=f"CartPole, {NUM_SEEDS} seeds, batch 128, 120-84 if not said otherwise")
    for column in ("work", "us per seed and env step", "spread"):
        table.add_column(column, justify="left" if column == "work" else "right")
    table.caption = f"one torch thread, {cpu.pin()}; median (min - max) of {num_rounds} rounds"
    for name, side in scaling():
        spent = [1e6 / side(env_steps) for _ in range(num_rounds)]
        table.add_row(
            name, f"{statistics.median(spent):.0f}", f"{min(spent):.0f} - {max(spent):.0f}"
        )
    return table


def run_alone(comparison: Comparison, side: str, *, same_memory: bool) -> float:
    """Seed-steps per CPU-second of one side in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.peers", "--side", comparison.title, side]
    is_job = same_memory or side != PEER
    environment = cpu.job_environment() if is_job else cpu.plain_environment()
    done = subprocess.run(
        [*command, "--same-memory"] if same_memory else command,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout.splitlines()[-1])


def run_here(title: str, side: str, *, same_memory: bool) -> float:
    """The same in this process, which `run_alone` has started."""
    cpu.pin()
    if same_memory:
        ledger.keep_freed_memory()
    (comparison,) = (c for c in COMPARISONS if c.title == title)
    return comparison.sides[side](comparison.env_steps)


def measure(
    comparison: Comparison, num_rounds: int, *, same_memory: bool
) -> dict[str, list[float]]:
    """Seed-steps per CPU-second of each side, one value per round."""
    speeds: dict[str, list[float]] = {name: [] for name in comparison.sides}
    for _ in track(range(num_rounds), comparison.title, console=Console(stderr=True)):
        for side in comparison.sides:
            speeds[side].append(run_alone(comparison, side, same_memory=same_memory))
    return speeds


def speed_table(comparisons: list[Comparison], num_rounds: int, *, same_memory: bool) -> Table:
    """Measure every comparison."""
    settings = (
        "both sides with a job's memory settings" if same_memory else "SB3 in plain processes"
    )
    table = Table(
        title=f"Seed-steps per CPU-second, median of {num_rounds} rounds; {settings}",
        caption=f"one torch thread, {cpu.pin()}; ratio: median (min - max) within rounds",
    )
    for column in ("work", "first", "second", "ratio", "goal"):
        table.add_column(column, justify="left" if column == "work" else "right")
    for comparison in comparisons:
        speeds = measure(comparison, num_rounds, same_memory=same_memory)
        first, second = speeds.values()
        ratios = [a / b for a, b in zip(first, second, strict=True)]
        table.add_row(
            comparison.title,
            *(f"{name} {_spread(values, 0)}" for name, values in speeds.items()),
            _spread(ratios, 2),
            comparison.goal,
        )
    return table


def _spread(values: list[float], digits: int) -> str:
    """Median (min - max)."""
    median, least, most = statistics.median(values), min(values), max(values)
    return f"{median:.{digits}f} ({least:.{digits}f} - {most:.{digits}f})"


def peak_table() -> Table:
    """Peak memory of both sides, each in a process that loads nothing of the other."""
    table = Table("work", "qbench", "SB3", title="Peak RSS, MiB")
    works = {
        f"CartPole, {peak.CARTPOLE_SEEDS} seeds against 1": "cartpole",
        f"Pong, 1 seed, {peak.PONG_TRANSITIONS} transitions": "pong",
    }
    for name, work in works.items():
        table.add_row(name, *(_peak_mib(side, work) for side in peak.SIDES))
    return table


def _peak_mib(side: str, work: str) -> str:
    command = [sys.executable, "-m", "tests.bench.peak", side, work]
    environment = cpu.plain_environment() if side == "sb3" else cpu.job_environment()
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip()


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds per comparison (default 5)")
    parser.add_argument("--only", default="", help="comparisons whose title has this word")
    parser.add_argument("--peak", action="store_true", help="peak memory instead (minutes)")
    parser.add_argument("--scaling", action="store_true", help="cost by seeds, batch and width")
    parser.add_argument("--same-memory", action="store_true", help="a job's settings for the peer")
    parser.add_argument("--side", nargs=2, metavar=("TITLE", "SIDE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    comparisons = [c for c in COMPARISONS if args.only.lower() in c.title.lower()]
    if not comparisons:
        parser.error(f"--only {args.only}: no comparison has this in its title")
    if args.side:
        print(run_here(*args.side, same_memory=args.same_memory))
        return
    cpu.restart_as_job()
    console = Console(width=None if Console().is_terminal else 120)
    if args.scaling:
        console.print(scaling_table(args.rounds, SCALING_ENV_STEPS))
        return
    if args.peak:
        console.print(peak_table())
        return
    console.print(speed_table(comparisons, args.rounds, same_memory=args.same_memory))


if __name__ == "__main__":
    main()
