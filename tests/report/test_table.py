import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from qbench import records
from qbench.report import load_cell, load_cells
from qbench.report.rows import compare
from qbench.report.table import print_table

FLOAT_RETURNS = (500.0, 480.0, 460.0, 500.0)
MEMORY = dict(zip(records.MEMORY_KEYS, (1, 2, 4, 8, 16, 32, 2**20), strict=True))


def write_cell(
    sweep_dir: Path,
    quant: str,
    returns: Sequence[float | None],
    *,
    env: str = "cartpole",
    bits: int = 8,
    **more: Any,
) -> Path:
    """A finished run folder, one training seed per return."""
    run_dir = sweep_dir / f"{env}-mlp-{quant}-dqn-{bits:08x}"
    config = {"total_env_steps": 100, "quant": {"weights": {"bits": bits}}}
    records.write_text(run_dir / ".hydra" / "config.yaml", json.dumps(config))
    seeds = [{"seed": k, "eval_returns": [x], "eval_return_mean": x} for k, x in enumerate(returns)]
    axes = {"env": env, "network": "mlp", "quant": quant, "algo": "dqn"}
    numbers = {
        "peak_rss_bytes": 400 * 2**20,
        "memory_bytes": MEMORY,
        "artifact_bytes": {"npz": 1536, "npz_weights": 1000},
        "env_steps_per_s": 1234.5,
        "seeds": seeds,
    }
    records.write_summary(run_dir, dict.fromkeys(records.SUMMARY_KEYS, 0) | axes | numbers | more)
    records.write_status(run_dir, "done")
    return run_dir


def printed(run_dirs: list[Path], width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_table(run_dirs, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def line_of(text: str, *words: str) -> list[str]:
    """The words of the first line that holds all of `words`."""
    return next(line.split() for line in text.splitlines() if all(w in line for w in words))


def test_a_row_holds_every_number_of_its_cell(tmp_path: Path) -> None:
    run_dir = write_cell(tmp_path / "grid", "none", FLOAT_RETURNS)
    text = printed([run_dir])
    # IQM (480 + 500) / 2; 2^20 + 63 bytes; 1536 bytes.
    assert line_of(text, "none", "done")[:3] == ["none", "4", "490.0"]
    assert line_of(text, "none", "done")[-6:] == ["-", "400", "1.00", "1.5", "1,234", "done"]
    assert "490.0 [460.0, 500.0]" in text
    assert text.startswith("1 cell, sweep grid, env cartpole, network mlp, algo dqn\n")


def test_post_training_is_compared_in_pairs_and_trained_quantization_is_not(
    tmp_path: Path,
) -> None:
    returns = [*FLOAT_RETURNS, 490.0]
    write_cell(tmp_path, "none", returns)
    write_cell(tmp_path, "ptq8", [x - 16 for x in returns])
    write_cell(tmp_path, "qat8", [x - 16 for x in returns])
    cells = load_cells([tmp_path])
    none, ptq, qat = (compare(cell, cells) for cell in cells)
    assert none is None
    assert ptq is not None
    assert (ptq.kind, ptq.difference, ptq.interval) == ("paired", -16, (-16, -16))
    assert ptq.verdict == "no loss"  # the margin is 5 % of 490 = 24.5
    assert qat is not None
    assert (qat.kind, qat.difference, qat.verdict) == ("unpaired", -16, "?")
    assert qat.interval is not None
    assert qat.interval.low < -24.5 < 0 < qat.interval.high
    assert "-16.0 [-16.0, -16.0] no loss" in printed([cell.run_dir for cell in cells])


def test_pairs_are_the_seeds_that_both_cells_have(tmp_path: Path) -> None:
    write_cell(tmp_path, "none", [*FLOAT_RETURNS, 490.0, -999])
    write_cell(tmp_path, "ptq4", [x - 100 for x in [*FLOAT_RETURNS, 490.0]], bits=4)
    cells = load_cells([tmp_path])
    found = compare(cells[1], cells)
    assert found is not None
    assert (found.difference, found.interval, found.verdict) == (-100, (-100, -100), "loss")


@pytest.mark.parametrize("quant", ["qat8", "ptq8"])
@pytest.mark.parametrize(("num_seeds", "verdict"), [(4, "?"), (5, "no loss")])
def test_few_seeds_show_nothing(tmp_path: Path, quant: str, num_seeds: int, verdict: str) -> None:
    write_cell(tmp_path, "none", [500.0] * num_seeds)
    write_cell(tmp_path, quant, [500.0] * num_seeds)
    cells = load_cells([tmp_path])
    found = compare(cells[1], cells)
    assert found is not None
    assert (found.difference, found.interval, found.verdict) == (0, (0, 0), verdict)


def test_a_post_training_row_has_no_memory_of_a_training(tmp_path: Path) -> None:
    write_cell(tmp_path, "none", FLOAT_RETURNS)
    ptq = write_cell(tmp_path, "ptq8", FLOAT_RETURNS)
    # Peak, ledger, disk, env steps/s.
    assert line_of(printed([ptq]), "ptq8", "done")[-5:] == ["-", "-", "1.5", "-", "done"]


def test_identical_cells_differ_by_exactly_zero(tmp_path: Path) -> None:
    returns = [1 / 3, 2 / 7, 0.1, 0.7, 1 / 9]
    write_cell(tmp_path, "none", returns)
    write_cell(tmp_path, "ptq8", returns)
    cells = load_cells([tmp_path])
    found = compare(cells[1], cells)
    assert found is not None
    assert (found.difference, found.interval, found.verdict) == (0, (0, 0), "no loss")


def test_one_seed_has_no_interval_and_shows_nothing(tmp_path: Path) -> None:
    write_cell(tmp_path, "none", [500])
    ptq = write_cell(tmp_path, "ptq8", [499])
    assert "499.0 [-]" in printed([ptq])
    assert "-1.00 [-] ?" in printed([ptq])


def test_a_single_run_is_compared_with_the_none_cell_beside_it(tmp_path: Path) -> None:
    write_cell(tmp_path, "none", [*FLOAT_RETURNS, 490.0])
    ptq = write_cell(tmp_path, "ptq8", [*FLOAT_RETURNS, 490.0])
    assert "0.000 [0.000, 0.000] no loss" in printed([ptq])


def test_below_ten_seeds_every_value_is_listed_and_the_interval_called_optimistic(
    tmp_path: Path,
) -> None:
    few = printed([write_cell(tmp_path / "few", "none", FLOAT_RETURNS)])
    assert "optimistic" in few
    assert "  none  0: 500.0  1: 480.0  2: 460.0  3: 500.0" in few
    assert "covers about 85 % at n=4" in few
    three = printed([write_cell(tmp_path / "three", "none", FLOAT_RETURNS[:3])])
    assert "covers about 74 % at n=3" in three
    many = printed([write_cell(tmp_path / "many", "none", [500.0] * 10)])
    assert "optimistic" not in many
    assert "0: 500.0" not in many


def test_different_budgets_are_said(tmp_path: Path) -> None:
    for name, budget in (("a", 1000), ("b", 2000)):
        run_dir = write_cell(tmp_path / name, "none", FLOAT_RETURNS)
        text = (run_dir / ".hydra" / "config.yaml").read_text()
        records.write_text(run_dir / ".hydra" / "config.yaml", text.replace("100", str(budget)))
    text = printed([cell.run_dir for cell in load_cells([tmp_path])])
    assert "Budgets differ on cartpole: 1,000 env steps (1), 2,000 env steps (1)." in text


def test_namesakes_of_different_bits_are_called_by_them(tmp_path: Path) -> None:
    for bits in (3, 5):
        run_dir = write_cell(tmp_path, "qat8", FLOAT_RETURNS, bits=bits)
        config = {"quant": {"weights": {"bits": bits}, "activations": {"bits": 8}}}
        records.write_text(run_dir / ".hydra" / "config.yaml", json.dumps(config))
    text = printed([cell.run_dir for cell in load_cells([tmp_path])])
    assert line_of(text, "w3a8")[:2] == ["qat8", "w3a8"]
    assert line_of(text, "w5a8")[:2] == ["qat8", "w5a8"]
    assert "#0000000" not in text


def test_failures_skips_and_broken_cells_are_rows_with_their_reasons(tmp_path: Path) -> None:
    skipped = tmp_path / "cartpole-mlp-none-ddpg-00000000"
    records.write_status(skipped, "skipped", "DDPG needs a [Box] action space")
    broken = tmp_path / "cartpole-mlp-none-dqn-00000000"
    records.write_text(broken / "status.json", "{")
    text = printed([skipped, broken])
    assert line_of(text, "ddpg")[-1] == "skipped"
    assert line_of(text, "dqn")[-1] == "broken"
    assert f"skipped {skipped.name}: DDPG needs a [Box] action space" in text
    assert "status.json is not valid JSON" in text


def test_a_seed_that_diverged_is_named_and_never_left_out(tmp_path: Path) -> None:
    seeds = [
        {"seed": 7, "eval_returns": [9.0], "eval_return_mean": 9.0},
        {"seed": 8, "eval_returns": [], "eval_return_mean": None, "diverged": True},
    ]
    run_dir = write_cell(tmp_path, "none", [], seeds=seeds)
    text = printed([run_dir])
    assert f"Diverged, frozen and scored as it stood: {run_dir.name}, seed 8" in text
    assert line_of(text, "none", "done")[1:4] == ["2", "nan", "[-]"]


def test_cells_that_no_axis_tells_apart_show_the_setting_that_differs(tmp_path: Path) -> None:
    write_cell(tmp_path, "qat8", FLOAT_RETURNS, bits=5)
    write_cell(tmp_path, "qat8", FLOAT_RETURNS, bits=8)
    text = printed([cell.run_dir for cell in load_cells([tmp_path])])
    assert "#00000005: quant.weights.bits=5\n" in text
    assert line_of(text, "done")[:2] == ["qat8", "#00000005"]
    assert "no finished `none` cell" in text


@pytest.mark.parametrize("width", [40, 100])
def test_nothing_is_truncated(tmp_path: Path, width: int) -> None:
    for env in ("cartpole", "lunarlander"):
        write_cell(tmp_path, "none", [-130.5, 148.0, 226.0, 110.0], env=env)
        write_cell(tmp_path, "qat8", [-180.5, 248.0, -226.0, 110.0], env=env)
    text = printed([cell.run_dir for cell in load_cells([tmp_path])], width)
    assert "…" not in text
    # Where there is no terminal, a row is one line.
    rows = [line for line in text.splitlines() if line.rstrip().endswith("done")]
    assert len(rows) == 4
    assert all("]" in row for row in rows)


def test_the_usual_grid_fits_a_hundred_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for env in ("cartpole", "lunarlander"):
        write_cell(tmp_path, "none", [-130.5, 148.0, 226.0, 110.0], env=env)
        write_cell(tmp_path, "qat8", [-180.5, 248.0, -226.0, 110.0], env=env)
    monkeypatch.delenv("NO_COLOR", raising=False)
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    print_table([cell.run_dir for cell in load_cells([tmp_path])], console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    assert sum("done" in line and "]" in line for line in lines) == 4


def test_no_runs_at_all_is_a_title_and_no_error() -> None:
    assert printed([]).startswith("0 cells")


def test_a_run_folder_that_is_gone_is_a_broken_row(tmp_path: Path) -> None:
    assert load_cell(tmp_path / "gone").state == "broken"
    assert line_of(printed([tmp_path / "gone"]), "broken")[-1] == "broken"


def test_reports_import_no_torch_and_nothing_of_training() -> None:
    code = (
        "import sys, qbench.report.__main__, qbench.report.stats;"
        "print({'torch', 'hydra', 'gymnasium', 'qbench.train'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
