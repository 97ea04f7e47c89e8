"""`python -m qbench.evaluate` on real folders, on changed ones, and on folders that are none."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml

from qbench import records
from qbench.deploy import c
from qbench.deploy.__main__ import main as deploy
from qbench.evaluate.__main__ import main
from tests.deploy.cells import finished

ACROBOT = {
    "_target_": "qbench.env.gym.GymnasiumEnv",
    "id": "Acrobot-v1",
    "kwargs": {},
    "stepping": "serial",
}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A float cell, and two that are quantized in training and after it."""
    folder = tmp_path_factory.mktemp("sweep")
    none = finished(folder / "none")
    cells = [none, finished(folder / "ptq4", "quant=ptq4", base_dir=none)]
    cells.append(finished(folder / "qat8", "quant=qat8"))
    for run_dir in cells:
        assert deploy([str(run_dir)]) == 0
    return folder


@pytest.fixture
def copied(sweep, tmp_path):
    return shutil.copytree(sweep, tmp_path / "sweep")


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def refused(capsys, *arguments):
    """The one sentence of a refusal."""
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def change_config(run_dir, *keys, value):
    path = run_dir / ".hydra" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    node = config
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    path.write_text(yaml.safe_dump(config))


@pytest.mark.parametrize("name", ["none", "ptq4", "qat8"])
def test_it_plays_the_stored_networks_to_the_same_returns(sweep, capsys, name):
    assert main([str(sweep / name), "--episodes", "3"]) == 0
    *rows, speed = lines(capsys)
    assert speed.endswith("actions/s with numpy, the env's steps included")
    for row, seed in zip(rows, records.read_summary(sweep / name)["seeds"], strict=True):
        lengths = seed["eval_lengths"]
        assert row.startswith(f"seed {seed['seed']}: return {np.mean(seed['eval_returns']):.1f} ")
        assert f"length {np.mean(lengths):.0f} ({min(lengths)} to {max(lengths)})" in row


@pytest.mark.parametrize("name", ["none", "ptq4", "qat8"])
@pytest.mark.parametrize("runtime", ["torch", "onnx", "c"])
def test_every_runtime_plays_the_same_episodes(sweep, capsys, name, runtime):
    pytest.importorskip("onnxruntime", reason="the deploy extra is not installed")
    if runtime == "c" and name == "none":
        error = refused(capsys, sweep / name, "--runtime", "c")
        assert error == "c takes integer networks only, not a FloatNetwork.\n"
        return
    if runtime == "c" and c.compiler() is None:
        pytest.skip("no gcc")
    arguments = [str(sweep / name), "--episodes", "3", "--seed", "1"]
    assert main(arguments) == 0
    expected = lines(capsys)[:-1]
    assert len(expected) == 1
    assert main([*arguments, "--runtime", runtime]) == 0
    assert lines(capsys)[:-1] == expected


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda d: (d / "summary.json").unlink(), "is not finished: it has no summary.json"),
        (lambda d: change_config(d, "env", "id", value="os:X"), "texts with ':' can import code"),
        (
            lambda d: change_config(d, "env", "kwargs", value={"env_id": "os:X"}),
            "texts with ':' can import code",
        ),
        (lambda d: (d / ".hydra" / "config.yaml").write_text("a: b"), "does not name an env"),
        (lambda d: (d / ".hydra" / "config.yaml").write_text("[:"), "config.yaml cannot be read"),
        (lambda d: (d / "deploy" / "seed_0" / "policy.npz").write_bytes(b"x"), "not a policy"),
        (
            lambda d: (d / "deploy" / "seed_0" / "policy.npz").unlink(),
            "is not there: published cells hold",
        ),
        (
            lambda d: change_config(d, "env", value=ACROBOT),
            "not a policy that qbench wrote: layer 0 has weights [12, 4] and biases [12], and its",
        ),
    ],
)
def test_what_cannot_be_played_is_one_sentence(copied, capsys, spoil, sentence):
    spoil(copied / "qat8")
    assert sentence in refused(capsys, copied / "qat8")


def test_a_folder_that_is_no_run_is_named(tmp_path, capsys):
    assert "is not a run folder" in refused(capsys, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--episodes", "0"], "--episodes is 0"),
        (["--seed", "7"], "--seed 7 is not in"),
        (["--render", "x.png"], "neither a .gif nor a .mp4"),
        (["--render", "/no/such/x.gif"], "there is no folder"),
        (["--render", "x.gif", "--diagnose"], "two things"),
    ],
)
def test_what_cannot_be_asked_for_is_one_sentence(sweep, capsys, arguments, sentence):
    assert sentence in refused(capsys, sweep / "qat8", *arguments)


# What a stranger may have changed.


@pytest.mark.parametrize("runtime", ["onnx", "c"])
def test_a_changed_file_is_not_played(copied, capsys, runtime):
    pytest.importorskip("onnxruntime", reason="the deploy extra is not installed")
    folder = copied / "qat8" / "deploy" / "seed_0"
    path = folder / f"policy.{runtime}"
    other = copied / "qat8" / "deploy" / "seed_1" / path.name
    path.write_bytes(other.read_bytes())
    error = refused(capsys, copied / "qat8", "--runtime", runtime)
    assert f"seed_0/policy.{runtime} is not what qbench writes from policy.npz" in error
    path.unlink()
    assert "is missing" in refused(capsys, copied / "qat8", "--runtime", runtime)
    path.write_bytes(b"\xff\xfe not it")
    assert refused(capsys, copied / "qat8", "--runtime", runtime)


def test_c_of_a_stranger_is_not_compiled(copied, capsys, monkeypatch):
    monkeypatch.setattr(c.subprocess, "run", lambda *a, **k: pytest.fail("compiled"))
    path = copied / "qat8" / "deploy" / "seed_0" / "policy.c"
    path.write_text(path.read_text() + "/* and more */\n")
    assert "is not what qbench writes" in refused(capsys, copied / "qat8", "--runtime", "c")


def test_a_changed_checkpoint_is_not_played(copied, capsys):
    path = copied / "qat8" / "checkpoints" / "last.ckpt"
    stored = torch.load(path, weights_only=True)
    stored["state_dict"]["network.torso.layers.2.weight"] *= -1
    torch.save(stored, path)
    error = refused(capsys, copied / "qat8", "--runtime", "torch")
    assert "hold different agents: one of them was changed" in error


class Payload:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"state_dict": {"network.x": Payload()}}, "is not a checkpoint of qbench"),
        ({"state_dict": {"network.x": torch.zeros(2)}}, "holds another architecture"),
        ({"state_dict": {"network.x": 3}}, "is not a checkpoint of qbench"),
        ([1], "is not a checkpoint of qbench"),
    ],
)
def test_what_is_no_checkpoint_is_one_sentence(copied, capsys, content, sentence):
    torch.save(content, copied / "qat8" / "checkpoints" / "last.ckpt")
    assert sentence in refused(capsys, copied / "qat8", "--runtime", "torch")


@pytest.mark.parametrize(
    ("base", "sentence"),
    [("gone", "is not beside it"), ("../sweep/none", "names '../sweep/none' as its base cell")],
)
def test_a_base_cell_is_a_folder_beside(copied, capsys, base, sentence):
    path = copied / "ptq4" / "summary.json"
    summary = json.loads(path.read_text())
    path.write_text(json.dumps({**summary, "base_cell": base}))
    assert sentence in refused(capsys, copied / "ptq4", "--runtime", "torch")


FOREIGN = """
from pathlib import Path
from qbench.network.mlp import MLP

Path(__file__).with_suffix(".imported").touch()


class Mine(MLP):
    pass
"""


@pytest.mark.parametrize(
    ("keys", "group"),
    [
        (("network", "_target_"), "network"),
        (("quant", "_target_"), "quant"),
        (("algo", "heads", "network", "_target_"), "head"),
        (("env", "_target_"), "env"),
    ],
)
def test_a_foreign_class_is_not_imported(copied, capsys, monkeypatch, tmp_path, keys, group):
    (tmp_path / "foreign_net.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(tmp_path)
    change_config(copied / "qat8", *keys, value="foreign_net.Mine")
    error = refused(capsys, copied / "qat8", "--runtime", "torch")
    assert f"{group} is a foreign_net.Mine, which is no class of qbench's" in error
    assert "--trust foreign_net" in error
    assert not (tmp_path / "foreign_net.imported").exists()


def test_a_trusted_module_may_build_its_classes(copied, capsys, monkeypatch, tmp_path):
    (tmp_path / "foreign_net2.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(tmp_path)
    change_config(copied / "qat8", "network", "_target_", value="foreign_net2.Mine")
    arguments = [str(copied / "qat8"), "--runtime", "torch", "--episodes", "1"]
    assert main([*arguments, "--trust", "foreign_net2"]) == 0
    assert (tmp_path / "foreign_net2.imported").exists()


def test_diagnose_prints_a_table_and_writes_it(copied, capsys):
    run_dir = copied / "qat8"
    assert main([str(run_dir), "--diagnose", "--episodes", "1", "--seed", "1"]) == 0
    out = capsys.readouterr().out
    (seed,) = json.loads((run_dir / "diagnose.json").read_text())["seeds"]
    assert seed["seed"] == 1 and seed["rows"] == 2000
    names = ["torso.layers.0", "torso.layers.2", "head"]
    assert [layer["name"] for layer in seed["layers"]] == names
    assert 0 < seed["output_error"] < 1 and all(n in out for n in names)
    assert [row["noise"] for row in seed["noise"]] == [0, 0.05, 0.1, 0.2]
    assert f"{seed['flip_rate']:.4g}" in out


def test_a_float_cell_has_nothing_to_diagnose(sweep, capsys):
    assert "is a float cell" in refused(capsys, sweep / "none", "--diagnose")
    assert not (sweep / "none" / "diagnose.json").exists()


def test_an_episode_is_drawn_frame_by_frame(sweep, tmp_path, capsys):
    image = pytest.importorskip("PIL.Image", reason="no pillow")
    path = tmp_path / "episode.gif"
    assert main([str(sweep / "qat8"), "--render", str(path), "--seed", "1"]) == 0
    length = records.read_summary(sweep / "qat8")["seeds"][1]["eval_lengths"][0]
    assert f"{length + 1} frames" in capsys.readouterr().out
    with image.open(path) as drawn:
        assert drawn.size == (600, 400) and drawn.n_frames > 1
        # Like frames in a row are one that stands longer.
        total_ms = 0
        for i in range(drawn.n_frames):
            drawn.seek(i)
            total_ms += drawn.info["duration"]
    assert total_ms == 20 * (length + 1)  # CartPole runs at 50 frames a second
    assert [p.name for p in tmp_path.iterdir()] == ["episode.gif"]
