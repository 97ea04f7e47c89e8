"""The figures of a report, drawn from plain numbers. Colours and sizes are in theme.py."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from qbench.report import stats, theme
from qbench.report.curves import Curve
from qbench.report.stats import FloatArray, Interval
from qbench.report.theme import Style

BAND_ALPHA = 0.15
LEGEND_ROW = 0.19
"""Inches that a row of the legend takes below the axes."""

MAX_NAME = 44
"""Letters of a title; a longer one is cut."""

LEGEND_COLUMNS = 4

RIGHT_MARGIN = 0.06
"""Share of the x-axis, right of a curve's end, that holds the final scores."""


class Line(NamedTuple):
    """One cell among learning curves."""

    label: str
    style: Style
    curve: Curve | None
    score: float  # of the deployed network; nan if there is none yet
    interval: Interval | None


class Point(NamedTuple):
    """One cell among points."""

    style: Style
    x: float
    y: float
    interval: Interval | None


class Bar(NamedTuple):
    """One cell's memory: bytes by part."""

    label: str
    parts: Mapping[str, float]


def learning_curves(title: str, lines: Sequence[Line]) -> Figure | None:
    """Bands over seeds against env steps; right of them the scores of the deployed networks.

    None if there is neither a curve nor a score.
    """
    if not any(line.curve or math.isfinite(line.score) for line in lines):
        return None
    figure, axes = _panel(title, "env steps", "return, IQM over seeds", len(lines))
    for k, line in enumerate(lines):
        colour, curve = line.style.colour, line.curve
        if curve is not None:
            _line(axes, line.style, curve.env_steps, curve.iqm, k)
            axes.fill_between(
                curve.env_steps, curve.low, curve.high, color=colour, alpha=BAND_ALPHA, lw=0
            )
    end = max((line.curve.env_steps[-1] for line in lines if line.curve is not None), default=1.0)
    step = end * RIGHT_MARGIN / max(len(lines), 4)
    for k, line in enumerate(lines):
        if math.isfinite(line.score):
            _point(axes, line.style, end + step * (k + 1), line.score, line.interval)
    axes.set_xlim(0, end * (1 + 1.5 * RIGHT_MARGIN))
    axes.xaxis.set_major_formatter(FuncFormatter(_counted))
    _legend(figure, axes, [(line.label, line.style) for line in lines])
    return figure


def trade_off(
    title: str,
    x_label: str,
    points: Sequence[Point],
    front: Sequence[Point],
    ticks: "Ticks",
    named: Sequence[tuple[str, Style]],
) -> Figure:
    """Returns against a cost on a logarithmic axis, with the Pareto front."""
    figure, axes = _panel(title, x_label, "return, IQM over seeds", len(named))
    axes.set_xscale("log")
    xs = [point.x for point in front]
    # Between two networks there is none, so the front is a stair: the best for at most x.
    axes.step(
        xs, [point.y for point in front], where="post", color=theme.MUTED, lw=1, ls=(0, (3, 2))
    )
    for point, x in zip(points, _side_by_side([point.x for point in points]), strict=True):
        _point(axes, point.style, x, point.y, point.interval)
    ticks.set_on(axes, [point.x for point in points])
    _legend(figure, axes, named)
    return figure


def memory(title: str, bars: Sequence[Bar], unit: str, divisor: float) -> Figure:
    """Stacked horizontal bars, a colour for each part, the sum beside them."""
    parts = list(dict.fromkeys(part for bar in bars for part in bar.parts))
    num_rows = _legend_rows(len(parts))
    height = 0.75 + LEGEND_ROW * num_rows + 0.24 * max(len(bars), 3)
    figure, axes = _panel(title, unit, "", len(parts), height=height)
    styles = theme.styles(["none", *parts[1:]])
    colours = [theme.MUTED, *(style.colour for style in list(styles.values())[1:])]
    left = np.zeros(len(bars))
    at = np.arange(len(bars))
    for part, colour in zip(parts, colours, strict=True):
        sizes = np.array([bar.parts.get(part, 0) / divisor for bar in bars])
        axes.barh(at, sizes, 0.7, left, color=colour, label=part, edgecolor=theme.GROUND, lw=0.5)
        left += sizes
    for row, total in enumerate(left):
        axes.annotate(f" {total:,.4g}", (total, row), va="center", color=theme.INK, fontsize=7.5)
    axes.set_yticks(at, [_cut(bar.label, 18) for bar in bars])
    axes.set_xlim(0, 1.18 * max(left, default=1) or 1)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="lower center", ncols=LEGEND_COLUMNS, handlelength=1, columnspacing=1)
    return figure


def profiles(title: str, samples: Sequence[tuple[str, Style, Sequence[float]]]) -> Figure:
    """The share of seeds above each return (Agarwal et al. 2021, figure 3), with its band."""
    figure, axes = _panel(title, "return", "share of seeds above", len(samples))
    values = [value for _, _, sample in samples for value in sample]
    low, high = min(values), max(values)
    pad = 0.02 * (high - low) or 0.5
    levels = np.unique(np.concatenate([np.linspace(low - pad, high + pad, 80), values]))
    for k, (_, style, sample) in enumerate(samples):
        ends = stats.profile_band(sample, levels)
        axes.fill_between(
            levels, *ends, step="post", color=style.colour, alpha=BAND_ALPHA / 2, lw=0
        )
        _line(axes, style, levels, stats.performance_profile(sample, levels), k, steps=True)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlim(low - pad, high + pad)
    _legend(figure, axes, [(label, style) for label, style, _ in samples])
    return figure


def bit_sweep(
    title: str, series: Mapping[str, Sequence[Point]], reference: tuple[float, Interval | None]
) -> Figure:
    """Returns against the bits of weights, one line a scheme, with the float one as a band."""
    figure, axes = _panel(title, "weight bits", "return, IQM over seeds", len(series) + 1)
    value, interval = reference
    axes.axhline(value, color=theme.INK, lw=1)
    if interval is not None:
        axes.axhspan(*interval, color=theme.INK, alpha=BAND_ALPHA / 2, lw=0)
    shift = 0.06
    for k, points in enumerate(series.values()):
        xs = [point.x + shift * (k - (len(series) - 1) / 2) for point in points]
        style = points[0].style
        axes.plot(xs, [p.y for p in points], style.dashes, color=style.colour)
        for x, point in zip(xs, points, strict=True):
            _point(axes, style, x, point.y, point.interval)
    axes.set_xticks(sorted({int(point.x) for points in series.values() for point in points}))
    named = [("none", Style(theme.INK, "", "-"))]
    named += [(label, points[0].style) for label, points in series.items()]
    _legend(figure, axes, named)
    return figure


class Ticks:
    """Ticks of a logarithmic axis at round numbers, written with a unit."""

    def __init__(self, spelled: Callable[[float], str], base: int = 10) -> None:
        self._spelled = spelled
        self._base = base

    def set_on(self, axes: Axes, values: Sequence[float]) -> None:
        """Limits around the values and at most six ticks between them."""
        low, high = min(values) / 1.25, max(values) * 1.25
        axes.set_xlim(low, high)
        inside = self._round_numbers(low, high)
        chosen = inside[:: -(-len(inside) // 6)]
        axes.set_xticks(chosen, [self._spelled(tick) for tick in chosen])
        axes.set_xticks([], minor=True)

    def _round_numbers(self, low: float, high: float) -> list[float]:
        """At least three, from the coarsest kind that has as many in the range."""
        base = self._base
        first, last = math.floor(math.log(low, base)), math.ceil(math.log(high, base))
        for factors in ((1,), (1, 1.5)) if base == 2 else ((1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
            ticks = [f * float(base) ** power for power in range(first, last + 1) for f in factors]
            inside = [tick for tick in ticks if low <= tick <= high]
            if len(inside) >= 3:
                return inside
        evenly = MaxNLocator(4).tick_values(low, high)
        return [float(tick) for tick in evenly if low <= tick <= high]


def spelled_bytes(size: float) -> str:
    """A size in KiB, MiB or GiB, with at most three digits."""
    for unit, divisor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= divisor:
            return f"{size / divisor:.3g} {unit}"
    return f"{size:.3g} B"


def spelled_count(count: float) -> str:
    """A number in k, M or G, with at most three digits."""
    for unit, divisor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(count) >= divisor:
            return f"{count / divisor:.3g}{unit}"
    return f"{count:.3g}"


def _panel(
    title: str, x_label: str, y_label: str, num_named: int, height: float = theme.HEIGHT
) -> tuple[Figure, Axes]:
    """A figure with one pair of axes and room for a legend below; margins are in inches."""
    figure = Figure((theme.WIDTH, height))
    below = 0.48 + LEGEND_ROW * _legend_rows(num_named)
    left = 0.62 if y_label else 1.15
    axes = figure.add_axes(
        (
            left / theme.WIDTH,
            below / height,
            1 - (left + 0.12) / theme.WIDTH,
            1 - (below + 0.3) / height,
        )
    )
    axes.set_title(_cut(title, MAX_NAME), x=0 if y_label else -0.3)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_axisbelow(True)
    return figure, axes


def _line(
    axes: Axes, style: Style, x: FloatArray, y: FloatArray, number: int, *, steps: bool = False
) -> None:
    """A line with its marker at some points, at others than the lines before it."""
    stride = max(1, len(x) // 6)
    axes.plot(
        x,
        y,
        style.dashes,
        color=style.colour,
        marker=style.marker,
        markersize=3.5,
        markevery=(number * stride // 6 % len(x), stride),
        drawstyle="steps-post" if steps else None,
    )


def _point(axes: Axes, style: Style, x: float, y: float, interval: Interval | None) -> None:
    if interval is not None:
        axes.vlines(x, interval.low, interval.high, color=style.colour, lw=1)
    axes.plot([x], [y], style.marker, color=style.colour, clip_on=False)


def _legend(figure: Figure, axes: Axes, named: Sequence[tuple[str, Style]]) -> None:
    handles = [
        axes.plot([], [], style.dashes + style.marker, color=style.colour, label=_cut(label, 18))[0]
        for label, style in named
    ]
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=LEGEND_COLUMNS,
        handlelength=2.4,
        columnspacing=1.2,
        borderaxespad=0.1,
        labelspacing=0.3,
    )


def _side_by_side(xs: Sequence[float]) -> list[float]:
    """Places on a logarithmic axis at which equal values do not hide each other."""
    ratio = (max(xs) / min(xs) * 1.5) ** 0.018
    counts = Counter(xs)
    seen: Counter[float] = Counter()
    placed = []
    for x in xs:
        placed.append(x * ratio ** (seen[x] - (counts[x] - 1) / 2))
        seen[x] += 1
    return placed


def _legend_rows(num_named: int) -> int:
    return -(-num_named // LEGEND_COLUMNS)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _counted(value: float, _position: int | None = None) -> str:
    return spelled_count(value) if value else "0"
