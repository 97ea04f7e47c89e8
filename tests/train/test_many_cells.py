"""Sweeps of many cells: how often things are done, and with 10,000 of them how long it takes."""

import itertools
import re
import resource
import shutil
import time
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from qbench import records
from qbench.train import cells, launch, pool, process
from qbench.train.cells import Cell
from qbench.train.launch import Composer
from qbench.train.pool import Job, Pool
from qbench.train.process import Outcome
from tests.train.fakes import DONE
from tests.train.test_cells import summary


class CountingLoader:
    """Hydra's, which counts what it is asked for."""

    def __init__(self, loader):
        self.loader, self.num_calls = loader, 0

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def load_sweep_config(self, *args):
        self.num_calls += 1
        return self.loader.load_sweep_config(*args)


@pytest.fixture
def composer(monkeypatch):
    """A composer of the real config, with a loader that counts."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    from qbench.train.conf import conf_dir

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", ["sweep=s"], RunMode.MULTIRUN)
        HydraConfig.instance().set_config(master)
        yield Composer(CountingLoader(loader), master)


def test_cells_that_differ_in_values_share_one_composition_and_are_hydras_own(composer):
    envs, schemes = ("lunarlander",), ("none", "qat4")
    values = (
        "algo.learner.gamma=0.5", "algo.learner.gamma=1e-3", "num_seeds=3",
        "network.hidden_sizes=[8,8]", "quant=ptq8", "+env.kwargs.wind=true", "sweep='a b'",
        "total_env_steps=${num_seeds}", "env.id=x", "hydra.verbose=true",
    )  # fmt: skip
    grid = [
        [f"env={env}", f"quant={scheme}", value, "algo.loop.tau=0.25"]
        for env, scheme, value in itertools.product(envs, schemes, values)
    ]
    ours = [composer.compose(overrides) for overrides in grid]
    # A choice of each value that is none of a key that is there: quant=, +env, hydra.
    assert composer._loader.num_calls == len(envs) * len(schemes) * 4
    for overrides, cfg in zip(grid, ours, strict=True):
        own = composer._loader.loader.load_sweep_config(composer._master, overrides)
        assert OmegaConf.to_container(cfg) == OmegaConf.to_container(own)
        assert cells.cell_name(cfg) == cells.cell_name(own)


def test_a_value_that_hydra_refuses_is_refused_by_hydra(composer):
    from hydra.errors import ConfigCompositionException

    with pytest.raises(ConfigCompositionException, match=r"Could not override 'algo.learner.gama'"):
        composer.compose(["algo.learner.gama=0.5"])


class Ended:
    """A job's process that has ended well."""

    def poll(self):
        return 0


@pytest.fixture
def counted(monkeypatch):
    """Jobs without processes; counts how often the pool looks whether a cell is done."""
    looks = []
    monkeypatch.setattr(pool, "POLL_S", 0)
    monkeypatch.setattr(pool, "announce", lambda *args: None)
    monkeypatch.setattr(pool.cells, "is_done", lambda cell: looks.append(cell.name))
    monkeypatch.setattr(pool.process, "prepare", lambda cell: True)
    monkeypatch.setattr(pool.process, "start", lambda *args, **kwargs: Ended())
    monkeypatch.setattr(pool.process, "conclude", lambda *args, **kwargs: Outcome("done"))
    return looks


def test_a_pool_looks_at_each_of_many_cells_once(composed, counted, tmp_path):
    cfg = composed()
    base = Cell(cfg, tmp_path / "base")
    jobs = [Job(base)] + [Job(Cell(cfg, tmp_path / str(k)), base) for k in range(400)]
    own = Pool(num_slots=4, has_log_files=True, waits_for_others=False, retries_failed=False)
    outcomes = own.run(jobs)
    assert len(outcomes) == 401 and set(outcomes.values()) == {Outcome("done")}
    assert len(counted) == 401


def test_a_cell_keeps_to_a_few_files_whatever_the_number_of_cells(qbench_main):
    rates = ",".join(f"0.{k}" for k in range(1, 4))
    arguments = [f"algo.learner.gamma={rates}", f"total_env_steps={DONE}", "num_seeds=1"]
    assert qbench_main("-m", *arguments, "sweep=s") == 0
    sweep = Path("multirun/s")
    assert {path.name for path in sweep.iterdir() if not re.match("cartpole-", path.name)} == {
        "multirun.yaml"
    }
    for run_dir in sweep.glob("cartpole-*"):
        names = {str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if path.is_file()}
        assert names == {
            ".lock", "log.txt", "status.json", "records.jsonl", "summary.json",
            ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml",
        }  # fmt: skip


@pytest.mark.slow
def test_ten_thousand_cells_are_planned_skipped_and_tabulated(composer, tmp_path, monkeypatch):
    """Prints the CPU seconds of each part and the memory of the whole; asserts what is counted."""
    from qbench.report.table import print_table

    monkeypatch.chdir(tmp_path)
    num_cells = 10_000
    marks = [("start", time.process_time())]

    def mark(name):
        marks.append((name, time.process_time()))

    pairs = itertools.product(range(num_cells // 2), ("quant=none", "quant=qat8"))
    grid = composer.grid([[f"algo.learner.gamma=0.{k + 10_000}", quant] for k, quant in pairs])
    mark("compose")
    assert len({cell.run_dir for cell in grid}) == num_cells
    assert composer._loader.num_calls == 2
    assert launch.incompatibilities(grid) == {}
    mark("check")
    first = grid[0]
    process.write_config(first)
    config = (first.run_dir / ".hydra" / "config.yaml").read_text()
    assert config.count("gamma: 0.1\n") == 1
    for cell in grid:
        if cell is not first:
            shutil.copytree(first.run_dir / ".hydra", cell.run_dir / ".hydra")
        own = config.replace("gamma: 0.1\n", f"gamma: {cell.cfg.algo.learner.gamma}\n")
        (cell.run_dir / ".hydra" / "config.yaml").write_text(own)
        records.write_json(
            cell.run_dir / "summary.json",
            {"schema_version": records.SCHEMA_VERSION, **summary(range(5)), **cell.axes},
        )
        (cell.run_dir / "status.json").write_text(
            '{"schema_version": 1, "state": "done", "reason": null, "traceback": null}'
        )
    mark("make folders")
    jobs = [member for cell in grid for member in launch.jobs_of(cell)]
    own = Pool(num_slots=2, has_log_files=True, waits_for_others=False, retries_failed=False)
    outcomes = own.run(jobs)
    mark("skip")
    assert {outcome.reason for outcome in outcomes.values()} == {"was there already"}
    run_dirs = cells.run_folders(grid)
    assert len(run_dirs) == num_cells
    print_table(run_dirs)
    mark("table")
    for (_, before), (name, after) in itertools.pairwise(marks):
        print(f"{name}: {after - before:.1f} s")
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak: {peak_mib:.0f} MiB")
