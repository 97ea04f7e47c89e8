import csv
from pathlib import Path

import pytest

from qbench import records
from qbench.report import rows, sheets
from tests.report.test_table import FLOAT_RETURNS, write_cell


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_cells_have_a_column_per_number_with_its_unit(tmp_path: Path) -> None:
    write_cell(tmp_path, "none", FLOAT_RETURNS)
    write_cell(tmp_path, "ptq8", [x - 16 for x in FLOAT_RETURNS], artifact_bytes={"onnx": 7})
    records.write_status(tmp_path / "x-mlp-qat8-dqn-00000000", "failed", "out of memory, again")
    made = rows.make(sorted(tmp_path.iterdir()))
    cells, _ = sheets.write(tmp_path / "out", made)
    none, ptq, failed = read(cells)
    assert float(none["return_iqm"]) == 490
    assert none["difference_to_none"] == ""
    assert int(none["memory_total_bytes"]) == 2**20 + 63
    assert (none["artifact_npz_bytes"], none["artifact_onnx_bytes"]) == ("1536", "")
    assert (ptq["artifact_npz_bytes"], ptq["artifact_onnx_bytes"]) == ("", "7")
    assert (none["deployed_bytes"], ptq["deployed_bytes"]) == ("1536", "7")
    assert (ptq["difference_ci_low"], ptq["difference_kind"]) == ("-16.0", "paired")
    # 484 beats 480 and 460, 464 beats 460, twice 484 and once each 464, 444: 2 * 2 + 1 of 16.
    assert float(ptq["improvement_probability"]) == 5 / 16
    assert (ptq["peak_rss_bytes"], ptq["memory_total_bytes"], ptq["cpu_s"]) == ("", "", "")
    assert ptq["reference"] == none["cell"]
    assert (failed["state"], failed["reason"]) == ("failed", "out of memory, again")
    assert (failed["return_iqm"], failed["num_seeds"], failed["wall_s"]) == ("", "", "")


def test_seeds_have_a_line_each(tmp_path: Path) -> None:
    seeds = [
        {"seed": 3, "eval_returns": [1.0, 2.0], "eval_return_mean": 1.5, "env_steps": 70},
        {"seed": 4, "eval_returns": [], "eval_return_mean": None, "diverged": True},
    ]
    write_cell(tmp_path, "none", [], seeds=seeds)
    _, path = sheets.write(tmp_path / "out", rows.make(sorted(tmp_path.iterdir())))
    first, second = read(path)
    assert (first["seed"], first["return"], first["num_episodes"]) == ("3", "1.5", "2")
    assert (first["env_steps"], first["diverged"]) == ("70", "False")
    assert (second["seed"], second["return"], second["diverged"]) == ("4", "", "True")


@pytest.mark.parametrize("wrong", [None, 3, [], {"1": "fast"}, {"onnx_float": 7}])
def test_a_hand_edited_summary_has_empty_columns(tmp_path: Path, wrong: object) -> None:
    write_cell(tmp_path, "none", FLOAT_RETURNS, latency_us=wrong, cost=wrong)
    cells, _ = sheets.write(tmp_path / "out", rows.make(sorted(tmp_path.iterdir())))
    (none,) = read(cells)
    assert (none["latency_us"], none["macs"]) == ("", "")
    assert float(none["return_iqm"]) == 490


def test_no_cells_are_an_empty_sheet() -> None:
    assert sheets.as_csv([]) == ""
