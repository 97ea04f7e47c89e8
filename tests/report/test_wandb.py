"""Runs, sync and Reports against a server on loopback, in processes of their own.

wandb keeps one background service and one set of settings per process.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.report.paper_cells import write_cell
from tests.report.wandb_server import ENTITY, serving

pytest.importorskip("wandb_workspaces", reason="the report extra is not installed")

REPO = Path(__file__).parents[2]
KEY = "0f1e2d3c4b5a69788796a5b4c3d2e1f001234567"  # of nobody

LOG_A_CELL = """
import json, sys
from pathlib import Path
from qbench.train.wandb_log import WandbRun
mode, id, env_step, *run_dirs = sys.argv[1:]
for run_dir in map(Path, run_dirs):
    config = json.loads((run_dir / ".hydra/config.yaml").read_text())
    axes = dict(zip(("env", "network", "quant", "algo"), run_dir.name.split("-")))
    how = dict(mode=mode, project="qbench", run_dir=run_dir, axes=axes, config=config)
    with WandbRun(**how, id=id or None) as run:
        row = {"kind": "eval", "env_step": int(env_step), "wall_s": 1.0}
        run.log([row | {"seed": k, "eval_return_mean": x} for k, x in enumerate((10.0, 14.0))])
        run.summarize({"return_iqm": 12.0, "peak_rss_bytes": 7})
"""


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture
def python(server, tmp_path):
    """Runs Python on a server with a key; wandb keeps its own files in a folder of the test."""

    def run(*arguments, key=KEY, address=None):
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        kept = {name: v for name, v in os.environ.items() if not name.startswith("WANDB_")}
        environment = kept | {
            "HOME": str(home),
            "PYTHONPATH": str(REPO),
            "WANDB_BASE_URL": address or server.address,
            **{f"WANDB_{name}_DIR": str(home / name) for name in ("CONFIG", "CACHE", "DATA")},
            **({"WANDB_API_KEY": key} if key else {}),
        }
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(
            command, env=environment, cwd=home, capture_output=True, text=True, timeout=120
        )

    return run


def write_sweep(tmp_path):
    """Two cells of two seeds, in float and in 8 bits."""
    sweep = tmp_path / "paper"
    return sweep, [
        write_cell(sweep, quant, {0: [1.0], 1: [1.0]}, final=final)
        for quant, final in (("none", 200.0), ("paper8", 190.0))
    ]


def files_with(text, folder):
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files
    return [path.name for path in files if text.encode() in path.read_bytes()]


def report(python, sweep, *options, **more):
    return python("-m", "qbench.report", sweep, "--wandb", *options, **more)


def log(python, mode, *run_dirs, id="", env_step=100):
    return python("-c", LOG_A_CELL, mode, id, env_step, *run_dirs)


def test_an_online_run_has_rows_means_and_deviations_on_the_server(server, python, tmp_path):
    _, (run_dir, _) = write_sweep(tmp_path)
    done = log(python, "online", run_dir)
    assert done.returncode == 0, done.stderr
    (run,) = server.runs.values()
    assert (run["displayName"], run["groupName"], run["project"]) == (
        run_dir.name,
        "paper",
        "qbench",
    )
    assert json.loads(run["config"])["quant"] == {"value": "none"}
    (row,) = next(iter(server.history.values()))
    assert row["env_step"] == 100
    assert row["eval/seed_0/eval_return_mean"] == 10
    assert row["eval/eval_return_mean"] == 12
    assert row["eval/eval_return_mean_sd"] == pytest.approx(8**0.5)  # of 10 and 14
    assert files_with(KEY, run_dir) == []


def test_offline_runs_are_synced_and_the_saved_report_shows_them(server, python, tmp_path):
    sweep, run_dirs = write_sweep(tmp_path)
    assert log(python, "offline", *run_dirs).returncode == 0
    assert server.runs == {}

    early = report(python, sweep)
    assert early.returncode == 1
    assert early.stderr.splitlines()[-1] == f"{ENTITY} has no project qbench there yet: add --sync."
    assert server.reports == []

    done = report(python, sweep, "--sync")
    assert done.returncode == 0, done.stderr
    assert {run["displayName"] for run in server.runs.values()} == {d.name for d in run_dirs}
    assert [row["eval/eval_return_mean"] for (row,) in server.history.values()] == [12, 12]
    assert f"Weights & Biases Report: {server.address}/{ENTITY}/qbench/reports/" in done.stdout
    (saved,) = server.reports
    assert (saved["entityName"], saved["projectName"]) == (ENTITY, "qbench")
    assert saved["displayName"] == "qbench: paper"
    check_spec(json.loads(saved["spec"]))
    for text in (done.stdout, done.stderr, json.dumps(saved)):
        assert KEY not in text
    assert files_with(KEY, tmp_path) == []
    assert len(server.runs) == 2


def test_what_was_logged_offline_in_two_parts_is_synced_as_one_run(server, python, tmp_path):
    _, (run_dir, _) = write_sweep(tmp_path)
    for env_step in (100, 200):
        assert log(python, "offline", run_dir, id="abcd1234", env_step=env_step).returncode == 0
        time.sleep(1.0)  # A run's folder is named by the second in which it began.
    assert len(list((run_dir / "wandb").glob("offline-run-*-abcd1234"))) == 2
    assert report(python, run_dir, "--sync").returncode == 0
    assert list(server.runs) == ["abcd1234"]
    rows = server.history["abcd1234"]
    assert [(row["env_step"], row["_step"]) for row in rows] == [(100, 0), (200, 1)]


def check_spec(spec):
    """The Report as the server has it, read back by the library's own reader."""
    code = (
        "import json, sys; from wandb_workspaces.reports.v2 import internal, interface as wr;"
        "spec = internal.Spec.model_validate(json.load(sys.stdin));"
        "print([type(wr._lookup(block)).__name__ for block in spec.blocks])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(spec), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(["P", "H1", "MarkdownBlock", "H1", "PanelGrid", "P"])
    table = next(b["content"] for b in spec["blocks"] if b["type"] == "markdown-block")
    assert "| cartpole | mlp | none | dqn | 2 | 200.0 [200.0, 200.0] | - |" in table
    assert "| cartpole | mlp | paper8 | dqn | 2 | 190.0 [190.0, 190.0] | -10.0" in table
    grid = next(b["metadata"] for b in spec["blocks"] if b["type"] == "panel-grid")
    (runset,) = grid["runSets"]
    assert [each["name"] for each in runset["grouping"]] == ["env.value", "quant.value"]
    filters = [(each["key"]["name"], each["value"]) for each in runset["filters"]["filters"]]
    assert filters == [("env", "cartpole"), ("group", ["paper"])]
    panels = grid["panelBankSectionConfig"]["panels"]
    kinds = [panel["viewType"] for panel in panels]
    lines = [panel["config"] for panel in panels if panel["viewType"] == "Run History Line Plot"]
    assert {line["xAxis"] for line in lines} == {"env_step"}
    assert {line["groupArea"] for line in lines} == {"stddev"}
    assert ["eval/eval_return_mean"] in [line["metrics"] for line in lines]
    assert ["eval/eval_return_mean_sd"] in [line["metrics"] for line in lines]
    assert kinds.count("Scatter Plot") == 2
    (parallel,) = (p["config"]["columns"] for p in panels if "Parallel" in p["viewType"])
    assert parallel[-1]["accessor"] == "summary:return_iqm"


def test_a_wrong_key_is_one_sentence_and_the_local_report_is_there(server, python, tmp_path):
    sweep, _ = write_sweep(tmp_path)
    server.accepts_keys = False
    done = report(python, sweep, "--sync")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"{server.address} does not accept this key: run `wandb login --relogin`."
    )
    assert "Traceback" not in done.stderr
    assert "paper8" in done.stdout
    assert KEY not in done.stdout + done.stderr


def test_no_key_is_one_sentence(python, tmp_path):
    sweep, _ = write_sweep(tmp_path)
    done = report(python, sweep, key=None)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("No Weights & Biases key is known here: run")
    assert "paper8" in done.stdout


def test_a_server_that_is_away_is_one_sentence(python, tmp_path):
    with serving() as gone:
        address = gone.address
    sweep, _ = write_sweep(tmp_path)
    done = report(python, sweep, address=address)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"{address} does not answer: try again")
    assert "Traceback" not in done.stderr
    assert "paper8" in done.stdout


def test_runs_that_were_never_logged_are_refused(python, tmp_path):
    sweep = tmp_path / "paper"
    write_cell(sweep, "none", {0: [1.0]}, config={"logger": {"mode": "disabled"}})
    done = report(python, sweep)
    assert done.returncode == 1
    assert done.stderr == "None of these runs was logged: train them without logger=none.\n"


def test_sync_alone_is_refused_before_anything_is_read(python, tmp_path):
    done = python("-m", "qbench.report", tmp_path / "gone", "--sync")
    assert done.returncode == 2
    assert done.stderr == "--sync uploads for a Weights & Biases Report: add --wandb.\n"
