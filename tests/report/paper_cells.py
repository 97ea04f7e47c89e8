"""Run folders of the paper's experiment, with returns and bytes that are given."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qbench import records

MIB = 2**20
LEDGER = dict.fromkeys(records.MEMORY_KEYS, 1024)


def write_cell(
    folder: Path,
    quant: str,
    returns: Mapping[int, Sequence[float]],
    *,
    env: str = "cartpole",
    final: float = 150.0,
    peak: int = 400 * MIB,
    ledger: Mapping[str, int] = LEDGER,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """A finished run folder: seed -> return of each training episode, of 10 env steps each."""
    run_dir = folder / f"{env}-mlp-{quant}-dqn-00000000"
    full = {"total_episodes": 200, "sweep": "paper", "quant": {"activations": {"grid": "affine"}}}
    full |= {"logger": {"mode": "offline", "project": "qbench"}, **(config or {})}
    records.write_text(run_dir / ".hydra" / "config.yaml", json.dumps(full))
    overrides = [f"env={env}", f"quant={quant}", "experiment=paper"]
    records.write_text(run_dir / ".hydra" / "overrides.yaml", json.dumps(overrides))
    rows = [
        {"kind": "episode", "seed": seed, "env_step": 10 * (k + 1), "wall_s": 0.0,
         "episode_return": value, "episode_length": 10}
        for seed, values in returns.items()
        for k, value in enumerate(values)
    ]  # fmt: skip
    records.append_records(run_dir, rows)
    seeds = [
        {"seed": seed, "eval_returns": [final, final], "eval_return_mean": final,
         "eval_lengths": [10, 10], "agreement": None}
        for seed in returns
    ]  # fmt: skip
    summary = dict.fromkeys(records.SUMMARY_KEYS, 0) | {
        "env": env,
        "network": "mlp",
        "quant": quant,
        "algo": "dqn",
        "num_seeds": len(seeds),
        "seeds": seeds,
        "return_iqm": final,
        "return_ci": [final - 1, final + 1],
        "memory_bytes": dict(ledger),
        "artifact_bytes": {"npz": 2048 if quant == "none" else 1024},
        "peak_rss_bytes": peak,
        "peak_rss_above_imports_bytes": 10 * MIB,
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "machine": {"processor": "some", "num_cores": 2, "platform": "Linux"},
        "git_commit": "0123456789abcdef",
    }
    records.write_summary(run_dir, summary)
    records.write_status(run_dir, "done")
    return run_dir
