"""Seed-steps per CPU-second of qbench's DQN and of Stable-Baselines3's on the same work.

`make bench-peers`. One process, one torch thread, one core. Sides alternate, round by round, and
every round starts from an untrained network; its clock starts after a warm-up that passes
`learning_starts`. Ratios are taken within a round, so that a slower spell of the machine meets
both sides.

Both sides build their env without Gymnasium's checker and keep episode returns;
Stable-Baselines3 trains one seed, in a single call of `learn`, without logging.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import gymnasium
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback

from tests.bench import workload

WARM_UP_ENV_STEPS = 1500
NUM_SEEDS = 8

Side = Callable[[int], float]
"""Timed env steps per seed -> seed-steps per CPU-second."""


class Comparison(NamedTuple):
    """Two sides on the same work, and the ratio that the project asks for."""

    title: str
    sides: dict[str, Side]
    env_steps: int
    goal: str


class _Clock(BaseCallback):
    """Remembers the CPU time at the end of the warm-up."""

    warm_cpu_s = 0.0

    def _on_step(self) -> bool:
        if self.num_timesteps == WARM_UP_ENV_STEPS:
            self.warm_cpu_s = time.process_time()
        return True


def sb3(train_frequency: int) -> Side:
    """One seed of Stable-Baselines3's DQN."""

    def run(env_steps: int) -> float:
        env = gymnasium.make(workload.ENV_ID, disable_env_checker=True)
        model = DQN(
            "MlpPolicy",
            env,
            learning_rate=workload.LEARNING_RATE,
            buffer_size=workload.BUFFER_SIZE,
            learning_starts=workload.LEARNING_STARTS,
            batch_size=workload.BATCH_SIZE,
            tau=1.0,
            gamma=workload.GAMMA,
            train_freq=train_frequency,
            gradient_steps=1,
            target_update_interval=workload.TARGET_UPDATE_INTERVAL,
            exploration_initial_eps=workload.EPSILON,
            exploration_final_eps=workload.EPSILON,
            max_grad_norm=workload.MAX_GRAD_NORM,
            policy_kwargs={"net_arch": workload.HIDDEN_SIZES},
            device="cpu",
            seed=0,
            verbose=0,
        )
        clock = _Clock()
        model.learn(WARM_UP_ENV_STEPS + env_steps, callback=clock, log_interval=None)
        return env_steps / (time.process_time() - clock.warm_cpu_s)

    return run


def qbench(train_frequency: int, quant: str = "none") -> Side:
    """A population of NUM_SEEDS seeds of qbench's DQN."""

    def run(env_steps: int) -> float:
        advance = workload.qbench_runner(NUM_SEEDS, train_frequency, quant)
        advance(WARM_UP_ENV_STEPS)
        began = time.process_time()
        advance(env_steps)
        return NUM_SEEDS * env_steps / (time.process_time() - began)

    return run


COMPARISONS = [
    Comparison("1 update per env step", {"qbench": qbench(1), "SB3": sb3(1)}, 2000, ">= 3.5"),
    Comparison("1 update per 10 env steps", {"qbench": qbench(10), "SB3": sb3(10)}, 10_000, ">= 5"),
    Comparison(
        "float against qat8, 1 update per env step",
        {"none": qbench(1), "qat8": qbench(1, "qat8")},
        2000,
        "<= 1.9",
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


def main() -> None:
    """Measure every comparison and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds per comparison (default 5)")
    num_rounds = parser.parse_args().rounds
    table = Table(
        title=f"Seed-steps per CPU-second, qbench at S={NUM_SEEDS}, median of {num_rounds} rounds",
        caption=f"one torch thread, {pin()}; ratio: median (min - max) within rounds",
    )
    for column in ("work", "first", "second", "ratio", "goal"):
        table.add_column(column, justify="left" if column == "work" else "right")
    for comparison in COMPARISONS:
        speeds = measure(comparison, num_rounds)
        first, second = speeds.values()
        ratios = [a / b for a, b in zip(first, second, strict=True)]
        table.add_row(
            comparison.title,
            *(f"{name} {statistics.median(values):.0f}" for name, values in speeds.items()),
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})",
            comparison.goal,
        )
    Console(width=None if Console().is_terminal else 120).print(table)


if __name__ == "__main__":
    main()
