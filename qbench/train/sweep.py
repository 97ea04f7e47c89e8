"""A sweep from its check to its table, whatever the launcher in between."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict

from qbench import records
from qbench.train import cells, job
from qbench.train.cells import Cell
from qbench.train.launch import (
    Composer,
    LocalLauncher,
    incompatibilities,
    say_how_to_go_on,
)
from qbench.train.pool import Interrupted


class GridSweeper(BasicSweeper):
    """Hydra's sweeper, but everything is checked before anything is written.

    It also has the last word, whatever the launcher: the table and the exit code.
    """

    def sweep(self, arguments: list[str]) -> Any:
        """Check, sweep, print the table, and leave by SystemExit."""
        assert self.hydra_context and self.config
        loader = self.hydra_context.config_loader
        composer = Composer(loader, self.config)
        if isinstance(self.launcher, LocalLauncher):
            composer = self.launcher.composer
        grid = composer.grid(self._combinations(arguments, loader))
        reasons = incompatibilities(grid)
        if isinstance(self.launcher, LocalLauncher):
            self.launcher.reasons = reasons
        else:
            self._make_folder_absolute()
        try:
            super().sweep(arguments)
        except Interrupted as stop:
            end_sweep(grid, with_page=False)  # who stops a command waits for nothing
            say_how_to_go_on(grid)
            raise SystemExit(stop.exit_code) from None
        sys.exit(end_sweep(grid))

    def _make_folder_absolute(self) -> None:
        """Name the sweep's folder so that a worker finds it that was started elsewhere, as Ray's.

        By an override, because launchers compose each job's config from these.
        """
        assert self.config
        folder = os.path.abspath(self.config.hydra.sweep.dir).replace("\\", "\\\\")
        quoted = folder.replace("'", "\\'")
        with open_dict(self.config):
            self.config.hydra.sweep.dir = os.path.abspath(self.config.hydra.sweep.dir)
            self.config.hydra.overrides.hydra.append(f"hydra.sweep.dir='{quoted}'")

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Nothing: `sweep` has composed and checked all of them."""

    def _combinations(self, arguments: list[str], loader: ConfigLoader) -> list[list[str]]:
        parser = OverridesParser.create(config_loader=loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        return self.split_arguments(overrides, max_batch_size=None)[0]


class SearchEnd(Callback):
    """Has the last word on a search over settings, whose sweeper is not ours: on its folder."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from qbench.report.folders import find_run_dirs

        show_sweep(find_run_dirs([config.hydra.sweep.dir]))


def show_sweep(run_dirs: list[Path], *, with_page: bool = True) -> None:
    """Print the table of some cells and write the report of each sweep folder that holds them."""
    from qbench.report.table import print_table
    from qbench.report.write import after_sweep

    print_table(run_dirs)
    after_sweep(run_dirs, with_page=with_page)


def end_sweep(grid: Sequence[Cell], *, with_page: bool = True) -> int:
    """Print the table, write the report of each sweep folder; returns 1 if any cell failed.

    The folders are the truth: a launcher may have lost a job without a word.
    """
    show_sweep(cells.run_folders(grid), with_page=with_page)
    states = {records.read_status(cell.run_dir)["state"] for cell in grid}
    return 0 if states <= {"done", "skipped"} else job.EXIT_FAILED
