"""The speed gate: `make bench-check` compares with baseline.json, `make bench-baseline` writes it.

A benchmark and a fixed reference of its kind take turns in short slices of CPU time, on one
core; the ratio of their least slices is compared. What slows the machine slows both, and a slice
of a few milliseconds finds a quiet moment where a second does not. Where a process's memory
happens to lie moves a ratio by several percent too, for as long as the process lives: so what is
over the tolerance is measured again in a new process, some seconds later and up to five times, and
the median of their ratios counts. It was within 5 % of itself beside two trainings on two cores.

Ratios are those of one kind of processor and its cache, of the library that multiplies on it
(`qbench.product`), and of compiled loops (`qbench.quant.kernels`) or none: baseline.json has an
entry for each.
"""

import argparse
import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from qbench import product
from qbench.quant import kernels
from qbench.train import provenance
from tests.bench import cpu, reference
from tests.bench.benchmarks import BENCHMARKS, Benchmark, Work

BASELINE = Path(__file__).with_name("baseline.json")
TOLERANCE = 0.08
"""Share by which a ratio may exceed its baseline."""

SLICE_S = 0.006
ROUNDS = 12
PASSES = 6
"""Processes that measure a benchmark, at most; a baseline is of as many."""

PAUSE_S = 20.0
"""Between the processes that measure a benchmark."""

REMEDY = "where it is meant to be slower, make bench-baseline renews the baseline"


class Verdict(NamedTuple):
    """A benchmark against its baseline; None: it has none."""

    name: str
    ratio: float
    baseline: float | None

    def is_slower(self, tolerance: float) -> bool:
        """Whether it is beyond the tolerance, or has nothing to be compared with."""
        return self.baseline is None or self.ratio > self.baseline * (1 + tolerance)

    def sentence(self, tolerance: float) -> str:
        """What is said of it."""
        if self.baseline is None:
            return f"{self.name}: no baseline, make bench-baseline writes one"
        change = self.ratio / self.baseline - 1
        said = "SLOWER" if self.is_slower(tolerance) else "ok"
        return (
            f"{said:6} {self.name}: {self.ratio:.3f} of its reference, "
            f"baseline {self.baseline:.3f}, {change:+.1%}, tolerance {tolerance:+.0%}"
        )


def measure(work: Work, beside: Work, rounds: int = ROUNDS) -> float:
    """The ratio of the least of `rounds` interleaved slices of each."""
    counts = [_count(each) for each in (work, beside)]
    taken = [
        [cpu.seconds_of(each, count) for each, count in zip((work, beside), counts, strict=True)]
        for _ in range(rounds)
    ]
    work_s, beside_s = map(min, zip(*taken, strict=True))
    return work_s / beside_s


def _count(work: Work) -> int:
    """Calls that fill a slice."""
    work()
    return max(1, round(SLICE_S / min(cpu.seconds_of(work, 1) for _ in range(3))))


Pass = Callable[[list[str]], Mapping[str, float]]
"""Measures the ratios of benchmarks by their names, in a process of its own."""


def judge(
    run_pass: Pass, names: list[str], baseline: Mapping[str, float], tolerance: float
) -> list[Verdict]:
    """Every benchmark once, then the suspects again.

    Args:
        run_pass: measures some of the benchmarks.
        names: of the benchmarks.
        baseline: name -> ratio.
        tolerance: share by which a ratio may exceed it.
    """
    ratios = {name: [ratio] for name, ratio in run_pass(names).items()}

    def verdict(name: str) -> Verdict:
        return Verdict(name, statistics.median(ratios[name]), baseline.get(name))

    for _ in range(PASSES - 1):
        suspects = [
            name for name in names if name in baseline and verdict(name).is_slower(tolerance)
        ]
        if suspects:
            time.sleep(PAUSE_S)
            for name, ratio in run_pass(suspects).items():
                ratios[name].append(ratio)
    return [verdict(name) for name in names]


def measure_all(names: list[str], planted: float) -> dict[str, float]:
    """Benchmarks, each built anew, slowed down by the share `planted`."""
    references = {kind: make() for kind, make in reference.WORK.items()}

    def measured(benchmark: Benchmark) -> float:
        work = benchmark.make()
        return measure(
            cpu.slowed(work, planted) if planted else work, references[benchmark.reference]
        )

    return {name: measured(BENCHMARKS[name]) for name in names}


def in_a_process(names: list[str], planted: float = 0.0) -> dict[str, float]:
    """What `measure_all` measures in a new process."""
    command = [sys.executable, "-m", "tests.bench.gate", "--plant", str(planted), "--measure"]
    done = subprocess.run(
        [*command, *names],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=cpu.job_environment(),
    )
    ratios: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return ratios


def processor() -> str:
    """What baselines are kept by: the processor, and what computes on it beside PyTorch.

    Its cache tells apart what virtual machines give one name.
    """
    parts = [provenance.processor()]
    if product.CPU_INFO.exists():
        lines = product.CPU_INFO.read_text().splitlines()
        sizes = {line.split(":", 1)[1] for line in lines if line.startswith("cache size")}
        parts += sorted(f"cache{size}" for size in sizes)
    if product.IS_WIDER:
        parts.append("products by NumPy")
    if not kernels.library():
        parts.append("no compiled loops")
    return ", ".join(parts)


def write_baseline(names: list[str], run_pass: Pass) -> None:
    """Medians over all passes, into the entry of this processor."""
    passes = [run_pass(names)]
    for _ in range(PASSES - 1):
        time.sleep(PAUSE_S)
        passes.append(run_pass(names))
    ratios = {name: round(statistics.median(each[name] for each in passes), 4) for name in names}
    entries = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    entries[processor()] = entries.get(processor(), {}) | ratios
    BASELINE.write_text(json.dumps(entries, indent=1) + "\n")
    print(f"{len(ratios)} ratios of {processor()} are in {BASELINE}.")


def check(names: list[str], run_pass: Pass, tolerance: float) -> int:
    """Print every verdict; the exit code."""
    entries = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    if processor() not in entries:
        print(
            f"{BASELINE.name} has no ratios of {processor()}: run make bench-baseline on the "
            "commit to compare with.",
            file=sys.stderr,
        )
        return 2
    verdicts = judge(run_pass, names, entries[processor()], tolerance)
    for verdict in verdicts:
        print(verdict.sentence(tolerance))
    slower = [verdict.name for verdict in verdicts if verdict.is_slower(tolerance)]
    if slower:
        print(f"{len(slower)} of {len(verdicts)} fail: {', '.join(slower)}; {REMEDY}.")
    return int(bool(slower))


def main() -> int:
    """Compare or write; returns the exit code."""
    parser = argparse.ArgumentParser(description="Speed against the committed baseline.")
    parser.add_argument("--write", action="store_true", help="write the baseline")
    parser.add_argument("--only", default="", help="benchmarks whose name has this text")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="default %(default)s")
    parser.add_argument("--plant", type=float, default=0.0, help="slow all down by this share")
    parser.add_argument("--measure", nargs="+", metavar="NAME", help="print ratios as JSON only")
    args = parser.parse_args()
    if args.measure:
        cpu.pin()
        print(json.dumps(measure_all(args.measure, args.plant)))
        return 0
    names = [name for name in BENCHMARKS if args.only in name]
    if not names:
        print(f"--only {args.only!r}: no benchmark has that in its name.", file=sys.stderr)
        return 2
    run_pass = functools.partial(in_a_process, planted=args.plant)
    if args.write:
        write_baseline(names, run_pass)
        return 0
    return check(names, run_pass, args.tolerance)


if __name__ == "__main__":
    sys.exit(main())
