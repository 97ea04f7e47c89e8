"""Reads run folders: what each cell is, how it ended, what it found, what it is compared with."""

import functools
import os
import shlex
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]

from qbench import records
from qbench.records import AXES, RunFolderError

BROKEN = "broken"
"""The state of a cell whose folder cannot be read; `reason` names the file."""

YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The safe one, in C where there is that."""


@dataclass(frozen=True)
class Cell:
    """One cell of a grid, as its run folder tells it.

    Attributes:
        run_dir: the run folder.
        name: its name, `<env>-<network>-<quant>-<algo>-<8 hex digits of all other settings>`.
        state: one of records.STATES, or BROKEN.
        reason: why it is in this state, in one sentence; None where there is nothing to say.
        axes: env, network, quant, algo -> choice; "?" where nothing tells.
        summary: records.SUMMARY_KEYS and more; None unless it is there and whole.
        config: the composed config without `hydra`; None if it cannot be read.
    """

    run_dir: Path
    name: str
    state: str
    reason: str | None
    axes: Mapping[str, str]
    summary: Mapping[str, Any] | None
    config: Mapping[str, Any] | None

    @property
    def sweep(self) -> str:
        """Name of the folder that holds the cell."""
        return self.run_dir.absolute().parent.name

    @property
    def returns(self) -> dict[int, float]:
        """Training seed -> mean return of its final greedy episodes; nan if it has none."""
        return {
            int(seed["seed"]): float("nan" if (mean := seed["eval_return_mean"]) is None else mean)
            for seed in (self.summary or {}).get("seeds", [])
        }

    @property
    def diverged(self) -> list[int]:
        """Training seeds that were frozen because their loss or weights were not finite."""
        seeds = (self.summary or {}).get("seeds", [])
        return [int(seed["seed"]) for seed in seeds if seed.get("diverged")]

    @functools.cached_property
    def shared(self) -> Hashable:
        """Equal for cells that may be compared, beside their axes; None if the config is lost."""
        return None if self.config is None else _hashable(settings_but_quant(self.config))

    @property
    def base_name(self) -> str | None:
        """Name of the `none` cell, beside it, whose agents a post-training scheme has taken."""
        base = (self.summary or {}).get("base_cell")
        return base if isinstance(base, str) else None

    @property
    def is_post_training(self) -> bool:
        """Whether its agents are those of the `none` cell, seed by seed."""
        return self.base_name is not None or self.axes["quant"].startswith("ptq")


def load_cells(paths: Iterable[Path | str]) -> list[Cell]:
    """The cells under sweep folders and run folders, sorted, `none` before the other schemes.

    Broken folders are cells too, of the state BROKEN.

    Raises:
        RunFolderError: a path holds no runs.
    """
    return sort_cells(load_cell(run_dir) for run_dir in find_run_dirs(paths))


def sort_cells(cells: Iterable[Cell]) -> list[Cell]:
    """By env, network and algorithm, `none` before the other schemes."""
    return sorted(cells, key=_order)


def find_run_dirs(paths: Iterable[Path | str]) -> list[Path]:
    """The run folders at or below each path, each once.

    Raises:
        RunFolderError: a path holds no runs.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        run_dirs = _run_dirs_below(path)
        if not run_dirs:
            raise RunFolderError(
                f"{path} holds no runs: name a sweep folder, such as multirun/default, or train"
                " one with `python -m qbench -m quant=none,qat8`."
            )
        found |= {run_dir.resolve(): run_dir for run_dir in run_dirs}
    return list(found.values())


def load_cell(run_dir: Path) -> Cell:
    """One cell, whatever is in its folder; never raises for what it finds there."""
    config = _config(run_dir)
    summary = None
    try:
        status = records.read_status(run_dir)
        state, reason = status["state"], status["reason"]
        if state is None:
            state, reason = BROKEN, f"{run_dir} has no status.json."
        if state == "done" or (run_dir / "summary.json").exists():
            summary = records.read_summary(run_dir)
    except RunFolderError as error:
        state, reason = BROKEN, str(error)
    axes = _axes(run_dir.name, summary)
    reason = None if reason is None else printable(reason)
    return Cell(run_dir, run_dir.name, str(state), reason, axes, summary, config)


def reference_of(cell: Cell, cells: Iterable[Cell]) -> Cell | None:
    """The `none` cell that a cell is compared with: its base, or that of the same settings.

    Where a config cannot be read the axes must do. Of several, the one beside `cell` is taken;
    None if that is still ambiguous.
    """
    same = [
        other
        for other in cells
        if other.axes["quant"] == "none" and other.summary and _is_same_but_quant(cell, other)
    ]
    beside = [other for other in same if other.run_dir.parent == cell.run_dir.parent]
    based = [other for other in beside if other.name == cell.base_name]
    candidates = based or beside or same
    return candidates[0] if len(candidates) == 1 else None


def printable(text: Any) -> str:
    """Text of a file on one line, without what no terminal, HTML or SVG can hold."""
    spaced = " ".join(str(text).split())
    return "".join(char if char.isprintable() else "\ufffd" for char in spaced)


def settings(cell: Cell) -> dict[str, Any]:
    """Dotted key -> value of everything in the config that makes a cell what it is."""
    return _flat(_identity(cell.config or {}))


def _identity(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in config.items() if key not in records.NOT_IDENTITY}
    return records.without_neutral(kept)


def repeat_command(run_dir: Path) -> str | None:
    """The command that trains a cell anew, in a sweep of its own; None if its overrides are lost.

    A sweep's experiment would sweep again, so the mode is set; and the cell itself is finished,
    so it is given another place.
    """
    try:
        text = (run_dir / ".hydra" / "overrides.yaml").read_text(encoding="utf-8")
        overrides = yaml.load(text, Loader=YamlLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
    if not isinstance(overrides, list) or not all(isinstance(item, str) for item in overrides):
        return None
    kept = [item for item in overrides if not item.startswith(("sweep=", "hydra.mode="))]
    return shlex.join(["python", "-m", "qbench", *kept, "hydra.mode=RUN", "sweep=repeated"])


def _is_same_but_quant(a: Cell, b: Cell) -> bool:
    if any(a.axes[axis] != b.axes[axis] for axis in AXES if axis != "quant"):
        return False
    return a.shared is None or b.shared is None or a.shared == b.shared


def _hashable(value: Any) -> Hashable:
    """Equal for equal plain values."""
    if isinstance(value, dict):
        return frozenset((key, _hashable(item)) for key, item in value.items())
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def settings_but_quant(config: Mapping[str, Any]) -> dict[str, Any]:
    """What two cells share that may be compared; an absent key and a null are the same."""
    kept = _identity(config).items()
    return {key: value for key, value in kept if key != "quant" and value is not None}


def _run_dirs_below(path: Path) -> list[Path]:
    found = []
    for folder, subfolders, _ in os.walk(path):
        if records.is_run_folder(Path(folder)):
            found.append(Path(folder))
            subfolders.clear()  # Nothing below a run folder is a run folder.
        subfolders.sort()
    return found


def _config(run_dir: Path) -> dict[str, Any] | None:
    try:
        text = (run_dir / ".hydra" / "config.yaml").read_text(encoding="utf-8")
        config = yaml.load(text, Loader=YamlLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
    return config if isinstance(config, dict) else None


def _axes(name: str, summary: Mapping[str, Any] | None) -> dict[str, str]:
    """From the summary, or else from the folder's name; only an env's name may hold dashes."""
    if summary is not None:
        return {axis: printable(summary[axis]) for axis in AXES}
    parts = name.rsplit("-", maxsplit=len(AXES))
    return dict(zip(AXES, parts if len(parts) > len(AXES) else "????", strict=False))


def _order(cell: Cell) -> tuple[object, ...]:
    axes = cell.axes
    scheme = (axes["quant"] != "none", axes["quant"])
    return axes["env"], axes["network"], axes["algo"], scheme, cell.name, str(cell.run_dir)


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
