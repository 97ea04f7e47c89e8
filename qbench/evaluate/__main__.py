"""`python -m qbench.evaluate RUN`: plays the stored networks of a finished run."""

import argparse
import sys
from importlib import import_module
from pathlib import Path

import yaml

from qbench import records
from qbench.deploy import npz
from qbench.evaluate.play import Played, greedy, play
from qbench.types import EnvFactory, IntegerPolicy

ENV_CLASSES = {
    ("qbench.env.gym", "GymnasiumEnv"),
    ("qbench.env.atari", "AtariEnv"),
    ("qbench.env.minatar", "MinAtarEnv"),
    ("qbench.env.pixels", "RenderedEnv"),
}
"""A run folder may come from anywhere: nothing else that it names is imported."""


def main(argv: list[str] | None = None) -> int:
    """Print return and length per seed; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m qbench.evaluate", description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="folder of a finished cell")
    parser.add_argument("--episodes", type=int, default=100, help="per seed (default: 100)")
    args = parser.parse_args(argv)
    try:
        if args.episodes < 1:
            raise records.RunFolderError(f"--episodes is {args.episodes}: it must be at least 1.")
        seeds, policies = load_policies(args.run_dir)
        env = load_env(args.run_dir)
    except (records.RunFolderError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    policy = greedy(policies, env.describe())
    played = play(policy, env.make, num_seeds=len(policies), num_episodes=args.episodes)
    show(seeds, played)
    return 0


def load_policies(run_dir: Path) -> tuple[list[int], list[IntegerPolicy]]:
    """The seeds of a finished cell and their deployed networks.

    Raises:
        RunFolderError: not a run folder, or not finished.
        ValueError: a stored network is damaged.
    """
    if not records.is_run_folder(run_dir):
        raise records.RunFolderError(
            f"{run_dir} is not a run folder: name one cell, multirun/<sweep>/<cell>."
        )
    state = records.read_status(run_dir)["state"]
    if state != "done":
        raise records.RunFolderError(f"{run_dir} is not finished: its state is {state}.")
    seeds = [entry["seed"] for entry in records.read_summary(run_dir)["seeds"]]
    folder = run_dir / "deploy"
    return seeds, [npz.load(folder / f"seed_{seed}" / "policy.npz") for seed in seeds]


def load_env(run_dir: Path) -> EnvFactory:
    """The env of a run folder: one of qbench's own classes, by registered id alone.

    Raises:
        RunFolderError: no readable config, a foreign class, or an id that would import a module.
    """
    path = run_dir / ".hydra" / "config.yaml"
    try:
        node = dict(yaml.safe_load(path.read_text(encoding="utf-8"))["env"])
        if ":" in str(node.get("id", "")):
            raise records.RunFolderError(f"{path} names {node['id']}: ids with ':' import code.")
        module, _, name = node.pop("_target_").rpartition(".")
        if (module, name) not in ENV_CLASSES:
            raise ValueError(f"its class is {module}.{name}")
        env: EnvFactory = getattr(import_module(module), name)(**node)
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise records.RunFolderError(f"{path} does not name an env of qbench: {error}") from error
    return env


def show(seeds: list[int], played: Played) -> None:
    """One line per seed."""
    for seed, returns, lengths in zip(seeds, played.returns, played.lengths, strict=True):
        print(
            f"seed {seed}: return {returns.mean():.1f} (sd {returns.std():.1f}), "
            f"length {lengths.mean():.0f}, {len(returns)} episodes"
        )


if __name__ == "__main__":
    sys.exit(main())
