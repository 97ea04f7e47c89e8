"""`python -m qbench.deploy RUN`: writes the agents of a finished run as ONNX, C and NumPy.

With --device the C is built for a microcontroller and run in an emulator instead; what it takes
there is added to summary.json and to the model card. A run folder may come from anywhere: reading
one executes nothing that is stored in it.
"""

import argparse
import sys
from pathlib import Path

from qbench import records
from qbench.deploy import artifacts, card, device
from qbench.deploy.population import load_observations
from qbench.deploy.stored import (
    Agent,
    choose,
    load_agents,
    load_env,
    observations_of,
    require_done,
)
from qbench.types import EnvSpec

ACTIONS = 1000


def main(argv: list[str] | None = None) -> int:
    """Do what is asked and print the figures; returns the exit code."""
    args = _parse(argv)
    try:
        formats = _formats(args.format)
        if args.actions < 1:
            raise ValueError(f"--actions is {args.actions}: it must be at least 1.")
        require_done(args.run_dir)
        spec = load_env(args.run_dir, args.trust).describe()
        agents = choose(load_agents(args.run_dir, spec), args.seed, args.run_dir)
        if args.device:
            _measure(args, agents, spec)
        else:
            _write(agents, spec, formats)
    except (records.RunFolderError, ValueError, ImportError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m qbench.deploy", description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="folder of a finished cell")
    parser.add_argument(
        "--seed", default="all", help="a training seed, best (by its return), or all (default: all)"
    )
    parser.add_argument(
        "--format",
        help="of npz,onnx,c, with commas between (default: all that the network has a form in)",
    )
    parser.add_argument(
        "--device",
        choices=[device.NAME],
        help="build and emulate the C there; `make device` installs what that needs",
    )
    parser.add_argument(
        "--actions", type=int, default=ACTIONS, help=f"taken in the emulator (default: {ACTIONS})"
    )
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="MODULE",
        help="classes of this module may be built too; may be repeated",
    )
    return parser.parse_args(argv)


def _formats(given: str | None) -> list[str] | None:
    if given is None:
        return None
    formats = given.split(",")
    for name in formats:
        if name not in artifacts.FORMATS:
            raise ValueError(f"--format {name} is unknown: the formats are npz, onnx and c.")
    return formats


def _write(agents: list[Agent], spec: EnvSpec, formats: list[str] | None) -> None:
    """Write what is asked for, or what is possible; nothing if a network cannot take a format."""
    plans = []
    for agent in agents:
        faults = artifacts.faults(agent.policy, spec, formats or artifacts.FORMATS)
        if formats is not None and faults:
            raise ValueError(next(iter(faults.values())))
        for name, fault in faults.items():
            print(f"{agent.folder}: {name} is left out, {fault}")
        plans.append([n for n in formats or artifacts.FORMATS if n not in faults])
    for agent, names in zip(agents, plans, strict=True):
        sizes = artifacts.write(agent.folder, agent.policy, spec, names)
        told = ", ".join(f"{name} {size:,} bytes" for name, size in sizes.items())
        print(f"{agent.folder}: {told or 'nothing'}")


def _measure(args: argparse.Namespace, agents: list[Agent], spec: EnvSpec) -> None:
    """Emulate every agent, then add the figures to the summary and the cards."""
    found = {}
    for agent in agents:
        obs = load_observations(observations_of(args.run_dir, agent.seed))[: args.actions]
        found[agent.seed] = device.measure(agent.policy, spec, obs)._asdict()
        told = ", ".join(f"{name} {value:,}" for name, value in found[agent.seed].items())
        print(f"{agent.folder}: {told}")
    summary = records.read_summary(args.run_dir)
    for entry in summary["seeds"]:
        if entry["seed"] in found:
            entry["device"] = {args.device: found[entry["seed"]]}
    summary["device"] = {args.device: found[agents[0].seed]}
    entries = {entry["seed"]: entry for entry in summary["seeds"]}
    cards = {a.folder: card.text(summary, entries[a.seed], a.policy, spec) for a in agents}
    records.write_summary(args.run_dir, summary)
    for folder, text in cards.items():
        records.write_text(folder / "model_card.md", text)


if __name__ == "__main__":
    sys.exit(main())
