"""One cell, from its config to summary.json: agents, conversion, final score."""

import logging
import time
import warnings
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from qbench import layers, records
from qbench.deploy import npz
from qbench.evaluate import greedy, play
from qbench.quant import agreement
from qbench.quant.integer import IntegerNetwork
from qbench.report import stats
from qbench.train import callbacks, ledger, provenance
from qbench.train.agents import Agents, load_observations, quantize_agents, train_agents
from qbench.train.wandb_log import WandbRun
from qbench.types import IntegerPolicy


def train_cell(cfg: DictConfig, run_dir: Path, axes: dict[str, str], base_dir: Path | None) -> None:
    """Train a cell and write records.jsonl, summary.json, calibration/, checkpoints/, deploy/.

    Args:
        cfg: composed and checked config, without its `hydra` node.
        run_dir: the cell's folder.
        axes: choice per axis: env, network, quant, algo.
        base_dir: the finished `none` cell whose agents a post-training scheme takes.
    """
    started = time.time()
    rss_bytes_after_imports = ledger.rss_bytes()
    _quiet_lightning()
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    logger = dict(config["logger"])
    with WandbRun(**logger, run_dir=run_dir, axes=axes, config=config) as wandb_run:
        recorder = callbacks.Recorder(run_dir, wandb_run, started)
        if base_dir is not None:
            agents = quantize_agents(cfg, run_dir, base_dir)
        else:
            agents = train_agents(cfg, run_dir, recorder, label="-".join(axes.values()))
        summary = {**axes, **_score(cfg, run_dir, agents, recorder)}
        summary |= {
            "peak_rss_bytes": agents.peak_rss_bytes,
            "peak_rss_above_imports_bytes": agents.peak_rss_bytes - rss_bytes_after_imports,
            "peak_device_bytes": ledger.peak_device_bytes(),
            "cpu_s": time.process_time(),
            "wall_s": time.time() - started,
            **provenance.describe(),
        }
        records.write_summary(run_dir, summary)
        wandb_run.summarize(summary)


def _score(
    cfg: DictConfig, run_dir: Path, agents: Agents, recorder: callbacks.Recorder
) -> dict[str, Any]:
    """Convert every seed, store it, play it; what the summary says of it."""
    singles = [layers.take_seed(agents.network, k) for k in range(len(agents.seeds))]
    policies = [agents.scheme.convert(single) for single in singles]
    sizes = [
        npz.save(run_dir / "deploy" / f"seed_{seed}" / "policy.npz", policy)
        for seed, policy in zip(agents.seeds, policies, strict=True)
    ]
    agreements = [
        _agreement(single, policy, path)
        for single, policy, path in zip(singles, policies, agents.observations, strict=True)
    ]
    played = play(
        greedy(policies, agents.env.describe()),
        agents.env.make,
        num_seeds=len(policies),
        num_episodes=cfg.eval_episodes,
    )
    rows = callbacks.eval_rows("final", agents.seeds, agents.env_steps, played)
    for row, alive in zip(rows, agents.alive, strict=True):
        row["diverged"] = not alive
    recorder.write(rows)
    keys = ("seed", "eval_returns", "eval_lengths", "eval_return_mean", "diverged")
    seeds = [
        {**{key: row[key] for key in keys}, "env_steps": row["env_step"], "agreement": agreed}
        for row, agreed in zip(rows, agreements, strict=True)
    ]
    means = [row["eval_return_mean"] for row in rows]
    return {
        "num_seeds": len(agents.seeds),
        "env_steps": max(agents.env_steps),
        "seeds": seeds,
        "return_iqm": stats.iqm(means),
        "return_ci": stats.bootstrap_ci(means),
        "memory_bytes": agents.memory_bytes,
        "artifact_bytes": {"npz": sizes[0].total, "npz_weights": sizes[0].weights},
        "env_steps_per_s": agents.env_steps_per_s,
        "base_cell": agents.base_cell,
    }


def _agreement(single: nn.Module, policy: IntegerPolicy, path: Path) -> dict[str, Any] | None:
    """How far the integers agree with fake quantization; None for a float network."""
    if not isinstance(policy, IntegerNetwork):
        return None
    found = agreement.measure(single, policy, load_observations(path))
    return {"holds": found.holds, **found._asdict()}


def _quiet_lightning() -> None:
    """Silence adverts, and advice that does not fit.

    The loader hands out a handle, and the target network is in eval mode on purpose.
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for pattern in (
        ".*does not have many workers.*",
        ".*module.s. in eval mode.*",
        ".*LeafSpec.*deprecated.*",
    ):
        warnings.filterwarnings("ignore", pattern)
