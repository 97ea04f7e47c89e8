"""`python -m qbench`: Hydra's command line, with one sentence for each mistake."""

import os
import signal
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict

from qbench.records import RunFolderError
from qbench.train import launch, plugins
from qbench.train.cells import Cell
from qbench.train.conf import conf_dir
from qbench.train.errors import ConfigError, Rejected
from qbench.train.explain import explain
from qbench.train.job import EXIT_REFUSED


def main() -> None:
    """Train one cell, or with -m a grid of cells; always leaves by SystemExit."""
    # Hydra then raises what it would otherwise print before leaving with exit code 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    plugins.register()
    command = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
    try:
        command(train)()
        sys.exit(0)  # A sweeper that is not ours has come to its end.
    except KeyboardInterrupt as stop:
        sys.exit(getattr(stop, "exit_code", 130))
    except BrokenPipeError:  # `| head` has seen enough; what Python flushes at exit goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except (Exception, Rejected) as error:
        cause = error.__cause__ if isinstance(error, Rejected) else error
        sentence = explain(cause, sys.argv[1:], conf_dir())
        if sentence is None:
            raise
        print(sentence, file=sys.stderr)
        sys.exit(EXIT_REFUSED)


def train(cfg: DictConfig) -> float | None:
    """Hydra's task function: a single run, or one job of a launcher that is not ours."""
    hydra_cfg = HydraConfig.get()
    with open_dict(cfg):
        cfg.hydra = hydra_cfg
    cell = Cell(cfg, Path(os.path.relpath(hydra_cfg.runtime.output_dir)))
    if hydra_cfg.mode == RunMode.MULTIRUN:
        return launch.train_in_worker(cell)
    try:
        sys.exit(launch.train_alone(cell))
    except (ConfigError, RunFolderError) as error:
        raise Rejected from error  # Hydra would say first that there was an error.
