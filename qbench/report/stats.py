"""Statistics over training seeds: pure functions of NumPy arrays.

Agarwal et al. (2021), "Deep RL at the edge of the statistical precipice",
https://arxiv.org/abs/2108.13264, whose library rliable uses the same definitions.

A value that is not finite makes every result that it enters nan (an interval: None). Leaving
such a seed out would flatter the cell.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
Statistic = Callable[[FloatArray], FloatArray]
"""Reduces the last axis: [..., n] -> [...]."""

CONFIDENCE = 0.95
NUM_RESAMPLES = 5000
TOLERANCE = 0.05
"""Share of |none's IQM| that may be lost and still be called no loss."""


class Interval(NamedTuple):
    """A confidence interval, in the unit of the values."""

    low: float
    high: float


def iqm(values: npt.ArrayLike) -> FloatArray:
    """Interquartile mean: floor(n/4) values are cut from each end, the others averaged.

    scipy.stats.trim_mean(values, 0.25), as in rliable: whole values are cut also where n is
    not divisible by 4 (n=5: the middle three count alike), where another definition would
    give the outermost ones a fractional weight. Below n=4 it is the mean.

    Args:
        values: [..., n], n >= 1; leading axes pass through.

    Returns:
        [...] float64, a scalar for [n]; nan where a value is not finite.
    """
    ordered = np.sort(np.asarray(values, np.float64), axis=-1)
    num_values = ordered.shape[-1]
    cut = num_values // 4
    is_finite = np.isfinite(ordered).all(axis=-1)
    with np.errstate(invalid="ignore"):  # inf - inf; the result is nan in any case
        mean = ordered[..., cut : num_values - cut].mean(axis=-1)
    return np.where(is_finite, mean, np.nan)[()]


def bootstrap_ci(
    values_per_seed: npt.ArrayLike | Sequence[npt.ArrayLike],
    statistic: Statistic = iqm,
    confidence: float = CONFIDENCE,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """Percentile bootstrap interval of a statistic; the unit is a training seed.

    Efron and Tibshirani (1993), chapter 13. With several strata (envs) each is resampled
    within itself, and the statistic is that of all of them together, as in rliable.

    Args:
        values_per_seed: [n], one value per training seed; or a list of such arrays, the strata.
        statistic: reduces the last axis.
        confidence: nominal coverage; at n=5 a nominal 95 % covers about 90 %.
        num_resamples: resamples drawn.
        seed: of the generator, so that the same values have the same interval.

    Returns:
        None if a stratum has fewer than two seeds, or a value is not finite.
    """
    strata = _strata(values_per_seed)
    if not all(_is_resampleable(stratum) for stratum in strata):
        return None
    rng = np.random.default_rng(seed)
    drawn = [stratum[_indices(rng, num_resamples, stratum.size)] for stratum in strata]
    return _percentile_interval(statistic(np.concatenate(drawn, axis=-1)), confidence)


def difference(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """IQM of `a` [n] minus IQM of `b` [m]: exactly 0 for the same values."""
    return float(iqm(a) - iqm(b))


def paired_difference_ci(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    confidence: float = CONFIDENCE,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """Bootstrap interval of `difference` where a[i] and b[i] are of the same training seed.

    Pairs are resampled together, so two identical cells have the interval [0, 0].

    Args:
        a: [n] values per seed.
        b: [n] values of the same seeds, in the same order.
        confidence: nominal coverage.
        num_resamples: resamples drawn.
        seed: of the generator.

    Returns:
        None with fewer than two pairs, or if a value is not finite.
    """
    a, b = _sample(a), _sample(b)
    if a.size != b.size:
        raise ValueError(f"pairs need as many values in a as in b, not {a.size} and {b.size}")
    if not (_is_resampleable(a) and _is_resampleable(b)):
        return None
    indices = _indices(np.random.default_rng(seed), num_resamples, a.size)
    return _percentile_interval(iqm(a[indices]) - iqm(b[indices]), confidence)


def unpaired_difference_ci(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    confidence: float = CONFIDENCE,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """Bootstrap interval of `difference` where `a` [n] and `b` [m] are independent samples.

    Arguments and result as in `paired_difference_ci`, but each sample is resampled alone.
    """
    a, b = _sample(a), _sample(b)
    if not (_is_resampleable(a) and _is_resampleable(b)):
        return None
    rng = np.random.default_rng(seed)
    resampled_a = iqm(a[_indices(rng, num_resamples, a.size)])
    resampled_b = iqm(b[_indices(rng, num_resamples, b.size)])
    return _percentile_interval(resampled_a - resampled_b, confidence)


def probability_of_improvement(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Chance that a run of `a` [n] returns more than one of `b` [m]; a tie counts a half.

    Agarwal et al. (2021), section 4.3: the Mann-Whitney U statistic over n m. Identical cells
    have exactly 0.5. It says nothing of how much more.
    """
    wins = _wins(_sample(a), _sample(b))
    return float(wins.mean()) if wins.size else float("nan")


def improvement_ci(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    is_paired: bool,
    confidence: float = CONFIDENCE,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """Bootstrap interval of `probability_of_improvement`.

    Args:
        a: [n] values per seed.
        b: [m] values per seed.
        is_paired: a[i] and b[i] are of the same training seed and are resampled together.
        confidence: nominal coverage.
        num_resamples: resamples drawn.
        seed: of the generator.

    Returns:
        None with fewer than two seeds on a side, or if a value is not finite.
    """
    a, b = _sample(a), _sample(b)
    if not (_is_resampleable(a) and _is_resampleable(b)):
        return None
    rng = np.random.default_rng(seed)
    times_a = _times_drawn(_indices(rng, num_resamples, a.size), a.size)
    times_b = times_a if is_paired else _times_drawn(_indices(rng, num_resamples, b.size), b.size)
    # A resample only repeats rows and columns of the matrix of wins, so it need not be built.
    wins = np.einsum("ra,ab,rb->r", times_a, _wins(a, b), times_b, optimize=True)
    return _percentile_interval(wins / (a.size * b.size), confidence)


def performance_profile(values: npt.ArrayLike, levels: npt.ArrayLike) -> FloatArray:
    """Share of seeds whose value is above each level, [T].

    Agarwal et al. (2021), section 4.2: the run-score distribution.

    Args:
        values: [n] one value per seed; one that is not a number is above nothing.
        levels: [T], in the unit of the values.
    """
    sample, at = np.asarray(values, np.float64), np.asarray(levels, np.float64)
    above: FloatArray = (sample[..., :, None] > at).mean(axis=-2)
    return above


def profile_band(
    values: npt.ArrayLike,
    levels: npt.ArrayLike,
    confidence: float = CONFIDENCE,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[FloatArray, FloatArray]:
    """Pointwise bootstrap interval of `performance_profile`: its low and its high end, [T] each."""
    sample = _sample(values)
    indices = _indices(np.random.default_rng(seed), num_resamples, sample.size)
    return _band(performance_profile(sample[indices], levels), confidence)


def curve_band(
    values: npt.ArrayLike,
    confidence: float = CONFIDENCE,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[FloatArray, FloatArray]:
    """Pointwise bootstrap interval of the IQM over seeds: its low and its high end, [T] each.

    Whole curves are resampled. A point where a value is not finite has nan for both ends.

    Args:
        values: [n, T], one curve per training seed, n >= 1.
        confidence: nominal coverage of each point, not of the band as a whole.
        num_resamples: resamples drawn.
        seed: of the generator.
    """
    curves = np.asarray(values, np.float64)  # [n, T]
    indices = _indices(np.random.default_rng(seed), num_resamples, len(curves))
    return _band(iqm(curves.T[:, indices]).T, confidence)  # [R, T]


def no_loss(diff_lower: float | None, reference_iqm: float, tolerance: float = TOLERANCE) -> bool:
    """Whether the lower end of a difference is above -tolerance * |reference_iqm|.

    The margin is excluded, and no interval (None, nan) shows nothing. This is a test of
    non-inferiority: "not significant" is not "equal".
    """
    return diff_lower is not None and diff_lower > -tolerance * abs(reference_iqm)


def verdict(interval: Interval | None, reference_iqm: float, tolerance: float = TOLERANCE) -> str:
    """`no loss`, `loss` if even the upper end is below the margin, `?` if it lies between."""
    if interval is None:
        return "?"
    if no_loss(interval.low, reference_iqm, tolerance):
        return "no loss"
    return "loss" if interval.high < -tolerance * abs(reference_iqm) else "?"


def _sample(values: npt.ArrayLike) -> FloatArray:
    sample = np.asarray(values, np.float64)
    if sample.ndim != 1:
        raise ValueError(f"a sample has one value per seed, not the shape {sample.shape}")
    return sample


def _strata(values: npt.ArrayLike | Sequence[npt.ArrayLike]) -> list[FloatArray]:
    """One array per stratum, from one sample or from several of any lengths."""
    if isinstance(values, Sequence) and values and np.ndim(values[0]) > 0:
        return [_sample(stratum) for stratum in values]
    return [_sample(np.asarray(values))]


def _is_resampleable(sample: FloatArray) -> bool:
    return sample.size >= 2 and bool(np.isfinite(sample).all())


def _indices(rng: np.random.Generator, num_resamples: int, size: int) -> npt.NDArray[np.int64]:
    return rng.integers(size, size=(num_resamples, size))


def _percentile_interval(resampled: FloatArray, confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Interval(float(low), float(high))


def _band(resampled: FloatArray, confidence: float) -> tuple[FloatArray, FloatArray]:
    """Percentiles over the first axis; nan where a resample is not a number."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=0)
    return low, high


def _wins(a: FloatArray, b: FloatArray) -> FloatArray:
    """[n, m]: 1 where a's run is the better, 0.5 at a tie, nan where one is not a number."""
    wins = (a[:, None] > b) + 0.5 * (a[:, None] == b)
    return np.where(np.isfinite(a)[:, None] & np.isfinite(b), wins, np.nan)


def _times_drawn(indices: npt.NDArray[np.int64], size: int) -> FloatArray:
    """[R, n]: how often each of n values is in each resample."""
    shifted = indices + size * np.arange(len(indices))[:, None]
    counts = np.bincount(shifted.ravel(), minlength=size * len(indices))
    return counts.reshape(len(indices), size).astype(np.float64)
