"""Files that were cut off or changed: one clear error or a skip, and never another number."""

import contextlib
import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qbench import records
from qbench.report.folders import BROKEN, load_cell
from qbench.train import cells, checkpoint, job, points
from qbench.train.errors import ConfigError
from tests.train.test_cells import summary

STATE = {"seeds": [0, 1], "state_dict": {"w": torch.arange(600.0)}, "nested": {"rate": 0.25}}
ROWS = [{"kind": "train", "seed": s, "env_step": 9, "wall_s": 0.5, "loss": 1.25} for s in (0, 1)]
FILES = ("status.json", "summary.json", "records.jsonl", ".hydra/config.yaml")

damage = st.one_of(
    st.tuples(st.just("cut"), st.integers(0, 2**20), st.just(0)),
    st.tuples(st.just("change"), st.integers(0, 2**20), st.integers(1, 255)),
    st.tuples(st.just("insert"), st.integers(0, 2**20), st.integers(0, 255)),
    st.tuples(st.just("blank"), st.integers(0, 2**20), st.integers(1, 4096)),
)


def damaged(content, how):
    kind, place, value = how
    content, place = bytearray(content), place % max(len(content), 1)
    if kind == "cut":
        return bytes(content[:place])
    if kind == "change":
        content[place] ^= value
    elif kind == "insert":
        content.insert(place, value)
    else:
        end = min(place + value, len(content))
        content[place:end] = bytes(end - place)
    return bytes(content)


def cases(number):
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=number, deadline=None, suppress_health_check=quiet, database=None)


def checkpoints_are_read_whole_or_refused(folder, how):
    path, arrays_path = folder / "last.ckpt", folder / "replay.npz"
    array = np.arange(2 * 300 * 3, dtype=np.float32).reshape(2, 300, 3)
    checkpoint.write(path, STATE)
    checkpoint.write_arrays(arrays_path, {"rows": array})
    for each in (path, arrays_path):
        each.write_bytes(damaged(each.read_bytes(), how))
    try:
        state = checkpoint.read(path)
    except checkpoint.Damaged:
        pass
    else:
        assert torch.equal(state["state_dict"]["w"], STATE["state_dict"]["w"])
        assert state["nested"] == STATE["nested"] and state["seeds"] == STATE["seeds"]
    found = np.zeros_like(array)
    try:
        checkpoint.check(arrays_path)
        checkpoint.read_arrays(arrays_path, {"rows": found})
    except checkpoint.Damaged:
        return
    assert (found == array).all()


def folders_are_read_or_called_broken(run_dir, name, how):
    records.write_status(run_dir, "done")
    records.write_json(run_dir / "summary.json", summary([0, 1]))
    records.write_text(run_dir / "records.jsonl", "")
    records.append_records(run_dir, ROWS)
    records.write_text(run_dir / ".hydra" / "config.yaml", "seed: 0\nalgo:\n  gamma: 0.5\n")
    records.write_text(run_dir / ".hydra" / "hydra.yaml", "hydra: {}\n")
    path = run_dir / name
    path.write_bytes(damaged(path.read_bytes(), how))
    cell = load_cell(run_dir)
    assert cell.state in (*records.STATES, BROKEN)
    assert cell.state != BROKEN or str(run_dir) in cell.reason
    with contextlib.suppress(records.RunFolderError):
        assert all(row["kind"] in records.RECORD_KINDS for row in records.read_records(run_dir))
    stored = cells.stored_config(run_dir)
    assert stored is None or isinstance(stored, dict)
    with contextlib.suppress(ConfigError):
        job.load_config(run_dir)


@cases(25)
@given(how=damage)
def test_a_damaged_checkpoint_is_read_whole_or_refused(tmp_path, how):
    checkpoints_are_read_whole_or_refused(tmp_path, how)


@cases(25)
@given(how=damage, name=st.sampled_from(FILES))
def test_a_damaged_folder_is_read_or_called_broken(tmp_path, how, name):
    folders_are_read_or_called_broken(tmp_path, name, how)


@pytest.mark.slow
@cases(1000)
@given(how=damage)
def test_a_thousand_damaged_checkpoints(tmp_path, how):
    checkpoints_are_read_whole_or_refused(tmp_path, how)


@pytest.mark.slow
@cases(1000)
@given(how=damage, name=st.sampled_from(FILES))
def test_a_thousand_damaged_folders(tmp_path, how, name):
    folders_are_read_or_called_broken(tmp_path, name, how)


def test_a_point_that_is_half_written_is_none(tmp_path):
    (tmp_path / "checkpoints" / ".resume.tmp").mkdir(parents=True)
    with contextlib.suppress(OSError), points.new(tmp_path, 7) as folder:
        (folder / "state.pt").write_bytes(b"x")
        raise OSError("full")
    assert points.find(tmp_path) == [] and os.listdir(tmp_path / "checkpoints") == []
    with points.new(tmp_path, 7) as folder:
        (folder / "state.pt").write_bytes(b"x")
    with points.new(tmp_path, 7) as folder:
        (folder / "state.pt").write_bytes(b"y")
    (point,) = points.find(tmp_path)
    assert (point.number, point.env_step) == (1, 7)
    assert (point.folder / "state.pt").read_bytes() == b"y"
