"""Run folders as pandas tables, for a notebook."""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qbench import records
from qbench.report import folders, rows, sheets

if TYPE_CHECKING:
    import pandas

Paths = Path | str | Iterable[Path | str]


def load(dirs: Paths, what: Literal["cells", "seeds", "records"] = "cells") -> "pandas.DataFrame":
    """The runs under some folders as a DataFrame.

    Args:
        dirs: a sweep folder or a run folder, or several.
        what: `cells`, the columns of cells.csv; `seeds`, those of seeds.csv; `records`, a row
            per line of every records.jsonl (records.RECORD_KEYS) with the cell it is of. Damaged
            lines are left out, with a warning that names them.

    Raises:
        RunFolderError: a folder holds no runs.
        ModuleNotFoundError: pandas is not installed (`pip install ".[report]"`).
        ValueError: `what` is none of the three.
    """
    import pandas

    run_dirs = folders.find_run_dirs([dirs] if isinstance(dirs, Path | str) else dirs)
    match what:
        case "cells":
            return pandas.DataFrame(sheets.cell_lines(rows.make(run_dirs)))
        case "seeds":
            return pandas.DataFrame(sheets.seed_lines(rows.make(run_dirs)))
        case "records":
            return pandas.DataFrame([row for run_dir in run_dirs for row in _records(run_dir)])
    raise ValueError(f"what is cells, seeds or records, not {what!r}")


def _records(run_dir: Path) -> list[dict[str, Any]]:
    cell = folders.load_cell(run_dir)
    found, fault = records.scan_records(run_dir)
    if fault:
        warnings.warn(fault, stacklevel=3)
    of = {**rows.axes_of(cell), "cell": cell.name}
    return [of | row for row in found]
