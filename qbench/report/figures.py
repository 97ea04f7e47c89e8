"""Which figures a report has, and which cells each of them shows."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from qbench import records
from qbench.report import curves, folders, measures, plot, theme
from qbench.report.choice import pareto_front
from qbench.report.folders import Cell
from qbench.report.plot import Bar, Line, Point, Ticks
from qbench.report.rows import Family, Row, budget, quant_labels
from qbench.report.theme import Style

MAX_PANELS = 12
"""Figures of one kind; with more nobody looks at them, and each takes a sixth of a second."""

MAX_CELLS = 12
"""Cells that a figure tells apart."""

Draw = Callable[[], Figure | None]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One figure of a page.

    Attributes:
        kind: what it shows, a key of KINDS.
        name: of its files, without ending; unique in a report.
        description: read aloud in its place.
        draw: makes it; None if there is nothing to show yet.
        note: what it does not show; empty if nothing.
    """

    kind: str
    name: str
    description: str
    draw: Draw
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """A kind of cost that returns are drawn against."""

    label: str
    of: Callable[[Cell], float | None]
    ticks: Ticks


COSTS = {
    "bytes": Costs(
        label="bytes of the deployed network on disk",
        of=measures.deployed_bytes,
        ticks=Ticks(plot.spelled_bytes, base=2),
    ),
    "bit-operations": Costs(
        label="bit operations of one action",
        of=measures.bit_operations,
        ticks=Ticks(plot.spelled_count),
    ),
    "latency": Costs(
        label="microseconds of one action, ONNX Runtime",
        of=measures.latency_us,
        ticks=Ticks(plot.spelled_count),
    ),
}

KINDS = ("curves", *COSTS, "memory", "process", "profiles", "bits")


class Gallery:
    """The panels of a report, and what had to be left out."""

    def __init__(self, families: Sequence[Family]) -> None:
        self.faults: list[str] = []
        """Sentences on damaged records, known once curves are drawn."""
        self._rows = [row for family in families for row in family.rows]
        self._families = families
        self._labels = {
            run_dir: label
            for family in families
            for run_dir, label in quant_labels([row.cell for row in family.rows]).items()
        }
        self._styles = theme.styles(self._labels.values())
        self._names: dict[str, int] = {}

    def panels(self) -> dict[str, list[Panel]]:
        """Kind -> its panels, all that there are."""
        found: dict[str, list[Panel]] = {kind: [] for kind in KINDS}
        for family in self._families:
            for panel in self._of_family(family):
                found[panel.kind].append(panel)
        for title, rows in self._grouped(_comparable):
            for panel in self._trade_offs(title, rows):
                found[panel.kind].append(panel)
        for title, rows in self._grouped(lambda row: row.cell.axes["env"]):
            for panel in self._memory(title, rows):
                found[panel.kind].append(panel)
        return found

    def _of_family(self, family: Family) -> Iterator[Panel]:
        rows, note = _chosen(family.rows)
        yield self._panel(
            "curves", family.name, note, partial(self._draw_curves, family.name, rows)
        )
        scored, note = _chosen([row for row in family.rows if _has_finite_returns(row)])
        if scored:
            yield self._panel(
                "profiles", family.name, note, partial(self._draw_profiles, family.name, scored)
            )
        series = self._bit_series(family)
        if series and (reference := family.reference) is not None:
            base = (reference.iqm, reference.interval)
            draw = partial(plot.bit_sweep, family.name, series, base)
            yield self._panel("bits", family.name, "", draw)

    def _trade_offs(self, title: str, rows: Sequence[Row]) -> Iterator[Panel]:
        families = {row.cell.run_dir: family for family in self._families for row in family.rows}
        names = list(dict.fromkeys(families[row.cell.run_dir].name for row in rows))
        for kind, costs in COSTS.items():
            known = [(row, costs.of(row.cell)) for row in rows if row.is_scored]
            placed = [(row, cost) for row, cost in known if cost]
            if not placed:
                continue
            marks = [names.index(families[row.cell.run_dir].name) for row, _ in placed]
            draw = partial(self._draw_trade_off, title, costs, placed, marks, names)
            missing = len(known) - len(placed)
            note = f"{missing} of {len(known)} cells have no such number." if missing else ""
            yield self._panel(kind, title, note, draw)

    def _memory(self, title: str, rows: Sequence[Row]) -> Iterator[Panel]:
        known = [row for row in rows if measures.ledger_bytes(row.cell)]
        chosen, note = _chosen(known, limit=2 * MAX_CELLS)
        if not chosen:
            return
        labels = _told_apart([(self._label(row), row.label, row.cell.name) for row in chosen])
        bars, processes = [], []
        for row, label in zip(chosen, labels, strict=True):
            ledger = dict(measures.ledger_bytes(row.cell) or {})
            processes.append(Bar(label, _process_parts(row.cell, sum(ledger.values()))))
            ledger.pop("replay")
            bars.append(Bar(label, ledger))
        unit = "KiB per seed, without replay"
        draw = partial(plot.memory, title, bars, unit, 2**10)
        yield self._panel("memory", title, note, draw)
        draw = partial(plot.memory, title, processes, "MiB of the process, all seeds", 2**20)
        yield self._panel("process", title, note, draw)

    def _draw_curves(self, title: str, rows: Sequence[Row]) -> Figure | None:
        lines = []
        for row in rows:
            curve, fault = curves.of_run(row.cell.run_dir)
            if fault:
                self.faults.append(fault)
            lines.append(Line(self._label(row), self._style(row), curve, row.iqm, row.interval))
        return plot.learning_curves(title, lines)

    def _draw_profiles(self, title: str, rows: Sequence[Row]) -> Figure:
        return plot.profiles(
            title,
            [(self._label(row), self._style(row), [*row.cell.returns.values()]) for row in rows],
        )

    def _draw_trade_off(
        self,
        title: str,
        costs: Costs,
        placed: Sequence[tuple[Row, float]],
        marks: Sequence[int],
        names: Sequence[str],
    ) -> Figure:
        """Colours tell quantization, markers tell families where there are several."""
        labels = list(dict.fromkeys(self._label(row) for row, _ in placed))[:MAX_CELLS]
        has_markers = 1 < len(names) <= len(theme.MARKERS)
        points = []
        for (row, cost), mark in zip(placed, marks, strict=True):
            style = self._style(row)
            if self._label(row) not in labels:
                style = style._replace(colour=theme.MUTED)
            if has_markers:
                style = style._replace(marker=theme.MARKERS[mark])
            points.append(Point(style, cost, row.iqm, row.interval))
        named = [(label, self._styles[label]._replace(dashes="")) for label in labels]
        if has_markers:
            named = [(label, style._replace(marker="", dashes="-")) for label, style in named]
            named += [
                (name.partition(", ")[2] or name, Style(theme.MUTED, theme.MARKERS[k], ""))
                for k, name in enumerate(names)
            ]
        front = pareto_front([p.x for p in points], [p.y for p in points])
        chosen = [points[k] for k in front]
        return plot.trade_off(title, costs.label, points, chosen, costs.ticks, named)

    def _bit_series(self, family: Family) -> dict[str, list[Point]]:
        """Label -> points by rising bits, for each scheme of the family with two bit widths."""
        groups: dict[str, dict[int, Row]] = {}
        for label, row, weights in _by_scheme(family.rows):
            groups.setdefault(label, {}).setdefault(weights, row)
        series = {}
        for label, group in groups.items():
            style = self._style(group[min(group)])._replace(dashes="-")
            points = [Point(style, n, row.iqm, row.interval) for n, row in sorted(group.items())]
            if len(points) > 1:
                series[label] = points
        return series

    def _grouped(self, key: Callable[[Row], str]) -> list[tuple[str, list[Row]]]:
        groups: dict[str, list[Row]] = {}
        for row in self._rows:
            groups.setdefault(key(row), []).append(row)
        return list(groups.items())

    def _label(self, row: Row) -> str:
        return self._labels[row.cell.run_dir]

    def _style(self, row: Row) -> Style:
        return self._styles[self._label(row)]

    def _panel(self, kind: str, title: str, note: str, draw: Draw) -> Panel:
        stem = f"{kind}-{re.sub(r'[^A-Za-z0-9._=-]+', '-', title)[:60]}"
        self._names[stem] = count = self._names.get(stem, 0) + 1
        name = stem if count == 1 else f"{stem}-{count}"
        return Panel(kind=kind, name=name, description=f"{kind}: {title}", draw=draw, note=note)


def _chosen(rows: Sequence[Row], limit: int = MAX_CELLS) -> tuple[list[Row], str]:
    """Float and the cells of the highest return, in the table's order, and what is left out."""
    if len(rows) <= limit:
        return list(rows), ""
    best = sorted(rows, key=lambda row: (not row.is_reference, not row.is_scored, -row.iqm))
    kept = {row.cell.run_dir for row in best[:limit]}
    note = f"Drawn are the {limit} of {len(rows)} cells with the highest return."
    return [row for row in rows if row.cell.run_dir in kept], note


def _comparable(row: Row) -> str:
    """Returns of one env after equally long training may stand in one figure."""
    return ", ".join(filter(None, [row.cell.axes["env"], budget(row.cell)]))


def _has_finite_returns(row: Row) -> bool:
    return row.is_scored and bool(row.cell.returns)


def _process_parts(cell: Cell, ledger_bytes: float) -> Mapping[str, float]:
    """The peak of a job's process: imports, what the ledger knows of all seeds, the rest."""
    peak = measures.number(cell.summary, "peak_rss_bytes") or 0.0
    above = measures.number(cell.summary, "peak_rss_above_imports_bytes")
    known = min(ledger_bytes * len(cell.returns), peak)
    imports = 0.0 if above is None else max(0.0, peak - above)
    rest = max(0.0, peak - imports - known)
    return {"imports": imports, "ledger, all seeds": known, "rest": rest}


def _by_scheme(rows: Iterable[Row]) -> list[tuple[str, Row, int]]:
    """Name of the scheme, row and weight bits of each scored cell that has bits.

    A scheme is all of `quant` but its bits. Cells whose weights and activations have equally many
    are one series; others are a series for each number of the activations' bits.
    """
    found = []
    for row in rows:
        bits = measures.bits(row.cell)
        if bits is not None and row.is_scored:
            name = re.sub(r"\d+$", "", row.cell.axes["quant"]) or row.cell.axes["quant"]
            apart = "" if bits[0] == bits[1] else f", activations {bits[1]}"
            found.append((name + apart, _settings_but_bits(row.cell), row, bits[0]))
    variants: dict[str, list[dict[str, Any]]] = {}
    for label, settings, _, _ in found:
        if settings not in variants.setdefault(label, []):
            variants[label].append(settings)
    return [
        (label + _what_differs(settings, variants[label]), row, weights)
        for label, settings, row, weights in found
    ]


def _settings_but_bits(cell: Cell) -> dict[str, Any]:
    hidden = ("quant.weights.bits", "quant.activations.bits", "quant.activation_bits")
    settings = folders.settings(cell).items()
    return {k: v for k, v in settings if k.startswith("quant.") and k not in hidden}


def _what_differs(settings: Mapping[str, Any], variants: Sequence[Mapping[str, Any]]) -> str:
    keys = sorted({key for variant in variants for key in variant})
    differing = [k for k in keys if any(v.get(k) != settings.get(k) for v in variants)]
    values = {key: settings.get(key, records.NEUTRAL.get(key)) for key in differing}
    return "".join(f", {key.rpartition('.')[2]} {value}" for key, value in values.items())


def _told_apart(names: Iterable[tuple[str, ...]]) -> list[str]:
    """The first, shortest kind of name that is different for each."""
    kinds = [list(kind) for kind in zip(*names, strict=True)]
    return next((kind for kind in kinds if len(set(kind)) == len(kind)), kinds[-1])
