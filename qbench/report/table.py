"""The short table: a row per cell, on the terminal."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from qbench.report import folders, measures, rows, stats
from qbench.report.folders import Cell
from qbench.report.rows import COVERAGE, FEW_SEEDS, MIN_SEEDS, Row, spelled
from qbench.report.stats import Interval

MIN_WIDTH = 120
"""Columns where there is no terminal to ask."""

LAYOUTS = ((2, " "), (1, " "), (1, "\n"))
"""Spaces between columns, and what stands between a number and its interval; the widest fits."""

MISSING = "-"
STYLES = {
    "no loss": "green",
    "loss": "red",
    "done": "green",
    "failed": "red",
    folders.BROKEN: "red",
}


def print_table(run_dirs: list[Path], console: Console | None = None) -> None:
    """Print a row per run folder, and beneath it what a row cannot hold.

    Differences are to the `none` cells among `run_dirs` or beside them.
    """
    print_rows(rows.make(run_dirs), console=console)


def print_rows(
    made: Sequence[Row],
    tolerance: float = stats.TOLERANCE,
    console: Console | None = None,
) -> None:
    """Print rows that were made with a tolerance."""
    cells = [row.cell for row in made]
    axes = rows.varying_axes(cells)
    console = console or Console(highlight=False)
    layouts = [_table(made, axes, gap, separator) for gap, separator in LAYOUTS]
    widths = [Console(width=10_000).measure(layout).maximum for layout in layouts]
    if not console.is_terminal:
        console.width = max(console.width, MIN_WIDTH, widths[1])
    fitting = [k for k, width in enumerate(widths) if width <= console.width]
    table = layouts[fitting[0] if fitting else -1]
    console.print(Text(_title(cells, axes), style="bold"))
    console.print(table)
    for line in _notes(made, axes, tolerance):
        console.print(Text(line))


def _title(cells: Sequence[Cell], columns: Sequence[str]) -> str:
    """The number of cells and every axis that is the same for all of them."""
    shared = {k: v for cell in cells for k, v in rows.axes_of(cell).items() if k not in columns}
    count = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
    return ", ".join([count, *(f"{axis} {choice}" for axis, choice in shared.items())])


def _table(made: Sequence[Row], axes: Sequence[str], gap: int, separator: str) -> Table:
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
    for row in made:
        names = [row.label if axis == "quant" else rows.axes_of(row.cell)[axis] for axis in axes]
        state = Text(row.cell.state, style=STYLES.get(row.cell.state, "yellow"))
        table.add_row(*map(Text, names), *_numbers(row, separator), state)
    return table


def _numbers(row: Row, separator: str) -> list[Text]:
    """The cells of a row from n to env steps/s."""
    cell = row.cell
    if cell.summary is None:
        return [Text(MISSING)] * 7
    return [
        Text(str(len(cell.returns))),
        Text(_with_interval(row.iqm, row.interval, separator)),
        _difference(row, separator),
        Text(_scaled(measures.trained_number(cell, "peak_rss_bytes"), 2**20, ".0f")),
        Text(_scaled(measures.total_ledger_bytes(cell), 2**20, ".2f")),
        Text(_scaled(measures.deployed_bytes(cell), 2**10, ".1f")),
        Text(_scaled(measures.trained_number(cell, "env_steps_per_s"), 1, ",.0f")),
    ]


def _difference(row: Row, separator: str) -> Text:
    if row.is_reference:
        return Text(MISSING)
    if (found := row.comparison) is None:
        return Text("?", style="yellow")
    text = Text(_with_interval(found.difference, found.interval, separator, sign="+"))
    return text.append(f" {found.verdict}", style=STYLES.get(found.verdict, "yellow"))


def _with_interval(value: float, interval: Interval | None, separator: str, sign: str = "") -> str:
    first, *ends = spelled([value, *(interval or ())], sign)
    return f"{first}{separator}[{', '.join(ends) or MISSING}]"


def _scaled(value: float | None, unit: int, form: str) -> str:
    return MISSING if value is None else f"{value / unit:{form}}"


def _notes(made: Sequence[Row], axes: Sequence[str], tolerance: float) -> Iterator[str]:
    """What stands beneath the table, line by line."""
    cells = [row.cell for row in made]
    measured = [row for row in made if row.cell.summary]
    if measured:
        yield (
            "n: training seeds. Return: interquartile mean over seeds of the mean greedy return."
            " Ledger and disk: per seed."
        )
    if any(row.comparison for row in made):
        yield (
            "Minus none: over the same seeds in pairs for post-training schemes, else between two"
            f" samples. No loss: the lower end is above -{100 * tolerance:.3g} % of |none's IQM|;"
            f" ?: not shown, as always with fewer than {MIN_SEEDS} seeds."
        )
    if any(not row.is_reference and not row.comparison for row in measured):
        yield "A lone ?: there is no finished `none` cell of the same settings to compare with."
    yield from _budget_notes(cells)
    yield from _settings_notes(made)
    yield from _seed_notes([row for row in measured if len(row.cell.returns) < FEW_SEEDS], axes)
    for row in measured:
        if row.cell.diverged:
            seeds = ", ".join(map(str, row.cell.diverged))
            yield f"Diverged, frozen and scored as it stood: {row.cell.name}, seed {seeds}"
    for cell in cells:
        if cell.state != "done":
            reason = f": {cell.reason}" if cell.reason else ""
            log = cell.run_dir / "log.txt"
            place = f" (log: {log})" if cell.state == "failed" and log.exists() else ""
            yield f"{cell.state} {cell.name}{reason}{place}"


def _settings_notes(made: Sequence[Row]) -> Iterator[str]:
    """What sets cells apart that only the digits of their names tell apart."""
    tagged = {row.cell.run_dir for row in made if row.label.endswith(rows.tag(row.cell))}
    for group in rows.namesakes([row.cell for row in made]):
        for cell, settings in zip(group, rows.differing_settings(group), strict=True):
            if settings and cell.run_dir in tagged:
                values = ", ".join(f"{k}={v}" for k, v in settings.items())
                yield f"{rows.tag(cell)}: {folders.printable(values)}"


def _budget_notes(cells: Sequence[Cell]) -> Iterator[str]:
    """Envs whose cells were not all trained equally long."""
    for env, by_length in rows.budgets(cells).items():
        lengths = ", ".join(f"{length} ({len(found)})" for length, found in by_length.items())
        yield f"Budgets differ on {env}: {lengths}. Cells are compared within a budget only."


def _seed_notes(few: Sequence[Row], axes: Sequence[str]) -> Iterator[str]:
    """Every seed's return, for cells of too few seeds to be told by an interval."""
    if not few:
        return
    fewest = min(max(len(row.cell.returns), min(COVERAGE)) for row in few)
    coverage, at = COVERAGE.get(fewest, COVERAGE[5]), min(fewest, 5)
    yield (
        f"Below {FEW_SEEDS} seeds the intervals are optimistic: nominal 95 % covers about"
        f" {coverage} % at n={at}. Each seed's return:"
    )
    for row in few:
        name = " ".join(
            row.label if axis == "quant" else rows.axes_of(row.cell)[axis] for axis in axes
        )
        seeds, values = row.cell.returns.keys(), spelled([*row.cell.returns.values()])
        pairs = zip(seeds, values, strict=True)
        yield f"  {name}  " + "  ".join(f"{seed}: {value}" for seed, value in pairs)
