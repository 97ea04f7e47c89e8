"""Adds seeds that were trained later to those of a finished cell.

The summary comes last and names the seeds that a cell has: a merge that is cut off is done again.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from qbench import records
from qbench.deploy import npz
from qbench.deploy.card import text as card_text
from qbench.deploy.stored import agent_folder
from qbench.report import stats
from qbench.train import checkpoint, points
from qbench.train.errors import ConfigError
from qbench.types import EnvSpec, State

Summary = dict[str, Any]

OWN = ("versions", "machine", "git_commit", "peak_rss_bytes", "env_steps_per_s", "continued_at")
"""What every training of a part of the seeds has of its own: kept in `parts`."""


def missing_seeds(run_dir: Path, asked: Sequence[int]) -> list[int]:
    """The first of the seeds asked for that a cell has not, and those that follow it closely."""
    trained = _seeds(records.read_summary(run_dir))
    missing = [seed for seed in asked if seed not in trained]
    return [seed for k, seed in enumerate(missing) if seed == missing[0] + k]


def merge(run_dir: Path, more: Path, spec: EnvSpec) -> None:
    """Move everything from `more` into a finished cell's folder, and remove it.

    Raises:
        ConfigError: the cell's checkpoint is gone, so that its agents cannot be joined.
    """
    own, added = records.read_summary(run_dir), records.read_summary(more)
    if _seeds(added) <= _seeds(own):  # All but the last step of an earlier merge was done.
        shutil.rmtree(more)
        return
    _merge_checkpoints(run_dir, more, own)
    for name in ("calibration", "deploy"):
        if (more / name).exists():
            shutil.copytree(more / name, run_dir / name, dirs_exist_ok=True)
    _merge_records(run_dir, more, _seeds(added))
    summary = merged_summary(own, added)
    _write_cards(run_dir, summary, spec)
    records.write_summary(run_dir, summary)
    shutil.rmtree(more)


def _seeds(summary: Summary) -> set[int]:
    return {entry["seed"] for entry in summary["seeds"]}


def _merge_checkpoints(run_dir: Path, more: Path, own: Summary) -> None:
    """One checkpoint of all seeds, in their order."""
    try:
        first = checkpoint.read(points.last(run_dir)) if points.last(run_dir).exists() else None
        second = checkpoint.read(points.last(more)) if points.last(more).exists() else None
    except checkpoint.Damaged as fault:
        raise ConfigError(
            f"A checkpoint in {run_dir} {fault}, so seeds cannot be added: remove the folder to"
            " train all of them anew."
        ) from fault
    if first is None and second is None:
        return  # A post-training scheme trains nothing.
    if first is None or second is None:
        raise ConfigError(
            f"{points.last(run_dir)} is gone, so seeds cannot be added: remove the folder to"
            " train all of them anew."
        )
    first = {"seeds": [entry["seed"] for entry in own["seeds"]], **first}
    if not set(second["seeds"]) <= set(first["seeds"]):
        checkpoint.write(points.last(run_dir), _joined(first, second))


def _joined(first: State, second: State) -> State:
    seeds = [*first["seeds"], *second["seeds"]]
    order = sorted(range(len(seeds)), key=seeds.__getitem__)
    tensors = {
        name: torch.cat([first["state_dict"][name], tensor])[order]
        for name, tensor in second["state_dict"].items()
    }
    # What only the scoring of one part needs is left out: both have been scored.
    return {"seeds": sorted(seeds), "state_dict": tensors, "settings": second["settings"]}


def _merge_records(run_dir: Path, more: Path, seeds: set[int]) -> None:
    """The rows of both, those of the added seeds once."""
    own = [row for row in records.read_records(run_dir) if row["seed"] not in seeds]
    rows = [*own, *records.read_records(more)]
    lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    records.write_text(run_dir / "records.jsonl", lines)


def merged_summary(own: Summary, added: Summary) -> Summary:
    """The summary of all seeds; costs are sums or, where they are peaks, the larger."""
    entries = {entry["seed"]: entry for entry in (*own["seeds"], *added["seeds"])}
    seeds = [entries[seed] for seed in sorted(entries)]
    means = [entry["eval_return_mean"] for entry in seeds]
    merged: Summary = own | {
        "num_seeds": len(seeds),
        "seeds": seeds,
        "env_steps": max(own["env_steps"], added["env_steps"]),
        "return_iqm": stats.iqm(means),
        "return_ci": stats.bootstrap_ci(means),
        "env_steps_per_s": _joint_speed(own, added),
        "parts": [*own.get("parts", [_part(own)]), _part(added)],
    }
    for key in ("cpu_s", "wall_s"):
        merged[key] = own[key] + added[key]
    for key in ("peak_rss_bytes", "peak_rss_above_imports_bytes", "peak_device_bytes"):
        if key in own and key in added:
            merged[key] = max(own[key], added[key])
    return merged


def _part(summary: Summary) -> Summary:
    """What is told of one training among several."""
    own = {key: summary[key] for key in OWN if key in summary}
    return {"seeds": [entry["seed"] for entry in summary["seeds"]], **own}


def _joint_speed(own: Summary, added: Summary) -> float:
    """Env steps of all seeds per second of both trainings; 0 where nothing was trained."""
    counts = [sum(e.get("env_steps", 0) for e in part["seeds"]) for part in (own, added)]
    speeds = [own["env_steps_per_s"], added["env_steps_per_s"]]
    if not all(speeds):
        return 0.0
    return sum(counts) / sum(c / speed for c, speed in zip(counts, speeds, strict=True))


def _write_cards(run_dir: Path, summary: Summary, spec: EnvSpec) -> None:
    """Every agent's card tells the whole cell's return."""
    for entry in summary["seeds"]:
        folder = agent_folder(run_dir, entry["seed"])
        policy = npz.load(folder / "policy.npz")
        records.write_text(folder / "model_card.md", card_text(summary, entry, policy, spec))
