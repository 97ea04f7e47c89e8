"""The page: index.html, one file that needs nothing else."""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import qbench
from qbench import records
from qbench.report import choice, folders, measures, words
from qbench.report.figures import KINDS
from qbench.report.folders import Cell, printable
from qbench.report.rows import Family, Row, axes_of, finite, spelled, varying_axes

CAPTIONS = {  # kind: its name in the list of sections, its title, its caption
    "curves": (
        "Curves",
        "Learning curves",
        "Interquartile mean over seeds with its pointwise 95 % interval: greedy evaluations"
        " during training where there are any, else training episodes. A curve ends where its"
        " first seed ends. The marks at the right are the final scores of the deployed networks;"
        " post-training schemes have no training of their own.",
    ),
    "bytes": (
        "Size",
        "Return against size",
        "The dashed stair is the Pareto front: no other network is both smaller and better. Its"
        " points are estimates; mind their intervals. Cells of equal size stand side by side.",
    ),
    "bit-operations": (
        "Bit operations",
        "Return against bit operations",
        "Bit operations of one action: multiply-accumulates times weight bits times input bits.",
    ),
    "latency": (
        "Latency",
        "Return against latency",
        "One observation, one thread, in ONNX Runtime: the integer network, or the float one for"
        " none. Small networks are bound by the call, not by their arithmetic.",
    ),
    "memory": (
        "Memory",
        "Memory in training, without the replay",
        "What one seed's training holds, by what it is for.",
    ),
    "process": (
        "Process peak",
        "Peak memory of the process",
        "The job's own peak (VmHWM): what the imports take, what the ledger accounts for"
        " (replay included, all seeds), and the rest, which is mostly allocators and the envs."
        " Post-training schemes train nothing and are not shown.",
    ),
    "profiles": (
        "Profiles",
        "Performance profiles",
        "The share of training seeds whose return is above each value, with its pointwise 95 %"
        " interval. A curve further right is better; a flat tail on the left is seeds that failed.",
    ),
    "bits": (
        "Bit sweeps",
        "Bit sweeps",
        "Return against the bits of the weights; activations have as many unless the legend says"
        " otherwise. The band is float's interval.",
    ),
}

_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A figure in the page."""

    kind: str
    name: str
    svg: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Value:
    """A cell of the table: what is shown and what is sorted by (None: last)."""

    text: str
    key: float | str | None = None


def render(
    made: Sequence[Row],
    families: Sequence[Family],
    drawn: Sequence[Drawn],
    *,
    num_panels: Mapping[str, int],
    faults: Iterable[str],
    share: float,
) -> str:
    """The whole page.

    Args:
        made: the rows of the table.
        families: the same rows by family.
        drawn: the figures, in order.
        num_panels: kind -> figures that there would be without a limit.
        faults: sentences on what could not be read.
        share: of float's return that a recommended network keeps.
    """
    style, script = _asset("page.css"), _asset("page.js")
    cells = [row.cell for row in made]
    environment = Environment(
        loader=PackageLoader("qbench.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        title=f"qbench: {', '.join(dict.fromkeys(cell.sweep for cell in cells))}",
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        summary=[words.overview(made), words.verdicts(made, share)],
        notes=[*words.notes(made, share), *map(printable, faults)],
        recommendations=_recommendations(families, share),
        share=f"{100 * share:.4g} %",
        loss=f"{100 * (1 - share):.3g} %",
        columns=_columns(cells),
        has_envs="env" in _axis_columns(cells),
        table=[_table_row(row, _axis_columns(cells)) for row in made],
        sections=_sections(drawn, num_panels),
        unfinished=[cell for cell in cells if cell.state != "done"],
        details=[_detail(row) for row in made],
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        version=qbench.__version__,
    )


def _recommendations(families: Sequence[Family], share: float) -> list[dict[str, Any]]:
    found = [
        choice.recommend(family)
        for family in families
        if any(row.is_scored and not row.is_reference for row in family.rows)
    ]
    return [
        {"name": one.family.name, "text": words.recommendation(one, share), "chosen": one.chosen}
        for one in found
    ]


def _sections(drawn: Sequence[Drawn], num_panels: Mapping[str, int]) -> list[dict[str, Any]]:
    """The kinds of figures that there are, with their captions."""
    sections = []
    for kind in KINDS:
        figures = [figure for figure in drawn if figure.kind == kind]
        if figures:
            short, title, caption = CAPTIONS[kind]
            if (left_out := num_panels[kind] - len(figures)) > 0:
                caption += (
                    f" {left_out} further figures of this kind are not drawn: name fewer folders"
                    " to see them."
                )
            pictures = [(figure, Markup(figure.svg)) for figure in figures]
            sections.append(
                {
                    "id": kind,
                    "short": short,
                    "title": title,
                    "caption": caption,
                    "figures": pictures,
                }
            )
    return sections


def _axis_columns(cells: Sequence[Cell]) -> list[str]:
    return [axis for axis in varying_axes(cells) if axis != "quant"]


def _columns(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Heads of the table: text, unit or explanation beneath it, whether it holds numbers."""
    names = [("quant", "", False)]
    names += [(axis, "", False) for axis in _axis_columns(cells)]
    names += [
        ("seeds", "", True),
        ("return", "IQM [95 %]", True),
        ("minus none", "IQM [95 %]", True),
        ("verdict", "", False),
        ("P(better)", "than none [95 %]", True),
        ("disk", "KiB", True),
        ("disk", "of none", True),
        ("bit ops", "M an action", True),
        ("latency", "µs an action", True),
        ("ledger", "MiB a seed", True),
        ("peak", "MiB process", True),
        ("speed", "env steps/s", True),
        ("state", "", False),
    ]
    return [{"name": name, "unit": unit, "is_number": is_number} for name, unit, is_number in names]


def _table_row(row: Row, axes: Sequence[str]) -> dict[str, Any]:
    cell, found = row.cell, row.comparison
    size = measures.deployed_bytes(cell)
    reference = measures.deployed_bytes(found.reference) if found else None
    values = [Value(text=row.label, key=row.label)]
    values += [Value(text=(name := axes_of(cell)[axis]), key=name) for axis in axes]
    values += [
        _number(len(cell.returns) if cell.summary else None, 1, ".0f"),
        _estimate(words.with_interval(row.iqm, row.interval), row.iqm),
        _estimate(words.difference(found), found.difference) if found else Value(text=""),
        Value(text=found.verdict, key=found.verdict) if found else Value(text=""),
        _probability(row),
        _number(size, 2**10, ",.1f"),
        _number(size / reference if size and reference else None, 1, ".2f"),
        _number(measures.bit_operations(cell), 1e6, ",.3g"),
        _number(measures.latency_us(cell), 1, ",.1f"),
        _number(measures.total_ledger_bytes(cell), 2**20, ",.2f"),
        _number(measures.trained_number(cell, "peak_rss_bytes"), 2**20, ",.0f"),
        _number(measures.trained_number(cell, "env_steps_per_s"), 1, ",.0f"),
        Value(text=cell.state, key=cell.state),
    ]
    return {"id": _anchor(row), "env": cell.axes["env"], "values": values}


def _probability(row: Row) -> Value:
    found = row.comparison
    if found is None:
        return Value(text="")
    ends = found.improvement_interval
    interval = "-" if ends is None else f"{ends.low:.2f}, {ends.high:.2f}"
    return _estimate(f"{found.improvement:.2f} [{interval}]", found.improvement)


def _estimate(text: str, value: float) -> Value:
    return Value(text="" if value != value else text, key=finite(value))


def _number(value: float | None, unit: float, form: str) -> Value:
    return Value(text="" if value is None else f"{value / unit:{form}}", key=value)


def _detail(row: Row) -> dict[str, Any]:
    """All that is known of one cell."""
    cell, summary = row.cell, row.cell.summary or {}
    returns = spelled([*cell.returns.values()])
    return {
        "id": _anchor(row),
        "cell": cell,
        "label": row.label,
        "command": folders.repeat_command(cell.run_dir),
        "returns": list(zip(cell.returns, returns, strict=True)),
        "facts": _facts(summary),
        "latency": _latencies(summary.get("latency_us")),
        "config": _as_yaml(cell.config),
    }


def _facts(summary: Mapping[str, Any]) -> dict[str, str]:
    """Name -> value of what a summary holds beside its returns, in the order of the file."""
    hidden = {"seeds", "latency_us", "schema_version", *records.AXES}
    facts: dict[str, str] = {}
    for key, value in summary.items():
        if key in hidden or value is None:
            continue
        if isinstance(value, Mapping):
            facts[key] = ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
        else:
            facts[key] = _plain(value)
    return facts


def _latencies(forms: Any) -> list[tuple[str, dict[str, str]]]:
    """Form -> batch size -> microseconds, whatever of it is whole."""
    if not isinstance(forms, Mapping):
        return []
    return [
        (form, {str(size): _plain(value) for size, value in times.items()})
        for form, times in forms.items()
        if isinstance(times, Mapping)
    ]


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.6g}"
    return f"{value:,}" if type(value) is int else printable(value)


def _as_yaml(config: Mapping[str, Any] | None) -> str | None:
    if config is None:
        return None
    options = {"sort_keys": False, "allow_unicode": True, "width": 100}
    return str(yaml.dump(dict(config), Dumper=_Dumper, **options))


def _anchor(row: Row) -> str:
    digest = hashlib.sha256(str(row.cell.run_dir).encode("utf-8", "replace")).hexdigest()
    return f"cell-{digest[:10]}"


def _asset(name: str) -> str:
    return (resources.files("qbench.report") / name).read_text(encoding="utf-8")
