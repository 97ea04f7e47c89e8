"""How a cell was made, in words: command, seeds, versions, machine."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]

from qbench.report.folders import Cell


def command(cell: Cell) -> str:
    """The command that trains this cell alone, from its recorded overrides; `-` without them."""
    try:
        text = (cell.run_dir / ".hydra" / "overrides.yaml").read_text(encoding="utf-8")
        overrides = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return "-"
    if not isinstance(overrides, list):
        return "-"
    return " ".join(["python -m qbench", *(shlex.quote(str(each)) for each in overrides)])


def seeds_spelled(cells: Iterable[Cell]) -> str:
    """Training seeds of some cells: `0-9`, or a list where they have gaps."""
    seeds = sorted({seed for cell in cells for seed in cell.returns})
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(map(str, seeds))


def versions_spelled(cells: Sequence[Cell]) -> str:
    """Packages and versions of some cells, each set once."""
    found = [(cell.summary or {}).get("versions") or {} for cell in cells]
    sets = dict.fromkeys(", ".join(f"{k} {v}" for k, v in each.items()) for each in found)
    return "; ".join(text for text in sets if text)


def machines_spelled(cells: Sequence[Cell]) -> str:
    """Processor, cores, GPU and platform of some cells, each once."""
    found = [(cell.summary or {}).get("machine") or {} for cell in cells]
    return "; ".join(dict.fromkeys(_machine_spelled(machine) for machine in found if machine))


def _machine_spelled(machine: Mapping[str, Any]) -> str:
    parts = [machine.get("processor"), f"{machine.get('num_cores')} cores"]
    parts += [machine["gpu"]] if "gpu" in machine else []
    return ", ".join(map(str, [*parts, machine.get("platform")]))


def commits_spelled(cells: Sequence[Cell]) -> str:
    """Commits of qbench that trained some cells, each once."""
    found = [(cell.summary or {}).get("git_commit") for cell in cells]
    return ", ".join(dict.fromkeys(str(commit)[:12] for commit in found if commit))
