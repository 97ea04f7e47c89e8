"""How a command becomes jobs: the check before all, the local launcher, single runs."""

import copy
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from qbench import records
from qbench.train import cells, job, process
from qbench.train.cells import Cell
from qbench.train.check import check_cell
from qbench.train.errors import ConfigError, Incompatible, Rejected
from qbench.train.pool import Interrupted, Job, Pool, announce, num_cores
from qbench.train.process import Outcome


class CheckFirst(Callback):
    """Refuses a single run before Hydra makes its folder."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            HydraConfig.instance().set_config(config)
            check_cell(config)
        except Exception as error:
            raise Rejected from error


def say_how_to_go_on(grid: Iterable[Cell] = ()) -> None:
    """The last line of a command that was stopped: the table lacks the cells that wait."""
    waiting = sum(not records.is_run_folder(cell.run_dir) for cell in cells.unique(grid))
    rest = f"; {waiting} of its cells had not begun" if waiting else ""
    print(f"The same command goes on from what was saved{rest}.")


class Composer:
    """Composes the cells of a sweep, each once.

    Hydra takes some 0.1 s for a config, nearly all of it for the choices of its groups. Cells
    that differ in values alone are made from one composition, as Hydra would: values come last.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader = loader
        self._master = master
        self._groups = {key.partition("@")[0] for key in master.hydra.runtime.choices}
        self._parser = OverridesParser.create(config_loader=loader)
        self._known: dict[tuple[str, ...], Cell] = {}
        self._composed: dict[tuple[str, ...], DictConfig] = {}

    def grid(self, job_overrides: Sequence[Sequence[str]]) -> list[Cell]:
        """One cell for each list of overrides; equal cells have equal folders."""
        for num, overrides in enumerate(map(tuple, job_overrides)):
            if overrides not in self._known:
                self._known[overrides] = self._cell(overrides, num)
        return [self._known[tuple(overrides)] for overrides in job_overrides]

    def _cell(self, overrides: tuple[str, ...], num: int) -> Cell:
        cfg = self.compose(overrides)
        with open_dict(cfg):
            cfg.hydra.job.id = cfg.hydra.job.num = num
        HydraConfig.instance().set_config(cfg)
        return cells.from_config(cfg)

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The config that Hydra composes from `overrides`."""
        parsed = self._parser.parse_overrides(list(overrides))
        values = [override for override in parsed if self._is_value(override)]
        choices = tuple(str(o.input_line) for o in parsed if o not in values)
        if choices not in self._composed:
            self._composed[choices] = self._loader.load_sweep_config(self._master, list(choices))
        cfg = copy.deepcopy(self._composed[choices])
        try:
            for override in values:
                OmegaConf.update(cfg, override.key_or_group, override.value(), merge=True)
        except OmegaConfBaseException:
            # Hydra says what is wrong.
            return self._loader.load_sweep_config(self._master, list(overrides))
        task = [override for override in parsed if not override.is_hydra_override()]
        cfg.hydra.overrides.task = [override.input_line for override in task]
        how = cfg.hydra.job.config.override_dirname
        cfg.hydra.job.override_dirname = get_overrides_dirname(
            task, kv_sep=how.kv_sep, item_sep=how.item_sep, exclude_keys=how.exclude_keys
        )
        return cfg

    def _is_value(self, override: Override) -> bool:
        """Whether it sets a key that is there, and chooses no file."""
        key = override.key_or_group
        is_plain = override.type == OverrideType.CHANGE and override.package is None
        return is_plain and not override.is_hydra_override() and key not in self._groups


class LocalLauncher(Launcher):
    """Runs the cells of a sweep on this machine, `n_jobs` at once, each in its own process."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.composer = Composer(hydra_context.config_loader, config)
        self.reasons: dict[Path, str] | None = None  # of `incompatibilities`, where known already
        self._num_slots = config.n_jobs or num_cores()
        self._retries_failed, self._fails_fast = config.retry_failed, config.fail_fast

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Check all cells, skip those that make no sense, train the others."""
        grid = self.composer.grid(job_overrides)
        reasons = incompatibilities(grid) if self.reasons is None else self.reasons
        outcomes = {}
        for cell in cells.unique(cell for cell in grid if cell.run_dir in reasons):
            outcomes[cell.run_dir] = process.skip(cell, reasons[cell.run_dir])
            announce(cell, outcomes[cell.run_dir])
        families = [jobs_of(cell) for cell in grid if cell.run_dir not in reasons]
        pool = Pool(
            num_slots=self._num_slots,
            has_log_files=True,
            waits_for_others=False,
            retries_failed=self._retries_failed,
            fails_fast=self._fails_fast,
        )
        outcomes |= pool.run([member for family in families for member in family])
        not_started = Outcome("interrupted", job.EXIT_FAILED, "not started")
        return [_job_return(cell, outcomes.get(cell.run_dir, not_started)) for cell in grid]


def incompatibilities(grid: Iterable[Cell]) -> dict[Path, str]:
    """Why some cells cannot be trained, by folder.

    Raises:
        ConfigError: a value is wrong; then nothing at all should start.
    """
    reasons = {}
    seeds: dict[Path, range] = {}
    settings: dict[Path, dict[str, Any]] = {}
    for cell in grid:
        try:
            check_cell(cell.cfg)
        except Incompatible as reason:
            reasons[cell.run_dir] = str(reason)
        if seeds.setdefault(cell.run_dir, cell.seeds) != cell.seeds:
            raise ConfigError(
                "seed and num_seeds cannot be swept, because one cell trains all its seeds:"
                " use num_seeds=N alone."
            )
        identity = cells.identity(cell.cfg)
        if settings.setdefault(cell.run_dir, identity) != identity:
            raise ConfigError(
                f"Two cells would share the folder {cell.run_dir}, whose name is of 8 digits:"
                " sweep them apart, with another name for sweep."
            )
        process.check_settings(cell)
    return reasons


def jobs_of(cell: Cell) -> list[Job]:
    """A cell's job, after that of its base if it needs one and is not finished."""
    base = None if cells.is_done(cell) else cells.base_of(cell)
    return [Job(cell)] if base is None else [Job(base), Job(cell, base)]


def train_alone(cell: Cell) -> int:
    """A single run, on this terminal; returns the exit code."""
    from qbench.report.table import print_table

    pool = Pool(num_slots=1, has_log_files=False, waits_for_others=False, retries_failed=True)
    try:
        outcome = pool.run(jobs_of(cell))[cell.run_dir]
    except Interrupted as stop:
        outcome = Outcome("interrupted", stop.exit_code)
    if outcome.exit_code == job.EXIT_REFUSED:
        print(outcome.reason, file=sys.stderr)
    else:
        print_table(cells.run_folders([cell]))
    if outcome.state == "interrupted":
        say_how_to_go_on()
    return outcome.exit_code


def train_in_worker(cell: Cell) -> float | None:
    """One cell of a sweep under a launcher that is not ours; returns its objective, never raises.

    A launcher may give up its whole sweep for an exception; what went wrong is in status.json.
    """
    try:
        return objective(cell, _train_or_skip(cell))
    except Exception as error:
        process.settle(cell, Outcome(*job.failure(error)[:3]))
        return None


def objective(cell: Cell, outcome: Outcome) -> float | None:
    """What a search over settings maximizes: the return's IQM over seeds; None if not done."""
    if outcome.state != "done":
        return None
    iqm = records.read_summary(cell.run_dir)["return_iqm"]
    return None if iqm is None else float(iqm)


def _train_or_skip(cell: Cell) -> Outcome:
    try:
        check_cell(cell.cfg)
    except Incompatible as reason:
        return process.skip(cell, str(reason))
    pool = Pool(
        num_slots=1,
        has_log_files=True,
        waits_for_others=True,
        retries_failed=cell.cfg.retry_failed,
    )
    return pool.run(jobs_of(cell))[cell.run_dir]


def _job_return(cell: Cell, outcome: Outcome) -> JobReturn:
    result = JobReturn(
        overrides=list(cell.cfg.hydra.overrides.task),
        cfg=cell.cfg,
        hydra_cfg=cell.cfg,
        working_dir=str(cell.run_dir),
        task_name=cell.name,
        status=JobStatus.COMPLETED,
    )
    result.return_value = objective(cell, outcome)
    return result
