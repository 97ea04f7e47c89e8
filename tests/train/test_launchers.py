"""Launchers and sweepers that others publish: the same cells, the same numbers."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from qbench import records
from tests.train.conftest import REPO
from tests.train.fakes import DONE, RAISES
from tests.train.test_cell import TINY, rows

GRID = ["-m", "quant=none,qat8,ptq8", *TINY, "n_jobs=2"]
SBATCH = """#!/bin/sh
for last; do :; done
cp "$last" {copy}
exit 1
"""


def numbers(sweep):
    """Records of each cell of a sweep, without their times."""
    return {path.name: rows(path) for path in Path("multirun", sweep).glob("cartpole-*")}


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Trains the grid, truly, into a sweep; returns its records."""
    monkeypatch.chdir(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(REPO), "RAY_AUTH_MODE": "disabled"}

    def run(sweep, *arguments):
        command = [sys.executable, "-m", "qbench", *GRID, f"sweep={sweep}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return numbers(sweep)

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "module"),
    [("joblib", "joblib"), ("submitit_local", "submitit"), ("ray", "ray")],
)
def test_a_published_launcher_gives_the_numbers_of_the_local_one(train, launcher, module):
    pytest.importorskip(f"hydra_plugins.hydra_{module}_launcher", reason="its extra is missing")
    own = train("own")
    assert len(own) == 3 and all(own.values())
    assert train("other", f"hydra/launcher={launcher}") == own


@pytest.mark.slow
def test_a_ray_cluster_of_two_nodes_that_runs_gives_the_same_numbers(train, monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="its extra is not installed")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    # Ray's workers start where the nodes were, so the sweep's folder must be an absolute one.
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        address = f"hydra.launcher.ray.init.address='{cluster.address}'"
        assert train("two", "hydra/launcher=ray", address) == train("own")
    finally:
        cluster.shutdown()


@pytest.mark.slow
def test_slurm_gives_the_numbers_of_the_local_launcher(train):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="its extra is missing")
    if shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True).returncode:
        pytest.skip("no Slurm runs here")
    slurm = train("slurm", "hydra/launcher=submitit_slurm", "hydra.launcher.mem_gb=2")
    assert slurm == train("own")


def test_the_slurm_file_asks_to_be_queued_again(qbench_process, workplace, monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="its extra is missing")
    programs = workplace.parent / "programs"
    programs.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", "#!/bin/sh\n")):
        (programs / name).write_text(text.format(copy=workplace / "job.sh"))
        (programs / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    arguments = ["-m", "quant=none,qat8", "sweep=s", "hydra.launcher.partition=spot"]
    command = qbench_process(*arguments, "hydra/launcher=submitit_slurm")
    command.communicate(timeout=120)
    lines = (workplace / "job.sh").read_text().splitlines()
    asked = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert {
        "requeue", "signal=USR2@120", "time=1440", "cpus-per-task=1", "mem=8GB", "nodes=1",
        "ntasks-per-node=1", "partition=spot", "array=0-1%2", "open-mode=append",
    } <= asked  # fmt: skip
    folder = workplace / "multirun" / "s" / ".submitit"
    assert any(line.startswith(f"output={folder}/") for line in asked)


def test_a_search_maximizes_the_return_and_lives_with_a_failed_cell(qbench_main, capfd):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="its extra is missing")
    # The fake's return is its gamma.
    space = ["algo.learner.gamma=choice(0.25,0.5,0.75)", f"total_env_steps=choice({DONE},{RAISES})"]
    # Not sampler=grid: the plugin trips over a grid whose last cell fails, and its order is random.
    random = ["hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=2"]
    search = ["hydra/sweeper=optuna", *random, "hydra.sweeper.n_trials=12"]
    assert qbench_main("-m", *search, *space, "num_seeds=1", "sweep=s", "n_jobs=2") == 0
    best = yaml.safe_load(Path("multirun/s/optimization_results.yaml").read_text())
    assert best["best_value"] == 0.75
    assert best["best_params"] == {"algo.learner.gamma": 0.75, "total_env_steps": DONE}
    states = [records.read_status(path)["state"] for path in Path("multirun/s").glob("cartpole-*")]
    assert set(states) == {"done", "failed"}
    assert capfd.readouterr().out.splitlines()[-2:] == ["table of 6", "report of 6 True"]


def test_a_search_without_a_done_cell_says_so(qbench_main, capfd):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="its extra is missing")
    import optuna

    optuna.logging.disable_default_handler()  # It holds on to the standard error of another test.
    space = ["algo.learner.gamma=choice(0.25,0.5)", f"total_env_steps={RAISES}", "num_seeds=1"]
    assert qbench_main("-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=1", *space) == 2
    err = capfd.readouterr().err
    assert "No cell of the search was done: the lines above say why of each." in err
    assert "Traceback" not in err
