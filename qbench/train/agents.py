"""The agents of a cell: trained here, or taken from the `none` cell and quantized."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from pytorch_lightning import Trainer
from torch import nn

from qbench import records, streams
from qbench.env.gym import GymnasiumEnv
from qbench.replay import ReplayBuffer
from qbench.train import callbacks, ledger
from qbench.train.build import Parts, build, build_network, create
from qbench.train.data import ReplayDataModule, chunk_stops
from qbench.train.errors import ConfigError
from qbench.train.module import PopulationModule
from qbench.types import FloatArray, QuantScheme

CALIBRATION_ROWS = 10_000


@dataclass(frozen=True, kw_only=True)
class Agents:
    """S agents ready to be converted, and what getting them cost."""

    seeds: list[int]
    env: GymnasiumEnv
    scheme: QuantScheme
    network: nn.Module  # prepared, in eval mode, on the CPU
    observations: list[FloatArray]  # per seed, [10000, *obs_shape] of its final replay
    alive: list[bool]
    env_steps: int
    env_steps_per_s: float
    memory_bytes: dict[str, int]
    base_cell: str | None


def train_agents(
    cfg: DictConfig, run_dir: Path, recorder: callbacks.Recorder, label: str
) -> Agents:
    """Train a population from scratch."""
    parts = build(cfg)
    started = time.time()
    env_steps = _fit(cfg, run_dir, parts, recorder, label)
    rate = env_steps * len(parts.seeds) / (time.time() - started)
    memory_bytes = ledger.measure(parts.learner, parts.replay, parts.sampler)
    return Agents(
        seeds=parts.seeds,
        env=parts.env,
        scheme=parts.scheme,
        network=parts.learner.network.cpu().eval(),
        observations=_store_observations(run_dir, parts.replay, parts.seeds),
        alive=parts.learner.alive.tolist(),
        env_steps=env_steps,
        env_steps_per_s=rate,
        memory_bytes=memory_bytes,
        base_cell=None,
    )


def _fit(
    cfg: DictConfig, run_dir: Path, parts: Parts, recorder: callbacks.Recorder, label: str
) -> int:
    """Run Lightning's loop; returns the env steps done per seed."""
    intervals = (
        cfg.log_interval_env_steps,
        cfg.eval_interval_env_steps,
        cfg.checkpoint_interval_env_steps,
    )
    stops = chunk_stops(
        cfg.total_env_steps, parts.loop.train_frequency, [cfg.chunk_env_steps, *intervals]
    )
    module = PopulationModule(
        learner=parts.learner,
        collector=parts.collector,
        loop=parts.loop,
        stops=stops,
        total_episodes=cfg.total_episodes,
    )
    trainer = Trainer(
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
            callbacks.LogTraining(intervals[0], parts, recorder),
            callbacks.EvaluateInterim(intervals[1], cfg.interim_eval_episodes, parts, recorder),
            callbacks.Checkpoint(intervals[2], run_dir),
        ],
    )
    try:
        trainer.fit(module, ReplayDataModule(sampler=parts.sampler, num_chunks=len(stops)))
    finally:
        parts.collector.close()
    return parts.collector.env_step


def _store_observations(
    run_dir: Path, replay: ReplayBuffer, seeds: Sequence[int]
) -> list[FloatArray]:
    """Write calibration/seed_<k>.npz: observations drawn from the final replay."""
    folder = run_dir / "calibration"
    folder.mkdir(exist_ok=True)
    drawn = []
    for k, seed in enumerate(seeds):
        index = streams.generator(seed, "calibration").integers(replay.size, size=CALIBRATION_ROWS)
        drawn.append(replay.observations(k, index))
        np.savez(folder / f"seed_{seed}.npz", obs=drawn[-1])
    return drawn


def quantize_agents(cfg: DictConfig, run_dir: Path, base_dir: Path) -> Agents:
    """Take the agents of the finished `none` cell and calibrate them on their own replay."""
    seeds = list(range(cfg.seed, cfg.seed + cfg.num_seeds))
    env: GymnasiumEnv = create(cfg.env)
    scheme: QuantScheme = create(cfg.quant)
    base = records.read_summary(base_dir)
    rows = _rows_of(seeds, base, base_dir)
    network = build_network(cfg, env.describe(), seeds)
    load_network(network, base_dir / "checkpoints" / "last.ckpt", rows)
    network = scheme.prepare(network)
    observations = [_load_observations(base_dir, seed) for seed in seeds]
    batches = np.stack(observations, axis=1).reshape(
        100, -1, len(seeds), *observations[0].shape[1:]
    )
    scheme.calibrate(network, (torch.from_numpy(b).transpose(0, 1) for b in batches))
    return Agents(
        seeds=seeds,
        env=env,
        scheme=scheme,
        network=network.eval(),
        observations=observations,
        alive=[not base["seeds"][row].get("diverged", False) for row in rows],
        env_steps=base["env_steps"],
        env_steps_per_s=0.0,
        memory_bytes=ledger.inference_only(network, len(seeds)),
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


def _load_observations(base_dir: Path, seed: int) -> FloatArray:
    with np.load(base_dir / "calibration" / f"seed_{seed}.npz", allow_pickle=False) as stored:
        obs: FloatArray = stored["obs"]
    return obs


def load_network(network: nn.Module, path: Path, rows: Sequence[int]) -> None:
    """Load the seeds at `rows` of a checkpoint into a network of the same architecture.

    Raises:
        ConfigError: no checkpoint, not one of qbench's, or of another architecture.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    except (OSError, KeyError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        reason = str(error).split(". ")[0]
        raise ConfigError(f"{path} is not a checkpoint of qbench: {reason}.") from error
    prefix = "network."
    own = {k.removeprefix(prefix): v[rows] for k, v in state.items() if k.startswith(prefix)}
    try:
        network.load_state_dict(own)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise ConfigError(f"{path} holds another architecture: {first}") from error
