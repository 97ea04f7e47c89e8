"""The agents of a cell: trained here, or taken from the `none` cell and quantized."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from pytorch_lightning import Trainer
from torch import nn

from qbench import records, streams
from qbench.deploy.population import batches, load_rows
from qbench.train import callbacks, ledger
from qbench.train.average import Average
from qbench.train.build import Parts, build, build_network, create, deployed_head
from qbench.train.data import ReplayDataModule, chunk_stops
from qbench.train.errors import ConfigError
from qbench.train.module import PopulationModule, Snapshots
from qbench.types import EnvFactory, QuantScheme

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


def train_agents(
    cfg: DictConfig, run_dir: Path, recorder: callbacks.Recorder, label: str
) -> Agents:
    """Train a population from scratch."""
    parts = build(cfg)
    module = _build_module(cfg, run_dir, parts)
    memory = callbacks.MeasureMemory(parts)
    trainer = _build_trainer(cfg, run_dir, parts, recorder, label, memory)
    try:
        data = ReplayDataModule(sampler=parts.sampler, num_chunks=len(module.stops))
        trainer.fit(module, data)
    finally:
        parts.collector.close()
    kept = module.snapshots.keep_rest(parts.collector.env_step)
    parts.phases(math.inf)  # A budget of episodes may end before a delay does.
    return Agents(
        seeds=parts.seeds,
        env=parts.env,
        scheme=parts.scheme,
        network=parts.learner.network.cpu().eval(),
        observations=[seed.observations for seed in kept],
        alive=[seed.is_alive for seed in kept],
        env_steps=[seed.env_step for seed in kept],
        env_steps_per_s=parts.collector.env_step * len(kept) / module.train_s,
        memory_bytes=memory.memory_bytes,
        peak_rss_bytes=memory.peak_rss_bytes,
        base_cell=None,
    )


def _build_module(cfg: DictConfig, run_dir: Path, parts: Parts) -> PopulationModule:
    def observe(k: int) -> Path:
        draws = streams.generator(parts.seeds[k], "calibration")
        index = draws.integers(parts.replay.size, size=CALIBRATION_ROWS)
        path = run_dir / "calibration" / f"seed_{parts.seeds[k]}.npz"
        path.parent.mkdir(exist_ok=True)
        # Frames of one episode resemble each other: 280 MB of images become some 10.
        np.savez_compressed(path, obs=parts.replay.observations(k, index))
        return path

    return PopulationModule(
        learner=parts.learner,
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
            observe,
        ),
    )


def _build_trainer(
    cfg: DictConfig,
    run_dir: Path,
    parts: Parts,
    recorder: callbacks.Recorder,
    label: str,
    memory: callbacks.MeasureMemory,
) -> Trainer:
    evaluate = callbacks.EvaluateInterim(
        cfg.eval_interval_env_steps, cfg.interim_eval_episodes, parts, recorder
    )
    return Trainer(
        accelerator=cfg.trainer.accelerator,
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run_dir,
        callbacks=[
            callbacks.Progress(parts, cfg.total_env_steps, label),
            callbacks.TrimHeap(),
            callbacks.LogTraining(cfg.log_interval_env_steps, parts, recorder),
            evaluate,
            callbacks.Checkpoint(cfg.checkpoint_interval_env_steps, run_dir),
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
    load_network(network, base_dir / "checkpoints" / "last.ckpt", rows)
    network = scheme.prepare(network)
    observations = [base_dir / "calibration" / f"seed_{seed}.npz" for seed in seeds]
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


def load_network(network: nn.Module, path: Path, rows: Sequence[int]) -> None:
    """Load the seeds at `rows` of a checkpoint into a network of the same architecture.

    Raises:
        ConfigError: no checkpoint, not one of qbench's, or of another architecture.
    """
    try:
        load_rows(network, path, rows)
    except records.RunFolderError as error:
        raise ConfigError(str(error)) from error
