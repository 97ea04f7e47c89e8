"""Learning curves: from the records of a cell to an interquartile mean with a band over seeds."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from qbench import records
from qbench.report import stats
from qbench.report.stats import FloatArray

MAX_POINTS = 60
"""Points of a curve that are drawn; a figure shows no more."""

NUM_BINS = 40
"""Parts of a run over which training episodes are averaged."""

Series = dict[int, dict[int, float]]
"""Training seed -> env step -> return."""


class Curve(NamedTuple):
    """A return over env steps: interquartile mean over seeds, pointwise 95 % interval."""

    kind: Literal["eval", "episode"]  # greedy evaluations, or training episodes as they were
    num_seeds: int
    env_steps: FloatArray  # [T]
    iqm: FloatArray  # [T]
    low: FloatArray  # [T]
    high: FloatArray  # [T]


def of_run(run_dir: Path) -> tuple[Curve | None, str | None]:
    """The curve of a run, of its evaluations or else of its training episodes.

    Returns:
        None for the curve where there is nothing to draw, and a sentence if records are damaged.
    """
    rows, fault = records.scan_records(run_dir)
    kinds: tuple[Literal["eval", "episode"], ...] = ("eval", "episode")
    for kind in kinds:
        of_kind = [row for row in rows if row["kind"] == kind]
        series = evaluations(of_kind) if kind == "eval" else episodes(of_kind)
        if (curve := over_seeds(series, kind)) is not None:
            return curve, fault
    return None, fault


def evaluations(rows: Iterable[Mapping[str, Any]]) -> Series:
    """The mean return of each greedy evaluation; nan where it is null."""
    series: Series = {}
    for row in rows:
        mean = row.get("eval_return_mean")
        value = float("nan") if mean is None else float(mean)
        series.setdefault(row["seed"], {})[row["env_step"]] = value
    return series


def episodes(rows: Iterable[Mapping[str, Any]], num_bins: int = NUM_BINS) -> Series:
    """The mean return of the training episodes that ended in each part of the run.

    A part in which a seed ended no episode has the value of the part before it; a seed's curve
    begins with its first episode.
    """
    ended = [row for row in rows if row.get("episode_return") is not None]
    width = max(1, -(-max((row["env_step"] for row in ended), default=0) // num_bins))
    parts: dict[int, dict[int, list[float]]] = {}
    for row in ended:
        part = -(-row["env_step"] // width)
        parts.setdefault(row["seed"], {}).setdefault(part, []).append(row["episode_return"])
    return {seed: _filled(by_part, width) for seed, by_part in parts.items()}


def over_seeds(series: Series, kind: Literal["eval", "episode"]) -> Curve | None:
    """The curve over all seeds, at the env steps that each of them has reached.

    A mean over fewer and fewer seeds would be of other agents at each point.
    """
    common = sorted(set.intersection(*map(set, series.values()))) if series else []
    steps = _thinned(common)
    if not steps:
        return None
    values = np.array([[by_step[step] for step in steps] for by_step in series.values()])
    low, high = stats.curve_band(values)
    return Curve(kind, len(series), np.array(steps, float), stats.iqm(values.T), low, high)


def _filled(by_part: Mapping[int, list[float]], width: int) -> dict[int, float]:
    filled, value = {}, float("nan")
    for part in range(min(by_part), max(by_part) + 1):
        value = float(np.mean(by_part[part])) if part in by_part else value
        filled[part * width] = value
    return filled


def _thinned(steps: list[int]) -> list[int]:
    """At most MAX_POINTS of the steps, evenly, with the first and the last."""
    if len(steps) <= MAX_POINTS:
        return steps
    kept = np.linspace(0, len(steps) - 1, MAX_POINTS).round().astype(int)
    return [steps[k] for k in kept]
