"""A cell with the numbers computed from its seeds: its interval, and its difference to `none`."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qbench import records
from qbench.report import folders, measures, stats
from qbench.report.folders import Cell
from qbench.report.stats import Interval

FEW_SEEDS = 10

COVERAGE = {2: 50, 3: 74, 4: 85, 5: 90}
"""Seeds -> per cent that a nominal 95 % interval covers, simulated on normal values."""

MIN_SEEDS = 5
"""With two, agents that lose the whole margin pass as no loss 23 % of the time in pairs and 17 %
as two samples, with four 7 % and 3 %; nominal are 2.5."""

MAX_NAMED_SETTINGS = 4
"""Settings that a label names; beyond, the digits of the cell's name must do."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The return of a cell beside that of its `none` cell, with 95 % intervals.

    Attributes:
        reference: the `none` cell.
        kind: whether seeds are pairs.
        reference_iqm: interquartile mean of the `none` cell, over the seeds compared.
        difference: the cell's interquartile mean less that.
        interval: of the difference.
        improvement: probability that a seed of the cell returns more than one of `none`.
        improvement_interval: of that probability.
        verdict: no loss, loss or ?, by stats.verdict.
    """

    reference: Cell
    kind: Literal["paired", "unpaired"]
    reference_iqm: float
    difference: float
    interval: Interval | None
    improvement: float
    improvement_interval: Interval | None
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """A cell and the numbers that are computed from its seeds."""

    cell: Cell
    label: str
    iqm: float
    interval: Interval | None
    comparison: Comparison | None

    @property
    def is_reference(self) -> bool:
        """Whether it is what the others are compared with."""
        return self.cell.axes["quant"] == "none"

    @property
    def is_scored(self) -> bool:
        """Whether it has a return that is a number."""
        return self.cell.summary is not None and math.isfinite(self.iqm)


@dataclass(frozen=True, kw_only=True)
class Family:
    """Cells that differ in quantization alone: a `none` cell and what is compared with it."""

    name: str
    rows: Sequence[Row]

    @property
    def env(self) -> str:
        return self.rows[0].cell.axes["env"]

    @property
    def reference(self) -> Row | None:
        """The finished `none` cell."""
        return next((row for row in self.rows if row.is_reference and row.is_scored), None)


def make(run_dirs: Iterable[Path], tolerance: float = stats.TOLERANCE) -> list[Row]:
    """A row per run folder, sorted; `none` cells beside them serve as references too."""
    cells = folders.sort_cells(folders.load_cell(run_dir) for run_dir in run_dirs)
    candidates = [*cells, *_none_cells_beside(cells)]
    references = [cell for cell in candidates if cell.axes["quant"] == "none"]
    labels = _labels(cells)
    # Not each with each: a sweep may have thousands of both.
    by_settings = {group[0].shared: group for group in _grouped_by(references, lambda c: c.shared)}

    def comparable(cell: Cell) -> list[Cell]:
        if cell.shared is None:
            return references
        return [*by_settings.get(cell.shared, ()), *by_settings.get(None, ())]

    return [_row(cell, labels[cell.run_dir], comparable(cell), tolerance) for cell in cells]


def compare(
    cell: Cell, cells: Iterable[Cell], tolerance: float = stats.TOLERANCE
) -> Comparison | None:
    """A cell against its `none` cell; None for `none` itself or if there is none to compare with.

    Post-training schemes quantize the very agents of `none`, so their seeds are pairs. Agents
    that were trained with quantization share only weights at the start and env seeds.
    """
    if cell.axes["quant"] == "none":
        return None
    reference = folders.reference_of(cell, cells)
    if reference is None or not cell.returns or not reference.returns:
        return None
    a, b = cell.returns, reference.returns
    common = sorted(a.keys() & b.keys())
    is_base = cell.base_name in (None, reference.name)
    is_paired = cell.is_post_training and is_base and bool(common)
    if is_paired:
        a, b = ({seed: returns[seed] for seed in common} for returns in (a, b))
    values, reference_values = list(a.values()), list(b.values())
    estimate = stats.paired_difference_ci if is_paired else stats.unpaired_difference_ci
    interval = estimate(values, reference_values)
    is_enough = min(len(values), len(reference_values)) >= MIN_SEEDS
    reference_iqm = float(stats.iqm(reference_values))
    return Comparison(
        reference=reference,
        kind="paired" if is_paired else "unpaired",
        reference_iqm=reference_iqm,
        difference=stats.difference(values, reference_values),
        interval=interval,
        improvement=stats.probability_of_improvement(values, reference_values),
        improvement_interval=stats.improvement_ci(values, reference_values, is_paired=is_paired),
        verdict=stats.verdict(interval, reference_iqm, tolerance) if is_enough else "?",
    )


def families(rows: Sequence[Row]) -> list[Family]:
    """The rows, put together where they differ in quantization alone.

    Without skipped cells, and without those of which nothing is left but a name.
    """
    kept = [row for row in rows if row.cell.state != "skipped" and _is_known(row.cell)]
    groups: dict[object, list[Row]] = {}
    for row in kept:
        groups.setdefault(_family_key(row), []).append(row)
    leaders = [group[0].cell for group in groups.values()]
    names = _family_names(leaders)
    return [
        Family(name=name, rows=group) for name, group in zip(names, groups.values(), strict=True)
    ]


def axes_of(cell: Cell) -> dict[str, str]:
    """The axes, and the sweep that holds the cell."""
    return {"sweep": cell.sweep, **cell.axes}


def varying_axes(cells: Sequence[Cell]) -> list[str]:
    """The axes that need a column; the others go into the title."""
    names = ("sweep", *records.AXES)
    return [n for n in names if n == "quant" or len({axes_of(cell)[n] for cell in cells}) > 1]


def namesakes(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Groups of cells that no axis tells apart: they differ in other settings."""
    groups = _grouped_by(cells, lambda cell: tuple(axes_of(cell).values()))
    return [group for group in groups if len(group) > 1]


def tag(cell: Cell) -> str:
    """The digits of a cell's name."""
    return f"#{cell.name[-8:]}"


def differing_settings(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """For each cell the settings that are not the same for all of them."""
    found = [folders.settings(cell) for cell in cells]
    keys = sorted({key for settings in found for key in settings})
    differing = [k for k in keys if any(s.get(k) != found[0].get(k) for s in found)]
    return [
        {key: settings.get(key, records.NEUTRAL.get(key)) for key in differing}
        for settings in found
    ]


def budget(cell: Cell) -> str | None:
    """How long a cell trains, in words; None if its config cannot be read."""
    config = cell.config or {}
    episodes, env_steps = config.get("total_episodes"), config.get("total_env_steps")
    if episodes is not None:
        return f"{_grouped(episodes)} episodes"
    return None if env_steps is None else f"{_grouped(env_steps)} env steps"


def budgets(cells: Iterable[Cell]) -> dict[str, dict[str, list[Cell]]]:
    """Env -> budget -> cells, for each env whose cells were not all trained equally long."""
    found: dict[str, dict[str, list[Cell]]] = {}
    for cell in cells:
        length = budget(cell)
        if length is not None:
            found.setdefault(cell.axes["env"], {}).setdefault(length, []).append(cell)
    return {env: by_length for env, by_length in found.items() if len(by_length) > 1}


def spelled(values: Sequence[float], sign: str = "") -> list[str]:
    """Values with as many decimals as the largest needs for three significant digits."""
    size = max(map(abs, values), default=0)
    decimals = 0 if size >= 1000 else 1 if size >= 10 else 2 if size >= 1 else 3
    return [f"{value:{sign if value else ''},.{decimals}f}" for value in values]


def _row(cell: Cell, label: str, references: Sequence[Cell], tolerance: float) -> Row:
    values = list(cell.returns.values())
    return Row(
        cell=cell,
        label=label,
        iqm=float(stats.iqm(values)) if values else math.nan,
        interval=stats.bootstrap_ci(values),
        comparison=compare(cell, references, tolerance),
    )


def _none_cells_beside(cells: Sequence[Cell]) -> list[Cell]:
    known = {cell.run_dir for cell in cells}
    parents = dict.fromkeys(run_dir.parent for run_dir in known)
    found = {run_dir for parent in parents for run_dir in parent.glob("*-none-*")}
    return [folders.load_cell(run_dir) for run_dir in sorted(found - known)]


def quant_labels(cells: Sequence[Cell]) -> dict[Path, str]:
    """The quant choice of each cell, and where several have the same what tells them apart.

    That is the bits of weights and activations, or else the digits of the cell's name.
    """
    labels = {}
    for group in _grouped_by(cells, lambda cell: cell.axes["quant"]):
        bits = [measures.bits(cell) for cell in group]
        are_telling = None not in bits and len(set(bits)) == len(bits)
        for cell, found in zip(group, bits, strict=True):
            mark = f" w{found[0]}a{found[1]}" if found and are_telling else f" {tag(cell)}"
            labels[cell.run_dir] = cell.axes["quant"] + (mark if len(group) > 1 else "")
    return labels


def _labels(cells: Sequence[Cell]) -> dict[Path, str]:
    labels: dict[Path, str] = {}
    for group in _grouped_by(cells, lambda cell: tuple(axes_of(cell).values())):
        labels |= quant_labels(group)
    return labels


def _grouped_by(cells: Iterable[Cell], key: Callable[[Cell], object]) -> list[list[Cell]]:
    groups: dict[object, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell)
    return list(groups.values())


def _is_known(cell: Cell) -> bool:
    return cell.summary is not None or cell.config is not None


def _family_key(row: Row) -> object:
    """Equal for a `none` cell and all that are compared with it; sweeps are never merged."""
    cell = row.cell if row.comparison is None else row.comparison.reference
    shared = folders.settings_but_quant(cell.config or {})
    axes = {axis: choice for axis, choice in axes_of(cell).items() if axis != "quant"}
    return cell.run_dir.absolute().parent, *axes.values(), json.dumps(shared, default=str)


def _family_names(leaders: Sequence[Cell]) -> list[str]:
    """Env, and whatever else tells one family from the others of that env."""
    names: dict[Path, str] = {}
    for cells in _grouped_by(leaders, lambda cell: cell.axes["env"]):
        axes = [axis for axis in varying_axes(cells) if axis not in ("env", "quant")]
        for cell, settings in zip(cells, _family_settings(cells), strict=True):
            parts = [cell.axes["env"], *(axes_of(cell)[axis] for axis in axes), *settings]
            names[cell.run_dir] = ", ".join(parts)
    return [names[cell.run_dir] for cell in leaders]


def _family_settings(cells: Sequence[Cell]) -> list[list[str]]:
    """`key=value` of what tells families apart beyond their axes."""
    hidden = ["env.", "quant."] + ["network."] * ("network" in varying_axes(cells))
    found = []
    for cell, settings in zip(cells, differing_settings(cells), strict=True):
        items = [f"{k}={v}" for k, v in settings.items() if not k.startswith(tuple(hidden))]
        found.append([tag(cell)] if len(items) > MAX_NAMED_SETTINGS else items)
    return found


def _grouped(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else folders.printable(value)


def finite(value: float) -> float | None:
    """`value`, or None if it is not a number."""
    return value if math.isfinite(value) else None
