from pathlib import Path

import pytest

from qbench.report import choice, rows, words
from qbench.report.provenance import machines_spelled
from tests.report.grids import write_cell


def recommended(sweep_dir: Path) -> choice.Recommendation:
    made = rows.make(sorted(sweep_dir.iterdir()))
    (family,) = rows.families(made)
    return choice.recommend(family)


def sized(size: int) -> dict[str, int]:
    return {"npz": size}


def test_the_smallest_network_without_loss_is_taken(tmp_path: Path) -> None:
    write_cell(tmp_path, "none", [100.0] * 5, artifact_bytes=sized(9000))
    write_cell(tmp_path, "ptq8", [99.0] * 5, artifact_bytes=sized(3000))
    write_cell(tmp_path, "qat8", [98.0] * 5, artifact_bytes=sized(2000))
    write_cell(tmp_path, "qat4", [94.0] * 5, artifact_bytes=sized(1000))
    found = recommended(tmp_path)
    assert found.chosen is not None
    assert found.chosen.label == "qat8"
    assert [row.label for row in found.lost] == ["qat4"]
    assert found.reference_bytes == 9000
    # 2000 / 9000 = 0.22; the margin is 5 % of 100.
    text = words.recommendation(found, 0.95)
    assert text == (
        "Take qat8: 2.0 KiB on disk, 0.22 of float's, return 98.0 [98.0, 98.0] against float's"
        " 100.0; the difference is -2.00 [-2.00, -2.00], above the margin of -5.00. Shown to lose"
        " more: qat4 (-6.00 [-6.00, -6.00])."
    )


def test_of_equally_large_ones_the_better_is_taken(tmp_path: Path) -> None:
    write_cell(tmp_path, "none", [100.0] * 5, artifact_bytes=sized(9000))
    write_cell(tmp_path, "ptq8", [99.0] * 5, artifact_bytes=sized(2000))
    write_cell(tmp_path, "qat8", [98.0] * 5, artifact_bytes=sized(2000))
    found = recommended(tmp_path)
    assert found.chosen is not None
    assert found.chosen.label == "ptq8"


def test_a_network_that_is_no_smaller_is_no_reason_to_leave_float(tmp_path: Path) -> None:
    write_cell(tmp_path, "none", [100.0] * 5, artifact_bytes=sized(2000))
    write_cell(tmp_path, "ptq8", [100.0] * 5, artifact_bytes=sized(2000))
    assert recommended(tmp_path).chosen is None


def test_an_undecided_cell_is_named_and_not_taken(tmp_path: Path) -> None:
    write_cell(tmp_path, "none", [100.0, 50.0, 60.0, 90.0, 80.0])
    write_cell(tmp_path, "qat8", [99.0, 51.0, 61.0, 89.0, 81.0])
    found = recommended(tmp_path)
    assert found.chosen is None
    assert [row.label for row in found.undecided] == ["qat8"]
    text = words.recommendation(found, 0.95)
    assert text.startswith("Keep float: no smaller network is shown to keep 95 % of its return.")
    assert "Smaller and undecided, more seeds would tell: qat8 (" in text


def test_without_a_float_cell_nothing_is_recommended(tmp_path: Path) -> None:
    write_cell(tmp_path, "qat8", [99.0] * 5)
    found = recommended(tmp_path)
    assert not found.can_compare
    assert words.recommendation(found, 0.95).endswith("no recommendation.")


def test_a_margin_of_negative_returns_is_a_share_of_their_size(tmp_path: Path) -> None:
    write_cell(tmp_path, "none", [-100.0] * 5)
    write_cell(tmp_path, "ptq8", [-104.0] * 5)
    found = recommended(tmp_path)
    assert found.chosen is not None
    assert "above the margin of -5.00" in words.recommendation(found, 0.95)


def test_a_front_holds_what_nothing_beats_in_both() -> None:
    costs = [1.0, 2.0, 2.0, 3.0, 4.0, 4.0]
    returns = [5.0, 9.0, 8.0, 9.0, 12.0, 12.0]
    assert choice.pareto_front(costs, returns) == [0, 1, 4, 5]
    assert choice.pareto_front([], []) == []


@pytest.mark.parametrize("shift", [0.0, -1000.0])
def test_a_front_is_the_points_that_no_other_dominates(shift: float) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    costs, returns = rng.integers(1, 9, 40), rng.integers(0, 9, 40) + shift
    undominated = {
        k
        for k in range(40)
        if not any(
            costs[j] <= costs[k]
            and returns[j] >= returns[k]
            and (costs[j] < costs[k] or returns[j] > returns[k])
            for j in range(40)
        )
    }
    assert set(choice.pareto_front(costs.tolist(), returns.tolist())) == undominated


def test_the_summary_counts_verdicts(tmp_path: Path) -> None:
    write_cell(tmp_path, "none", [100.0] * 5)
    write_cell(tmp_path, "ptq8", [99.0] * 5)
    write_cell(tmp_path, "qat4", [80.0] * 5)
    made = rows.make(sorted(tmp_path.iterdir()))
    assert words.verdicts(made, 0.95) == (
        "Of 2 quantized cells with a float cell to compare with, 1 is shown to keep 95 % of its"
        " return, 1 to lose more, and for 0 the seeds do not tell."
    )
    assert words.overview(made) == (
        "3 cells: env cartpole; network mlp; quantization none, ptq8, qat4; algorithm dqn."
        " 5 training seeds a cell. 200,000 env steps a seed. State: 3 done."
    )


def test_machines_are_named_once_with_their_gpu(tmp_path: Path) -> None:
    plain = {"processor": "one", "num_cores": 2, "platform": "Linux"}
    for name, machine in (("a", plain), ("b", plain), ("c", {**plain, "gpu": "a GPU"})):
        write_cell(tmp_path / name, "none", [1.0], machine=machine)
    cells = [row.cell for row in rows.make(sorted(tmp_path.glob("*/*")))]
    assert machines_spelled(cells) == "one, 2 cores, Linux; one, 2 cores, a GPU, Linux"


def test_notes_say_what_may_mislead(tmp_path: Path) -> None:
    machine = {"processor": "another", "num_cores": 64}
    seeds = [{"seed": 7, "eval_returns": [], "eval_return_mean": 9.0, "diverged": True}]
    write_cell(tmp_path / "a", "none", [1.0] * 3, total_env_steps=1000)
    write_cell(tmp_path / "b", "qat8", [], machine=machine, seeds=seeds)
    made = rows.make(sorted(tmp_path.glob("*/*")))
    found = list(words.notes(made, 0.95))
    assert found[0] == (
        "Budgets differ on cartpole: 1,000 env steps (1 cell, sweep a); 200,000 env steps (1 cell,"
        " sweep b). Cells are compared within a budget only."
    )
    assert "2 cells with fewer than 10 seeds" in found[1]
    assert "about 50 % at n=2" in found[1]
    assert found[2].endswith("seed 7 diverged, was frozen and is scored as it stood.")
    assert "2 different machines" in found[3]
    assert "no finished float cell" in found[4]
