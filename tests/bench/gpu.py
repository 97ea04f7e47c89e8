"""What a population costs on a GPU: `python -m tests.bench.gpu`.

CartPole's MLP with an update every step and every ten, and Nature's CNN on frames of Pong's size
that no emulator draws. Wall time, since the GPU is waited for. Every population is measured
without CUDA graphs and with them.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from qbench.train.build import Parts
from qbench.types import ActionArray, EnvSpec, ObsArray, Stepped
from tests.bench import cpu, workload

PONG_BUFFER_SIZE = 500
SEEDS = (1, 8, 64, 256)


class Noise:
    """Envs with Pong's observations and actions, which cost nothing: noise that moves on."""

    def __init__(self, **settings: Any) -> None:
        self._frames = np.random.default_rng(0).integers(256, size=(8, 84, 84), dtype=np.uint8)
        self._num_steps = 0

    def describe(self) -> EnvSpec:
        """Pong's shapes."""
        return EnvSpec(
            id="noise", obs_shape=(4, 84, 84), obs_high=255, frame_stack=4, num_actions=6
        )

    def make_training(self, num_seeds: int) -> "Noise":
        """Itself: every seed sees the same frames."""
        self._zeros = np.zeros(num_seeds, np.float32)
        return self

    def reset(self, seeds: Sequence[int]) -> ObsArray:
        """Four frames, the same for every seed."""
        start = self._num_steps % 5
        return np.repeat(self._frames[None, start : start + 4], len(self._zeros), axis=0)

    def step(self, action: ActionArray) -> Stepped:
        """No reward, and no end."""
        self._num_steps += 1
        obs, never = self.reset(()), self._zeros.astype(bool)
        return Stepped(obs, obs, self._zeros, never, never, self._zeros.astype(np.float64), never)


class Work(NamedTuple):
    """What is trained, by the number of seeds."""

    title: str
    overrides: Callable[[int], list[str]]
    warm_up: int  # env steps
    env_steps: int  # per round


def _pong(num_seeds: int) -> list[str]:
    noise = f"env._target_={Noise.__module__}.{Noise.__name__}"
    return [*workload.pong(num_seeds, PONG_BUFFER_SIZE, learning_starts=40), noise]


WORKS = {
    "cartpole": Work(
        "CartPole, MLP 120-84, batch 128, an update every step",
        lambda num_seeds: workload.cartpole(num_seeds, 1),
        1050,
        100,
    ),
    "qat8": Work(
        "CartPole, MLP 120-84, qat8, batch 128, an update every step",
        lambda num_seeds: workload.cartpole(num_seeds, 1, "qat8"),
        1050,
        60,
    ),
    "ten": Work(
        "CartPole, MLP 120-84, batch 128, an update every 10 steps",
        lambda num_seeds: workload.cartpole(num_seeds, 10),
        1100,
        200,
    ),
    "pong": Work("Nature's CNN on noise, batch 32, an update every 4 steps", _pong, 60, 16),
}


class Cost(NamedTuple):
    """Of one population."""

    step_s: float  # of one env step of all seeds, updates included
    update_s: float  # of one update of all seeds on a minibatch that is there
    act_s: float  # of one action of all seeds
    peak_bytes: int  # of the CUDA allocator


def measure(work: Work, num_seeds: int, num_rounds: int, *more: str) -> Cost:
    """Medians of rounds."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    parts = workload.build_parts([*work.overrides(num_seeds), "trainer=gpu", *more])
    advance = workload.runner(parts)
    advance(work.warm_up)
    step_s = _median(lambda: advance(work.env_steps), num_rounds) / work.env_steps
    return Cost(step_s, *_alone(parts, num_rounds), torch.cuda.max_memory_allocated())


def _alone(parts: Parts, num_rounds: int, count: int = 8) -> tuple[float, float]:
    """Seconds of an update and of an action."""
    (batch,) = parts.sampler.sample(1)
    obs = parts.collector._obs

    def update() -> None:
        for _ in range(count):
            parts.update(batch)
        torch.cuda.synchronize()

    def act() -> None:
        for _ in range(count):
            parts.collector.policy(obs)

    return _median(update, num_rounds) / count, _median(act, num_rounds) / count


def _median(work: Callable[[], object], num_rounds: int) -> float:
    spent = []
    for _ in range(num_rounds):
        started = time.perf_counter()
        work()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)


def print_rows(work: Work, seeds: Sequence[int], num_rounds: int) -> None:
    """One row per number of seeds, without graphs and with them, as they come."""
    print(f"\n{work.title}; {torch.cuda.get_device_name()}, medians of {num_rounds} rounds")
    print("seeds  graphs    step us  update us   act us  seed-steps/s  peak MiB")
    for num_seeds in seeds:
        for graphs in ("false", "true"):
            cost = measure(work, num_seeds, num_rounds, f"trainer.cuda_graphs={graphs}")
            step, update, act = (1e6 * s for s in (cost.step_s, cost.update_s, cost.act_s))
            speed, peak = num_seeds / cost.step_s, cost.peak_bytes / 2**20
            print(
                f"{num_seeds:5} {graphs:>7} {step:10,.0f} {update:10,.0f} {act:8,.0f}"
                f" {speed:13,.0f} {peak:9,.0f}",
                flush=True,
            )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS), help="works")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="sizes of populations")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("it needs a CUDA device, and none is available")
    cpu.restart_as_job()
    torch.set_num_threads(1)
    for name in args.only:
        print_rows(WORKS[name], args.seeds, args.rounds)


if __name__ == "__main__":
    main()
