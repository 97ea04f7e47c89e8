"""Run folders that are given away or come from strangers: no secret goes, no code comes."""

import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qbench.report.folders import load_cell, repeat_command
from qbench.train import cells, checkpoint, job, process
from qbench.train.cells import Cell
from qbench.train.errors import ConfigError
from tests.train.fakes import DONE, RAISES
from tests.train.test_cell import run

SECRETS = {"WANDB_API_KEY": "f00d" * 10, "MY_TOKEN": "swordfish-swordfish"}


@pytest.fixture
def secrets(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def assert_no_secret(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 4
    for path in files:
        content = path.read_bytes()
        assert not [name for name, value in SECRETS.items() if value.encode() in content], path


def test_a_cell_and_its_wandb_files_hold_nothing_of_the_environment(tmp_path, secrets):
    run_dir = run(tmp_path / "cell", "logger=offline", "total_env_steps=100")
    assert list(run_dir.glob("wandb/offline-run-*/run-*.wandb"))
    assert_no_secret(run_dir)


OFFLINE_RUN = """
from pathlib import Path
from qbench.train import wandb_log
with wandb_log.WandbRun(
    mode="offline", project="p", run_dir=Path("."), axes={}, config={"sweep": "s"}, id=None
) as logged:
    logged.log([{"kind": "train", "seed": 0, "env_step": 1, "loss": 0.5}])
"""


def test_an_offline_run_asks_no_server(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        # Runs of wandb in this process leave the address of their service behind.
        ours = {name: value for name, value in os.environ.items() if "WANDB" not in name}
        environment = ours | {"WANDB_BASE_URL": address, "PYTHONPATH": str(Path.cwd())}
        command = [sys.executable, "-c", OFFLINE_RUN]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=120)
        assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # Nobody has called.
            server.accept()


def test_the_folder_of_a_sweep_holds_nothing_of_the_environment(qbench_main, secrets):
    budgets = f"total_env_steps={DONE},{RAISES}"
    assert qbench_main("-m", budgets, "num_seeds=1", "sweep=s") == 1
    assert_no_secret(Path("multirun"))


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(tmp_path):
    mark = tmp_path / "was_run"
    torch.save({"version": 1, "state_dict": Bomb(mark)}, tmp_path / "zip.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Bomb(mark)))
    for name in ("zip.ckpt", "plain.ckpt"):
        with pytest.raises(checkpoint.Damaged, match="is not a checkpoint of qbench"):
            checkpoint.read(tmp_path / name)
    assert not mark.exists()


def test_a_config_with_code_in_it_is_none_and_not_run(composed, tmp_path):
    cell = Cell(composed(), tmp_path / "cartpole-mlp-none-dqn-01234567")
    process.prepare(cell)
    mark = tmp_path / "was_run"
    for name in ("config", "hydra", "overrides"):
        path = cell.run_dir / ".hydra" / f"{name}.yaml"
        path.write_text(f"!!python/object/apply:os.mkdir ['{mark}']\n")
    assert cells.stored_config(cell.run_dir) is None
    assert load_cell(cell.run_dir).config is None
    assert repeat_command(cell.run_dir) is None
    with pytest.raises(ConfigError, match="holds a damaged config"):
        job.load_config(cell.run_dir)
    assert not mark.exists()


def test_a_config_from_elsewhere_learns_nothing_of_the_environment(composed, tmp_path, secrets):
    cell = Cell(composed(), tmp_path / "cartpole-mlp-none-dqn-01234567")
    process.prepare(cell)
    (cell.run_dir / ".hydra" / "config.yaml").write_text("a: ${oc.env:MY_TOKEN}\n")
    assert load_cell(cell.run_dir).config == {"a": "${oc.env:MY_TOKEN}"}
    assert cells.stored_config(cell.run_dir) == {"a": "${oc.env:MY_TOKEN}"}


@pytest.mark.parametrize("name", process.APPENDED)
def test_a_link_in_a_folder_from_elsewhere_is_not_written_through(composed, tmp_path, name):
    cell, outside = Cell(composed(), tmp_path / "cell"), tmp_path / "outside"
    outside.write_text("mine")
    cell.run_dir.mkdir()
    (cell.run_dir / name).symlink_to(outside)
    with pytest.raises(ConfigError, match=f"{name} is a link to somewhere else: remove it."):
        process.prepare(cell)
    assert outside.read_text() == "mine"


def test_what_replaces_a_link_leaves_its_target_alone(composed, tmp_path):
    cell, outside = Cell(composed(), tmp_path / "cell"), tmp_path / "outside"
    mine = '{"schema_version": 1, "state": "failed", "reason": null, "traceback": null}'
    outside.write_text(mine)
    (cell.run_dir / ".hydra").mkdir(parents=True)
    for name in ("status.json", ".hydra/config.yaml"):
        (cell.run_dir / name).symlink_to(outside)
    process.prepare(cell)
    assert outside.read_text() == mine
