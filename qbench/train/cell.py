"""One cell, from its config to summary.json: agents, conversion, final score."""

import logging
import warnings
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from qbench import layers, records
from qbench.deploy.population import load_observations
from qbench.deploy.stored import agent_folder
from qbench.evaluate import greedy, play
from qbench.report import stats
from qbench.train import callbacks, deployment, ledger, merge, provenance, resume
from qbench.train.agents import Agents, Attempt, quantize_agents, train_agents
from qbench.train.build import create
from qbench.train.process import MORE
from qbench.train.spent import Spent
from qbench.train.stop import Stop
from qbench.train.wandb_log import WandbRun
from qbench.types import EnvSpec


def train_cell(
    cfg: DictConfig,
    run_dir: Path,
    axes: dict[str, str],
    base_dir: Path | None,
    stop: Stop | None = None,
) -> None:
    """Train a cell and write records.jsonl, summary.json, calibration/, checkpoints/, deploy/.

    What an earlier attempt has left is continued, seeds that are there are not trained again.

    Args:
        cfg: composed and checked config, without its `hydra` node.
        run_dir: the cell's folder.
        axes: choice per axis: env, network, quant, algo.
        base_dir: the finished `none` cell whose agents a post-training scheme takes.
        stop: whether the training has been asked to stop.
    """
    _quiet_lightning()
    ledger.keep_freed_memory()
    stop = stop or Stop()
    seeds = range(cfg.seed, cfg.seed + cfg.num_seeds)
    if not (run_dir / "summary.json").exists():
        _train_population(cfg, run_dir, run_dir, axes, base_dir, stop)
    while missing := merge.missing_seeds(run_dir, seeds):
        more = run_dir / MORE
        if not (more / "summary.json").exists():
            more.mkdir(exist_ok=True)
            asked = OmegaConf.merge(cfg, {"seed": missing[0], "num_seeds": len(missing)})
            assert isinstance(asked, DictConfig)
            _train_population(asked, more, run_dir, axes, base_dir, stop)
        merge.merge(run_dir, more, create(cfg.env).describe())


def _train_population(
    cfg: DictConfig,
    folder: Path,
    run_dir: Path,
    axes: dict[str, str],
    base_dir: Path | None,
    stop: Stop,
) -> None:
    """Train and score some seeds; an earlier attempt's are continued, whichever were asked for."""
    rss_bytes_after_imports = ledger.rss_bytes()
    standing = resume.find(folder, cfg) if base_dir is None else None
    if standing is not None:
        seeds = standing.seeds
        continued = OmegaConf.merge(cfg, {"seed": seeds[0], "num_seeds": len(seeds)})
        assert isinstance(continued, DictConfig)
        cfg = continued
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    run_id = None if standing is None else standing.state["wandb_id"]
    logger = dict(config["logger"])
    with WandbRun(**logger, run_dir=run_dir, axes=axes, config=config, id=run_id) as wandb_run:
        spent = Spent()
        recorder = callbacks.Recorder(folder, wandb_run, spent)
        if base_dir is not None:
            resume.cut_records(folder, None)
            agents = quantize_agents(cfg, folder, base_dir)
        else:
            label = "-".join(axes.values())
            attempt = Attempt(cfg, folder, label, recorder, wandb_run, spent, stop)
            agents = train_agents(attempt, standing)
        spec, formats = agents.env.describe(), deployment.available(cfg.formats)
        deployed = _deploy(folder, agents, spec, formats)
        summary = {**axes, **_score(cfg, agents, deployed, spec, recorder)}
        obs = load_observations(agents.observations[0])
        summary |= deployment.costs(deployed[0], spec, obs, formats)
        summary |= {
            "peak_rss_bytes": agents.peak_rss_bytes,
            "peak_rss_above_imports_bytes": agents.peak_rss_bytes - rss_bytes_after_imports,
            "peak_device_bytes": spent.peak_device_bytes,
            "cpu_s": spent.cpu_s,
            "wall_s": spent.wall_s,
            "continued_at": spent.continued_at,
            **provenance.describe(on_gpu=cfg.trainer.accelerator == "gpu"),
        }
        deployment.write_cards(summary, deployed, spec)
        records.write_summary(folder, summary)
        wandb_run.summarize(summary)


def _deploy(
    run_dir: Path, agents: Agents, spec: EnvSpec, formats: list[str]
) -> list[deployment.Deployed]:
    """Convert every seed, write its files and check them."""
    deployed = []
    rows = zip(agents.seeds, agents.observations, agents.alive, strict=True)
    for k, (seed, path, alive) in enumerate(rows):
        single = layers.take_seed(agents.network, k)
        policy = agents.scheme.convert(single)
        obs, folder = load_observations(path), agent_folder(run_dir, seed)
        deployed.append(
            deployment.deploy(
                single, policy, spec, folder=folder, formats=formats, obs=obs, must_agree=alive
            )
        )
    return deployed


def _score(
    cfg: DictConfig,
    agents: Agents,
    deployed: list[deployment.Deployed],
    spec: EnvSpec,
    recorder: callbacks.Recorder,
) -> dict[str, Any]:
    """Play every seed's deployed network; what the summary says of the agents."""
    policies = [agent.policy for agent in deployed]
    played = play(
        greedy(policies, spec),
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
        {key: row[key] for key in keys}
        | {"env_steps": row["env_step"], "agreement": agent.agreement}
        for row, agent in zip(rows, deployed, strict=True)
    ]
    means = [row["eval_return_mean"] for row in rows]
    return {
        "num_seeds": len(agents.seeds),
        "env_steps": max(agents.env_steps),
        "seeds": seeds,
        "return_iqm": stats.iqm(means),
        "return_ci": stats.bootstrap_ci(means),
        "memory_bytes": agents.memory_bytes,
        "artifact_bytes": deployed[0].sizes,
        "env_steps_per_s": agents.env_steps_per_s,
        "base_cell": agents.base_cell,
    }


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
        ".*srun. command is available.*",
    ):
        warnings.filterwarnings("ignore", pattern)
