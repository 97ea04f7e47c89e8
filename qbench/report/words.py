"""What the numbers of a report say, in sentences."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from qbench.report import measures, rows
from qbench.report.choice import Recommendation
from qbench.report.folders import Cell
from qbench.report.rows import COVERAGE, FEW_SEEDS, Comparison, Row
from qbench.report.stats import Interval

AXIS_NAMES = {
    "env": ("env", "envs"),
    "network": ("network", "networks"),
    "quant": ("quantization", "quantization"),
    "algo": ("algorithm", "algorithms"),
}


def overview(made: Sequence[Row]) -> str:
    """How many cells of what, and how they ended."""
    cells = [row.cell for row in made]
    parts = []
    for axis, names in AXIS_NAMES.items():
        choices = list(dict.fromkeys(cell.axes[axis] for cell in cells))
        shown = ", ".join(choices[:8]) + (", ..." if len(choices) > 8 else "")
        parts.append(f"{names[len(choices) > 1]} {shown}")
    states = Counter(cell.state for cell in cells)
    ended = ", ".join(f"{count} {state}" for state, count in states.items())
    count = _count(len(cells), "cell")
    return f"{count}: {'; '.join(parts)}. {_seeds(cells)}{_budgets(cells)}State: {ended}."


def verdicts(made: Sequence[Row], share: float) -> str:
    """How many quantized cells keep their return."""
    compared = [row.comparison for row in made if row.comparison is not None]
    if not compared:
        return "No quantized cell has a finished float cell to be compared with yet."
    found = Counter(comparison.verdict for comparison in compared)
    return (
        f"Of {_count(len(compared), 'quantized cell')} with a float cell to compare with,"
        f" {found['no loss']} {_are(found['no loss'])} shown to keep {_per_cent(share)} of its"
        f" return, {found['loss']} to lose more, and for {found['?']} the seeds do not tell."
    )


def recommendation(found: Recommendation, share: float) -> str:
    """What to take in one family, and why."""
    if not found.can_compare:
        return "No quantized cell has a finished float cell to be compared with: no recommendation."
    if found.chosen is None:
        return (
            f"Keep float: no smaller network is shown to keep {_per_cent(share)} of its return."
            f"{_left(found)}"
        )
    row, comparison = found.chosen, found.chosen.comparison
    assert comparison is not None
    return (
        f"Take {row.label}: {_size(row.cell, found.reference_bytes)}, return"
        f" {with_interval(row.iqm, row.interval)} against float's"
        f" {rows.spelled([comparison.reference_iqm])[0]}; the difference is"
        f" {difference(comparison)}, above {_margin(comparison, share)}."
        f"{_left(found)}"
    )


def notes(made: Sequence[Row], share: float) -> Iterator[str]:
    """What a reader has to know before trusting the numbers."""
    cells = [row.cell for row in made]
    for env, by_length in rows.budgets(cells).items():
        lengths = "; ".join(
            f"{length} ({_count(len(found), 'cell')}, sweep {_sweeps(found)})"
            for length, found in by_length.items()
        )
        yield f"Budgets differ on {env}: {lengths}. Cells are compared within a budget only."
    yield from _few_seeds(made)
    for cell in cells:
        if cell.diverged:
            seeds = ", ".join(map(str, cell.diverged))
            yield f"{cell.name}: seed {seeds} diverged, was frozen and is scored as it stood."
    for what, key in (("machines", "machine"), ("versions of packages", "versions")):
        kinds = {str(summary.get(key)) for cell in cells if (summary := cell.summary)}
        if len(kinds) > 1:
            yield (
                f"The cells ran with {len(kinds)} different {what}: times and peaks of memory are"
                " not comparable between them."
            )
    if any(row.comparison is None and not row.is_reference and row.is_scored for row in made):
        yield "Some quantized cells have no finished float cell of the same settings beside them."


def with_interval(value: float, interval: Interval | None, sign: str = "") -> str:
    """A value and its interval with the same number of decimals."""
    first, *ends = rows.spelled([value, *(interval or ())], sign)
    return f"{first} [{', '.join(ends) or '-'}]"


def difference(found: Comparison) -> str:
    """A difference to `none` with its interval."""
    return with_interval(found.difference, found.interval, sign="+")


def _few_seeds(made: Iterable[Row]) -> Iterator[str]:
    counts = [len(row.cell.returns) for row in made if row.is_scored]
    few = [count for count in counts if count < FEW_SEEDS]
    if not few:
        return
    least = max(min(few), min(COVERAGE))
    covered = COVERAGE.get(least, COVERAGE[5])
    yield (
        f"{_count(len(few), 'cell')} with fewer than {FEW_SEEDS} seeds: their intervals are"
        f" optimistic. Nominal 95 % covers about {covered} % at n={min(least, 5)}. Every seed's"
        " return stands with its cell below."
    )


def _seeds(cells: Iterable[Cell]) -> str:
    counts = {len(cell.returns) for cell in cells if cell.summary}
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    noun = "seed" if high == 1 else "seeds"
    return f"{low if low == high else f'{low} to {high}'} training {noun} a cell. "


def _budgets(cells: Iterable[Cell]) -> str:
    by_env: dict[str, str] = {}
    for cell in cells:
        if (length := rows.budget(cell)) is not None:
            by_env.setdefault(cell.axes["env"], length)
    lengths = set(by_env.values())
    if len(lengths) == 1:
        return f"{lengths.pop()} a seed. "
    if not lengths or len(by_env) > 6:
        return ""
    return f"Budget of a seed: {', '.join(f'{env} {length}' for env, length in by_env.items())}. "


def _size(cell: Cell, reference_bytes: int | None) -> str:
    size = measures.deployed_bytes(cell)
    if size is None:
        return "size on disk unknown"
    share = f", {size / reference_bytes:.2f} of float's" if reference_bytes else ""
    return f"{size / 2**10:,.1f} KiB on disk{share}"


def _left(found: Recommendation) -> str:
    """The smaller cells that were passed over, and those that lost."""
    chosen = measures.deployed_bytes(found.chosen.cell) if found.chosen else found.reference_bytes
    undecided = [row for row in found.undecided if _is_below(row.cell, chosen)]
    text = ""
    if undecided:
        named = ", ".join(_named(row) for row in undecided[:4])
        text += f" Smaller and undecided, more seeds would tell: {named}."
    if found.lost:
        text += f" Shown to lose more: {', '.join(_named(row) for row in found.lost[:4])}."
    return text


def _named(row: Row) -> str:
    assert row.comparison is not None
    return f"{row.label} ({difference(row.comparison)})"


def _is_below(cell: Cell, limit: int | None) -> bool:
    size = measures.deployed_bytes(cell)
    return size is not None and (limit is None or size < limit)


def _margin(found: Comparison, share: float) -> str:
    loss = (1 - share) * abs(found.reference_iqm)
    return f"the margin of {rows.spelled([-loss], '+')[0]}"


def _sweeps(cells: Iterable[Cell]) -> str:
    return ", ".join(dict.fromkeys(cell.sweep for cell in cells))


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _per_cent(share: float) -> str:
    return f"{100 * share:.4g} %"
