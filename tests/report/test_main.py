import subprocess
import sys
from pathlib import Path

import pytest

from qbench import records
from qbench.report import write
from qbench.report.__main__ import main
from tests.report.grids import write_cell, write_grid

NAMES = {"index.html", "cells.csv", "seeds.csv", "figures"}


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    write_grid(tmp_path / "grid", envs=["cartpole"], quants=["none", "ptq8"], num_episodes=2)
    return tmp_path / "grid"


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one sentence of a command that does nothing."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_the_command_prints_the_table_and_writes_the_report(
    grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(grid)])
    out = capsys.readouterr().out
    assert out.startswith("2 cells, sweep grid")
    assert out.splitlines()[-1] == f"report: {grid / 'report' / 'index.html'}"
    assert {path.name for path in (grid / "report").iterdir()} == NAMES
    stems = {path.stem for path in (grid / "report" / "figures").glob("*.svg")}
    assert stems == {path.stem for path in (grid / "report" / "figures").glob("*.png")}
    assert "curves-cartpole" in stems


def test_a_second_report_replaces_the_first_and_nothing_else(grid: Path) -> None:
    main([str(grid)])
    figures = grid / "report" / "figures"
    (figures / "curves-gone.svg").write_text("old")
    (figures / "holiday.png").write_text("mine")
    before = (grid / "report" / "cells.csv").read_bytes()
    main([str(grid)])
    assert not (figures / "curves-gone.svg").exists()
    assert (figures / "holiday.png").read_text() == "mine"
    assert (grid / "report" / "cells.csv").read_bytes() == before


def test_several_folders_are_one_report_in_the_first_or_where_it_is_asked_for(
    grid: Path, tmp_path: Path
) -> None:
    other = write_cell(tmp_path / "other", "none", [1.0, 2.0])
    main([str(other), str(grid)])
    assert (other / "report" / "index.html").exists()
    assert not (grid / "report").exists()
    main([str(grid), "--out", str(tmp_path / "deep" / "out")])
    assert {path.name for path in (tmp_path / "deep" / "out").iterdir()} == NAMES


def test_the_threshold_decides_what_is_recommended(grid: Path, tmp_path: Path) -> None:
    texts = []
    for threshold in ("0.9", "1"):
        main([str(grid), "--threshold", threshold, "--out", str(tmp_path / "out")])
        texts.append((tmp_path / "out" / "index.html").read_text())
    assert "Take ptq8" in texts[0]
    assert "at least 100 % of float" in texts[1]
    assert "Take ptq8" not in texts[1]


def test_folders_without_runs_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (tmp_path, tmp_path / "gone"):
        text = refused(capsys, path)
        assert text.startswith(f"{path} holds no runs")
        assert text.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("threshold", ["0", "1.5", "95", "nan", "high"])
def test_a_threshold_that_is_no_share_is_refused(
    grid: Path, threshold: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is no share: give a number such as 0.95" in refused(
        capsys, grid, "--threshold", threshold
    )


def test_a_place_that_cannot_be_written_to_is_refused_before_any_work(
    grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert "name another folder with --out" in refused(capsys, grid, "--out", out)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_page_that_is_not_ours_is_left_alone(
    grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("<h1>mine</h1>")
    assert "is not a page of qbench" in refused(capsys, grid, "--out", tmp_path / "site")
    assert (tmp_path / "site" / "index.html").read_text() == "<h1>mine</h1>"
    assert len(list((tmp_path / "site").iterdir())) == 1


def test_without_the_extra_the_tables_are_written_and_one_sentence_says_so(
    grid: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(write, "NEEDED", ("jinja2", "no_such_package"))
    with pytest.raises(SystemExit) as stop:
        main([str(grid)])
    assert stop.value.code == 1
    assert capsys.readouterr().err == (
        'report: the page needs no_such_package: pip install ".[report]".\n'
    )
    assert {path.name for path in (grid / "report").iterdir()} == {"cells.csv", "seeds.csv"}


def test_a_broken_a_running_and_a_failed_cell_have_a_report(
    grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running, failed, broken, future = (grid / f"cartpole-mlp-qat8-dqn-0000000{k}" for k in range(4))
    records.write_status(running, "running")
    records.append_records(running, [{"kind": "eval", "seed": 0, "env_step": 9, "wall_s": 1}])
    with (running / "records.jsonl").open("a") as file:
        file.write('{"kind": "eval", "seed": 0, "env_')  # a writer is at it
    records.write_status(failed, "failed", "out of memory")
    records.write_text(broken / "status.json", "{")
    records.write_text(future / "status.json", '{"schema_version": 99}')
    main([str(grid)])
    text = (grid / "report" / "index.html").read_text()
    assert "State: 2 done, 1 running, 1 failed, 2 broken." in text
    assert "is of schema version 99, this qbench reads 1" in text
    assert "status.json is not valid JSON" in text
    assert "6 cells" in capsys.readouterr().out


def test_the_report_of_a_sweep_covers_the_whole_folder(
    grid: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write.after_sweep([grid / "cartpole-mlp-none-dqn-00000000"], with_page=True)
    assert (grid / "report" / "cells.csv").read_text().count("\n") == 3
    assert capsys.readouterr().out == f"report: {grid / 'report' / 'index.html'}\n"


def test_a_report_that_fails_is_a_sentence(
    grid: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "write_report", full)
    write.after_sweep([grid / "x"], with_page=True)
    assert capsys.readouterr().err == (
        f"report: {grid} has none, OSError: [Errno 28] No space left on device\n"
    )


def test_a_stopped_sweep_has_its_tables(grid: Path) -> None:
    write.after_sweep([grid / "x"], with_page=False)
    assert {path.name for path in (grid / "report").iterdir()} == {"cells.csv", "seeds.csv"}


def test_a_sweep_without_the_extra_says_so_once(
    grid: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(write, "NEEDED", ("no_such_package",))
    write.after_sweep([grid / "x"], with_page=True)
    assert capsys.readouterr().err.count("\n") == 1
    assert (grid / "report" / "cells.csv").exists()


def test_a_report_does_not_depend_on_the_users_own_matplotlibrc(grid: Path, tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\naxes.facecolor: red\n")
    command = [sys.executable, "-m", "qbench.report", str(grid)]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert "#ff0000" not in (grid / "report" / "figures" / "curves-cartpole.svg").read_text()
