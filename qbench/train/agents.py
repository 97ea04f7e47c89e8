"""The agents of a cell: trained here, or taken from the `none` cell and quantized."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import DictConfig
from torch import nn

from qbench import records, streams
from qbench.deploy.population import batches, load_rows
from qbench.train import callbacks, checkpoint, ledger, points, resume
from qbench.train.average import Average
from qbench.train.build import Parts, build, build_network, create, deployed_head
from qbench.train.data import ReplayDataModule, chunk_stops
from qbench.train.errors import ConfigError
from qbench.train.lightning import Trainer
from qbench.train.module import Kept, PopulationModule, Snapshots
from qbench.train.resume import Keeper, Standing
from qbench.train.spent import Spent
from qbench.train.stop import Stop
from qbench.train.wandb_log import WandbRun
from qbench.types import EnvFactory, QuantScheme, State

CALIBRATION_ROWS = 10_000


@dataclass(frozen=True, kw_only=True)
class Agents:
    """S agents ready to be converted, and what getting them cost."""

    seeds: list[int]
    env: EnvFactory
    scheme: QuantScheme
    network: nn.Module  # prepared, in eval mode, on the CPU
    observations: list[Path]  # per seed, 10,000 of its final replay (see `load_observations`)
    alive: list[bool]
    env_steps: list[int]
    env_steps_per_s: float
    memory_bytes: dict[str, int]
    peak_rss_bytes: int
    base_cell: str | None


class Attempt(NamedTuple):
    """What this process brings to the training of a cell."""

    cfg: DictConfig
    run_dir: Path
    label: str
    recorder: callbacks.Recorder
    wandb_run: WandbRun
    spent: Spent
    stop: Stop


def train_agents(attempt: Attempt, standing: Standing | None) -> Agents:
    """Train a population, from scratch or from where an earlier attempt was stopped.

    Raises:
        Stopped: a signal came, and the training was saved.
    """
    if standing is not None and standing.folder is None:
        resume.cut_records(attempt.run_dir, standing)
        return _trained_before(attempt, standing.state)
    parts, module, keeper = _begun(attempt, standing)
    memory = callbacks.MeasureMemory(parts, attempt.spent)
    trainer = _build_trainer(attempt, parts, keeper, memory)
    with attempt.stop.deferred():
        try:
            data = ReplayDataModule(sampler=parts.sampler, num_chunks=len(module.stops))
            trainer.fit(module, data)
        finally:
            parts.collector.close()
        kept = module.snapshots.keep_rest(parts.collector.env_step)
        agents = _agents_of(attempt, parts, module, memory, kept)
        _write_ended(attempt.run_dir, keeper, agents)
    return agents


def _begun(attempt: Attempt, standing: Standing | None) -> tuple[Parts, PopulationModule, Keeper]:
    """What is trained, as it stood; at its beginning where it cannot be put back exactly."""
    cfg, run_dir = attempt.cfg, attempt.run_dir
    parts = build(cfg)
    module = _build_module(attempt, parts)
    keeper = Keeper(cfg, run_dir, parts, module, attempt.spent, attempt.wandb_run)
    if standing is None:
        resume.cut_records(run_dir, None)
        points.clear(run_dir)
        return parts, module, keeper
    try:
        keeper.load(standing)
    except resume.REFUSALS as refusal:
        parts.collector.close()
        print(f"This training cannot be continued exactly and begins anew: {refusal}.", flush=True)
        return _begun(attempt, None)
    resume.cut_records(run_dir, standing)
    print(f"Continued at env step {parts.collector.env_step}.", flush=True)
    return parts, module, keeper


def _agents_of(
    attempt: Attempt,
    parts: Parts,
    module: PopulationModule,
    memory: callbacks.MeasureMemory,
    kept: Sequence[Kept],
) -> Agents:
    parts.phases(math.inf)  # A budget of episodes may end before a delay does.
    return Agents(
        seeds=parts.seeds,
        env=parts.env,
        scheme=parts.scheme,
        network=parts.learner.network.cpu().eval(),
        observations=[observations_path(attempt.run_dir, seed) for seed in parts.seeds],
        alive=[seed.is_alive for seed in kept],
        env_steps=[seed.env_step for seed in kept],
        env_steps_per_s=parts.collector.env_step * len(kept) / module.train_s,
        memory_bytes=memory.memory_bytes,
        peak_rss_bytes=max(memory.peak_rss_bytes, attempt.spent.peak_rss_before_bytes),
        base_cell=None,
    )


COSTS = ("alive", "env_steps", "env_steps_per_s", "memory_bytes", "peak_rss_bytes")
"""Fields of `Agents` that only their training knows."""


def _write_ended(run_dir: Path, keeper: Keeper, agents: Agents) -> None:
    """Leave the agents, which scoring and post-training schemes need, and nothing larger."""
    state = keeper.header() | {"spent": keeper.spent.state()}
    state["agents"] = {name: getattr(agents, name) for name in COSTS}
    state["state_dict"] = {f"network.{k}": v for k, v in agents.network.state_dict().items()}
    checkpoint.write(points.last(run_dir), state)
    points.clear(run_dir)


def _trained_before(attempt: Attempt, state: State) -> Agents:
    """The agents of a training that had ended when its job was stopped."""
    cfg, run_dir = attempt.cfg, attempt.run_dir
    attempt.spent.load_state(state["spent"])
    env: EnvFactory = create(cfg.env)
    scheme: QuantScheme = create(cfg.quant)
    seeds = list(state["seeds"])
    network = scheme.prepare(build_network(cfg, env.describe(), seeds, deployed_head(cfg)))
    load_network(network, points.last(run_dir), seeds)
    print("The training has ended before; its agents are scored.", flush=True)
    return Agents(
        seeds=seeds,
        env=env,
        scheme=scheme,
        network=network.eval(),
        observations=[observations_path(run_dir, seed) for seed in seeds],
        base_cell=None,
        **state["agents"],
    )


def observations_path(run_dir: Path, seed: int) -> Path:
    """Where a sample of a seed's final replay is kept."""
    return run_dir / "calibration" / f"seed_{seed}.npz"


def _keep_observations(run_dir: Path, parts: Parts, k: int) -> None:
    draws = streams.generator(parts.seeds[k], "calibration")
    index = draws.integers(parts.replay.size, size=CALIBRATION_ROWS)
    path = observations_path(run_dir, parts.seeds[k])
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f".{path.name}")
    # Frames of one episode resemble each other: 280 MB of images become some 10.
    np.savez_compressed(partial, obs=parts.replay.observations(k, index))
    partial.replace(path)


def _build_module(attempt: Attempt, parts: Parts) -> PopulationModule:
    cfg = attempt.cfg
    return PopulationModule(
        learner=parts.learner,
        update=parts.update,
        phases=parts.phases,
        collector=parts.collector,
        loop=parts.loop,
        precision=cfg.trainer.precision,
        stops=chunk_stops(
            cfg.total_env_steps,
            parts.loop.train_frequency,
            [
                cfg.chunk_env_steps,
                cfg.log_interval_env_steps,
                cfg.eval_interval_env_steps,
                cfg.checkpoint_interval_env_steps,
            ],
        ),
        snapshots=Snapshots(
            parts.learner,
            Average(parts.learner, parts.loop.average_weight),
            cfg.total_episodes,
            lambda k: _keep_observations(attempt.run_dir, parts, k),
        ),
        stop=attempt.stop,
    )


def _build_trainer(
    attempt: Attempt, parts: Parts, keeper: Keeper, memory: callbacks.MeasureMemory
) -> Trainer:
    cfg = attempt.cfg
    return Trainer(
        accelerator=cfg.trainer.accelerator,
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=attempt.run_dir,
        callbacks=[
            callbacks.Progress(parts, cfg.total_env_steps, attempt.label),
            callbacks.TrimHeap(),
            callbacks.LogTraining(cfg.log_interval_env_steps, parts, attempt.recorder),
            callbacks.EvaluateInterim(
                cfg.eval_interval_env_steps, cfg.interim_eval_episodes, parts, attempt.recorder
            ),
            callbacks.Checkpoint(cfg.checkpoint_interval_env_steps, keeper.save),
            callbacks.Finish(),
            memory,
        ],
    )


def quantize_agents(cfg: DictConfig, run_dir: Path, base_dir: Path) -> Agents:
    """Take the agents of the finished `none` cell and calibrate them on their own replay."""
    seeds = list(range(cfg.seed, cfg.seed + cfg.num_seeds))
    env: EnvFactory = create(cfg.env)
    scheme: QuantScheme = create(cfg.quant)
    base = records.read_summary(base_dir)
    rows = _rows_of(seeds, base, base_dir)
    network = build_network(cfg, env.describe(), seeds, deployed_head(cfg))
    load_network(network, points.last(base_dir), seeds, [e["seed"] for e in base["seeds"]])
    network = scheme.prepare(network)
    observations = [observations_path(base_dir, seed) for seed in seeds]
    scheme.calibrate(network, batches(observations))
    return Agents(
        seeds=seeds,
        env=env,
        scheme=scheme,
        network=network.eval(),
        observations=observations,
        alive=[not base["seeds"][row].get("diverged", False) for row in rows],
        env_steps=[base["seeds"][row]["env_steps"] for row in rows],
        env_steps_per_s=0.0,
        memory_bytes=ledger.inference_only(network, len(seeds)),
        peak_rss_bytes=ledger.peak_rss_bytes(),
        base_cell=base_dir.name,
    )


def _rows_of(seeds: Sequence[int], base: dict[str, Any], base_dir: Path) -> list[int]:
    trained = [entry["seed"] for entry in base["seeds"]]
    missing = sorted(set(seeds) - set(trained))
    if missing:
        raise ConfigError(
            f"{base_dir} has no seeds {missing}; train its quant=none cell with them."
        )
    return [trained.index(seed) for seed in seeds]


def load_network(
    network: nn.Module, path: Path, seeds: Sequence[int], stored: Sequence[int] = ()
) -> None:
    """Load some seeds of a checkpoint into a network of the same architecture.

    Args:
        network: of as many members as `seeds`.
        path: a checkpoint of a training that has ended.
        seeds: those that are wanted, in the network's order.
        stored: the seeds of a checkpoint that does not name them.

    Raises:
        ConfigError: no checkpoint, not one of qbench's, without a seed, of another architecture.
    """
    try:
        found = list(checkpoint.read(path).get("seeds", stored))
        if missing := sorted(set(seeds) - set(found)):
            raise ConfigError(f"{path} holds no seeds {missing}: train its cell with them.")
        load_rows(network, path, [found.index(seed) for seed in seeds])
    except checkpoint.Damaged as fault:
        raise ConfigError(f"{path} {fault}.") from fault
    except records.RunFolderError as error:
        raise ConfigError(str(error)) from error
