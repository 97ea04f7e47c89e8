"""Figures 5 and 6 of the seed paper over seeds, as inline SVG."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from qbench.report import stats, theme
from qbench.report.paper import FLOAT, QAT, Arm, cut, trailing_mean
from qbench.report.stats import FloatArray

COLORS = {FLOAT: theme.SERIES[0], QAT: theme.SERIES[1]}
DASHES = {FLOAT: "-", QAT: "--"}  # and in print
NAMES = {FLOAT: "float", QAT: "QAT, 8 bits"}
NUM_RESAMPLES = 500
"""Of a band, which has an interval at every episode; a table's intervals take more."""


def curve(returns: list[FloatArray]) -> tuple[FloatArray, FloatArray]:
    """IQM over seeds of the trailing mean of each episode, and its 95 % interval.

    Args:
        returns: of each seed, [E] or longer; the curve ends with the shortest.

    Returns:
        [E] and [2, E], low and high.
    """
    num_episodes = min(map(len, returns))
    smooth = trailing_mean(np.stack([r[:num_episodes] for r in returns]))  # [S, E]
    drawn = np.random.default_rng(0).integers(len(smooth), size=(NUM_RESAMPLES, len(smooth)))
    resampled = stats.iqm(smooth[drawn].transpose(0, 2, 1))  # [NUM_RESAMPLES, E]
    tail = (1 - stats.CONFIDENCE) / 2
    return stats.iqm(smooth.T), np.quantile(resampled, [tail, 1 - tail], axis=0)


def rewards(found: dict[str, Arm], ceiling: float | None, name: str) -> str:
    """Return per training episode of both arms, with bands; every seed thin behind them.

    Args:
        found: quant choice -> arm.
        ceiling: where the reported return is cut; None: nowhere.
        name: of the figure, unlike that of any other on the page.

    Returns:
        An svg element.
    """
    with theme.applied():
        figure = Figure(figsize=(5.4, 3.1), layout="constrained")
        _draw(figure.subplots(), found, ceiling)
        text = theme.svg(figure)
    return theme.inline(text, name, f"Return per training episode, {name}, float and QAT.")


def _draw(axes: Any, found: dict[str, Arm], ceiling: float | None) -> None:
    for quant, arm in found.items():
        returns = [cut(r, ceiling) for r in arm.returns.values()]
        middle, band = curve(returns)
        episodes = np.arange(1, len(middle) + 1)
        color = COLORS[quant]
        for values in returns:
            axes.plot(trailing_mean(values), color=color, alpha=0.15, linewidth=0.6)
        axes.fill_between(episodes, *band, color=color, alpha=0.2, linewidth=0)
        label = f"{NAMES[quant]}, {len(returns)} seeds"
        axes.plot(episodes, middle, DASHES[quant], color=color, linewidth=1.8, label=label)
    if ceiling is not None:
        axes.axhline(ceiling, color=theme.INK, linewidth=0.6, linestyle=":")
    axes.set_xlabel("training episode")
    axes.set_ylabel("reported return")
    axes.legend(frameon=False, loc="best")
