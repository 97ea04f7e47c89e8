"""A command line whose jobs are real processes and whose training is not."""

import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

import qbench
from qbench.train import cli
from qbench.train.conf import conf_dir
from tests.train.fakes import FAKE_TRAINING

REPO = Path(qbench.__file__).parents[1]


@pytest.fixture
def composed() -> Callable[..., DictConfig]:
    """Composes the real config from overrides, with its `hydra` node."""

    def compose_config(*overrides: str) -> DictConfig:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return compose("config", list(overrides), return_hydra_config=True)

    return compose_config


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory from which jobs find qbench and the fake training."""
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    (fakes / "sitecustomize.py").write_text(FAKE_TRAINING)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("PYTHONPATH", f"{fakes}{os.pathsep}{REPO}")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    return here


@pytest.fixture
def qbench_main(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs `python -m qbench` in this process (its jobs are processes); returns its exit code."""
    table = types.ModuleType("qbench.report.table")
    table.print_table = lambda run_dirs, console=None: print("table of", len(run_dirs))
    report = types.ModuleType("qbench.report.write")
    report.after_sweep = lambda run_dirs, with_page: print("report of", len(run_dirs), with_page)
    monkeypatch.setitem(sys.modules, table.__name__, table)
    monkeypatch.setitem(sys.modules, report.__name__, report)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["qbench", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0)

    return run


@pytest.fixture
def qbench_process(workplace: Path) -> Callable[..., "subprocess.Popen[str]"]:
    """Starts `python -m qbench` as a process of its own."""

    def start(*arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "qbench", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start
