"""The whole report of some run folders, in one folder."""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from qbench import records
from qbench.report import rows, sheets, stats
from qbench.report.rows import Row

PAGE_NAME = "index.html"
FOLDER_NAME = "report"
FIGURES_NAME = "figures"

NEEDED = ("jinja2", "matplotlib")
"""What the page needs beyond the tables: the extra `report`."""


class OutError(Exception):
    """Nothing can be written to a folder: one sentence with the remedy."""


def check_out(out: Path) -> None:
    """See before any work that a report may be written to a folder, which is made.

    Raises:
        OutError: it is no folder, cannot be written to, or holds a page that is not ours.
    """
    page = out / PAGE_NAME
    if page.exists() and b'name="generator" content="qbench' not in page.read_bytes()[:1000]:
        raise OutError(f"{page} is not a page of qbench: name another folder with --out.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        records.write_text(out / ".try", "")
        (out / ".try").unlink()
    except OSError as error:
        raise OutError(
            f"{out} cannot be written to, {error.strerror}: name another folder with --out."
        ) from error


def missing_packages() -> str | None:
    """A sentence if the page cannot be made here, else None."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if not missing:
        return None
    return f'report: the page needs {" and ".join(missing)}: pip install ".[report]".'


def write_report(made: Sequence[Row], out: Path, share: float = 1 - stats.TOLERANCE) -> Path:
    """Write cells.csv, seeds.csv, the figures as SVG and PNG, and the page; returns its path.

    Args:
        made: rows, made with the tolerance 1 - share.
        out: the folder.
        share: of float's return that a recommended network keeps.
    """
    from qbench.report import page, theme
    from qbench.report.figures import KINDS, MAX_PANELS, Gallery

    sheets.write(out, made)
    families = rows.families(made)
    gallery = Gallery(families)
    panels = gallery.panels()
    folder = _emptied(out / FIGURES_NAME, KINDS)
    drawn = []
    with theme.applied():
        for panel in (panel for of_kind in panels.values() for panel in of_kind[:MAX_PANELS]):
            figure = panel.draw()
            if figure is None:
                continue
            text = theme.svg(figure)
            (folder / f"{panel.name}.svg").write_text(text, encoding="utf-8")
            (folder / f"{panel.name}.png").write_bytes(theme.png(figure))
            inline = theme.inline(text, panel.name, panel.description)
            drawn.append(page.Drawn(kind=panel.kind, name=panel.name, svg=inline, note=panel.note))
    counts = {kind: len(of_kind) for kind, of_kind in panels.items()}
    text = page.render(made, families, drawn, num_panels=counts, faults=gallery.faults, share=share)
    records.write_text(out / PAGE_NAME, text.encode("utf-8", "replace").decode())
    return out / PAGE_NAME


def after_sweep(run_dirs: Sequence[Path], *, with_page: bool) -> None:
    """The report of each sweep that holds some cells, over all its cells.

    Whatever goes wrong is a sentence and no more: the sweep has succeeded or failed by itself.
    """
    fault = missing_packages() if with_page else None
    if fault:
        print(fault, file=sys.stderr)
    for sweep_dir in dict.fromkeys(run_dir.parent for run_dir in run_dirs):
        try:
            _write_sweep(sweep_dir, with_page=with_page and fault is None)
        except Exception as error:
            text = " ".join(str(error).split())
            print(f"report: {sweep_dir} has none, {type(error).__name__}: {text}", file=sys.stderr)


def _write_sweep(sweep_dir: Path, *, with_page: bool) -> None:
    from qbench.report import folders

    out = sweep_dir / FOLDER_NAME
    check_out(out)
    made = rows.make(folders.find_run_dirs([sweep_dir]))
    if with_page:
        print(f"report: {write_report(made, out)}")
    else:
        sheets.write(out, made)


def _emptied(folder: Path, kinds: tuple[str, ...]) -> Path:
    """The folder of figures, without those of an earlier report; what else is in it stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.suffix in (".svg", ".png") and path.name.startswith(kinds):
            path.unlink()
    return folder
