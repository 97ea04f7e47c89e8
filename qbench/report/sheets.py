"""cells.csv and seeds.csv: every number of a report in a column of its own."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qbench import records
from qbench.report import folders, measures
from qbench.report.rows import Row, axes_of, finite
from qbench.report.stats import Interval

CELLS_NAME, SEEDS_NAME = "cells.csv", "seeds.csv"

TRAINING = (
    "env_steps", "env_steps_per_s", "cpu_s", "wall_s", "peak_rss_bytes",
    "peak_rss_above_imports_bytes", "peak_device_bytes",
)  # fmt: skip
"""Numbers of a summary that are empty where a post-training scheme has only calibrated."""


def cell_lines(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One line per cell: column -> value, None where there is none."""
    return _aligned([_cell_line(row) for row in rows])


def seed_lines(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One line per training seed of every cell."""
    return _aligned([line for row in rows for line in _seed_lines(row)])


def write(out: Path, rows: Sequence[Row]) -> list[Path]:
    """Write cells.csv and seeds.csv into a folder; returns their paths."""
    sheets = {CELLS_NAME: cell_lines(rows), SEEDS_NAME: seed_lines(rows)}
    for name, lines in sheets.items():
        records.write_text(out / name, as_csv(lines))
    return [out / name for name in sheets]


def as_csv(lines: Sequence[Mapping[str, Any]]) -> str:
    """A header and a row per line; without lines an empty text."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]) if lines else [], lineterminator="\n")
    if lines:
        writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _aligned(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same columns in every line: formats of deployment differ between cells."""
    columns = dict.fromkeys(column for line in lines for column in line)
    return [columns | line for line in lines]


def _cell_line(row: Row) -> dict[str, Any]:
    cell, found = row.cell, row.comparison
    line: dict[str, Any] = {"sweep": cell.sweep, "cell": cell.name, **cell.axes}
    line |= {"state": cell.state, "reason": cell.reason}
    line["num_seeds"] = len(cell.returns) if cell.summary else None
    line["return_iqm"] = finite(row.iqm)
    line |= _ends("return", row.interval)
    line["reference"] = found.reference.name if found else None
    line["difference_to_none"] = finite(found.difference) if found else None
    line |= _ends("difference", found.interval if found else None)
    line["improvement_probability"] = finite(found.improvement) if found else None
    line |= _ends("improvement", found.improvement_interval if found else None)
    line |= {"difference_kind": found.kind if found else None}
    line |= {"verdict": found.verdict if found else None}
    line["diverged_seeds"] = " ".join(map(str, cell.diverged))
    return line | _measured(row)


def _measured(row: Row) -> dict[str, Any]:
    """The numbers of a summary that are not returns."""
    cell = row.cell
    weights, activations = measures.bits(cell) or (None, None)
    line: dict[str, Any] = {"weight_bits": weights, "activation_bits": activations}
    line |= {name: _plain(measures.trained_number(cell, name)) for name in TRAINING}
    ledger = measures.ledger_bytes(cell)
    line |= {f"memory_{k}_bytes": ledger[k] if ledger else None for k in records.MEMORY_KEYS}
    line["memory_total_bytes"] = measures.total_ledger_bytes(cell)
    line["deployed_bytes"] = measures.deployed_bytes(cell)
    line["latency_us"] = measures.latency_us(cell)
    for name in ("macs", "bit_operations", "activation_bytes"):
        line[name] = _plain(measures.number(cell.summary, "cost", name))
    sizes = (cell.summary or {}).get("artifact_bytes", {})
    return line | {
        f"artifact_{folders.printable(name)}_bytes": size for name, size in sorted(sizes.items())
    }


def _seed_lines(row: Row) -> Iterator[dict[str, Any]]:
    cell = row.cell
    for entry in (cell.summary or {}).get("seeds", []):
        returns = entry["eval_returns"]
        yield {
            **axes_of(cell),
            "cell": cell.name,
            "seed": entry["seed"],
            "return": measures.number(entry, "eval_return_mean"),
            "num_episodes": len(returns) if isinstance(returns, list) else None,
            "env_steps": _plain(measures.number(entry, "env_steps")),
            "diverged": bool(entry.get("diverged")),
        }


def _ends(name: str, interval: Interval | None) -> dict[str, float | None]:
    low, high = interval if interval else (None, None)
    return {f"{name}_ci_low": low, f"{name}_ci_high": high}


def _plain(value: float | None) -> float | int | None:
    """Whole numbers as such: a count of bytes has no decimal point."""
    return int(value) if value is not None and value.is_integer() else value
