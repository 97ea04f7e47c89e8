"""Weights & Biases: one run per cell, the same rows as records.jsonl, `env_step` as x-axis."""

import functools
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Any

import numpy as np

INIT_TIMEOUT_S = 90.0  # wandb's own
FINISH_TIMEOUT_S = 300.0  # wandb's own is none: with its server away it would wait for ever
# Lists belong to records.jsonl; a chart wants numbers.
UNCHARTED = ("kind", "seed", "env_step", "wall_s")


class WandbRun:
    """A run that is always finished; mode `disabled` imports and writes nothing.

    Whatever goes wrong here is a printed sentence: the training's own records are elsewhere.

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
        arguments = {
            "project": project,
            "dir": run_dir,
            "group": str(config["sweep"]),
            "name": run_dir.name,
            "config": {**axes, "settings": config},
            "id": id,
            "resume": None if id is None else "allow",
        }
        self._run = _begun(mode, arguments)
        if self._run is None and mode == "online":
            self._run = _begun("offline", arguments)
            if self._run is not None:
                print(f"It is kept in {run_dir}/wandb, for `wandb sync`.", flush=True)
        if self._run is None:
            return
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
        self._try(lambda run: run.finish(exit_code=0 if error is None else 1))

    def _try(self, action: Callable[[Any], object]) -> None:
        """Do something with the run, if there is one; the first time it fails is the last."""
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:
            self._run = None
            print(f"Weights & Biases is left out from here: {_spelled(error)}.", flush=True)

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
            charted = {"env_step": env_step, **means, **deviations}
            self._try(functools.partial(_log, charted))

    def summarize(self, summary: Mapping[str, Any]) -> None:
        """Put the cell's summary beside the charts."""
        self._try(lambda run: run.summary.update(dict(summary)))


def _log(charted: Mapping[str, float], run: Any) -> None:
    run.log(dict(charted))


def _begun(mode: str, arguments: Mapping[str, Any]) -> Any:
    """A run, or None and a printed sentence."""
    import wandb

    settings = wandb.Settings(
        mode=mode,  # type: ignore[arg-type]
        silent=True,
        console="off",
        x_disable_meta=False,
        init_timeout=INIT_TIMEOUT_S,
        finish_timeout=FINISH_TIMEOUT_S,
    )
    try:
        # Without this, init does not know yet that it is offline when it begins its telemetry, and
        # sends that.
        wandb.setup(settings)
        return wandb.init(settings=settings, **arguments)
    except Exception as error:
        print(f"Weights & Biases does not take this run: {_spelled(error)}.", flush=True)
        return None


def _spelled(error: Exception) -> str:
    """The first line of what went wrong, without the key."""
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    key = os.environ.get("WANDB_API_KEY")
    return (line.replace(key, "...") if key else line).rstrip(".")


def _deviation(values: list[float]) -> float:
    """Sample standard deviation; NaN where a seed has diverged."""
    with np.errstate(invalid="ignore"):  # inf - inf
        return float(np.std(values, ddof=1))
