"""Weights & Biases: one run per cell, the same rows as records.jsonl, `env_step` as x-axis."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Any

import numpy as np

# Lists belong to records.jsonl; a chart wants numbers.
UNCHARTED = ("kind", "seed", "env_step", "wall_s")


class WandbRun:
    """A run that is always finished; mode `disabled` imports and writes nothing.

    Args:
        mode: offline | online | disabled.
        project: W&B project.
        run_dir: the cell's folder; offline files go to its wandb/.
        axes: config-group choices.
        config: the cell's whole config.
        id: of the run to go on with; None: a new one.
    """

    def __init__(
        self,
        *,
        mode: str,
        project: str,
        run_dir: Path,
        axes: Mapping[str, str],
        config: Mapping[str, Any],
        id: str | None,
    ) -> None:
        self._run: Any = None
        self.id: str | None = id
        if mode == "disabled":
            return
        import wandb

        self._run = wandb.init(
            mode=mode,  # type: ignore[arg-type]
            project=project,
            dir=run_dir,
            group=str(config["sweep"]),
            name=run_dir.name,
            config={**axes, "settings": config},
            id=id,
            resume=None if id is None else "allow",
            settings=wandb.Settings(silent=True, console="off", x_disable_meta=False),
        )
        self.id = self._run.id
        self._run.define_metric("env_step")
        self._run.define_metric("*", step_metric="env_step")

    def __enter__(self) -> "WandbRun":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if error is None else 1)

    def log(self, rows: list[dict[str, Any]]) -> None:
        """Chart rows: per seed as `<kind>/seed_<n>/<key>`, over seeds as `<kind>/<key>` and `_sd`.

        `<kind>/<key>` is the mean over the seeds of an env step, and `<kind>/<key>_sd` their
        standard deviation, where there are several.
        """
        if self._run is None:
            return
        by_step: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            charts = by_step[row["env_step"]]
            for key, value in row.items():
                if key in UNCHARTED or not isinstance(value, (int, float)):
                    continue
                charts[f"{row['kind']}/seed_{row['seed']}/{key}"].append(value)
                charts[f"{row['kind']}/{key}"].append(value)
        for env_step, charts in sorted(by_step.items()):
            means = {name: fmean(values) for name, values in charts.items()}
            several = {name: values for name, values in charts.items() if len(values) > 1}
            deviations = {f"{name}_sd": _deviation(values) for name, values in several.items()}
            self._run.log({"env_step": env_step, **means, **deviations})

    def summarize(self, summary: Mapping[str, Any]) -> None:
        """Put the cell's summary beside the charts."""
        if self._run is not None:
            self._run.summary.update(dict(summary))


def _deviation(values: list[float]) -> float:
    """Sample standard deviation; NaN where a seed has diverged."""
    with np.errstate(invalid="ignore"):  # inf - inf
        return float(np.std(values, ddof=1))
