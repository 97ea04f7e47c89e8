"""`python -m qbench.deploy`, and what a cell deploys by itself."""

import shutil

import pytest

from qbench import records
from qbench.deploy.__main__ import main
from tests.deploy.cells import finished
from tests.train.test_cell import run

pytest.importorskip("onnx", reason="the deploy extra is not installed")
pytest.importorskip("onnxruntime", reason="the deploy extra is not installed")

FILES = ["model_card.md", "policy.c", "policy.h", "policy.npz", "policy.onnx"]


def files(run_dir, seed):
    return sorted(path.name for path in (run_dir / "deploy" / f"seed_{seed}").iterdir())


def test_a_cell_deploys_its_agents_and_proves_that_all_forms_agree(cell):
    summary = records.read_summary(cell)
    sizes = summary["artifact_bytes"]
    for seed in summary["seeds"]:
        assert files(cell, seed["seed"]) == FILES
        found = seed["agreement"]
        assert found["c_differing_integers"] == 0
        assert found["holds"] and found["onnx_holds"] and found["onnx_is_integer"]
        assert found["onnx_rows"] == 10_000 and found["onnx_max_output_error"] <= 1
    folder = cell / "deploy" / "seed_0"
    assert sizes["onnx"] == (folder / "policy.onnx").stat().st_size
    assert sizes["npz"] == (folder / "policy.npz").stat().st_size
    assert sizes["onnx_float"] > 2 * sizes["onnx"] > sizes["c"]


def test_a_cell_tells_what_an_action_costs(cell):
    summary = records.read_summary(cell)
    macs = 4 * 64 + 64 * 64 + 64 * 2
    assert summary["cost"] == {"macs": macs, "bit_operations": 64 * macs, "activation_bytes": 128}
    latency = summary["latency_us"]
    assert list(latency) == ["torch_float", "onnx_float", "onnx", "c"]
    assert list(latency["onnx"]) == ["1", "32", "256"] and list(latency["c"]) == ["1"]


def test_the_card_holds_the_agents_own_numbers(cell):
    summary = records.read_summary(cell)
    for entry in summary["seeds"]:
        card = (cell / "deploy" / f"seed_{entry['seed']}" / "model_card.md").read_text()
        assert f"training seed {entry['seed']}\n" in card
        assert f"Mean greedy return {entry['eval_return_mean']:.1f} over 3 episodes" in card
        assert "| 1 | 64x64 | 8 | 64 | 8 |" in card
        assert f"| onnx | {summary['artifact_bytes']['onnx']:,} |" in card
        assert f"| c | {summary['latency_us']['c']['1']:,.1f} | - | - |" in card
        assert "| c_differing_integers | 0 |\n" in card and "| holds | yes |\n" in card
        assert "obs: float32 [batch, 4]" in card and "policy_run(&memory)" in card


def test_a_float_cell_has_no_c_and_its_onnx_is_float(tmp_path):
    run_dir = run(tmp_path / "cell", "formats=[onnx,c]")
    assert files(run_dir, 0) == ["model_card.md", "policy.npz", "policy.onnx"]
    sizes = records.read_summary(run_dir)["artifact_bytes"]
    assert sizes["onnx"] == sizes["onnx_float"] and "c" not in sizes


def test_the_command_writes_what_is_asked_for(cell, tmp_path, capsys):
    copied = tmp_path / "cell"
    shutil.copytree(cell, copied)
    for name in FILES:
        if name not in ("policy.npz", "model_card.md"):
            (copied / "deploy" / "seed_1" / name).unlink()
    assert main([str(copied), "--seed", "1", "--format", "onnx"]) == 0
    assert files(copied, 1) == ["model_card.md", "policy.npz", "policy.onnx"]
    assert "onnx" in capsys.readouterr().out
    again, first = (d / "deploy" / "seed_1" / "policy.onnx" for d in (copied, cell))
    assert again.read_bytes() == first.read_bytes()


def test_a_format_that_a_network_cannot_take_is_refused_before_anything_is_written(
    tmp_path, capsys
):
    run_dir = finished(tmp_path / "cell", "formats=[]")
    assert main([str(run_dir), "--format", "onnx,c"]) == 2
    error = capsys.readouterr().err
    assert error == "c takes integer networks only, not a FloatNetwork.\n"
    assert files(run_dir, 0) == ["model_card.md", "policy.npz"]
    assert main([str(run_dir)]) == 0
    out = capsys.readouterr().out
    assert "seed_0: c is left out, c takes integer networks only" in out and "seed_0: npz " in out
    assert files(run_dir, 0) == ["model_card.md", "policy.npz", "policy.onnx"]


def test_best_is_the_seed_with_the_highest_return(cell, capsys):
    seeds = records.read_summary(cell)["seeds"]
    best = max(seeds, key=lambda entry: entry["eval_return_mean"])["seed"]
    assert main([str(cell), "--seed", "best"]) == 0
    assert f"seed_{best}: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--format", "tflite"], "--format tflite is unknown: the formats are npz, onnx and c."),
        (["--seed", "9"], "--seed 9 is not in"),
        (["--device", "cortex-m4", "--actions", "0"], "--actions is 0: it must be at least 1."),
    ],
)
def test_what_cannot_be_deployed_is_one_sentence(cell, capsys, arguments, sentence):
    assert main([str(cell), *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1


def test_an_unfinished_run_is_refused(cell, tmp_path, capsys):
    copied = tmp_path / "cell"
    shutil.copytree(cell, copied)
    records.write_status(copied, "failed", "out of memory")
    (copied / "summary.json").unlink()
    assert main([str(copied)]) == 2
    assert "it has no summary.json, and its state is failed" in capsys.readouterr().err
