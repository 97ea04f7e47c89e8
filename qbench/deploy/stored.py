"""The deployed networks of a finished run, and the env they play. Nothing stored is executed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from qbench import records
from qbench.deploy import npz, trust
from qbench.deploy.checks import check_policy
from qbench.types import EnvFactory, EnvSpec, IntegerPolicy


class Agent(NamedTuple):
    """One deployed network."""

    seed: int
    policy: IntegerPolicy
    folder: Path  # of its files


def load_agents(run_dir: Path, spec: EnvSpec) -> list[Agent]:
    """The deployed networks of a finished cell.

    Raises:
        RunFolderError: not a run folder, not finished, or a network is gone.
        ValueError: a stored network is damaged, or none of this env.
    """
    require_done(run_dir)
    seeds = [entry["seed"] for entry in records.read_summary(run_dir)["seeds"]]
    return [_load(run_dir, seed, spec) for seed in seeds]


def require_done(run_dir: Path) -> None:
    """Refuse what is not the folder of a finished cell.

    Raises:
        RunFolderError: says what it is.
    """
    if not records.is_run_folder(run_dir):
        raise records.RunFolderError(
            f"{run_dir} is not a run folder: name one cell, multirun/<sweep>/<cell>."
        )
    state = records.read_status(run_dir)["state"]
    if not (run_dir / "summary.json").exists():
        raise records.RunFolderError(
            f"{run_dir} is not finished: it has no summary.json, and its state is {state}."
            " Name a cell that is done."
        )


def _load(run_dir: Path, seed: int, spec: EnvSpec) -> Agent:
    folder = agent_folder(run_dir, seed)
    path = folder / "policy.npz"
    if not path.exists():
        raise records.RunFolderError(
            f"{path} is not there: published cells hold no networks, others are trained again once"
            f" {run_dir} is removed."
        )
    policy = npz.load(path)
    try:
        check_policy(policy, spec)
    except ValueError as error:
        raise ValueError(f"{path} is not a policy that qbench wrote: {error}.") from error
    return Agent(seed, policy, folder)


def choose(agents: list[Agent], seed: str, run_dir: Path) -> list[Agent]:
    """The agents that `--seed` names: a training seed, best (by its return), or all.

    Raises:
        ValueError: there is no such seed.
    """
    if seed == "all":
        return agents
    if seed == "best":
        entries = records.read_summary(run_dir)["seeds"]
        means = {str(e["seed"]): e["eval_return_mean"] for e in entries}
        seed = max(means, key=lambda k: float("-inf") if means[k] is None else means[k])
    chosen = [agent for agent in agents if str(agent.seed) == seed]
    if not chosen:
        known = ", ".join(str(agent.seed) for agent in agents)
        raise ValueError(f"--seed {seed} is not in {run_dir}: its seeds are {known}.")
    return chosen


def agent_folder(run_dir: Path, seed: int) -> Path:
    """Where a seed's deployed files are."""
    return run_dir / "deploy" / f"seed_{seed}"


def source_of(run_dir: Path) -> Path:
    """The folder that holds a run's checkpoint and observations: its own, or its base cell's.

    Raises:
        RunFolderError: the base cell is not beside it.
    """
    base = records.read_summary(run_dir).get("base_cell")
    if base is None:
        return run_dir
    # A name and no path: the folder of a stranger must not send anybody elsewhere.
    if not isinstance(base, str) or Path(base).name != base or base in ("", ".", ".."):
        raise records.RunFolderError(f"{run_dir}/summary.json names {base!r} as its base cell.")
    # Not through a path that ends in ".": the folder's name may be a relative one.
    source = run_dir.absolute().parent / base
    if not records.is_run_folder(source):
        raise records.RunFolderError(
            f"{run_dir} quantizes the agents of {base}, which is not beside it: copy that too."
        )
    return source


def observations_of(run_dir: Path, seed: int) -> Path:
    """Where 10,000 observations of a seed's final replay are."""
    return source_of(run_dir) / "calibration" / f"seed_{seed}.npz"


def config_of(run_dir: Path) -> dict[str, Any]:
    """The stored config as YAML gives it.

    Raises:
        RunFolderError: there is none, or it is damaged.
    """
    path = run_dir / ".hydra" / "config.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise records.RunFolderError(f"{path} cannot be read: {said}.") from error
    if not isinstance(content, dict):
        raise records.RunFolderError(f"{path} holds no config.")
    return content


def load_env(run_dir: Path, trusted: Sequence[str] = (), *, is_drawn: bool = False) -> EnvFactory:
    """The env of a run folder: one of `trust.CLASSES`, by registered id alone.

    Args:
        run_dir: the folder.
        trusted: modules whose classes may be built too.
        is_drawn: whether it shall render to rgb_array, if the env has `kwargs` to say so.

    Raises:
        RunFolderError: no readable config, a foreign class, or an id that would import a module.
    """
    node = config_of(run_dir).get("env")
    if is_drawn and isinstance(node, dict) and isinstance(node.get("kwargs"), dict):
        # The vector form takes no kwargs; a picture shows one env.
        kwargs = {**node["kwargs"], "render_mode": "rgb_array"}
        node = {**node, "stepping": "serial", "kwargs": kwargs}
    try:
        env: EnvFactory = trust.build("env", node, trusted)
    except ValueError as error:
        raise _unusable(run_dir, "env", error) from error
    return env


def _unusable(run_dir: Path, what: str, error: Exception) -> records.RunFolderError:
    said = " ".join(str(error).split()).rstrip(".")
    path = run_dir / ".hydra" / "config.yaml"
    return records.RunFolderError(f"{path} does not name an {what} of qbench: {said}.")
