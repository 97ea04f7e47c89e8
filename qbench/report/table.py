"""The short table: a row per cell, on the terminal and as table.csv."""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qbench import records
from qbench.report import load, stats
from qbench.report.load import Cell
from qbench.report.stats import Interval

MIN_WIDTH = 120
"""Columns where there is no terminal to ask."""

FEW_SEEDS = 10

COVERAGE = {2: 50, 3: 74, 4: 85, 5: 90}
"""Seeds -> per cent that a nominal 95 % interval covers, simulated on normal values."""

MIN_UNPAIRED_SEEDS = 5
"""Below, two samples that differ by the whole margin would pass as no loss 8 % of the time."""

LAYOUTS = ((2, " "), (1, " "), (1, "\n"))
"""Spaces between columns, and what stands between a number and its interval; the widest fits."""

MISSING = "-"
STYLES = {"no loss": "green", "loss": "red", "done": "green", "failed": "red", load.BROKEN: "red"}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The return of a cell minus that of its `none` cell, with its 95 % interval."""

    reference: str
    kind: Literal["paired", "unpaired"]
    difference: float
    interval: Interval | None
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """A cell and the numbers that are computed from its seeds."""

    cell: Cell
    label: str
    iqm: float
    interval: Interval | None
    comparison: Comparison | None


def print_table(run_dirs: list[Path], console: Console | None = None) -> None:
    """Print a row per run folder, and beneath it what a row cannot hold.

    Differences are to the `none` cells among `run_dirs` or beside them.
    """
    cells = load.sort_cells(load.load_cell(run_dir) for run_dir in run_dirs)
    rows = _rows(cells, [*cells, *_none_cells_beside(cells)])
    axes = _varying_axes(cells)
    console = console or Console(highlight=False)
    layouts = [_table(rows, axes, gap, separator) for gap, separator in LAYOUTS]
    widths = [Console(width=10_000).measure(layout).maximum for layout in layouts]
    if not console.is_terminal:
        console.width = max(console.width, MIN_WIDTH, widths[1])
    fitting = [k for k, width in enumerate(widths) if width <= console.width]
    table = layouts[fitting[0] if fitting else -1]
    console.print(Text(_title(cells, axes), style="bold"))
    console.print(table)
    for line in _notes(rows, axes):
        console.print(Text(line))


def write_csv(sweep_dir: Path) -> Path:
    """Write `table.csv` into a sweep folder, over all its cells; returns its path.

    Raises:
        RunFolderError: the folder holds no runs.
    """
    cells = load.load_cells([sweep_dir])
    lines = [_csv_row(row) for row in _rows(cells, cells)]
    # Formats differ between cells, and every cell has the same columns.
    columns = dict.fromkeys(column for line in lines for column in line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    path = sweep_dir / "table.csv"
    records.write_text(path, text.getvalue())
    return path


def compare(cell: Cell, cells: Iterable[Cell]) -> Comparison | None:
    """A cell against its `none` cell; None for `none` itself or if there is none to compare with.

    Post-training schemes quantize the very agents of `none`, so their seeds are pairs. Agents
    that were trained with quantization share only weights at the start and env seeds.
    """
    reference = load.reference_of(cell, cells)
    if cell.axes["quant"] == "none" or reference is None:
        return None
    if not cell.returns or not reference.returns:
        return None
    a, b = cell.returns, reference.returns
    common = sorted(a.keys() & b.keys())
    is_base = cell.base_name in (None, reference.name)
    is_paired = cell.is_post_training and is_base and bool(common)
    if is_paired:
        a, b = ({seed: returns[seed] for seed in common} for returns in (a, b))
    estimate = stats.paired_difference_ci if is_paired else stats.unpaired_difference_ci
    values, reference_values = list(a.values()), list(b.values())
    interval = estimate(values, reference_values)
    is_enough = is_paired or min(len(values), len(reference_values)) >= MIN_UNPAIRED_SEEDS
    reference_iqm = float(stats.iqm(reference_values))
    return Comparison(
        reference=reference.name,
        kind="paired" if is_paired else "unpaired",
        difference=stats.difference(values, reference_values),
        interval=interval,
        verdict=stats.verdict(interval, reference_iqm) if is_enough else "?",
    )


def deployed_bytes(summary: Mapping[str, Any]) -> int | None:
    """Bytes of the deployed network on disk: `npz`, or the smallest format there is."""
    sizes = {name: size for name, size in summary["artifact_bytes"].items() if size is not None}
    return sizes.get("npz", min(sizes.values(), default=None))


def _rows(cells: Sequence[Cell], candidates: Sequence[Cell]) -> list[Row]:
    labels = _labels(cells)
    references = [cell for cell in candidates if cell.axes["quant"] == "none"]
    rows = []
    for cell in cells:
        values = list(cell.returns.values())
        iqm = float(stats.iqm(values)) if values else math.nan
        interval = stats.bootstrap_ci(values)
        comparison = compare(cell, references)
        label = labels[cell.run_dir]
        rows.append(Row(cell=cell, label=label, iqm=iqm, interval=interval, comparison=comparison))
    return rows


def _none_cells_beside(cells: Sequence[Cell]) -> list[Cell]:
    known = {cell.run_dir for cell in cells}
    parents = dict.fromkeys(run_dir.parent for run_dir in known)
    found = {run_dir for parent in parents for run_dir in parent.glob("*-none-*")}
    return [load.load_cell(run_dir) for run_dir in sorted(found - known)]


def _axes(cell: Cell) -> dict[str, str]:
    return {"sweep": cell.sweep, **cell.axes}


def _varying_axes(cells: Sequence[Cell]) -> list[str]:
    """The axes that need a column; the others go into the title."""
    names = ("sweep", *records.AXES)
    return [n for n in names if n == "quant" or len({_axes(cell)[n] for cell in cells}) > 1]


def _namesakes(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Groups of cells that no axis tells apart: they differ in other settings."""
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(_axes(cell).values()), []).append(cell)
    return [group for group in groups.values() if len(group) > 1]


def _tag(cell: Cell) -> str:
    return f"#{cell.name[-8:]}"


def _labels(cells: Sequence[Cell]) -> dict[Path, str]:
    """The quant choice, with the digits of the cell's name where it has namesakes."""
    labels = {cell.run_dir: cell.axes["quant"] for cell in cells}
    for cell in (cell for group in _namesakes(cells) for cell in group):
        labels[cell.run_dir] += f" {_tag(cell)}"
    return labels


def _title(cells: Sequence[Cell], columns: Sequence[str]) -> str:
    """The number of cells and every axis that is the same for all of them."""
    shared = {k: v for cell in cells for k, v in _axes(cell).items() if k not in columns}
    count = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
    return ", ".join([count, *(f"{axis} {choice}" for axis, choice in shared.items())])


def _table(rows: Sequence[Row], axes: Sequence[str], gap: int, separator: str) -> Table:
    """The rows in one of LAYOUTS."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0))
    for axis in axes:
        table.add_column(f"\n{axis}", overflow="fold")
    for header in (
        "\nn", "return IQM\n[95 % interval]", "minus none\n[95 % interval]", "peak\nMiB",
        "ledger\nMiB", "disk\nKiB", "env\nsteps/s",
    ):  # fmt: skip
        table.add_column(header, overflow="fold", justify="right")
    table.add_column("\nstate", overflow="fold")
    for row in rows:
        names = [row.label if axis == "quant" else _axes(row.cell)[axis] for axis in axes]
        state = Text(row.cell.state, style=STYLES.get(row.cell.state, "yellow"))
        table.add_row(*map(Text, names), *_numbers(row, separator), state)
    return table


def _numbers(row: Row, separator: str) -> list[Text]:
    """The cells of a row from n to env steps/s."""
    summary = row.cell.summary
    if summary is None:
        return [Text(MISSING)] * 7
    deployed = deployed_bytes(summary)
    # A post-training scheme takes no env steps and trains in no memory: its job only calibrates.
    is_trained = not row.cell.is_post_training
    peak_bytes, ledger_bytes = summary["peak_rss_bytes"], _ledger_bytes(summary)
    return [
        Text(str(len(row.cell.returns))),
        Text(_with_interval(row.iqm, row.interval, separator)),
        _difference(row, separator),
        Text(_scaled(peak_bytes if is_trained else None, 2**20, ".0f")),
        Text(_scaled(ledger_bytes if is_trained else None, 2**20, ".2f")),
        Text(_scaled(deployed, 2**10, ".1f")),
        Text(_scaled(summary["env_steps_per_s"] if is_trained else None, 1, ",.0f")),
    ]


def _difference(row: Row, separator: str) -> Text:
    if row.cell.axes["quant"] == "none":
        return Text(MISSING)
    if (found := row.comparison) is None:
        return Text("?", style="yellow")
    text = Text(_with_interval(found.difference, found.interval, separator, sign="+"))
    return text.append(f" {found.verdict}", style=STYLES.get(found.verdict, "yellow"))


def _with_interval(value: float, interval: Interval | None, separator: str, sign: str = "") -> str:
    first, *ends = _spelled([value, *(interval or ())], sign)
    return f"{first}{separator}[{', '.join(ends) or MISSING}]"


def _spelled(values: Sequence[float], sign: str = "") -> list[str]:
    """Values with as many decimals as the largest needs for three significant digits."""
    size = max(map(abs, values), default=0)
    decimals = 0 if size >= 1000 else 1 if size >= 10 else 2 if size >= 1 else 3
    return [f"{value:{sign if value else ''},.{decimals}f}" for value in values]


def _scaled(value: float | None, unit: int, form: str) -> str:
    return MISSING if value is None else f"{value / unit:{form}}"


def _ledger_bytes(summary: Mapping[str, Any]) -> int | None:
    counts = [summary["memory_bytes"][key] for key in records.MEMORY_KEYS]
    return None if None in counts else sum(counts)


def _notes(rows: Sequence[Row], axes: Sequence[str]) -> Iterator[str]:
    """What stands beneath the table, line by line."""
    measured = [row for row in rows if row.cell.summary]
    if measured:
        yield (
            "n: training seeds. Return: interquartile mean over seeds of the mean greedy return."
            " Ledger and disk: per seed."
        )
    if any(row.comparison for row in rows):
        yield (
            "Minus none: over the same seeds in pairs for post-training schemes, else between two"
            " samples. No loss: the lower end is above -5 % of |none's IQM|; ?: not shown, as"
            f" always between samples of fewer than {MIN_UNPAIRED_SEEDS} seeds."
        )
    if any(row.cell.axes["quant"] != "none" and not row.comparison for row in measured):
        yield "A lone ?: there is no finished `none` cell of the same settings to compare with."
    yield from _settings_notes([row.cell for row in rows])
    yield from _seed_notes([row for row in measured if len(row.cell.returns) < FEW_SEEDS], axes)
    for row in measured:
        if row.cell.diverged:
            seeds = ", ".join(map(str, row.cell.diverged))
            yield f"Diverged, frozen and scored as it stood: {row.cell.name}, seed {seeds}"
    for row in rows:
        if row.cell.state != "done":
            reason = f": {row.cell.reason}" if row.cell.reason else ""
            yield f"{row.cell.state} {row.cell.name}{reason}"


def _settings_notes(cells: Sequence[Cell]) -> Iterator[str]:
    """What sets namesakes apart."""
    for group in _namesakes(cells):
        settings = [load.settings(cell) for cell in group]
        keys = sorted({key for found in settings for key in found})
        differing = [k for k in keys if any(s.get(k) != settings[0].get(k) for s in settings)]
        for cell, found in zip(group, settings, strict=True):
            if differing:
                yield f"{_tag(cell)}: " + ", ".join(f"{k}={found.get(k)}" for k in differing)


def _seed_notes(rows: Sequence[Row], axes: Sequence[str]) -> Iterator[str]:
    """Every seed's return, for cells of too few seeds to be told by an interval."""
    if not rows:
        return
    fewest = min(max(len(row.cell.returns), min(COVERAGE)) for row in rows)
    coverage, at = COVERAGE.get(fewest, COVERAGE[5]), min(fewest, 5)
    yield (
        f"Below {FEW_SEEDS} seeds the intervals are optimistic: nominal 95 % covers about"
        f" {coverage} % at n={at}. Each seed's return:"
    )
    for row in rows:
        name = " ".join(row.label if axis == "quant" else _axes(row.cell)[axis] for axis in axes)
        seeds, values = row.cell.returns.keys(), _spelled([*row.cell.returns.values()])
        pairs = zip(seeds, values, strict=True)
        yield f"  {name}  " + "  ".join(f"{seed}: {value}" for seed, value in pairs)


def _csv_row(row: Row) -> dict[str, Any]:
    """One line of table.csv: every number of a cell in a column of its own."""
    cell, summary, found = row.cell, row.cell.summary, row.comparison
    line: dict[str, Any] = {"sweep": cell.sweep, "cell": cell.name, **cell.axes}
    line |= {"state": cell.state, "reason": cell.reason}
    line["num_seeds"] = len(cell.returns) if summary else None
    line["return_iqm"] = _finite(row.iqm)
    line |= _interval_columns("return", row.interval)
    line["reference"] = found.reference if found else None
    line["difference_to_none"] = _finite(found.difference) if found else None
    line |= _interval_columns("difference", found.interval if found else None)
    line |= {"difference_kind": found.kind if found else None}
    line |= {"verdict": found.verdict if found else None}
    line["diverged_seeds"] = " ".join(map(str, cell.diverged))
    return line | _summary_columns(summary, is_trained=not cell.is_post_training)


def _summary_columns(summary: Mapping[str, Any] | None, *, is_trained: bool) -> dict[str, Any]:
    """The numbers of a summary that are not returns; empty columns without one.

    Those of training are empty too where a post-training scheme has only calibrated.
    """
    names = ("env_steps", "env_steps_per_s", "cpu_s", "wall_s", "peak_rss_bytes",
             "peak_device_bytes")  # fmt: skip
    training = summary if is_trained else None
    columns = {name: training[name] if training else None for name in names}
    for key in records.MEMORY_KEYS:
        columns[f"memory_{key}_bytes"] = training["memory_bytes"][key] if training else None
    columns["memory_total_bytes"] = _ledger_bytes(training) if training else None
    artifacts = summary["artifact_bytes"] if summary else {}
    return columns | {f"artifact_{name}_bytes": size for name, size in sorted(artifacts.items())}


def _interval_columns(name: str, interval: Interval | None) -> dict[str, float | None]:
    low, high = interval if interval else (None, None)
    return {f"{name}_ci_low": low, f"{name}_ci_high": high}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
