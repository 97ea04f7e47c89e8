"""Which network to take: the smallest that keeps the return, and the Pareto front."""

from collections.abc import Sequence
from dataclasses import dataclass

from qbench.report import measures
from qbench.report.rows import Comparison, Family, Row


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The smallest network of a family whose return is shown to be within the margin of float's.

    Attributes:
        family: the cells it is chosen from.
        chosen: a quantized cell; None: keep the float one, or there is nothing to compare with.
        reference_bytes: of the deployed float network; None where that is not known.
        undecided: cells whose interval lies on both sides of the margin, smallest first.
        lost: cells shown to have lost more than the margin, smallest first.
    """

    family: Family
    chosen: Row | None
    reference_bytes: int | None
    undecided: Sequence[Row]
    lost: Sequence[Row]

    @property
    def can_compare(self) -> bool:
        """Whether any quantized cell has a float one to be compared with."""
        return bool(self.chosen or self.undecided or self.lost)


def recommend(family: Family) -> Recommendation:
    """Choose by verdict, then by bytes on disk; of equally large ones the better return."""
    compared = [(row, found) for row in family.rows if (found := row.comparison) is not None]
    kept, undecided, lost = (
        sorted((row for row, found in compared if found.verdict == verdict), key=_size)
        for verdict in ("no loss", "?", "loss")
    )
    reference_bytes = _reference_bytes(family, [found for _, found in compared])
    smaller = [row for row in kept if _is_smaller(row, reference_bytes)]
    return Recommendation(
        family=family,
        chosen=smaller[0] if smaller else None,
        reference_bytes=reference_bytes,
        undecided=undecided,
        lost=lost,
    )


def pareto_front(costs: Sequence[float], returns: Sequence[float]) -> list[int]:
    """Indices of the points than which none is both cheaper and better, by rising cost.

    A point that equals another in one and is worse in the other is not on it; of equal points
    all are.

    Args:
        costs: [n], less is better.
        returns: [n], more is better.
    """
    order = sorted(range(len(costs)), key=lambda k: (costs[k], -returns[k]))
    front: list[int] = []
    for k in order:
        if not front or returns[k] > returns[front[-1]] or _equal(k, front[-1], costs, returns):
            front.append(k)
    return front


def _equal(k: int, last: int, costs: Sequence[float], returns: Sequence[float]) -> bool:
    return costs[k] == costs[last] and returns[k] == returns[last]


def _size(row: Row) -> tuple[float, float]:
    size = measures.deployed_bytes(row.cell)
    return float("inf") if size is None else size, -row.iqm


def _is_smaller(row: Row, reference_bytes: int | None) -> bool:
    size = measures.deployed_bytes(row.cell)
    return size is not None and (reference_bytes is None or size < reference_bytes)


def _reference_bytes(family: Family, compared: Sequence[Comparison]) -> int | None:
    cells = [row.cell for row in family.rows if row.is_reference]
    cells += [found.reference for found in compared]
    sizes = [size for cell in cells if (size := measures.deployed_bytes(cell)) is not None]
    return sizes[0] if sizes else None
