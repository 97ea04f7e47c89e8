import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qbench import records


def row(env_step: int, kind: str = "train", **more: Any) -> dict[str, Any]:
    return {"kind": kind, "seed": 0, "env_step": env_step, "wall_s": 0.5, **more}


def summary(**changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "env": "cartpole",
        "network": "mlp",
        "quant": "none",
        "algo": "dqn",
        "num_seeds": 1,
        "env_steps": 100,
        "seeds": [{"seed": 0, "eval_returns": [9.0, 11.0], "eval_return_mean": 10.0}],
        "return_iqm": 10.0,
        "return_ci": None,
        "peak_rss_bytes": 1,
        "peak_device_bytes": 0,
        "memory_bytes": dict.fromkeys(records.MEMORY_KEYS, 8),
        "artifact_bytes": {"npz": 16},
        "env_steps_per_s": 50.0,
        "cpu_s": 2.0,
        "wall_s": 2.0,
    }
    return content | changes


def test_json_has_null_for_what_is_not_finite_and_plain_numbers_for_numpy(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    records.write_json(
        path,
        {
            "nan": float("nan"),
            "inf": [np.float32("inf"), (1, -np.inf)],
            "array": np.array([1.5, np.nan]),
            "count": np.int64(3),
            "flag": np.bool_(True),
        },
    )
    expected = {"nan": None, "inf": [None, [1, None]], "array": [1.5, None], "count": 3}
    assert records.read_json(path) == expected | {"flag": True}
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == records.read_json(path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    records.write_json(path, {"old": 1})

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        records.write_json(path, {"new": 2})
    assert records.read_json(path) == {"old": 1}
    assert [child.name for child in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("text", ["{", "\x80", "[" * 100_000])
def test_damaged_json_is_one_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text, encoding="latin-1")
    with pytest.raises(records.RunFolderError, match=r"x\.json is not valid JSON"):
        records.read_json(tmp_path / "x.json")


def test_status_comes_back_as_written(tmp_path: Path) -> None:
    assert records.read_status(tmp_path)["state"] is None
    records.write_status(tmp_path / "cell", "failed", "out of memory", "Traceback ...")
    assert records.read_status(tmp_path / "cell") == {
        "schema_version": 1,
        "state": "failed",
        "reason": "out of memory",
        "traceback": "Traceback ...",
    }
    with pytest.raises(ValueError, match="'finished' is none of running, done"):
        records.write_status(tmp_path, "finished")


def test_status_of_another_schema_version_or_state_is_refused(tmp_path: Path) -> None:
    records.write_json(tmp_path / "status.json", {"schema_version": 2, "state": "done"})
    with pytest.raises(records.RunFolderError, match="schema version 2, this qbench reads 1"):
        records.read_status(tmp_path)
    records.write_json(tmp_path / "status.json", {"schema_version": 1, "state": "fine"})
    with pytest.raises(records.RunFolderError, match="no known state"):
        records.read_status(tmp_path)


def test_records_are_appended_and_selected_by_kind(tmp_path: Path) -> None:
    records.append_records(tmp_path, [row(1), row(2, "episode", episode_return=7.0)])
    records.append_records(tmp_path, [row(3, loss=float("nan"))])
    assert [r["env_step"] for r in records.read_records(tmp_path)] == [1, 2, 3]
    assert records.read_records(tmp_path, "episode") == [row(2, "episode", episode_return=7.0)]
    assert records.read_records(tmp_path, "train")[1]["loss"] is None


@pytest.mark.parametrize("key", ["kind", "seed", "env_step", "wall_s"])
def test_a_record_without_a_required_key_is_refused_with_its_batch(
    tmp_path: Path, key: str
) -> None:
    wrong = {name: value for name, value in row(2).items() if name != key}
    with pytest.raises(ValueError, match=f"a record has no {key}"):
        records.append_records(tmp_path, [row(1), wrong])
    assert not (tmp_path / "records.jsonl").exists()


def test_a_record_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'test' is none of train, episode, eval, final"):
        records.append_records(tmp_path, [row(1, "test")])


def test_a_truncated_last_line_is_skipped_and_then_replaced(tmp_path: Path) -> None:
    records.append_records(tmp_path, [row(1), row(2)])
    path = tmp_path / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    assert [r["env_step"] for r in records.read_records(tmp_path)] == [1]
    records.append_records(tmp_path, [row(3)])
    assert [r["env_step"] for r in records.read_records(tmp_path)] == [1, 3]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    records.append_records(tmp_path, [row(1), row(2)])
    path = tmp_path / "records.jsonl"
    path.write_text(path.read_text().replace('"env_step": 1', '"env_step": '))
    with pytest.raises(records.RunFolderError, match=r"records\.jsonl, line 1 is damaged"):
        records.read_records(tmp_path)


def test_a_folder_that_is_no_run_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(records.RunFolderError, match="is not a run folder"):
        records.read_records(tmp_path)
    records.write_status(tmp_path, "running")
    assert records.read_records(tmp_path) == []


def test_summary_comes_back_with_its_free_keys(tmp_path: Path) -> None:
    seeds = [{"seed": 0, "eval_returns": [1], "eval_return_mean": 1, "diverged": True}]
    records.write_summary(tmp_path, summary(seeds=seeds, git_commit="abc"))
    written = records.read_summary(tmp_path)
    assert written == summary(seeds=seeds, git_commit="abc") | {"schema_version": 1}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"seeds": [{"seed": 0, "eval_returns": []}]}, "eval_return_mean missing in an entry"),
        ({"seeds": 5}, "seeds is not a list"),
        ({"memory_bytes": {"weights": 1}}, "gradients, optimizer, .* missing in memory_bytes"),
        ({"wall_s": "2 s"}, "wall_s not a number"),
        ({"env": None}, "env not a string"),
    ],
)
def test_a_wrong_summary_is_refused_when_written_and_when_read(
    tmp_path: Path, changes: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ValueError, match=fault):
        records.write_summary(tmp_path, summary(**changes))
    records.write_json(tmp_path / "summary.json", summary(**changes) | {"schema_version": 1})
    with pytest.raises(records.RunFolderError, match=fault):
        records.read_summary(tmp_path)


def test_a_summary_without_a_required_name_is_refused(tmp_path: Path) -> None:
    incomplete = summary()
    del incomplete["cpu_s"], incomplete["algo"]
    with pytest.raises(ValueError, match="algo, cpu_s missing"):
        records.write_summary(tmp_path, incomplete)


def test_records_need_nothing_but_the_standard_library() -> None:
    code = (
        "import sys, qbench.records; print(int('numpy' in sys.modules or 'torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_neutral_values_are_left_out_wherever_they_are():
    config = {"replay": {"dtype": "float32", "capacity": 5}, "quant": {"acting": "integer"}, "x": 1}
    expected = {"replay": {"capacity": 5}, "quant": {"acting": "integer"}, "x": 1}
    assert records.without_neutral(config) == expected
    schedule = {"delay_env_steps": 0, "freeze_env_steps": None}
    assert records.without_neutral({"quant": {"schedule": schedule, "bits": {}}}) == {
        "quant": {"bits": {}}
    }
    assert config["replay"]["dtype"] == "float32"


def test_scanning_keeps_whole_rows_and_names_the_damaged_lines(tmp_path):
    row = {"kind": "eval", "seed": 0, "env_step": 5, "wall_s": 0.5, "eval_return_mean": 1.5}
    wrong = [
        "{", "[]", "null", '{"kind": "eval"}', json.dumps(row | {"kind": "other"}),
        json.dumps(row | {"seed": "0"}), json.dumps(row | {"env_step": 1.5}),
        json.dumps(row | {"eval_return_mean": "high"}), json.dumps(row | {"wall_s": 10**400}),
    ]  # fmt: skip
    whole = json.dumps(row)
    text = "\n".join([whole, *wrong, whole, '{"kind": "ev'])
    (tmp_path / "records.jsonl").write_text(text)
    rows, fault = records.scan_records(tmp_path)
    assert rows == [row, row]
    assert fault == (
        f"{tmp_path / 'records.jsonl'}: 9 damaged, left out (line 2, 3, 4, 5, 6, ...)."
    )


def test_lines_that_are_json_only_together_are_damaged(tmp_path):
    row = json.dumps({"kind": "eval", "seed": 0, "env_step": 5, "wall_s": 0.5})
    (tmp_path / "records.jsonl").write_text(f"{row},{row}\n[1\n2]\n{row}\n")
    rows, fault = records.scan_records(tmp_path)
    assert len(rows) == 1
    assert fault.endswith("3 damaged, left out (line 1, 2, 3).")


def test_scanning_a_folder_without_records_finds_nothing(tmp_path):
    assert records.scan_records(tmp_path) == ([], None)
    (tmp_path / "records.jsonl").write_text("")
    assert records.scan_records(tmp_path) == ([], None)


def test_a_number_that_no_float_can_hold_breaks_a_summary(tmp_path):
    summary = dict.fromkeys(records.SUMMARY_KEYS, 0) | dict.fromkeys(records.AXES, "x")
    summary |= {"seeds": [], "memory_bytes": dict.fromkeys(records.MEMORY_KEYS, 0)}
    summary |= {"artifact_bytes": {}, "wall_s": 10**400}
    assert records.summary_fault(summary) == "wall_s not a number"
