"""Synthetic run folders of known returns, shaped like real ones."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from qbench import records

BITS = {"none": 32, "qat8": 8, "ptq8": 8, "qat6": 6, "qat4": 4, "ptq4": 4, "qat2": 2, "ptq2": 2}
LOSS = {32: 0.0, 8: 0.0, 6: 2.0, 4: 25.0, 2: 150.0}
"""Bits -> what is lost of a return of about 250."""

SCHEMES = {"qat": "qbench.quant.qat.QAT", "ptq": "qbench.quant.ptq.PTQ"}


def write_grid(
    sweep_dir: Path,
    *,
    envs: Iterable[str] = ("cartpole", "lunarlander"),
    networks: Iterable[str] = ("mlp",),
    quants: Iterable[str] = ("none", "qat8", "ptq8", "qat4", "ptq4", "qat2"),
    num_seeds: int = 10,
    num_evals: int = 20,
    num_episodes: int = 100,
    total_env_steps: int = 200_000,
) -> list[Path]:
    """Finished cells; fewer bits return less, and post-training cells are pairs of `none`."""
    rng = np.random.default_rng(0)
    run_dirs = []
    for env in envs:
        for network in networks:
            base = 250 + 40 * rng.normal(size=num_seeds)
            for quant in quants:
                noise = 2 if quant.startswith(("none", "ptq")) else 40
                start = base if noise == 2 else np.full(num_seeds, 250.0)
                returns = (
                    start
                    - LOSS[BITS[quant]]
                    + noise * rng.normal(size=num_seeds) * (quant != "none")
                )
                run_dirs.append(
                    write_cell(
                        sweep_dir,
                        quant,
                        returns.tolist(),
                        env=env,
                        network=network,
                        total_env_steps=total_env_steps,
                    )
                )
                if not quant.startswith("ptq"):
                    write_records(run_dirs[-1], returns, num_evals, num_episodes, total_env_steps)
    return run_dirs


def write_cell(
    sweep_dir: Path,
    quant: str,
    returns: Sequence[float | None],
    *,
    env: str = "cartpole",
    network: str = "mlp",
    total_env_steps: int = 200_000,
    digits: str = "0" * 8,
    config: dict[str, Any] | None = None,
    **more: Any,
) -> Path:
    """A finished run folder with everything that a summary can hold."""
    bits = BITS[quant]
    run_dir = sweep_dir / f"{env}-{network}-{quant}-dqn-{digits}"
    scheme: dict[str, Any] = {"_target_": SCHEMES.get(quant[:3], "qbench.quant.none.NoQuant")}
    if quant != "none":
        scheme |= {"weights": {"bits": bits}, "activations": {"bits": bits}}
    content = {
        "seed": 0, "total_env_steps": total_env_steps, "total_episodes": None, "quant": scheme,
        "env": {"id": env}, "network": {"hidden_sizes": [128, 128], "name": network},
        "algo": {"learner": {"learning_rate": 1e-3, "gamma": 0.99}},
    }  # fmt: skip
    hydra = run_dir / ".hydra"
    records.write_text(hydra / "config.yaml", yaml.safe_dump(content | (config or {})))
    overrides = [f"env={env}", f"network={network}", f"quant={quant}"]
    records.write_text(hydra / "overrides.yaml", yaml.safe_dump(overrides))
    seeds = [
        {"seed": k, "eval_returns": [mean] * 5, "eval_return_mean": mean, "env_steps": 1}
        for k, mean in enumerate(returns)
    ]
    size = 4000 + 70_000 * bits // 32
    latency = {"torch_float": {"1": 20.0}, "onnx_float": {"1": 6.5, "32": 12.0}}
    summary = dict.fromkeys(records.SUMMARY_KEYS, 0) | {
        "env": env, "network": network, "quant": quant, "algo": "dqn",
        "num_seeds": len(seeds), "seeds": seeds, "env_steps": total_env_steps,
        "memory_bytes": dict(zip(records.MEMORY_KEYS, (72_000, 73_000, 146_000, 72_000,
                             35_000 if bits == 32 else 110_000, 7_600_000, 73_000), strict=True)),
        "artifact_bytes": {"npz": size, "onnx": size - 2000},
        "peak_rss_bytes": 900 * 2**20, "peak_rss_above_imports_bytes": 450 * 2**20,
        "env_steps_per_s": 4400.6 if bits == 32 else 2500.1,
        "cost": {"macs": 17_920, "bit_operations": 17_920 * bits**2, "activation_bytes": 1024},
        "latency_us": latency if bits == 32 else latency | {"onnx": {"1": 8.0 - bits / 8}},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "machine": {"processor": "a processor", "num_cores": 2}, "git_commit": "0" * 40,
    }  # fmt: skip
    records.write_summary(run_dir, summary | more)
    records.write_status(run_dir, "done")
    return run_dir


def write_records(
    run_dir: Path,
    returns: Iterable[float],
    num_evals: int,
    num_episodes: int,
    total_env_steps: int,
) -> None:
    """Evaluations and episodes that rise to the final returns; the usual number of lines."""
    rng = np.random.default_rng(1)
    lines = []
    for kind, count in (("episode", num_episodes), ("eval", num_evals)):
        steps = np.linspace(0, total_env_steps, count + 1)[1:].astype(int)
        for step in steps.tolist():
            rise = 1 - np.exp(-4 * step / total_env_steps)
            for seed, value in enumerate(returns):
                row = {"kind": kind, "seed": seed, "env_step": step, "wall_s": step / 4000}
                found = float(value * rise + 15 * rng.normal())
                name = "eval_return_mean" if kind == "eval" else "episode_return"
                lines.append(json.dumps(row | {name: found}))
    records.write_text(run_dir / "records.jsonl", "".join(f"{line}\n" for line in lines))
