"""Published results: small copies of run folders in multirun/reference, and checks by them."""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from qbench import records
from qbench.report.folders import Cell, load_cell
from qbench.report.markdown import cells_table, table
from qbench.report.provenance import (
    command,
    commits_spelled,
    machines_spelled,
    seeds_spelled,
    versions_spelled,
)

ROOT = Path("multirun/reference")
MAX_BYTES = 5_000_000
"""Of all published results together: they travel with every clone."""

FIGURE_BYTES = 400_000
"""Larger figures stay behind."""

KEPT = (".hydra/config.yaml", ".hydra/overrides.yaml", "status.json")
FIGURES = ("*.csv", "report/**/*.csv", "report/**/*.svg", "report/paper.html")
BULK = ("eval_lengths", "agreement")
"""Entries of a seed in summary.json that no report needs."""


class PublishError(Exception):
    """Results could not be published or compared: one sentence with the remedy."""


def check_name(name: str) -> None:
    """Refuse what is not the name of one folder.

    Raises:
        PublishError: it is not.
    """
    if Path(name).name != name or name in ("", ".", ".."):
        raise PublishError(f"--reference {name} will not do: it must be the name of one folder.")


def publish(cells: Sequence[Cell], name: str, root: Path = ROOT) -> Path:
    """Copy finished cells, small files only, to root/name, replacing what is there.

    Records, checkpoints, calibration and deployed files stay behind: the copies are run folders
    that every report reads, without learning curves.

    Args:
        cells: of one or more sweeps; a cell that is not done is left out.
        name: one folder name.
        root: holds all published results.

    Returns:
        The folder, with a README.md that says how each number was made.

    Raises:
        PublishError: a bad name, nothing is finished, two cells have one name, or it would be
            too large.
    """
    check_name(name)
    done = [cell for cell in cells if cell.state == "done" and cell.summary]
    if not done:
        raise PublishError("No cell is finished here: there is nothing to publish.")
    target, fresh = root / name, root / f".{name}.tmp"
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        _copy(done, fresh)
        records.write_text(fresh / "README.md", _readme(name, done))
        others = sum(map(_size, root.glob("[!.]*"))) - (_size(target) if target.exists() else 0)
        if (total := _size(fresh) + others) > MAX_BYTES:
            raise PublishError(
                f"Published results would take {total / 1e6:.1f} MB, more than"
                f" {MAX_BYTES / 1e6:.1f}: leave out cells or remove an older folder in {root}."
            )
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def check(cells: Sequence[Cell], published: Sequence[Cell]) -> tuple[bool, list[str]]:
    """Compare repeated cells with published ones of the same name.

    A cell passes if its IQM lies within the published 95 % interval. On the machine of the
    published run, with its versions and libraries, seeds agree to the last digit, which is said.

    Returns:
        Whether all pass, and a sentence for each cell.

    Raises:
        PublishError: no cell has a published namesake.
    """
    known = {cell.name: cell for cell in published}
    pairs = [(cell, known[cell.name]) for cell in cells if cell.name in known]
    if not pairs:
        names = ", ".join(sorted(known))
        raise PublishError(f"None of these cells is published; published are {names}.")
    verdicts = [_verdict(cell, reference) for cell, reference in pairs]
    return all(passes for passes, _ in verdicts), [sentence for _, sentence in verdicts]


def _verdict(cell: Cell, reference: Cell) -> tuple[bool, str]:
    if cell.state != "done" or cell.summary is None or reference.summary is None:
        return False, f"{cell.name} is {cell.state}: {cell.reason or 'it has no summary'}."
    value, interval = cell.summary["return_iqm"], reference.summary["return_ci"]
    if value is None or interval is None:
        return False, f"{cell.name} has no IQM, or the published one no interval."
    low, high = interval
    common = sorted(cell.returns.keys() & reference.returns.keys())
    same = sum(cell.returns[seed] == reference.returns[seed] for seed in common)
    passes = low <= value <= high
    place = "within" if passes else "outside"
    return passes, (
        f"{cell.name}: IQM {value:.1f} over {len(cell.returns)} seeds is {place} the published"
        f" [{low:.1f}, {high:.1f}]; {same} of {len(common)} common seeds agree to the last digit."
    )


def _copy(cells: Iterable[Cell], target: Path) -> None:
    sweeps: dict[Path, None] = {}
    for cell in cells:
        folder = target / cell.name
        if folder.exists():  # The same cell for another seed, of experiment=paper_memory.
            folder = target / f"{cell.sweep}" / cell.name
        if folder.exists():
            raise PublishError(f"Two of these cells are called {cell.name}: publish one sweep.")
        for kept in KEPT:
            if (source := cell.run_dir / kept).is_file():
                (folder / kept).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, folder / kept)
        summary = dict(cell.summary or {})
        summary["seeds"] = [
            {key: value for key, value in seed.items() if key not in BULK}
            for seed in summary["seeds"]
        ]
        records.write_summary(folder, summary)
        sweeps[cell.run_dir.absolute().parent] = None
    for sweep in sweeps:
        for pattern in FIGURES:
            for source in sorted(sweep.glob(pattern)):
                copied = target / source.relative_to(sweep)
                if source.stat().st_size <= FIGURE_BYTES and not copied.exists():
                    copied.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(source, copied)


def _readme(name: str, cells: Sequence[Cell]) -> str:
    commands = table(
        ("cell", "seeds", "command"),
        ((cell.name, seeds_spelled([cell]), f"`{command(cell)}`") for cell in cells),
    )
    return (
        f"# {name}\n\n{cells_table(cells)}\n"
        "Interquartile mean over training seeds with its bootstrap 95 % interval.\n\n"
        f"{commands}\n"
        f"- Versions: {versions_spelled(cells) or '-'}\n"
        f"- Machine: {machines_spelled(cells) or '-'}\n"
        f"- Commit: {commits_spelled(cells) or '-'}\n"
    )


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def load(folder: Path) -> list[Cell]:
    """The cells of a published folder.

    Raises:
        PublishError: there are none.
    """
    found = [load_cell(path.parent) for path in sorted(folder.rglob("summary.json"))]
    if not found:
        raise PublishError(f"{folder} holds no published results: name a folder in {ROOT}.")
    return found
