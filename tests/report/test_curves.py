import json
import math
from pathlib import Path

import numpy as np
import pytest

from qbench import records
from qbench.report import curves


def write(run_dir: Path, kind: str, values: dict[int, dict[int, float | None]]) -> None:
    name = {"eval": "eval_return_mean", "episode": "episode_return"}[kind]
    rows = [
        {"kind": kind, "seed": seed, "env_step": step, "wall_s": 0.0, name: value}
        for seed, by_step in values.items()
        for step, value in by_step.items()
    ]
    records.append_records(run_dir, rows)


def test_a_curve_is_the_interquartile_mean_over_seeds_at_each_evaluation(tmp_path: Path) -> None:
    write(tmp_path, "eval", {k: {100: v, 200: 2 * v} for k, v in enumerate([8.0, 1.0, 100.0, 4.0])})
    curve, fault = curves.of_run(tmp_path)
    assert fault is None
    assert curve is not None
    assert (curve.kind, curve.num_seeds) == ("eval", 4)
    assert curve.env_steps.tolist() == [100, 200]
    assert curve.iqm.tolist() == [6, 12]  # (4 + 8) / 2
    assert (curve.low <= curve.iqm).all()
    assert (curve.high >= curve.iqm).all()


def test_a_curve_ends_where_its_first_seed_ends(tmp_path: Path) -> None:
    write(tmp_path, "eval", {0: {100: 1.0, 200: 1.0, 300: 1.0}, 1: {100: 3.0, 200: 3.0}})
    curve, _ = curves.of_run(tmp_path)
    assert curve is not None
    assert curve.env_steps.tolist() == [100, 200]
    assert curve.iqm.tolist() == [2, 2]


def test_a_diverged_evaluation_is_a_gap(tmp_path: Path) -> None:
    write(tmp_path, "eval", {0: {100: 1.0, 200: None}, 1: {100: 3.0, 200: 3.0}})
    curve, _ = curves.of_run(tmp_path)
    assert curve is not None
    assert curve.iqm[0] == 2
    assert np.isnan([curve.iqm[1], curve.low[1], curve.high[1]]).all()


def test_without_evaluations_training_episodes_are_averaged_in_parts() -> None:
    steps = {10: 1.0, 20: 3.0, 70: 8.0}
    rows = [{"seed": 0, "env_step": step, "episode_return": v} for step, v in steps.items()]
    rows.append({"seed": 0, "env_step": 80, "episode_return": None})
    # Four parts of ceil(70 / 4) = 18 steps: (0, 18], (18, 36], (36, 54], (54, 72].
    found = curves.episodes(rows, num_bins=4)
    assert found == {0: {18: 1.0, 36: 3.0, 54: 3.0, 72: 8.0}}


def test_episodes_are_drawn_only_where_nothing_was_evaluated(tmp_path: Path) -> None:
    write(tmp_path, "episode", {0: {40: 5.0}, 1: {40: 7.0}})
    curve, _ = curves.of_run(tmp_path)
    assert curve is not None
    assert (curve.kind, curve.iqm.tolist()) == ("episode", [6])
    write(tmp_path, "eval", {0: {40: 1.0}, 1: {40: 1.0}})
    curve, _ = curves.of_run(tmp_path)
    assert curve is not None
    assert (curve.kind, curve.iqm.tolist()) == ("eval", [1])


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    series = {0: {step: float(step) for step in range(1, 5001)}}
    curve = curves.over_seeds(series, "eval")
    assert curve is not None
    assert len(curve.env_steps) == curves.MAX_POINTS
    assert (curve.env_steps[0], curve.env_steps[-1]) == (1, 5000)


def test_damaged_lines_are_named_and_the_others_drawn(tmp_path: Path) -> None:
    write(tmp_path, "eval", {0: {100: 1.0}, 1: {100: 3.0}})
    with (tmp_path / "records.jsonl").open("a") as file:
        file.write("not json\n" + json.dumps({"kind": "eval"}) + '\n{"kind": "eval", "se')
    curve, fault = curves.of_run(tmp_path)
    assert curve is not None
    assert curve.iqm.tolist() == [2]
    assert fault == f"{tmp_path / 'records.jsonl'}: 2 damaged, left out (line 3, 4)."


@pytest.mark.parametrize("text", ["", "\n\n", "junk"])
def test_nothing_to_draw_is_no_curve(tmp_path: Path, text: str) -> None:
    (tmp_path / "records.jsonl").write_text(text)
    assert curves.of_run(tmp_path)[0] is None


def test_seeds_without_a_common_step_have_no_curve() -> None:
    assert curves.over_seeds({0: {1: 1.0}, 1: {2: 1.0}}, "eval") is None
    assert curves.over_seeds({}, "eval") is None
    assert math.isnan(curves.evaluations([{"seed": 0, "env_step": 1}])[0][1])
