"""Whole cells, small: the laws of the loop, what is written, the matrix of choices."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from qbench import records
from qbench.deploy import npz
from qbench.quant.integer import IntegerNetwork
from qbench.quant.layer import QuantLayer
from qbench.train import cli
from qbench.train.build import build
from qbench.train.cell import train_cell
from qbench.train.errors import ConfigError

TINY = (
    "num_seeds=2",
    "total_env_steps=240",
    "network.hidden_sizes=[12,8]",
    "replay.capacity=200",
    "algo.loop.learning_starts=40",
    "algo.loop.batch_size=8",
    "algo.loop.train_frequency=8",
    "algo.loop.gradient_steps=2",
    "algo.loop.target_update_interval=16",
    "algo.loop.exploration.env_steps=100",
    "log_interval_env_steps=50",
    "eval_interval_env_steps=100",
    "checkpoint_interval_env_steps=100",
    "interim_eval_episodes=2",
    "eval_episodes=3",
    "logger=none",
    "formats=[]",
)
TIMES = ("wall_s",)


def compose_config(*overrides):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(cli.conf_dir()), version_base="1.3"):
        own = {override.split("=")[0].lstrip("~+") for override in overrides}
        tiny = [override for override in TINY if override.split("=")[0] not in own]
        if any("network=cnn" in override for override in overrides):
            tiny.remove("network.hidden_sizes=[12,8]")
        overrides = [override for override in overrides if not override.startswith("~")]
        return compose("config", [*tiny, *overrides])


def run(run_dir: Path, *overrides, base_dir=None):
    choices = dict(o.split("=") for o in overrides if o.split("=")[0] in ("env", "quant", "algo"))
    axes = {"env": "cartpole", "network": "mlp", "quant": "none", "algo": "dqn"} | choices
    run_dir.mkdir()
    train_cell(compose_config(*overrides), run_dir, axes, base_dir)
    return run_dir


def rows(run_dir, seed=None):
    """Records without their times, of one seed or all."""
    return [
        {key: value for key, value in row.items() if key not in TIMES}
        for row in records.read_records(run_dir)
        if seed is None or row["seed"] == seed
    ]


def weights(run_dir):
    state = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return {name: value for name, value in state.items() if name.startswith("network.")}


@pytest.fixture(scope="module", params=["none", "qat8"])
def cell(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, run(folder / "cell", f"quant={request.param}")


def test_the_same_settings_give_identical_records_and_weights(cell, tmp_path):
    quant, run_dir = cell
    again = run(tmp_path / "again", f"quant={quant}")
    assert rows(run_dir) == rows(again)
    assert all(torch.equal(v, weights(again)[k]) for k, v in weights(run_dir).items())


@pytest.mark.parametrize("length", [1, 7, 64, 100_000])
def test_the_chunks_length_changes_no_number(cell, tmp_path, length):
    quant, run_dir = cell
    other = run(tmp_path / "other", f"quant={quant}", f"chunk_env_steps={length}")
    assert rows(run_dir) == rows(other)
    assert all(torch.equal(v, weights(other)[k]) for k, v in weights(run_dir).items())


def test_a_seeds_records_are_the_same_in_any_population(cell, tmp_path):
    quant, run_dir = cell
    alone = run(tmp_path / "alone", f"quant={quant}", "seed=1", "num_seeds=1")
    crowd = run(tmp_path / "crowd", f"quant={quant}", "num_seeds=5")
    assert rows(alone) == rows(run_dir, seed=1) == rows(crowd, seed=1)


def test_records_cover_the_budget_and_carry_what_the_schema_asks(cell):
    _, run_dir = cell
    found = records.read_records(run_dir)
    assert {row["kind"] for row in found} == {"train", "episode", "eval", "final"}
    train_steps = sorted({row["env_step"] for row in found if row["kind"] == "train"})
    assert train_steps == [56, 104, 152, 200, 240]
    assert sorted({r["env_step"] for r in found if r["kind"] == "eval"}) == [104, 200]
    episodes = [row for row in found if row["kind"] == "episode" and row["seed"] == 0]
    assert 100 < sum(row["episode_length"] for row in episodes) <= 240
    for row in episodes:
        assert row["episode_return"] == row["episode_length"]


def test_the_summary_is_what_the_converted_networks_scored(cell):
    quant, run_dir = cell
    summary = records.read_summary(run_dir)
    assert summary["quant"] == quant and summary["env_steps"] == 240
    finals = [row for row in rows(run_dir) if row["kind"] == "final"]
    assert [s["eval_returns"] for s in summary["seeds"]] == [row["eval_returns"] for row in finals]
    means = [np.mean(row["eval_returns"]) for row in finals]
    assert summary["return_iqm"] == pytest.approx(np.mean(means))
    # Two seeds drawn twice: the interval ends at the worse and at the better one.
    assert list(summary["return_ci"]) == pytest.approx([min(means), max(means)])
    assert not any(seed["diverged"] for seed in summary["seeds"])
    policy = npz.load(run_dir / "deploy" / "seed_0" / "policy.npz")
    assert isinstance(policy, IntegerNetwork) == (quant != "none")
    size = (run_dir / "deploy" / "seed_0" / "policy.npz").stat().st_size
    assert summary["artifact_bytes"]["npz"] == size


def test_a_seeds_calibration_is_the_same_in_any_population(cell, tmp_path):
    quant, both = cell
    alone = run(tmp_path / "alone", f"quant={quant}", "seed=1", "num_seeds=1")
    one, other = (np.load(d / "calibration" / "seed_1.npz")["obs"] for d in (alone, both))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, np.load(both / "calibration" / "seed_0.npz")["obs"])


def test_a_seed_that_diverged_is_marked_everywhere(tmp_path):
    base = run(tmp_path / "base", "algo.learner.learning_rate=1e30", "algo.learner.loss=squared")
    assert all(s["diverged"] for s in records.read_summary(base)["seeds"])
    assert [r["diverged"] for r in rows(base) if r["kind"] == "train"][-2:] == [True, True]
    ptq = run(tmp_path / "ptq", "quant=ptq8", base_dir=base)
    assert all(s["diverged"] for s in records.read_summary(ptq)["seeds"])


@pytest.mark.parametrize(("scope", "is_quantized"), [("actor", False), ("all", True)])
def test_scope_says_whether_the_critic_is_quantized(scope, is_quantized):
    choices = ("env=pendulum", "algo=ddpg", "quant=qat8", "~algo.loop.exploration.env_steps")
    cfg = compose_config(*choices, f"quant.scope={scope}")
    learner = build(cfg).learner
    found = {
        name: any(isinstance(m, QuantLayer) for m in network.modules())
        for name, network in learner.trained().items()
    }
    assert sorted(found.values()) == sorted([True, is_quantized])
    assert any(isinstance(m, QuantLayer) for m in learner.network.modules())


def test_integers_agree_on_the_agents_own_replay(tmp_path):
    run_dir = run(tmp_path / "cell", "quant=qat8", "network.hidden_sizes=[64,64]")
    for seed in records.read_summary(run_dir)["seeds"]:
        found = seed["agreement"]
        assert found["rows"] == 10_000
        assert found["holds"] is True
        assert found["rows_with_a_differing_code"] <= 0.005
        assert found["max_output_error"] <= 1.0  # of 8 bits


def test_calibration_holds_10000_observations_of_each_seed(cell):
    _, run_dir = cell
    with np.load(run_dir / "calibration" / "seed_1.npz") as stored:
        assert stored["obs"].shape == (10_000, 4) and stored["obs"].dtype == np.float32


def test_float_and_prepared_checkpoints_share_keys(tmp_path):
    plain = set(weights(run(tmp_path / "none", "quant=none")))
    prepared = set(weights(run(tmp_path / "qat8", "quant=qat8")))
    assert plain < prepared
    assert {name.rsplit(".", 1)[1] for name in prepared - plain} == {"input_range"}


def test_ptq_takes_the_agents_of_the_none_cell(tmp_path):
    base = run(tmp_path / "none", "quant=none")
    before = (base / "summary.json").read_bytes()
    ptq = run(tmp_path / "ptq8", "quant=ptq8", base_dir=base)
    summary = records.read_summary(ptq)
    assert summary["base_cell"] == "none" and summary["env_steps_per_s"] == 0
    assert summary["memory_bytes"]["gradients"] == summary["memory_bytes"]["replay"] == 0
    assert (base / "summary.json").read_bytes() == before
    assert {row["kind"] for row in rows(ptq)} == {"final"}


def test_ptq_quantizes_each_seed_on_its_own_replay(tmp_path):
    base = run(tmp_path / "none", "quant=none")
    ptq = run(tmp_path / "ptq8", "quant=ptq8", base_dir=base)
    for seed in (0, 1):
        with np.load(base / "calibration" / f"seed_{seed}.npz") as stored:
            low, high = (f(stored["obs"], axis=0) for f in (np.min, np.max))
        plain = npz.load(base / "deploy" / f"seed_{seed}" / "policy.npz").arrays()
        policy = npz.load(ptq / "deploy" / f"seed_{seed}" / "policy.npz").arrays()
        reach = np.maximum(high, 0) - np.minimum(low, 0)
        np.testing.assert_allclose(policy["input_inverse_scale"], 255 / reach, rtol=1e-5)
        folded = plain["0.weight"] * reach / 255
        scale = np.abs(folded).max(axis=1, keepdims=True) / 127
        np.testing.assert_allclose(policy["0.weight"], folded / scale, atol=0.51)


def test_ptq_may_take_some_of_the_seeds(tmp_path):
    base = run(tmp_path / "none", "quant=none")
    both = run(tmp_path / "both", "quant=ptq8", base_dir=base)
    second = run(tmp_path / "second", "quant=ptq8", "seed=1", "num_seeds=1", base_dir=base)
    assert rows(second) == rows(both, seed=1)


def test_a_checkpoint_of_another_architecture_is_named(tmp_path):
    base = run(tmp_path / "none", "quant=none")
    with pytest.raises(ConfigError, match="holds another architecture"):
        run(tmp_path / "ptq", "quant=ptq8", "network.hidden_sizes=[12,9]", base_dir=base)
    (base / "checkpoints" / "last.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(ConfigError, match="is not a checkpoint of qbench"):
        run(tmp_path / "ptq2", "quant=ptq8", base_dir=base)


def test_steps_are_learned_from_the_end_of_a_delay_on(tmp_path):
    found = {}
    for delay in (60, 110):
        schedule = f"quant.schedule.delay_env_steps={delay}"
        found[delay] = weights(run(tmp_path / f"{delay}", "quant=lsq4", schedule))
    steps = [name for name in found[60] if "step" in name]
    assert len(steps) == 5  # the observation's range is observed
    assert all(found[60][name].isfinite().all() for name in steps)
    assert not torch.equal(found[60][steps[0]], found[110][steps[0]])


def test_missing_base_seeds_are_named(tmp_path):
    base = run(tmp_path / "none", "quant=none")
    with pytest.raises(ConfigError, match=r"has no seeds \[2\]"):
        run(tmp_path / "ptq", "quant=ptq8", "num_seeds=3", base_dir=base)


def test_a_budget_of_episodes_scores_each_seed_as_it_was_then(tmp_path):
    run_dir = run(tmp_path / "cell", "total_episodes=5", "total_env_steps=2000")
    found = records.read_records(run_dir, "episode")
    ends = {}
    for seed in (0, 1):
        own = [row for row in found if row["seed"] == seed]
        assert len(own) == 5
        ends[seed] = own[-1]["env_step"]
    for row in records.read_records(run_dir, "train"):
        assert row["env_step"] <= ends[row["seed"]] + 56
    early = min(ends, key=ends.get)
    alone = run(
        tmp_path / "alone",
        "total_episodes=5",
        "total_env_steps=2000",
        f"seed={early}",
        "num_seeds=1",
    )
    one = {name: value[0] for name, value in weights(alone).items()}
    both = {name: value[early] for name, value in weights(run_dir).items()}
    assert all(torch.equal(one[name], both[name]) for name in one)


def loss_bytes(batch):
    """Actions (int64), the values of both actions, and the errors of the chosen ones."""
    return 8 * batch + 4 * (2 + 1) * batch


def test_the_ledger_equals_hand_counted_bytes(tmp_path):
    run_dir = run(tmp_path / "cell", "quant=none")
    ledger = records.read_summary(run_dir)["memory_bytes"]
    num_parameters = 4 * 12 + 12 + 12 * 8 + 8 + 8 * 2 + 2  # 182, padded to 192 where flat
    assert ledger["weights"] == ledger["target"] == 4 * num_parameters
    assert ledger["gradients"] == 4 * 192
    assert ledger["optimizer"] == 2 * 4 * 192
    assert ledger["replay"] == 200 * 4 * (4 + 4 + 3)
    assert ledger["other"] == 4 * 192  # averaged weights
    batch = 8
    obs, hidden = batch * 4, batch * 12 + batch * 8  # inputs and ReLU outputs, float32
    assert ledger["activations"] == 4 * (obs + hidden) + loss_bytes(batch)


def test_bfloat16_halves_what_layers_keep_and_leaves_weights_float32(tmp_path):
    full = run(tmp_path / "full")
    half = run(tmp_path / "half", "trainer.precision=bfloat16")
    kept, mixed = (records.read_summary(run_dir)["memory_bytes"] for run_dir in (full, half))
    batch = 8
    inputs = batch * 4 + batch * (12 + 8)  # of every layer
    weights = 12 * 8 + 8 * 2  # bfloat16 copies, where a gradient goes on to the input
    values = 8 * batch + (2 * 2 + 4) * batch  # actions, values of both, errors
    assert kept["activations"] == 4 * inputs + loss_bytes(batch)
    assert mixed["activations"] == 2 * inputs + 2 * weights + values
    assert mixed["weights"] == kept["weights"]
    losses = [[row["loss"] for row in rows(d) if row["kind"] == "train"] for d in (full, half)]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.1)


@pytest.mark.parametrize(("saved", "first", "hidden"), [("codes", 1, 2), ("floats", 4, 4)])
def test_qat_keeps_codes_beside_the_floats(tmp_path, saved, first, hidden):
    run_dir = run(tmp_path / "cell", "quant=qat8", f"quant.saved={saved}")
    ledger = records.read_summary(run_dir)["memory_bytes"]
    batch, sizes = 8, [(4, 12), (12, 8), (8, 2)]
    # Codes of hidden layers also say which were clamped; the observation gets no gradient.
    codes = batch * (first * 4 + hidden * (12 + 8))
    relu = 4 * batch * (12 + 8)
    assert ledger["activations"] == codes + relu + loss_bytes(batch)
    # Averaged weights, ranges, and twice, for the online network and the target, what is cached.
    weight_codes = sum(4 * (fan_in * fan_out + 2 * fan_out) for fan_in, fan_out in sizes)
    grids = 2 * 4 * (4 + 1 + 1)  # scale and zero, which is also the centre
    ranges = 2 * 4 * (4 + 1 + 1)
    assert ledger["other"] == 4 * 192 + 2 * (ranges + weight_codes + grids)


INTEGERS = (
    "quant=qat8",
    "quant.acting=integer",
    "quant.acting_refresh_updates=5",
    "replay.dtype=uint8",
    "algo.loop.target_dtype=int8",
    "algo.loop.tau=1",
)


@pytest.fixture(scope="module")
def integers(tmp_path_factory):
    return run(tmp_path_factory.mktemp("integers") / "cell", *INTEGERS)


def test_integers_in_training_in_the_ledger_by_hand(integers):
    ledger = records.read_summary(integers)["memory_bytes"]
    weights, units = 4 * 12 + 12 * 8 + 8 * 2, 12 + 8 + 2
    # Observations of a byte, grids of two doubles; action, reward and terminated are floats.
    assert ledger["replay"] == 200 * (2 * 4 + 3 * 4) + 2 * 8 * 4
    assert ledger["target"] == weights + 4 * 2 * units  # bytes, and biases and scales
    ranges, grids = 2 * 4 * (4 + 1 + 1), 4 * (4 + 1 + 1)
    online = ranges + 2 * grids + 4 * (weights + 2 * units)
    acting = 4 * weights + (8 + 4) * units + 8 * (3 * (12 + 8) + 2)
    averaged = 4 * 192
    assert ledger["other"] == averaged + online + 4 * grids + acting


def test_integers_in_training_keep_seeds_apart_and_ignore_the_chunks_length(integers, tmp_path):
    changes = ("seed=1", "num_seeds=1", "chunk_env_steps=7")
    alone = run(tmp_path / "alone", *INTEGERS, *changes)
    assert rows(alone) == rows(integers, seed=1)


@pytest.mark.parametrize("acting", ["integer", "float"])
def test_what_acts_does_not_change_evaluations_of_the_same_weights(tmp_path, acting):
    # Before the first update every policy is the same learner; 100 % random actions hide it later.
    still = ("quant=qat8", "algo.loop.exploration.end=1.0", f"quant.acting={acting}")
    fake, other = run(tmp_path / "fake", *still[:2]), run(tmp_path / "other", *still)
    assert rows(fake) == rows(other)


def test_the_offline_wandb_run_holds_the_same_numbers(tmp_path):
    run_dir = run(tmp_path / "cell", "logger=offline")
    files = list((run_dir / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 1 and files[0].stat().st_size > 1000


@pytest.mark.parametrize("quant", sorted(p.stem for p in (cli.conf_dir() / "quant").glob("*.yaml")))
@pytest.mark.parametrize("env", ["cartpole", "pendulum", "minatar_breakout"])
def test_whole_cells_of_every_kind_with_every_scheme(tmp_path, env, quant):
    kind = {
        "cartpole": (),
        "pendulum": ("algo=ddpg", "~algo.loop.exploration.env_steps"),
        "minatar_breakout": ("network=cnn_minatar", "env.max_episode_steps=50"),
    }[env]
    if env == "minatar_breakout":
        pytest.importorskip("minatar", reason="the minatar extra is not installed")
    small = (*kind, "num_seeds=1", "total_env_steps=48", "eval_episodes=1")
    base = None
    if quant.startswith("ptq"):
        base = run(tmp_path / "base", f"env={env}", *small)
    summary = records.read_summary(
        run(tmp_path / "cell", f"env={env}", f"quant={quant}", *small, base_dir=base)
    )
    assert np.isfinite(summary["return_iqm"])
    json.dumps(summary, allow_nan=False)


def test_a_network_that_cannot_be_converted_is_refused_before_training(tmp_path, monkeypatch):
    from torch import nn

    from qbench.network import mlp

    class Odd(mlp.MLP):
        def forward(self, obs):
            return nn.functional.gelu(self.layers(obs))

    monkeypatch.setattr(mlp, "MLP", Odd)
    with pytest.raises(ConfigError, match="cannot take the operation gelu"):
        run(tmp_path / "cell")
    assert not (tmp_path / "cell" / "records.jsonl").exists()


def test_a_class_that_cannot_be_imported_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere.Toy cannot be imported: add its folder"):
        run(tmp_path / "cell", "network._target_=nowhere.Toy")
