"""Ratios within groups of a file of `make bench`: `python -m tests.bench.ratios FILE`."""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path


def minima(saved: Mapping[str, list[dict]]) -> dict[str, float]:
    """Name -> least seconds, of what `benchmarks.py` names."""
    return {
        entry["extra_info"]["name"]: entry["stats"]["min"]
        for entry in saved["benchmarks"]
        if "name" in entry["extra_info"]
    }


def lines(seconds: Mapping[str, float]) -> Iterable[str]:
    """One per variant, against the group's first."""
    first: dict[str, str] = {}
    for name, spent in seconds.items():
        group, _, variant = name.partition("/")
        base = first.setdefault(group, name)
        ratio = "" if name == base else f"  {spent / seconds[base]:.2f} of {base.partition('/')[2]}"
        yield f"{group:12} {variant:8} {1e6 * spent:9.0f} us{ratio}"


if __name__ == "__main__":
    print("\n".join(lines(minima(json.loads(Path(sys.argv[1]).read_text())))))
