import math

import numpy as np
import pytest

from qbench.report import load_cell, load_cells, paper
from qbench.report.paper import Arm, Contrast
from qbench.report.stats import Interval
from tests.report.paper_cells import MIB, write_cell


def arms_of(tmp_path, float_returns, qat_returns, **more):
    write_cell(tmp_path / "sweep", "none", dict(enumerate(float_returns)), **more)
    write_cell(tmp_path / "sweep", "paper8", dict(enumerate(qat_returns)), **more)
    return paper.arms(load_cells([tmp_path]), more.get("env", "cartpole"))


def test_table_1_is_the_papers():
    low, high = -10.0, 30.0
    assert paper.decode(0, low, high) == -10
    assert paper.decode(255, low, high) == 30
    assert paper.decode(128, low, high) == -10 + 128 * 40 / 255  # 10.078, printed as 10
    assert [round(paper.decode(code, low, high)) for code, _ in paper.TABLE_1] == [
        printed for _, printed in paper.TABLE_1
    ]


def test_table_1_is_the_grid_that_training_uses():
    torch = pytest.importorskip("torch")
    from qbench.quant import grids

    grid = grids.affine_grid(torch.tensor([-10.0]), torch.tensor([30.0]), 8)
    codes = torch.arange(256.0)
    ours = [paper.decode(code, -10.0, 30.0) for code in range(256)]
    np.testing.assert_allclose(grids.decode(codes, grid).numpy(), ours, atol=1e-5)
    assert grids.encode(torch.tensor([-10.0, 10.0, 30.0]), grid).tolist() == [0, 128, 255]


def test_only_what_is_reported_is_cut():
    returns = np.array([10.0, 200.0, 371.0])
    assert paper.cut(returns, 200).tolist() == [10, 200, 200]
    assert paper.cut(returns, None).tolist() == [10, 200, 371]
    assert returns.tolist() == [10, 200, 371]


def test_a_trailing_mean_is_over_what_there_is_at_first():
    assert paper.trailing_mean(np.array([2.0, 4.0, 6.0, 0.0]), 2).tolist() == [2, 3, 5, 3]
    both = paper.trailing_mean(np.array([[1.0, 3.0], [5.0, 7.0]]), 10)
    assert both.tolist() == [[1, 2], [5, 6]]


def test_the_first_episode_at_the_goal_is_counted_from_one():
    assert paper.first_at(np.array([200.0])) == 1
    assert paper.first_at(np.array([10.0, 199.0, 200.0, 500.0])) == 3
    assert paper.first_at(np.array([10.0, 199.9])) is None


def test_a_deviation_is_of_the_cut_returns_after_the_first_at_the_goal():
    after = [500.0, 100.0] * 5  # cut: 200 and 100, so each is 50 from their mean
    assert paper.deviation_after(np.array([1.0, 250.0, *after])) == 50
    assert paper.deviation_after(np.array([1.0, 250.0, *after[:-1]])) is None
    assert paper.deviation_after(np.array([1.0] * 50)) is None


def test_who_is_earlier_counts_a_seed_that_never_is_as_its_last_episode(tmp_path):
    found = arms_of(tmp_path, [[1, 200, 1, 1]] * 5, [[1, 1, 1, 200]] * 4 + [[1, 1, 1, 1]])
    contrast = paper.earlier(found)
    assert contrast.float_values == [2] * 5
    assert contrast.qat_values == [4] * 5
    assert (contrast.difference, contrast.interval) == (2, (2, 2))
    assert paper.is_more(contrast) == "yes"


def test_who_is_steadier_leaves_out_seeds_that_never_reach_the_goal(tmp_path):
    steady, shaky = [200.0] * 11, [200.0, *[200.0, 100.0] * 5]
    found = arms_of(tmp_path, [steady, steady, [1.0] * 11], [shaky, shaky, shaky])
    contrast = paper.steadier(found)
    assert (contrast.float_values, contrast.qat_values) == ([0, 0], [50, 50, 50])
    assert (contrast.difference, contrast.interval) == (50, (50, 50))


def test_ends_and_areas_are_means_of_each_seed(tmp_path):
    rising = [0.0] * 100 + [400.0] * 100
    found = arms_of(tmp_path, [rising] * 2, [[100.0] * 200] * 2, env="lunarlander")
    assert paper.last_returns(found, None).float_values == [400, 400]
    assert paper.last_returns(found, 200).difference == 100 - 200
    assert paper.all_returns(found, None).float_values == [200, 200]
    assert paper.all_returns(found, 200).float_values == [100, 100]


def test_final_returns_are_cut_episode_by_episode(tmp_path):
    found = arms_of(tmp_path, [[1.0]] * 2, [[1.0]] * 2, final=500.0)
    assert paper.final_returns(found, 200).float_values == [200, 200]
    assert paper.final_returns(found, None).qat_values == [500, 500]


@pytest.mark.parametrize(
    ("interval", "more", "alike"),
    [
        (Interval(1, 4), "yes", "yes"),  # a difference, and smaller than 5 % of 100
        (Interval(1, 6), "yes", "no"),
        (Interval(-4, 4), "not shown", "yes"),
        (Interval(-6, 4), "not shown", "not shown"),
        (Interval(-9, -6), "no, below", "no"),
        (None, "not shown", "not shown"),
    ],
)
def test_an_interval_decides_what_is_shown(interval, more, alike):
    contrast = Contrast([100.0] * 5, [100.0] * 5, 0.0, interval)
    assert paper.is_more(contrast) == more
    assert paper.is_alike(contrast) == alike


def test_fewer_than_five_seeds_show_nothing():
    few = Contrast([100.0] * 5, [100.0] * 4, 1.0, Interval(1, 4))
    assert (paper.is_more(few), paper.is_alike(few)) == ("not shown", "not shown")
    assert paper.is_more(few, fewest=4) == "yes"


def test_without_a_value_nothing_is_shown(tmp_path):
    never = [[1.0] * 20] * 2
    contrast = paper.steadier(arms_of(tmp_path, never, never))
    assert math.isnan(contrast.difference)
    assert paper.is_more(contrast) == "not shown"


def test_an_arm_is_the_cell_with_most_seeds_and_single_seeds_are_none(tmp_path):
    write_cell(tmp_path / "small", "none", {0: [1.0], 1: [2.0]})
    write_cell(tmp_path / "large", "none", {0: [3.0], 1: [4.0], 2: [5.0]})
    write_cell(tmp_path / "memory", "paper8", {0: [6.0]})
    found = paper.arms(load_cells([tmp_path]), "cartpole")
    assert list(found) == ["none"]
    assert isinstance(found["none"], Arm)
    assert {seed: r.tolist() for seed, r in found["none"].returns.items()} == {
        0: [3],
        1: [4],
        2: [5],
    }
    assert paper.arms(load_cells([tmp_path]), "lunarlander") == {}


def test_memory_is_the_mean_over_processes_with_welchs_interval(tmp_path):
    for seed, (before, after) in enumerate([(100, 96), (102, 98), (104, 100)]):
        folder = tmp_path / f"seed_{seed}"
        write_cell(folder, "none", {seed: [1.0]}, peak=before * MIB)
        ledger = {"weights": 3, "gradients": 2, "optimizer": 4, "target": 2, "activations": 9,
                  "replay": 50, "other": 1}  # fmt: skip
        write_cell(folder, "paper8", {seed: [1.0]}, peak=after * MIB, ledger=ledger)
    found = paper.memory(load_cells([tmp_path]), "cartpole")
    assert found is not None
    assert found.peaks["none"] == [100 * MIB, 102 * MIB, 104 * MIB]
    assert found.imports["none"] == [90 * MIB, 92 * MIB, 94 * MIB]
    contrast = found.difference
    assert contrast.difference == -4 * MIB
    # Both variances are 4 MiB^2: the half width is t(0.975, 4) sqrt(4/3 + 4/3) = 2.7764 x 1.6330.
    assert contrast.interval is not None
    assert contrast.interval.low / MIB == pytest.approx(-4 - 4.5339, abs=1e-3)
    assert contrast.interval.high / MIB == pytest.approx(-4 + 4.5339, abs=1e-3)
    assert found.ledger_difference == 71 - 7 * 1024
    assert found.disk == {"none": 2048, "paper8": 1024}


def test_memory_needs_both_arms_and_one_seed_per_process(tmp_path):
    none = write_cell(tmp_path, "none", {0: [1.0]})
    several = write_cell(tmp_path, "paper8", {0: [1.0], 1: [1.0]})
    assert paper.memory([load_cell(none), load_cell(several)], "cartpole") is None


def test_equal_peaks_differ_by_exactly_nothing(tmp_path):
    for seed in range(2):
        for quant in ("none", "paper8"):
            write_cell(tmp_path / str(seed), quant, {seed: [1.0]})
    found = paper.memory(load_cells([tmp_path]), "cartpole")
    assert found is not None
    assert (found.difference.difference, found.difference.interval) == (0, (0, 0))
