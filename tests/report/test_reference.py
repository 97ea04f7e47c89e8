import json
from pathlib import Path

import pytest

from qbench import records
from qbench.report import load_cells, reference
from qbench.report.__main__ import main
from qbench.report.reference import PublishError
from tests.report.paper_cells import write_cell


@pytest.fixture
def sweep(tmp_path):
    """Two finished cells with bulk, and one that has failed."""
    folder = tmp_path / "sweep"
    for quant in ("none", "paper8"):
        run_dir = write_cell(folder, quant, dict.fromkeys(range(3), (1.0, 2.0)))
        records.write_text(run_dir / "checkpoints" / "last.ckpt", "x" * 100_000)
        records.write_text(run_dir / ".hydra" / "hydra.yaml", "cwd: /somebody/s/home")
    records.write_status(folder / "cartpole-mlp-qat4-dqn-00000000", "failed", "killed")
    records.write_text(folder / "cells.csv", "cell\n")
    records.write_text(folder / "report" / "curve.svg", "<svg/>")
    records.write_text(folder / "report" / "large.svg", "x" * 500_000)
    return folder


def published(sweep, tmp_path, name="paper"):
    return reference.publish(load_cells([sweep]), name, tmp_path / "reference")


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_what_is_published_is_small_and_names_no_machine_path(sweep, tmp_path):
    folder = published(sweep, tmp_path)
    kept = [".hydra/config.yaml", ".hydra/overrides.yaml", "status.json", "summary.json"]
    cells = [f"cartpole-mlp-{quant}-dqn-00000000" for quant in ("none", "paper8")]
    expected = [f"{cell}/{name}" for cell in cells for name in kept]
    assert files(folder) == sorted(["README.md", "cells.csv", *expected, "report/curve.svg"])
    assert b"/somebody" not in b"".join(p.read_bytes() for p in folder.rglob("*") if p.is_file())
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 50_000


def test_published_cells_are_read_like_any_other_without_their_bulk(sweep, tmp_path):
    cells = reference.load(published(sweep, tmp_path))
    assert [cell.axes["quant"] for cell in cells] == ["none", "paper8"]
    assert cells[0].returns == {0: 150, 1: 150, 2: 150}
    assert cells[0].summary is not None
    assert set(cells[0].summary["seeds"][0]) == {"seed", "eval_returns", "eval_return_mean"}


def test_the_readme_says_how_each_number_was_made(sweep, tmp_path):
    text = (published(sweep, tmp_path) / "README.md").read_text()
    assert "| cartpole-mlp-paper8-dqn-00000000 | 0-2 |" in text
    assert "`python -m qbench env=cartpole quant=paper8 experiment=paper`" in text
    assert "- Versions: python 3.11.7, torch 2.13.0" in text
    assert "- Machine: some, 2 cores, Linux" in text
    assert "- Commit: 0123456789ab\n" in text
    assert "| cartpole | mlp | none | dqn | 3 | 150.0 [150.0, 150.0] |" in text


def test_publishing_again_replaces_and_other_names_stay(sweep, tmp_path):
    published(sweep, tmp_path, "other")
    folder = published(sweep, tmp_path)
    before = files(folder)
    records.write_text(folder / "old.csv", "stale")
    assert files(published(sweep, tmp_path)) == before
    assert sorted(p.name for p in folder.parent.iterdir()) == ["other", "paper"]


def test_cells_of_several_seed_folders_are_kept_apart(tmp_path):
    for seed in range(2):
        write_cell(tmp_path / "memory" / f"seed_{seed}", "none", {seed: [1.0]})
    cells = reference.load(published(tmp_path / "memory", tmp_path))
    assert sorted(seed for cell in cells for seed in cell.returns) == [0, 1]


def test_too_much_is_refused_and_nothing_is_harmed(sweep, tmp_path, monkeypatch):
    folder = published(sweep, tmp_path)
    before = files(folder.parent)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    monkeypatch.setattr(reference, "MAX_BYTES", size + 100)
    published(sweep, tmp_path)  # what it replaces does not count
    with pytest.raises(PublishError, match=r"would take 0.0 MB, more than 0.0: leave out cells"):
        published(sweep, tmp_path, "more")
    assert files(folder.parent) == before


@pytest.mark.parametrize("name", ["", "..", "a/b", "/tmp"])
def test_a_name_is_one_folder(sweep, tmp_path, name):
    with pytest.raises(PublishError, match="it must be the name of one folder"):
        published(sweep, tmp_path, name)
    assert not (tmp_path / "reference").exists()


def test_unfinished_cells_are_nothing_to_publish(tmp_path):
    records.write_status(tmp_path / "cartpole-mlp-qat4-dqn-00000000", "failed", "killed")
    with pytest.raises(PublishError, match="No cell is finished here"):
        published(tmp_path, tmp_path)


def test_a_repeated_cell_passes_within_the_published_interval(sweep, tmp_path):
    cells = reference.load(published(sweep, tmp_path))
    again = tmp_path / "again"
    write_cell(again, "none", dict.fromkeys(range(3), (1.0,)), final=150.5)
    passes, (sentence,) = reference.check(load_cells([again]), cells)
    assert passes
    assert sentence == (
        "cartpole-mlp-none-dqn-00000000: IQM 150.5 over 3 seeds is within the published"
        " [149.0, 151.0]; 0 of 3 common seeds agree to the last digit."
    )
    write_cell(again, "paper8", dict.fromkeys(range(3), (1.0,)), final=151.5)
    passes, sentences = reference.check(load_cells([again]), cells)
    assert not passes
    assert "IQM 151.5 over 3 seeds is outside the published [149.0, 151.0]" in sentences[1]
    assert "3 of 3 common" in reference.check(load_cells([sweep]), cells)[1][0]


def test_a_cell_that_failed_does_not_pass(sweep, tmp_path):
    cells = reference.load(published(sweep, tmp_path))
    failed = tmp_path / "again" / "cartpole-mlp-none-dqn-00000000"
    records.write_status(failed, "failed", "out of memory")
    passes, sentences = reference.check(load_cells([failed]), cells)
    assert (passes, sentences) == (False, [f"{failed.name} is failed: out of memory."])


def test_the_command_publishes_and_checks(sweep, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main([str(sweep), "--reference", "paper"])
    assert Path("multirun/reference/paper/README.md").exists()
    main([str(sweep), "--against", "multirun/reference/paper"])
    assert "3 of 3 common seeds agree" in capsys.readouterr().out
    summary = sweep / "cartpole-mlp-none-dqn-00000000" / "summary.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"return_iqm": 1.0}))
    with pytest.raises(SystemExit) as stop:
        main([str(sweep), "--against", "multirun/reference/paper"])
    assert stop.value.code == 1


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--against", "multirun/reference/gone", "gone holds no published results: name a folder"),
        ("--reference", "a/b", "--reference a/b will not do: it must be the name of one folder."),
    ],
)
def test_the_command_refuses_before_it_works(sweep, capsys, option, value, sentence):
    with pytest.raises(SystemExit) as stop:
        main([str(sweep), option, value])
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert sentence in said.err


def test_cells_without_a_namesake_are_refused(sweep, tmp_path):
    cells = reference.load(published(sweep, tmp_path))
    write_cell(tmp_path / "other", "qat8", {0: [1.0]})
    with pytest.raises(PublishError, match="None of these cells is published; published are cart"):
        reference.check(load_cells([tmp_path / "other"]), cells)
