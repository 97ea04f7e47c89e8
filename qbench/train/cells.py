"""A cell's axes, name and folder, and the `quant=none` cell that post-training quantization needs.

Everything here reads a composed config, with its `hydra` node, and nothing else: a single run,
a sweep and a job of its own give the same answers.
"""

import copy
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml  # type: ignore[import-untyped, unused-ignore]
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, flag_override

from qbench import records

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Cell:
    """One cell of a grid: its whole composed config (with `hydra`) and its folder."""

    cfg: DictConfig
    run_dir: Path

    @property
    def name(self) -> str:
        return self.run_dir.name

    @property
    def axes(self) -> dict[str, str]:
        return axes_of(self.cfg)

    @property
    def seeds(self) -> range:
        return range(self.cfg.seed, self.cfg.seed + self.cfg.num_seeds)


def from_config(cfg: DictConfig) -> Cell:
    """The cell of a composed config, in the folder that Hydra's own settings name."""
    if cfg.hydra.mode == RunMode.MULTIRUN:
        return Cell(cfg, Path(cfg.hydra.sweep.dir) / cfg.hydra.sweep.subdir)
    return Cell(cfg, Path(cfg.hydra.run.dir))


def axes_of(cfg: DictConfig) -> dict[str, str]:
    """The choice on each axis, aliases resolved; an env with an open id is called by that."""
    axes = {axis: canonical_choice(cfg, axis) for axis in records.AXES}
    if file_content(choice_file(cfg, "env", axes["env"])).get("id") == "???":
        axes["env"] = re.sub(r"[^\w.]+", "-", str(OmegaConf.select(cfg, "env.id") or axes["env"]))
    return axes


def cell_name(cfg: DictConfig) -> str:
    """`<env>-<network>-<quant>-<algo>-<8 hex digits of all other settings>`."""
    digest = hashlib.sha256(json.dumps(identity(cfg), sort_keys=True).encode()).hexdigest()
    return "-".join([*axes_of(cfg).values(), digest[:8]])


NAMED = {"checkpoint_interval_env_steps": 50_000}
"""Keys that change no number but were part of names once, with the value that names keep."""


def identity(cfg: DictConfig) -> dict[str, Any]:
    """Everything that makes a cell what it is, in JSON's types."""
    settings: dict[str, Any] = _canonical(records.without_neutral(plain(cfg, records.NOT_IDENTITY)))
    return settings | NAMED


def stored_config(run_dir: Path) -> dict[str, Any] | None:
    """The config that a run folder was made with; None if there is none that can be read."""
    try:
        content = yaml.load((run_dir / ".hydra" / "config.yaml").read_bytes(), _LOADER)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
    return content if isinstance(content, dict) else None


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], hidden: Iterable[str]
) -> list[tuple[str, Any, Any]]:
    """Dotted key, old value and new value of every setting that differs; None: it is not there."""
    hidden = set(hidden)
    before, after = (
        _flat(_canonical(records.without_neutral(_without(config, hidden))))
        for config in (old, new)
    )
    keys = sorted(before.keys() | after.keys())
    return [(k, before.get(k), after.get(k)) for k in keys if before.get(k) != after.get(k)]


def _without(config: Mapping[str, Any], hidden: set[str]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in hidden}


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def plain(cfg: DictConfig, hidden: tuple[str, ...]) -> dict[str, Any]:
    """The resolved content of `cfg` without some top-level keys.

    Key by key, because resolving the whole would ask `hydra.run.dir` for this very name.
    """
    content: dict[str, Any] = {}
    for key in (str(key) for key in cfg if key not in hidden):
        value = None if OmegaConf.is_missing(cfg, key) else cfg[key]
        is_node = OmegaConf.is_config(value)
        content[key] = OmegaConf.to_container(value, resolve=True) if is_node else value
    return content


def choice_file(cfg: DictConfig, group: str, choice: str) -> Path | None:
    """The YAML file behind `group=choice`, in the order in which Hydra searches."""
    for source in cfg.hydra.runtime.config_sources:
        path = Path(source.path) / group / f"{choice}.yaml"
        if source.schema == "file" and path.is_file():
            return path
    return None


@functools.cache
def file_content(path: Path | None) -> dict[str, Any]:
    """A YAML file as it is written; config files do not change during a command."""
    content = OmegaConf.to_container(OmegaConf.load(path)) if path else {}
    return cast(dict[str, Any], content)


def canonical_choice(cfg: DictConfig, group: str) -> str:
    """The choice of a group, following aliases: files with one default and nothing else."""
    choice = str(cfg.hydra.runtime.choices[group])
    for _ in range(8):  # An alias of itself must not hang; Hydra refuses it anyway.
        match file_content(choice_file(cfg, group, choice)):
            case {"defaults": [str(target)], **rest} if not rest:
                choice = target
            case _:
                break
    return choice


def is_ours(cfg: DictConfig, group: str) -> bool:
    """Whether a node builds a class of qbench, whose keys are known here."""
    return str(OmegaConf.select(cfg, f"{group}._target_")).startswith("qbench.")


def needs_base(cfg: DictConfig) -> bool:
    """Whether the scheme trains nothing of its own: its class is called PTQ-something."""
    target = str(OmegaConf.select(cfg, "quant._target_"))
    return target.rpartition(".")[2].startswith("PTQ")


def base_of(cell: Cell) -> Cell | None:
    """The `quant=none` cell of the same settings, beside `cell`; None if it needs none.

    Only the quant node is exchanged: what an experiment or the command line said of
    `quant.*` was meant for the quantized cell, and everything else stands.
    """
    if not needs_base(cell.cfg):
        return None
    path = choice_file(cell.cfg, "quant", "none")
    if path is None:
        raise FileNotFoundError("quant/none.yaml is in none of the config folders")
    cfg = copy.deepcopy(cell.cfg)
    task = [o for o in cfg.hydra.overrides.task if not re.match(r"[+~]*quant[.=@]", o)]
    with writable(cfg), writable(cfg.hydra):
        cfg.quant = file_content(path)
        cfg.hydra.runtime.choices.quant = "none"
        cfg.hydra.overrides.task = [*task, "quant=none"]
    return Cell(cfg, cell.run_dir.parent / cell_name(cfg))


def unique(grid: Iterable[Cell]) -> list[Cell]:
    """Each folder's cell once."""
    return list({cell.run_dir: cell for cell in grid}.values())


def run_folders(grid: Iterable[Cell]) -> list[Path]:
    """The folders of some cells and of their bases, as far as there is something in them."""
    families = [(base_of(cell), cell) for cell in grid]
    cells = unique(cell for family in families for cell in family if cell is not None)
    return [cell.run_dir for cell in cells if records.is_run_folder(cell.run_dir)]


def writable(node: DictConfig) -> Any:
    """A context in which a composed node can be changed."""
    return flag_override(node, ["struct", "readonly"], False)


def is_done(cell: Cell) -> bool:
    """Whether the folder holds a finished cell with all the seeds asked for.

    A summary is the last that a training writes: whatever became of seeds that were added later,
    those in it are finished.

    Raises:
        records.RunFolderError: there is something in it that this qbench cannot read.
    """
    records.read_status(cell.run_dir)
    if not (cell.run_dir / "summary.json").exists():
        return False
    trained = {seed["seed"] for seed in records.read_summary(cell.run_dir)["seeds"]}
    return trained.issuperset(cell.seeds)


def _canonical(value: Any) -> Any:
    """`value` with whole floats as ints: tau=1 and tau=1.0 are the same setting."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {key: _canonical(item) for key, item in value.items()}
        case list():
            return [_canonical(item) for item in value]
    return value


OmegaConf.register_new_resolver("qbench_cell", lambda *, _root_: cell_name(_root_), replace=True)
