import subprocess
import sys
from pathlib import Path

import pytest

from qbench import records
from qbench.report import load
from tests.report.grids import write_cell, write_grid

pytest.importorskip("pandas", reason='pandas is not installed: pip install ".[report]"')


def test_cells_are_a_frame_of_numbers(tmp_path: Path) -> None:
    write_cell(tmp_path, "none", [100.0] * 4)
    write_cell(tmp_path, "ptq8", [90.0] * 4)
    frame = load(tmp_path)
    assert list(frame.quant) == ["none", "ptq8"]
    assert frame.set_index("quant").loc["ptq8", "difference_to_none"] == -10
    assert frame.return_iqm.mean() == 95


def test_seeds_and_records_say_of_which_cell_they_are(tmp_path: Path) -> None:
    write_grid(tmp_path / "g", envs=["cartpole"], quants=["none", "qat8"], num_seeds=3)
    seeds = load([tmp_path / "g"], "seeds")
    assert seeds.groupby("quant").seed.count().to_dict() == {"none": 3, "qat8": 3}
    lines = load(str(tmp_path / "g"), "records")
    assert lines[lines.kind == "eval"].groupby(["quant", "seed"]).size().to_list() == [20] * 6
    assert set(lines.sweep) == {"g"}


def test_damaged_lines_are_left_out_with_a_warning(tmp_path: Path) -> None:
    run_dir = write_cell(tmp_path, "none", [1.0])
    (run_dir / "records.jsonl").write_text("junk\n")
    with pytest.warns(UserWarning, match=r"1 damaged, left out \(line 1\)"):
        assert load(tmp_path, "records").empty


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(records.RunFolderError, match="holds no runs"):
        load(tmp_path / "empty")
    write_cell(tmp_path, "none", [1.0])
    with pytest.raises(ValueError, match="cells, seeds or records, not 'runs'"):
        load(tmp_path, "runs")  # type: ignore[arg-type]


def test_pandas_is_imported_by_those_alone_who_ask_for_a_frame() -> None:
    code = (
        "import sys, qbench.report.__main__, qbench.report.frame, qbench.report.write;"
        "print({'pandas', 'matplotlib', 'jinja2', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
