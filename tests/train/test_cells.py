"""Names, folders and bases of cells."""

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from qbench import records
from qbench.train import cells


def name(composed, *overrides):
    return cells.cell_name(composed(*overrides))


def test_a_name_is_the_four_axes_and_eight_hex_digits(composed):
    assert re.fullmatch(r"lunarlander-mlp-qat4-dqn-[0-9a-f]{8}",
                        name(composed, "env=lunarlander", "quant=qat4"))  # fmt: skip


def test_an_alias_is_the_cell_that_it_stands_for(composed):
    assert name(composed, "quant=ptq") == name(composed, "quant=ptq8")
    assert cells.axes_of(composed("quant=ptq"))["quant"] == "ptq8"


@pytest.mark.parametrize(
    "override",
    ["seed=5", "num_seeds=2", "n_jobs=3", "logger=none", "sweep=other", "chunk_env_steps=7"],
)
def test_what_changes_no_number_changes_no_name(composed, override):
    assert name(composed, override) == name(composed)


@pytest.mark.parametrize(
    "override",
    ["algo.learner.learning_rate=0.002", "total_env_steps=9", "+env.kwargs.x=1", "trainer=gpu"],
)
def test_every_other_setting_is_another_cell(composed, override):
    assert name(composed, override) != name(composed)


def test_the_spelling_of_a_number_does_not_matter(composed):
    assert name(composed, "algo.learner.gamma=1") == name(composed, "algo.learner.gamma=1.0")


def test_a_gym_env_is_called_by_its_id(composed):
    cfg = composed("env=gym", "env.id=phys2d/CartPole-v1")
    assert cells.axes_of(cfg)["env"] == "phys2d-CartPole-v1"
    assert cells.cell_name(cfg).startswith("phys2d-CartPole-v1-mlp-none-dqn-")


def test_the_folder_is_the_same_alone_and_in_a_sweep(composed):
    alone = cells.from_config(composed("sweep=s", "quant=qat8"))
    swept = cells.from_config(composed("sweep=s", "quant=qat8", "hydra.mode=MULTIRUN"))
    assert alone.run_dir == swept.run_dir == Path("multirun/s") / alone.name


def test_the_base_of_a_ptq_cell_is_the_none_cell_of_the_same_settings(composed):
    ptq = cells.from_config(
        composed("quant=ptq4", "quant.weights.bits=3", "algo.learner.gamma=0.1")
    )
    none = cells.from_config(composed("algo.learner.gamma=0.1"))
    base = cells.base_of(ptq)
    assert base.run_dir == none.run_dir
    assert cells.plain(base.cfg, ("hydra",)) == cells.plain(none.cfg, ("hydra",))
    assert list(base.cfg.hydra.overrides.task) == ["algo.learner.gamma=0.1", "quant=none"]
    assert ptq.axes["quant"] == "ptq4"


@pytest.mark.parametrize("quant", ["none", "qat8"])
def test_a_trained_scheme_needs_no_base(composed, quant):
    assert cells.base_of(cells.from_config(composed(f"quant={quant}"))) is None


def summary(seeds):
    content = dict.fromkeys(records.SUMMARY_KEYS)
    content |= dict.fromkeys(records.AXES, "x") | {"artifact_bytes": {}}
    content["memory_bytes"] = dict.fromkeys(records.MEMORY_KEYS, 0)
    content["seeds"] = [{"seed": s, "eval_returns": [], "eval_return_mean": 0.0} for s in seeds]
    return content


@pytest.mark.parametrize(
    ("state", "trained", "done"),
    [("done", [0, 1, 2, 3], True), ("done", [0, 1], False), ("failed", [0, 1, 2], True)],
)
def test_a_cell_is_done_when_every_seed_asked_for_is(composed, tmp_path, state, trained, done):
    cell = cells.Cell(composed("num_seeds=3"), tmp_path)
    assert not cells.is_done(cell)
    records.write_status(tmp_path, state)
    records.write_summary(tmp_path, summary(trained))
    assert cells.is_done(cell) is done


@pytest.mark.parametrize(
    ("key", "choices"),
    [
        ("env.invert", ["env=lunarlander_pixels"]),
        ("trainer.cuda_graphs", ["trainer=gpu"]),
        ("replay.dtype", ["env=pendulum", "algo=ddpg"]),
        ("algo.loop.target_dtype", ["env=lunarlander", "quant=ptq8"]),
        ("algo.learner.moments_dtype", []),
        ("quant.saved", ["quant=qat8"]),
        ("quant.acting", ["quant=qat4"]),
        ("quant.acting_refresh_updates", ["quant=qat8"]),
    ],
)
def test_a_key_at_its_neutral_value_leaves_older_names_as_they_were(composed, key, choices):
    neutral, other = composed(*choices), composed(*choices)
    older = composed(*choices)
    node, _, leaf = key.rpartition(".")
    assert OmegaConf.select(neutral, key) == records.NEUTRAL[key]
    with cells.writable(older), cells.writable(other):
        del OmegaConf.select(older, node)[leaf]
        OmegaConf.select(other, node)[leaf] = 7
    assert cells.cell_name(older) == cells.cell_name(neutral) != cells.cell_name(other)


def test_every_neutral_value_is_the_default(composed):
    whole = composed("env=lunarlander_pixels", "quant=qat8", "trainer=gpu")
    assert {key: OmegaConf.select(whole, key) for key in records.NEUTRAL} == records.NEUTRAL
