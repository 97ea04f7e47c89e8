"""The table of cells as markdown: for a Weights & Biases Report and for published results."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from qbench.report import measures, stats
from qbench.report.folders import Cell
from qbench.report.rows import compare
from qbench.report.stats import Interval

HEADERS = (
    "env", "network", "quant", "algo", "n", "return IQM [95 %]", "minus none [95 %]",
    "peak MiB", "disk KiB", "state",
)  # fmt: skip


def cells_table(cells: Sequence[Cell]) -> str:
    """One row per cell, in the order given."""
    return table(HEADERS, ([*cell.axes.values(), *_numbers(cell, cells)] for cell in cells))


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A markdown table; what stands in a field cannot end it."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "".join("| " + " | ".join(map(_field, line)) + " |\n" for line in lines)


def with_interval(value: float, interval: Interval | None, form: str = ".1f") -> str:
    """A number and the ends of its interval; `-` for what there is not."""
    if not math.isfinite(value):
        return "-"
    ends = f"{interval.low:{form}}, {interval.high:{form}}" if interval else "-"
    return f"{value:{form}} [{ends}]"


def _numbers(cell: Cell, cells: Sequence[Cell]) -> list[str]:
    found = compare(cell, cells)
    if cell.summary is None:
        return ["-"] * 5 + [f"{cell.state}: {cell.reason}" if cell.reason else cell.state]
    values = list(cell.returns.values())
    iqm = float(stats.iqm(values)) if values else math.nan
    return [
        str(len(values)),
        with_interval(iqm, stats.bootstrap_ci(values)),
        with_interval(found.difference, found.interval, "+.1f") if found else "-",
        _scaled(measures.trained_number(cell, "peak_rss_bytes"), 2**20, ".0f"),
        _scaled(measures.deployed_bytes(cell), 2**10, ".1f"),
        cell.state,
    ]


def _scaled(value: float | None, unit: int, form: str) -> str:
    return "-" if value is None else f"{value / unit:{form}}"


def _field(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
