import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from qbench import records
from qbench.report import folders, load_cells


def write_cell(sweep_dir: Path, quant_name: str, digits: str = "0" * 8, **config: Any) -> Path:
    """A run folder of env MyEnv-v1 with two seeds, of the returns 1 and nan."""
    run_dir = sweep_dir / f"MyEnv-v1-mlp-{quant_name}-dqn-{digits}"
    (run_dir / ".hydra").mkdir(parents=True)
    (run_dir / ".hydra" / "config.yaml").write_text(json.dumps(config))
    records.write_status(run_dir, "done")
    seeds = [
        {"seed": 3, "eval_returns": [1.0], "eval_return_mean": 1.0},
        {"seed": 4, "eval_returns": [], "eval_return_mean": None, "diverged": True},
    ]
    axes = {"env": "MyEnv-v1", "network": "mlp", "quant": quant_name, "algo": "dqn"}
    summary: dict[str, Any] = dict.fromkeys(records.SUMMARY_KEYS, 0) | axes | {"seeds": seeds}
    summary |= {"memory_bytes": dict.fromkeys(records.MEMORY_KEYS, 1), "artifact_bytes": {}}
    records.write_summary(run_dir, summary)
    return run_dir


def test_a_cell_is_what_its_folder_says(tmp_path: Path) -> None:
    write_cell(tmp_path / "grid", "qat8", seed=3)
    (cell,) = load_cells([tmp_path / "grid"])
    assert (cell.name, cell.sweep) == ("MyEnv-v1-mlp-qat8-dqn-00000000", "grid")
    assert (cell.state, cell.reason) == ("done", None)
    assert cell.axes == {"env": "MyEnv-v1", "network": "mlp", "quant": "qat8", "algo": "dqn"}
    assert cell.config == {"seed": 3}
    assert cell.returns == pytest.approx({3: 1.0, 4: float("nan")}, nan_ok=True)
    assert cell.diverged == [4]


def test_a_run_a_sweep_and_a_folder_of_sweeps_are_read_once_each(tmp_path: Path) -> None:
    run_dir = write_cell(tmp_path / "a", "qat8")
    write_cell(tmp_path / "a", "none")
    write_cell(tmp_path / "b", "none")
    assert len(load_cells([run_dir])) == 1
    found = load_cells([tmp_path, run_dir, str(tmp_path / "a")])
    assert [(cell.sweep, cell.axes["quant"]) for cell in found] == [
        ("a", "none"),
        ("b", "none"),
        ("a", "qat8"),
    ]


def test_a_folder_without_runs_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(records.RunFolderError, match=r"empty holds no runs: name a sweep folder"):
        load_cells([tmp_path / "empty"])


def test_a_cell_that_never_finished_has_its_axes_from_its_name(tmp_path: Path) -> None:
    records.write_status(
        tmp_path / "MyEnv-v1-mlp-qat4-ddpg-12345678", "skipped", "DDPG needs a Box"
    )
    (cell,) = load_cells([tmp_path])
    assert (cell.state, cell.reason, cell.summary) == ("skipped", "DDPG needs a Box", None)
    assert cell.axes == {"env": "MyEnv-v1", "network": "mlp", "quant": "qat4", "algo": "ddpg"}
    records.write_status(tmp_path / "hand-made", "running")
    assert folders.load_cell(tmp_path / "hand-made").axes == dict.fromkeys(records.AXES, "?")


@pytest.mark.parametrize("name", ["status.json", "summary.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema_version": 99}'])
def test_a_broken_file_breaks_its_cell_only_and_is_named(
    tmp_path: Path, name: str, text: str
) -> None:
    write_cell(tmp_path, "none")
    (write_cell(tmp_path, "qat8") / name).write_text(text)
    whole, broken = load_cells([tmp_path])
    assert whole.state == "done"
    assert broken.state == folders.BROKEN
    assert broken.reason is not None
    assert name in broken.reason


def test_a_done_cell_without_summary_and_a_cell_without_status_are_broken(tmp_path: Path) -> None:
    records.write_status(tmp_path / "a", "done")
    (tmp_path / "b" / ".hydra").mkdir(parents=True)
    assert [cell.state for cell in load_cells([tmp_path])] == [folders.BROKEN] * 2


def test_a_broken_config_is_no_config(tmp_path: Path) -> None:
    run_dir = write_cell(tmp_path, "none")
    for text in ("a: [", "- 1", "!!python/object/apply:os.getpid []"):
        (run_dir / ".hydra" / "config.yaml").write_text(text)
        assert folders.load_cell(run_dir).config is None


def test_the_reference_has_the_same_settings_except_quant_and_identity(tmp_path: Path) -> None:
    write_cell(tmp_path, "none", "a" * 8, steps=10, seed=0, quant={"_target_": "None"})
    write_cell(tmp_path, "none", "b" * 8, steps=20, seed=0, quant={"_target_": "None"})
    write_cell(tmp_path, "qat8", "c" * 8, steps=20, seed=5, quant={"_target_": "QAT"})
    write_cell(tmp_path, "qat8", "d" * 8, steps=30, seed=0, quant={"_target_": "QAT"})
    cells = {cell.name[-1]: cell for cell in load_cells([tmp_path])}
    assert folders.reference_of(cells["c"], cells.values()) is cells["b"]
    assert folders.reference_of(cells["d"], cells.values()) is None


def test_the_reference_is_the_one_beside_or_none_if_that_is_ambiguous(tmp_path: Path) -> None:
    write_cell(tmp_path / "a", "none")
    write_cell(tmp_path / "b", "none")
    write_cell(tmp_path / "b", "qat8")
    write_cell(tmp_path / "c", "qat8")
    cells = load_cells([tmp_path])
    beside, alone = (cell for cell in cells if cell.axes["quant"] == "qat8")
    reference = folders.reference_of(beside, cells)
    assert reference is not None
    assert reference.sweep == "b"
    assert folders.reference_of(alone, cells) is None


def test_without_configs_the_axes_decide(tmp_path: Path) -> None:
    base, quantized = write_cell(tmp_path, "none"), write_cell(tmp_path, "qat8", steps=7)
    (base / ".hydra" / "config.yaml").unlink()
    cells = [folders.load_cell(base), folders.load_cell(quantized)]
    assert folders.reference_of(cells[1], cells) is cells[0]


def test_settings_are_flat_and_without_what_is_no_part_of_a_cells_identity(tmp_path: Path) -> None:
    run_dir = write_cell(tmp_path, "qat8", num_seeds=5, quant={"weights": {"bits": 8}}, tau=0.5)
    assert folders.settings(folders.load_cell(run_dir)) == {"quant.weights.bits": 8, "tau": 0.5}


def test_a_cell_from_before_a_key_is_compared_with_one_at_its_neutral_value(
    tmp_path: Path,
) -> None:
    older = {"algo": {"loop": {"tau": 1}}, "replay": {"capacity": 5}}
    newer = {
        "algo": {"loop": {"tau": 1, "target_dtype": "float32"}},
        "replay": {"capacity": 5, "dtype": "float32"},
    }
    write_cell(tmp_path, "none", **older)
    write_cell(tmp_path, "qat8", **newer)
    other = {**newer, "replay": {"capacity": 5, "dtype": "uint8"}}
    write_cell(tmp_path, "qat4", **other)
    none, qat4, qat8 = load_cells([tmp_path])
    assert folders.reference_of(qat8, [none, qat4, qat8]) == none
    assert folders.reference_of(qat4, [none, qat4, qat8]) is None


def test_the_command_to_repeat_a_cell_is_one_run_elsewhere(tmp_path: Path) -> None:
    overrides = ["env=cartpole", "sweep=old", "+env.kwargs.x='a b'", "experiment=smoke"]
    records.write_text(tmp_path / ".hydra" / "overrides.yaml", yaml.safe_dump(overrides))
    command = folders.repeat_command(tmp_path)
    assert command is not None
    assert shlex.split(command) == [
        "python", "-m", "qbench", "env=cartpole", "+env.kwargs.x='a b'", "experiment=smoke",
        "hydra.mode=RUN", "sweep=repeated",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "a: b", "[1, 2]", "[", None])
def test_without_its_overrides_a_cell_has_no_command(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        records.write_text(tmp_path / ".hydra" / "overrides.yaml", text)
    assert folders.repeat_command(tmp_path) is None
