"""`python -m qbench.evaluate RUN`: plays the stored networks of a finished run."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from qbench import records
from qbench.deploy.stored import load_agents, load_env
from qbench.evaluate.play import Played, greedy, play
from qbench.types import EnvSpec, FloatArray, IntegerPolicy, ObsArray

Runtime = Callable[[ObsArray], FloatArray]


def main(argv: list[str] | None = None) -> int:
    """Print return and length per seed; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m qbench.evaluate", description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="folder of a finished cell")
    parser.add_argument("--episodes", type=int, default=100, help="per seed (default: 100)")
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        default="numpy",
        help="what plays: the NumPy reference, ONNX Runtime, or C compiled by gcc (default: numpy)",
    )
    args = parser.parse_args(argv)
    try:
        if args.episodes < 1:
            raise records.RunFolderError(f"--episodes is {args.episodes}: it must be at least 1.")
        agents, env = load_agents(args.run_dir), load_env(args.run_dir)
        spec = env.describe()
        runtimes = [RUNTIMES[args.runtime](agent.policy, spec) for agent in agents]
    except (records.RunFolderError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    began = time.perf_counter()
    policy = greedy(runtimes, spec)
    played = play(policy, env.make, num_seeds=len(agents), num_episodes=args.episodes)
    show([agent.seed for agent in agents], played)
    per_s = played.lengths.sum() / (time.perf_counter() - began)
    print(f"{per_s:,.0f} env steps/s with {args.runtime}")
    return 0


def _numpy(policy: IntegerPolicy, spec: EnvSpec) -> Runtime:
    return policy


def _onnx(policy: IntegerPolicy, spec: EnvSpec) -> Runtime:
    from qbench.deploy import onnx

    return onnx.OnnxPolicy(onnx.export(policy, spec), spec)


def _c(policy: IntegerPolicy, spec: EnvSpec) -> Runtime:
    from qbench.deploy import c

    return c.CompiledPolicy(policy, spec)


RUNTIMES = {"numpy": _numpy, "onnx": _onnx, "c": _c}
"""From the stored integers: ONNX and C files in a run folder may come from anywhere."""


def show(seeds: list[int], played: Played) -> None:
    """One line per seed."""
    for seed, returns, lengths in zip(seeds, played.returns, played.lengths, strict=True):
        print(
            f"seed {seed}: return {returns.mean():.1f} (sd {returns.std():.1f}), "
            f"length {lengths.mean():.0f}, {len(returns)} episodes"
        )


if __name__ == "__main__":
    sys.exit(main())
