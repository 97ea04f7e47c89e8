"""`python -m qbench.evaluate` on real folders, and on folders that are none."""

import numpy as np
import pytest

from qbench import records
from qbench.evaluate.__main__ import main
from tests.train.test_cell import run

ENV = "env: {{_target_: qbench.env.gym.GymnasiumEnv, id: {}, kwargs: {{}}, stepping: serial}}"


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    run_dir = run(tmp_path_factory.mktemp("evaluate") / "cell", "quant=qat8")
    (run_dir / ".hydra").mkdir()
    (run_dir / ".hydra" / "config.yaml").write_text(ENV.format("CartPole-v1"))
    records.write_status(run_dir, "done")
    return run_dir


def test_it_plays_the_stored_networks_to_the_same_returns(cell, capsys):
    assert main([str(cell), "--episodes", "3"]) == 0
    *lines, speed = capsys.readouterr().out.splitlines()
    assert speed.endswith("env steps/s with numpy")
    for line, seed in zip(lines, records.read_summary(cell)["seeds"], strict=True):
        assert line.startswith(f"seed {seed['seed']}: return {np.mean(seed['eval_returns']):.1f} ")


@pytest.mark.parametrize("runtime", ["onnx", "c"])
def test_every_runtime_plays_the_same_episodes(cell, capsys, runtime):
    pytest.importorskip("onnxruntime", reason="the deploy extra is not installed")
    pytest.importorskip("onnx", reason="the deploy extra is not installed")
    assert main([str(cell), "--episodes", "3"]) == 0
    expected = capsys.readouterr().out.splitlines()[:-1]
    assert main([str(cell), "--episodes", "3", "--runtime", runtime]) == 0
    assert capsys.readouterr().out.splitlines()[:-1] == expected


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda d: records.write_status(d, "interrupted"), "is not finished: its state is interr"),
        (
            lambda d: (d / ".hydra" / "config.yaml").write_text(ENV.format("'os:X'")),
            "':'",
        ),
        (lambda d: (d / ".hydra" / "config.yaml").write_text("a: b"), "does not name an env"),
        (lambda d: (d / "deploy" / "seed_0" / "policy.npz").write_bytes(b"x"), "not a policy"),
        (lambda d: (d / "deploy" / "seed_0" / "policy.npz").unlink(), "is gone: remove"),
    ],
)
def test_what_cannot_be_played_is_one_sentence(cell, tmp_path, capsys, spoil, sentence):
    import shutil

    copied = tmp_path / "cell"
    shutil.copytree(cell, copied)
    spoil(copied)
    assert main([str(copied)]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_a_folder_that_is_no_run_is_named(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err
