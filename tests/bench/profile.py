"""Where the CPU time of a cycle goes, part by part: `python -m tests.bench.profile`.

Parts are timed inside whole cycles, as a training runs them; an outer part holds its inner ones.
"""

import argparse
import time
from typing import Any

from qbench.train.build import Parts
from tests.bench import benchmarks, cpu

WORKS = [("mlp", "none"), ("mlp", "qat8"), ("cnn", "qat8")]


def parts_of(parts: Parts) -> list[tuple[str, Any, str]]:
    """What is timed: title, object, its method; DQN's."""
    learner: Any = parts.learner
    collector: Any = parts.collector
    return [
        ("collect", collector, "collect"),
        ("  act", collector, "policy"),
        ("  env", collector._envs, "step"),
        ("  store", parts.replay, "add"),
        ("sample", parts.sampler, "sample"),
        ("update", learner, "update"),
        ("  forward, target and loss", learner, "loss"),
        ("    target", learner, "_target"),
        ("  backward, clipping and Adam", learner.optimizer, "step"),
        ("    Adam", learner.optimizer, "_move"),
    ]


def profile(network: str, quant: str, num_cycles: int, num_rounds: int = 5) -> dict[str, float]:
    """CPU seconds per cycle of each part and of the whole: one env step, one update; the least."""
    parts = benchmarks.warm_parts(network, quant)
    parts.collector.collect(1000)  # past the random actions
    timed = {title: cpu.Timed(owner, name) for title, owner, name in parts_of(parts)}
    least = dict.fromkeys([*timed, "whole cycle"], float("inf"))
    for _ in range(num_rounds):
        for clock in timed.values():
            clock.spent_s = 0.0
        started = time.process_time()
        for _ in range(num_cycles):
            parts.collector.collect(1)
            (batch,) = parts.sampler.sample(1)
            parts.learner.update(batch)
        seconds = {title: clock.spent_s for title, clock in timed.items()}
        seconds["whole cycle"] = time.process_time() - started
        least = {title: min(least[title], seconds[title] / num_cycles) for title in least}
    return least


def main() -> None:
    """Print a table per work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cycles", type=int, default=20, help="per round (default 20)")
    args = parser.parse_args()
    cpu.restart_as_job()
    print(f"CPU time per cycle of one env step and one update, least of 5 rounds, {cpu.pin()}")
    for network, quant in WORKS:
        spent = profile(network, quant, args.cycles)
        print(f"\n{network} {quant}")
        for title, seconds in spent.items():
            share = seconds / spent["whole cycle"]
            print(f"{title:30} {1e6 * seconds:8.0f} us {share:5.0%}", flush=True)


if __name__ == "__main__":
    main()
