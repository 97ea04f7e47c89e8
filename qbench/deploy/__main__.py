"""`python -m qbench.deploy RUN`: writes the networks of a finished run as ONNX, C and NumPy."""

import argparse
import sys
from pathlib import Path

from qbench import records
from qbench.deploy import artifacts
from qbench.deploy.stored import Agent, load_agents, load_env


def main(argv: list[str] | None = None) -> int:
    """Write the files and print their bytes; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m qbench.deploy", description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="folder of a finished cell")
    parser.add_argument(
        "--seed", default="all", help="a training seed, best (by its return), or all (default: all)"
    )
    parser.add_argument(
        "--format",
        default=",".join(artifacts.FORMATS),
        help="of npz,onnx,c, with commas between (default: all)",
    )
    args = parser.parse_args(argv)
    try:
        formats = _formats(args.format)
        agents = _chosen(load_agents(args.run_dir), args.seed, args.run_dir)
        spec = load_env(args.run_dir).describe()
        for agent in agents:
            sizes = artifacts.write(agent.folder, agent.policy, spec, formats)
            told = ", ".join(f"{name} {size:,} bytes" for name, size in sizes.items())
            print(f"{agent.folder}: {told or 'nothing, a float network has no C'}")
    except (records.RunFolderError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _formats(given: str) -> list[str]:
    formats = given.split(",")
    for name in formats:
        if name not in artifacts.FORMATS:
            raise ValueError(f"--format {name} is unknown: the formats are npz, onnx and c.")
    return formats


def _chosen(agents: list[Agent], seed: str, run_dir: Path) -> list[Agent]:
    if seed == "all":
        return agents
    if seed == "best":
        entries = records.read_summary(run_dir)["seeds"]
        best = max(entries, key=lambda entry: entry["eval_return_mean"] or float("-inf"))
        seed = str(best["seed"])
    chosen = [agent for agent in agents if str(agent.seed) == seed]
    if not chosen:
        known = ", ".join(str(agent.seed) for agent in agents)
        raise ValueError(f"--seed {seed} is not in {run_dir}: its seeds are {known}.")
    return chosen


if __name__ == "__main__":
    sys.exit(main())
