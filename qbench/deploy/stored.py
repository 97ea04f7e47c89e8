"""The deployed networks of a finished run, and the env they play. Nothing stored is executed."""

from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from qbench import records
from qbench.deploy import npz
from qbench.types import EnvFactory, IntegerPolicy

ENV_CLASSES = {
    ("qbench.env.gym", "GymnasiumEnv"),
    ("qbench.env.atari", "AtariEnv"),
    ("qbench.env.minatar", "MinAtarEnv"),
    ("qbench.env.pixels", "RenderedEnv"),
}
"""A run folder may come from anywhere: nothing else that it names is imported."""


class Agent(NamedTuple):
    """One deployed network."""

    seed: int
    policy: IntegerPolicy
    folder: Path  # of its files


def load_agents(run_dir: Path) -> list[Agent]:
    """The deployed networks of a finished cell.

    Raises:
        RunFolderError: not a run folder, not finished, or a network is gone.
        ValueError: a stored network is damaged.
    """
    if not records.is_run_folder(run_dir):
        raise records.RunFolderError(
            f"{run_dir} is not a run folder: name one cell, multirun/<sweep>/<cell>."
        )
    state = records.read_status(run_dir)["state"]
    if state != "done":
        raise records.RunFolderError(f"{run_dir} is not finished: its state is {state}.")
    return [_load(run_dir, entry["seed"]) for entry in records.read_summary(run_dir)["seeds"]]


def _load(run_dir: Path, seed: int) -> Agent:
    folder = agent_folder(run_dir, seed)
    path = folder / "policy.npz"
    if not path.exists():
        raise records.RunFolderError(f"{path} is gone: remove {run_dir} to train it again.")
    return Agent(seed, npz.load(path), folder)


def agent_folder(run_dir: Path, seed: int) -> Path:
    """Where a seed's deployed files are."""
    return run_dir / "deploy" / f"seed_{seed}"


def load_env(run_dir: Path) -> EnvFactory:
    """The env of a run folder: one of qbench's own classes, by registered id alone.

    Raises:
        RunFolderError: no readable config, a foreign class, or an id that would import a module.
    """
    path = run_dir / ".hydra" / "config.yaml"
    try:
        node: dict[str, Any] = dict(yaml.safe_load(path.read_text(encoding="utf-8"))["env"])
        if ":" in str(node.get("id", "")):
            raise records.RunFolderError(f"{path} names {node['id']}: ids with ':' import code.")
        module, _, name = node.pop("_target_").rpartition(".")
        if (module, name) not in ENV_CLASSES:
            raise ValueError(f"its class is {module}.{name}")
        env: EnvFactory = getattr(import_module(module), name)(**node)
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise records.RunFolderError(f"{path} does not name an env of qbench: {said}") from error
    return env
