"""A training that is stopped and continued is the one that was never stopped, bit for bit."""

import errno
import os
from pathlib import Path

import pytest
import torch

from qbench import records
from qbench.env import retrace
from qbench.train import agents, callbacks, cell, checkpoint, merge, points
from qbench.train.stop import Stop, Stopped
from tests.train.test_cell import compose_config, rows, run, weights

AXES = {"env": "cartpole", "network": "mlp", "quant": "none", "algo": "dqn"}


class StopAt(Stop):
    """Asks to stop at some of the times at which it is asked."""

    def __init__(self, *numbers):
        super().__init__()
        self.asked = 0
        self.numbers = numbers

    def check(self):
        self.asked += 1
        if self.asked in self.numbers:
            raise Stopped


def attempt(run_dir: Path, stop, *overrides, base_dir=None):
    """One go at a cell; whether it was stopped."""
    run_dir.mkdir(exist_ok=True)
    try:
        cell.train_cell(compose_config(*overrides), run_dir, AXES, base_dir, stop)
    except Stopped:
        return True
    return False


def until_done(run_dir, *overrides):
    """Go on until the end, stopped sooner or later each time; the number of stops."""
    count = 0
    while attempt(run_dir, StopAt(15 + 15 * count), *overrides):
        count += 1
        assert count < 100
    return count


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A cell that was never stopped."""
    return run(tmp_path_factory.mktemp("whole") / "cell")


DDPG = (
    "env=pendulum",
    "algo=ddpg",
    "~algo.loop.exploration.env_steps",
    "algo.learner.policy_frequency=2",
)
PIXELS = ("env=cartpole_pixels", "network=cnn", "num_seeds=1", "env.screen_size=36",
          "replay.capacity=60", "total_env_steps=120")  # fmt: skip
SLOW = pytest.mark.slow
KINDS = [
    pytest.param(("total_episodes=8", "algo.loop.average_weight=0.5"), id="episodes"),
    pytest.param(
        (
            "num_seeds=4",
            "quant=qat8",
            "quant.acting=integer",
            "quant.acting_refresh_updates=3",
            "replay.dtype=uint8",
        ),
        id="codes",
    ),
    pytest.param(
        ("quant=lsq4", "algo.loop.average_weight=0.5"),
        id="learned",
        marks=SLOW,
    ),
    pytest.param(
        ("quant=qat8", "quant.schedule.delay_env_steps=60", "quant.schedule.freeze_env_steps=130"),
        id="phases",
        marks=SLOW,
    ),
    pytest.param(
        (
            "quant=qat8",
            "algo.loop.target_dtype=int8",
            "algo.loop.tau=1",
            "algo.learner.moments_dtype=uint8",
        ),
        id="bytes",
        marks=SLOW,
    ),
    pytest.param((*DDPG, "quant=qat8", "quant.scope=all"), id="ddpg", marks=SLOW),
    pytest.param(PIXELS, id="pixels", marks=SLOW),
]


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_and_continued_is_never_stopped(tmp_path, kind):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert not attempt(whole, Stop(), *kind)
    assert until_done(broken, *kind) >= 1
    assert rows(broken) == rows(whole)
    ours, theirs = weights(broken), weights(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for found in (broken / "calibration").iterdir():
        assert found.read_bytes() == (whole / "calibration" / found.name).read_bytes()
    assert [path.name for path in (broken / "checkpoints").iterdir()] == ["last.ckpt"]
    assert records.read_summary(broken)["continued_at"]


def test_a_training_that_has_ended_is_scored_without_being_trained_again(
    whole, tmp_path, monkeypatch
):
    broken = tmp_path / "broken"
    with monkeypatch.context() as patched:
        patched.setattr(cell, "_deploy", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            attempt(broken, Stop())
        assert points.find(broken) == []
    monkeypatch.setattr(agents, "build", lambda cfg: pytest.fail("it is trained again"))
    attempt(broken, Stop())
    assert rows(broken) == rows(whole)
    ours, theirs = (records.read_summary(path)["seeds"] for path in (broken, whole))
    assert ours == theirs


def test_rows_after_the_checkpoint_come_again_and_once(whole, tmp_path):
    broken = tmp_path / "broken"
    assert attempt(broken, StopAt(15))
    extra = {"kind": "train", "seed": 0, "env_step": 10**6, "wall_s": 0.0}
    records.append_records(broken, [extra])
    assert not attempt(broken, Stop())
    assert rows(broken) == rows(whole)


def test_a_stop_in_the_last_evaluation_leaves_it_and_the_end_to_do(whole, tmp_path, monkeypatch):
    broken, played = tmp_path / "broken", []

    def play(*args, **kwargs):
        played.append(args)
        if len(played) == 2:  # at env steps 100 and 200
            raise Stopped
        return real(*args, **kwargs)

    real = callbacks.play
    monkeypatch.setattr(callbacks, "play", play)
    assert attempt(broken, Stop())
    (point,) = points.find(broken)
    assert point.env_step == 200
    assert not attempt(broken, Stop())
    assert rows(broken) == rows(whole)
    ours, theirs = weights(broken), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    memory = [records.read_summary(path)["memory_bytes"] for path in (broken, whole)]
    assert memory[0] == memory[1]


def test_agents_are_scored_again_without_their_rows_coming_twice(whole, tmp_path):
    broken = tmp_path / "broken"
    assert not attempt(broken, Stop())
    (broken / "summary.json").unlink()
    assert not attempt(broken, Stop())
    assert rows(broken) == rows(whole)


def test_joined_seeds_without_their_summary_are_trained_anew(tmp_path, capsys):
    later = tmp_path / "later"
    for num_seeds in (1, 2):
        assert not attempt(later, Stop(), f"num_seeds={num_seeds}")
    before = rows(later)
    (later / "summary.json").unlink()
    assert not attempt(later, Stop(), "num_seeds=2")
    assert "holds the seeds of several trainings" in capsys.readouterr().out
    assert sorted(map(str, rows(later))) == sorted(map(str, before))


@pytest.mark.parametrize("name", ["state.pt", "replay.npz"])
def test_a_damaged_checkpoint_is_named_and_the_training_begins_anew(whole, tmp_path, capsys, name):
    broken = tmp_path / "broken"
    assert attempt(broken, StopAt(15))
    (point,) = points.find(broken)
    content = bytearray((point.folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (point.folder / name).write_bytes(content)
    assert not attempt(broken, Stop())
    assert "it is not continued from" in capsys.readouterr().out
    assert rows(broken) == rows(whole)
    assert records.read_summary(broken)["continued_at"] == []


def test_a_checkpoint_does_not_outlive_its_records(whole, tmp_path, capsys):
    broken = tmp_path / "broken"
    assert attempt(broken, StopAt(15))
    path = broken / "records.jsonl"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1', 1))
    assert not attempt(broken, Stop())
    assert "does not belong to the records.jsonl beside it" in capsys.readouterr().out
    assert len(rows(broken, seed=0)) == len(rows(whole, seed=0))


def test_an_env_that_does_not_do_the_same_again_begins_anew(whole, tmp_path, capsys, monkeypatch):
    broken = tmp_path / "broken"
    assert attempt(broken, StopAt(15))
    with monkeypatch.context() as patched:
        patched.setattr(retrace.Retraced, "_load_random_state", lambda self, state: None)
        assert not attempt(broken, Stop())
    said = capsys.readouterr().out
    assert said.count("cannot be continued exactly and begins anew: an env") == 1
    assert rows(broken) == rows(whole)


def test_a_full_disk_costs_a_checkpoint_and_no_training(whole, tmp_path, capsys, monkeypatch):
    broken = tmp_path / "broken"

    def write_arrays(path, arrays):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "write_arrays", write_arrays)
    assert not attempt(broken, Stop())
    assert "No checkpoint at env step 104: No space left on device." in capsys.readouterr().out
    assert rows(broken) == rows(whole)


def test_more_seeds_later_are_those_of_one_training(tmp_path):
    together, later = run(tmp_path / "together", "num_seeds=3"), tmp_path / "later"
    run(later, "num_seeds=1")
    first = (later / "deploy" / "seed_0" / "policy.npz").read_bytes()
    assert attempt(later, StopAt(15), "num_seeds=3")
    assert records.read_summary(later)["num_seeds"] == 1
    assert not attempt(later, Stop(), "num_seeds=3")
    assert (later / "deploy" / "seed_0" / "policy.npz").read_bytes() == first
    assert not (later / "more").exists()
    for seed in range(3):
        assert rows(later, seed) == rows(together, seed)
        name = Path("calibration") / f"seed_{seed}.npz"
        assert (later / name).read_bytes() == (together / name).read_bytes()
    ours, theirs = (records.read_summary(path) for path in (later, together))
    for key in ("num_seeds", "seeds", "return_iqm", "return_ci", "artifact_bytes"):
        assert ours[key] == theirs[key]
    assert [part["seeds"] for part in ours["parts"]] == [[0], [1, 2]]
    assert all(
        torch.equal(value, weights(together)[name]) for name, value in weights(later).items()
    )
    card = (later / "deploy" / "seed_0" / "model_card.md").read_text()
    assert "over the 3 seeds of its cell" in card


def test_a_merge_that_was_cut_off_at_its_very_end_is_ended(tmp_path):
    cut_off = tmp_path / "cut_off"
    run(cut_off, "num_seeds=1")
    assert attempt(cut_off, StopAt(15), "num_seeds=2")
    assert not attempt(cut_off, Stop(), "num_seeds=2")
    summary = records.read_summary(cut_off)
    run(tmp_path / "more", "seed=1", "num_seeds=1")
    (tmp_path / "more").rename(cut_off / "more")
    merge.merge(cut_off, cut_off / "more", None)
    assert not (cut_off / "more").exists()
    assert records.read_summary(cut_off) == summary


def test_a_merged_cell_is_quantized_with_all_its_seeds(tmp_path):
    base = run(tmp_path / "base", "num_seeds=1")
    run_dir = tmp_path / "ptq"
    run(run_dir, "quant=ptq8", "num_seeds=1", base_dir=base)
    attempt(base, Stop(), "seed=3", "num_seeds=2")
    assert not attempt(run_dir, Stop(), "quant=ptq8", "seed=3", "num_seeds=2", base_dir=base)
    alone = run(tmp_path / "alone", "quant=ptq8", "seed=4", "num_seeds=1", base_dir=base)
    ours = {entry["seed"]: entry for entry in records.read_summary(run_dir)["seeds"]}
    assert sorted(ours) == [0, 3, 4]
    (theirs,) = records.read_summary(alone)["seeds"]
    assert ours[4] == theirs
