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
