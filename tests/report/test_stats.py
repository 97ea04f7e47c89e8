import itertools
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from qbench.report import stats
from qbench.report.stats import Interval


def test_iqm_cuts_whole_values_from_both_ends() -> None:
    assert stats.iqm([8, 1, 100, 4]) == 6  # (4 + 8) / 2
    assert stats.iqm([0, 1, 2, 6, 90]) == 3  # floor(5 / 4) = 1 cut: (1 + 2 + 6) / 3
    assert stats.iqm([-500, 1, 2, 3, 4, 5, 6, 900]) == 3.5  # two cut: (2 + 3 + 4 + 5) / 4
    assert stats.iqm([1, 2, 6]) == 3  # below n=4 the mean
    assert stats.iqm([7]) == 7


@pytest.mark.parametrize("num_values", range(1, 14))
def test_iqm_is_scipys_trimmed_mean(num_values: int) -> None:
    values = np.random.default_rng(num_values).normal(size=num_values)
    assert stats.iqm(values) == pytest.approx(scipy_stats.trim_mean(values, 0.25), abs=1e-15)


def test_iqm_reduces_the_last_axis() -> None:
    assert stats.iqm([[8, 1, 100, 4], [1, 1, 1, 1]]).tolist() == [6, 1]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_never_trimmed_away(wrong: float) -> None:
    assert np.isnan(stats.iqm([1, 2, 3, wrong]))
    assert stats.bootstrap_ci([1, 2, 3, wrong]) is None
    assert np.isnan(stats.difference([1, wrong], [1, 2]))
    assert stats.paired_difference_ci([1, wrong], [1, 2]) is None
    assert stats.unpaired_difference_ci([1, 2], [1, wrong]) is None


def test_interval_of_two_seeds_spans_both() -> None:
    # The resampled means of {0, 10} are 0, 5, 10 with probability 1/4, 1/2, 1/4.
    assert stats.bootstrap_ci([0, 10]) == Interval(0, 10)
    assert stats.bootstrap_ci([0, 10], confidence=0.4) == Interval(5, 5)


def test_interval_is_that_of_the_binomial_distribution() -> None:
    # Of 100 values 50 are ones: the mean of a resample is Binomial(100, 0.5) / 100,
    # whose 2.5 % and 97.5 % points are 40 and 60.
    interval = stats.bootstrap_ci(np.repeat([0, 1], 50), statistic=lambda x: x.mean(-1))
    assert interval is not None
    assert interval == pytest.approx((0.40, 0.60), abs=0.011)


def test_one_seed_has_no_interval() -> None:
    assert stats.bootstrap_ci([5]) is None
    assert stats.bootstrap_ci([]) is None
    assert stats.paired_difference_ci([5], [4]) is None
    assert stats.unpaired_difference_ci([5, 6], [4]) is None


def test_strata_are_resampled_within_themselves() -> None:
    # Pooled resampling would mix the two levels; within strata nothing can vary.
    assert stats.bootstrap_ci([[0, 0, 0], [9, 9, 9]], lambda x: x.mean(-1)) == Interval(4.5, 4.5)
    assert stats.bootstrap_ci([[0, 0], [9, 9, 9, 9]], lambda x: x.mean(-1)) == Interval(6, 6)
    assert stats.bootstrap_ci([[0, 0], [9]]) is None


def test_interval_is_reproducible_and_depends_on_its_seed() -> None:
    values = np.random.default_rng(0).normal(size=10)
    assert stats.bootstrap_ci(values) == stats.bootstrap_ci(values.copy())
    assert stats.bootstrap_ci(values) != stats.bootstrap_ci(values, seed=1)


def test_identical_cells_differ_by_exactly_zero() -> None:
    values = [499.1, 123.4, 500.0, 77.7, 1 / 3]
    assert stats.difference(values, values) == 0
    assert stats.paired_difference_ci(values, values) == Interval(0, 0)


def test_a_constant_shift_is_exact_in_pairs_and_uncertain_between_samples() -> None:
    b = np.array([0.0, 64.0, 128.0, 256.0])
    assert stats.difference(b - 8, b) == -8
    assert stats.paired_difference_ci(b - 8, b) == Interval(-8, -8)
    unpaired = stats.unpaired_difference_ci(b - 8, b)
    assert unpaired is not None
    assert unpaired.low < -64 < 48 < unpaired.high


def test_pairs_need_equal_numbers_of_seeds() -> None:
    with pytest.raises(ValueError, match="not 2 and 3"):
        stats.paired_difference_ci([1, 2], [1, 2, 3])


def test_no_loss_is_a_lower_end_above_five_percent_of_the_reference() -> None:
    assert stats.no_loss(-24.9, 500)
    assert not stats.no_loss(-25, 500)
    assert stats.no_loss(-4.9, -100)  # the margin of a negative return is 5 % of its size
    assert not stats.no_loss(-5.1, -100)
    assert not stats.no_loss(None, 500)
    assert not stats.no_loss(float("nan"), 500)


def test_verdict_says_when_nothing_is_shown() -> None:
    assert stats.verdict(Interval(-20, -1), 500) == "no loss"
    assert stats.verdict(Interval(-90, -26), 500) == "loss"
    assert stats.verdict(Interval(-90, 10), 500) == "?"
    assert stats.verdict(None, 500) == "?"


def test_probability_of_improvement_counts_pairs_and_halves_of_ties() -> None:
    # 2 > 1, 2 = 2, 2 < 3, 5 > all: (1 + 0.5 + 0 + 3) / 6
    assert stats.probability_of_improvement([2, 5], [1, 2, 3]) == 0.75
    assert stats.probability_of_improvement([1, 2, 3], [2, 5]) == 0.25
    assert stats.probability_of_improvement([7, 7, 1], [7, 7, 1]) == 0.5
    assert np.isnan(stats.probability_of_improvement([1, np.nan], [2, 3]))
    assert np.isnan(stats.probability_of_improvement([], [2, 3]))


def test_probability_of_improvement_is_scipys_mann_whitney_u() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 9, 11), rng.integers(0, 9, 7)  # with ties
    u = scipy_stats.mannwhitneyu(a, b, alternative="greater").statistic
    assert stats.probability_of_improvement(a, b) == pytest.approx(u / 77, abs=1e-15)


def test_interval_of_improvement_is_that_of_the_resampled_pairs() -> None:
    # A resample of {0, 10} against {5} twice: 0, 1/2 or 1 with probability 1/4, 1/2, 1/4.
    assert stats.improvement_ci([0, 10], [5, 5], is_paired=False) == Interval(0, 1)
    assert stats.improvement_ci([0, 10], [5, 5], is_paired=False, confidence=0.4) == (0.5, 0.5)
    assert stats.improvement_ci([8, 9], [5, 5], is_paired=False) == Interval(1, 1)
    # In pairs the same draw is on both sides, and identical cells cannot differ.
    values = [1 / 3, 2 / 7, 0.1]
    assert stats.improvement_ci(values, values, is_paired=True) == Interval(0.5, 0.5)
    assert stats.improvement_ci([1], [2, 3], is_paired=False) is None
    assert stats.improvement_ci([1, np.inf], [2, 3], is_paired=False) is None


def test_improvement_interval_agrees_with_resamples_that_are_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=6), rng.normal(0.5, size=9)
    drawn = [rng.integers(6, size=(400, 6)), rng.integers(9, size=(400, 9))]
    draws = iter(drawn)
    monkeypatch.setattr(stats, "_indices", lambda *_: next(draws))
    built = [stats.probability_of_improvement(a[i], b[j]) for i, j in zip(*drawn, strict=True)]
    found = stats.improvement_ci(a, b, is_paired=False, num_resamples=400)
    assert found == pytest.approx(np.quantile(built, [0.025, 0.975]), abs=1e-12)


def test_a_profile_is_the_share_of_seeds_above_each_level() -> None:
    assert stats.performance_profile([1, 2, 2, 9], [0, 1, 2, 5, 9]).tolist() == [
        1, 0.75, 0.25, 0.25, 0,
    ]  # fmt: skip
    assert stats.performance_profile([np.nan, 3], [-1e9]).tolist() == [0.5]


def test_the_band_of_a_profile_is_binomial_and_certain_at_its_ends() -> None:
    low, high = stats.profile_band(np.repeat([0.0, 1.0], 50), [-1, 0.5, 1], num_resamples=5000)
    assert (low[0], high[0], low[2], high[2]) == (1, 1, 0, 0)
    # Binomial(100, 0.5) has its 2.5 % and 97.5 % points at 40 and 60.
    assert (low[1], high[1]) == pytest.approx((0.4, 0.6), abs=0.011)


def test_the_band_of_a_curve_is_pointwise_and_resamples_whole_seeds() -> None:
    values = np.array([[0.0, 5.0, 1.0], [10.0, 5.0, np.nan]])  # two seeds, three points
    low, high = stats.curve_band(values)
    assert low[:2].tolist() == [0, 5]
    assert high[:2].tolist() == [10, 5]
    assert np.isnan([low[2], high[2]]).all()
    one = stats.curve_band(np.array([[1.0, 2.0]]))
    assert [end.tolist() for end in one] == [[1, 2], [1, 2]]


def by_enumeration(values: list[float]) -> tuple[float, float]:
    """The exact percentile interval: every resample there is, in plain Python."""
    n, cut = len(values), len(values) // 4
    means = sorted(
        sum(sorted(resample)[cut : n - cut]) / (n - 2 * cut)
        for resample in itertools.product(values, repeat=n)
    )
    # The inverse of the empirical distribution at 2.5 % and 97.5 %.
    return means[math.ceil(0.025 * len(means)) - 1], means[math.ceil(0.975 * len(means)) - 1]


@pytest.mark.slow
@pytest.mark.parametrize("n", [4, 5, 6])
def test_the_interval_is_that_of_all_resamples_there_are(n: int) -> None:
    values = np.random.default_rng(n).normal(100, 10, size=n)
    found = stats.bootstrap_ci(values, num_resamples=100_000)
    # 100,000 draws place a percentile within some tenths of the standard error.
    assert found == pytest.approx(by_enumeration(values.tolist()), abs=0.25)


@pytest.mark.slow
def test_intervals_agree_with_scipys_bootstrap() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(100, 10, size=10), rng.normal(95, 10, size=12)

    def trimmed(x: np.ndarray, axis: int = -1) -> np.ndarray:
        return scipy_stats.trim_mean(x, 0.25, axis=axis)

    def less(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
        return trimmed(x, axis) - trimmed(y, axis)

    options = {"method": "percentile", "n_resamples": 50_000, "rng": 5}
    one = scipy_stats.bootstrap((a,), trimmed, **options).confidence_interval
    two = scipy_stats.bootstrap((a, b), less, **options).confidence_interval
    pairs = scipy_stats.bootstrap((a[:10], b[:10]), less, paired=True, **options)
    assert stats.bootstrap_ci(a, num_resamples=50_000) == pytest.approx(one, abs=0.3)
    unpaired = stats.unpaired_difference_ci(a, b, num_resamples=50_000)
    assert unpaired == pytest.approx(two, abs=0.3)
    paired = stats.paired_difference_ci(a, b[:10], num_resamples=50_000)
    assert paired == pytest.approx(pairs.confidence_interval, abs=0.3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "least", "most"), [(5, 0.86, 0.93), (10, 0.89, 0.95), (20, 0.91, 0.97)]
)
def test_the_interval_covers_as_often_as_the_page_says(n: int, least: float, most: float) -> None:
    rng = np.random.default_rng(n)
    num_trials = 2000
    covered = 0
    for _ in range(num_trials):
        # The interquartile mean of a symmetric distribution is its centre.
        interval = stats.bootstrap_ci(rng.normal(size=n), num_resamples=1000)
        assert interval is not None
        covered += interval.low <= 0 <= interval.high
    assert least <= covered / num_trials <= most


@pytest.mark.slow
def test_a_planted_loss_of_five_percent_is_found_with_twenty_seeds() -> None:
    # Seeds that spread by 5 %: the loss is one standard deviation.
    rng = np.random.default_rng(0)
    num_trials, found, false, found_in_pairs = 400, 0, 0, 0
    for _ in range(num_trials):
        none, twin, quantized = (rng.normal(500, 25, size=20) for _ in range(3))
        loss = stats.unpaired_difference_ci(quantized - 25, none, num_resamples=1000)
        same = stats.unpaired_difference_ci(twin, none, num_resamples=1000)
        # A post-training scheme quantizes the same agents: what differs is the loss alone.
        lossy = none - 25 + rng.normal(0, 5, size=20)
        pairs = stats.paired_difference_ci(lossy, none, num_resamples=1000)
        assert loss and same and pairs
        found += loss.high < 0
        found_in_pairs += pairs.high < 0
        false += same.high < 0 or same.low > 0
    assert found / num_trials > 0.75
    assert found_in_pairs == num_trials
    assert false / num_trials < 0.1
