"""A Weights & Biases Report of run folders: `python -m qbench.report DIR --wandb [--sync]`.

The local report never needs it: whatever goes wrong here is one sentence, a WandbError.
"""

import http.client
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from qbench.report.folders import Cell
from qbench.report.markdown import cells_table

DEFAULT_PROJECT = "qbench"  # that of conf/logger
TIMEOUT_S = 20
CURVES = (
    ("eval/eval_return_mean", "Greedy return: mean over seeds"),
    ("eval/eval_return_mean_sd", "Greedy return: standard deviation over seeds"),
    ("train/loss", "Loss: mean over seeds"),
)
"""What the curves show, by the names under which training logs it."""


class WandbError(Exception):
    """Weights & Biases could not be used: one sentence with the remedy."""


def publish(cells: Sequence[Cell], *, sync: bool) -> list[str]:
    """Save a Report per project; returns their addresses.

    Args:
        cells: the runs to show.
        sync: upload runs that were logged offline first.

    Raises:
        WandbError: no key, a wrong one, no server, or no such runs there.
    """
    logged = [cell for cell in cells if _mode(cell) != "disabled"]
    if not logged:
        raise WandbError("None of these runs was logged: train them without logger=none.")
    entity = _entity()
    if sync:
        sync_offline(logged)
    by_project: dict[str, list[Cell]] = {}
    for cell in logged:
        by_project.setdefault(_project(cell), []).append(cell)
    return [_save(build(found, project, entity)) for project, found in by_project.items()]


def sync_offline(cells: Iterable[Cell]) -> None:
    """Upload what was logged offline; runs that are uploaded already are left out.

    Raises:
        WandbError: `wandb sync` failed.
    """
    folders = [str(path) for cell in cells for path in offline_runs(cell.run_dir)]
    if not folders:
        return
    # wandb has no function for it, only this command. Its key comes from where wandb keeps it.
    command = [sys.executable, "-m", "wandb", "sync", *folders]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise WandbError(f"wandb sync failed: {said[-1] if said else 'it said nothing'}")


def offline_runs(run_dir: Path) -> list[Path]:
    """The folders of a cell's runs that were logged offline."""
    return sorted((run_dir / "wandb").glob("offline-run-*"))


def build(cells: Sequence[Cell], project: str, entity: str) -> Any:
    """The Report: a grid of panels per env, over all of its cells, and the table.

    Args:
        cells: of one project.
        project: W&B project.
        entity: the user or team that owns it.

    Returns:
        An unsaved `wandb_workspaces.reports.v2.Report`.

    Raises:
        WandbError: wandb-workspaces is not installed.
    """
    wr = _workspaces()
    sweeps = sorted({_group(cell) for cell in cells})
    blocks: list[Any] = [wr.H1("Cells"), wr.MarkdownBlock(cells_table(cells))]
    for env in sorted({cell.axes["env"] for cell in cells}):
        runset = _runset(wr, env, sweeps, project, entity)
        blocks += [wr.H1(env), wr.PanelGrid(runsets=[runset], panels=_panels(wr))]
    return wr.Report(
        project=project,
        entity=entity,
        title=f"qbench: {', '.join(sweeps)}"[:128],
        description="What quantization does to return, memory and size.",
        width="fluid",
        blocks=blocks,
    )


def _runset(wr: Any, env: str, sweeps: list[str], project: str, entity: str) -> Any:
    """The runs of one env in these sweeps; a group, and so a curve, for each scheme."""
    from wandb_workspaces import expr

    return wr.Runset(
        entity=entity,
        project=project,
        name=env,
        groupby=["config.env", "config.quant"],
        filters=[expr.Config("env") == env, expr.Metric("Group").isin(sweeps)],
    )


def _panels(wr: Any) -> list[Any]:
    """Curves over env steps, return against memory and size, and parallel coordinates."""
    summary, config = wr.SummaryMetric, wr.Config
    # The range is over the runs of a group: cells that differ in other settings.
    shared = {"x": "env_step", "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
    curves = [wr.LinePlot(title=title, y=[name], **shared) for name, title in CURVES]
    scatters = [
        wr.ScatterPlot(title=title, x=summary(x), y=summary("return_iqm"))
        for x, title in [
            ("peak_rss_bytes", "Return against peak memory in training"),
            ("artifact_bytes.npz", "Return against bytes on disk"),
        ]
    ]
    columns = [
        *map(config, ("network", "quant", "algo")),
        *map(summary, ("peak_rss_bytes", "artifact_bytes.npz", "env_steps_per_s", "return_iqm")),
    ]
    parallel = wr.ParallelCoordinatesPlot(
        title="All cells", columns=[wr.ParallelCoordinatesPlotColumn(metric=c) for c in columns]
    )
    panels = [*curves, *scatters, parallel]
    for k, panel in enumerate(panels):
        panel.layout = wr.Layout(x=8 * (k % 3), y=6 * (k // 3), w=8, h=6)
    return panels


def _workspaces() -> Any:
    try:
        import wandb_workspaces.reports.v2 as wr
    except ImportError as error:
        raise WandbError(
            "--wandb needs the package wandb-workspaces: pip install '.[report]'."
        ) from error
    return wr


def _entity() -> str:
    """The account's own entity; asking for it shows that there are a server and a key."""
    import wandb

    _workspaces()
    _reach(_server())
    try:
        entity = wandb.Api(timeout=TIMEOUT_S).default_entity
    except wandb.errors.UsageError as error:
        raise WandbError(
            "No Weights & Biases key is known here: run `wandb login`, or leave out --wandb."
        ) from error
    except wandb.errors.AuthenticationError as error:
        raise WandbError(
            f"{_server()} does not accept this key: run `wandb login --relogin`."
        ) from error
    except wandb.errors.Error as error:
        raise WandbError(_away(_server())) from error
    if not entity:
        raise WandbError("This Weights & Biases key belongs to no account: run `wandb login`.")
    return str(entity)


def _reach(server: str) -> None:
    """Ask for anything at all: wandb itself takes long to find that nobody is there.

    Raises:
        WandbError: no answer. Any answer will do, also one that wandb alone could have had.
    """
    try:
        urllib.request.urlopen(server, timeout=TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return
    except (OSError, http.client.HTTPException) as error:
        if not isinstance(getattr(error, "reason", None), ssl.SSLError):
            raise WandbError(_away(server)) from error


def _away(server: str) -> str:
    return f"{server} does not answer: try again when it can be reached, or leave out --wandb."


def _server() -> str:
    import wandb

    return str(wandb.setup().settings.base_url)


def _save(report: Any) -> str:
    import wandb

    try:
        report.save()
    except ValueError as error:
        if "not found" in str(error):
            sentence = f"{report.entity} has no project {report.project} there yet: add --sync."
        else:  # pydantic's, of what the server said
            said = str(error).partition("\n")[0]
            sentence = f"{_server()} answers what wandb-workspaces cannot read: {said}."
        raise WandbError(sentence) from error
    except wandb.errors.Error as error:
        raise WandbError(_away(_server())) from error
    return str(report.url)


def _logger(cell: Cell) -> dict[str, Any]:
    found = (cell.config or {}).get("logger")
    return found if isinstance(found, dict) else {}


def _mode(cell: Cell) -> str:
    return str(_logger(cell).get("mode", "disabled"))


def _project(cell: Cell) -> str:
    return str(_logger(cell).get("project", DEFAULT_PROJECT))


def _group(cell: Cell) -> str:
    return str((cell.config or {}).get("sweep", cell.sweep))
