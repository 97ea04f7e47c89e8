"""report/paper.html: the seed paper's tables and figures beside ours, one self-contained file."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import fmean

from qbench import records
from qbench.report import paper, stats
from qbench.report.folders import Cell, settings
from qbench.report.paper import FLOAT, GOAL, LAST, QAT, WINDOW, Arm, Contrast, Memory, PaperError
from qbench.report.provenance import (
    command,
    commits_spelled,
    machines_spelled,
    seeds_spelled,
    versions_spelled,
)

FIGURES = {
    "cartpole": ("Figure 5: CartPole", GOAL),
    "lunarlander": ("Figure 6: LunarLander", None),
    "cartpole_pixels": ("On frames: CartPole with the paper's CNN", GOAL),
    "lunarlander_pixels": ("On frames: LunarLander with the paper's CNN", None),
}
"""Env -> heading, and where its reported return is cut."""

STYLE = """
:root {
  color-scheme: light dark; --line: #8886; --soft: #8882;
  --ink: CanvasText; --muted: GrayText; --grid: #8884; --card: Canvas;
  --series-0: light-dark(#0072b2, #56b4e9); --series-1: light-dark(#d55e00, #ff8533);
}
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem }
h1 { line-height: 1.2 }
h2 { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .75rem; border-bottom: 1px solid var(--line); text-align: right }
th, td { white-space: nowrap }
th:first-child, td:first-child { text-align: left; white-space: normal }
thead th { vertical-align: bottom }
details td { text-align: left; white-space: normal }
svg { width: 100%; max-width: 48rem; height: auto } code { overflow-wrap: anywhere }
.claim { background: var(--soft); border-left: .3rem solid var(--line); padding: .5rem 1rem }
@media print {
  body { max-width: none } h2 { break-after: avoid } svg, table { break-inside: avoid }
}
"""


def write(cells: Sequence[Cell], folder: Path) -> Path:
    """Write paper.html into a folder; returns its path.

    Raises:
        PaperError: no cell of the paper's experiment, or matplotlib is not there.
    """
    path = folder / "paper.html"
    records.write_text(path, page(cells))
    return path


def page(cells: Sequence[Cell]) -> str:
    """The whole page, from whatever of the experiment is there.

    Raises:
        PaperError: no cell of the paper's experiment, or matplotlib is not there.
    """
    of_paper = [cell for cell in cells if _is_of_paper(cell)]
    arms = {env: paper.arms(of_paper, env) for env in FIGURES}
    memories = [m for env in paper.TABLE_2 if (m := paper.memory(of_paper, env))]
    if not any(QAT in found for found in arms.values()) and not memories:
        raise PaperError(
            "There is no finished cell of the paper's experiment here: train it with"
            " `python -m qbench experiment=paper`."
        )
    sections = [_table_1(), _table_2(memories)]
    sections += [_figure(env, found) for env, found in arms.items() if found or "_" not in env]
    sections.append(_provenance(of_paper))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>The paper, side by side</title><style>{STYLE}</style></head><body>"
        "<h1>The paper, side by side</h1>"
        + _p(
            "Li, “Quantization aware training for efficient reinforcement learning network”:"
            " DQN in float and with 8-bit quantization-aware training (QAT). The paper shows one"
            " run of each; here each has several training seeds, and every difference a 95 %"
            " interval. “Not shown” means that the interval allows either answer, or that there are"
            " fewer than five seeds."
        )
        + "".join(sections)
        + "</body></html>\n"
    )


def _is_of_paper(cell: Cell) -> bool:
    """Whether a cell is finished and has a budget of episodes, as the paper's have."""
    budget = (cell.config or {}).get("total_episodes")
    return cell.axes["quant"] in (FLOAT, QAT) and bool(cell.summary) and bool(budget)


def _table_1() -> str:
    rows = [
        (code, f"{printed:g}", f"{paper.decode(code, -10.0, 30.0):.3f}")
        for code, printed in paper.TABLE_1
    ]
    return (
        "<h2>Table 1: the quantizer</h2>"
        + _table(("code", "paper", "ours"), rows)
        + _p(
            "A range [min, max], here [-10, 30], in 255 equal cells: value = min + code (max - min)"
            " / 255. Code 128 is 10.078; the paper prints 10. The cells below quantize inputs and"
            " activations on this grid; weights on the symmetric one, of the range [-m, m] with m"
            " their largest size."
        )
    )


def _table_2(memories: Sequence[Memory]) -> str:
    heading = "<h2>Table 2: memory in training</h2>"
    if not memories:
        return heading + _missing("single-seed cells", "experiment=paper_memory")
    rows = []
    for m in memories:
        before, after = paper.TABLE_2[m.env]
        found = m.difference
        rows.append(
            (
                m.env,
                f"{before} → {after} ({after - before:+d})",
                f"{fmean(found.float_values) / 2**20:.1f} → {fmean(found.qat_values) / 2**20:.1f}",
                _scaled(found, 2**20, "+.2f"),
                f"{len(found.float_values)} and {len(found.qat_values)}",
                f"{m.ledger_difference / 2**10:+.1f}",
            )
        )
    headers = (
        "env", "paper, no unit", "process peak, MiB", "QAT minus float, MiB [95 %]", "processes",
        "ledger, QAT minus float, KiB",
    )  # fmt: skip
    return (
        heading
        + _claim("QAT decreases memory in training", "; ".join(map(_memory_verdict, memories)))
        + _table(headers, rows)
        + _p(
            "Process peak: VmHWM of a process that trains one seed, mean over processes; the"
            " interval is Welch's. Ledger: what training holds for the agent, byte by byte."
        )
        + "".join(map(_where_the_bytes_are, memories))
    )


def _memory_verdict(m: Memory) -> str:
    found = m.difference
    size = f"{_scaled(found, 2**20, '+.2f')} MiB"
    verdict = {"no, below": "holds", "yes": "does not hold, QAT takes more"}
    said = verdict.get(paper.is_more(found, fewest=2), "not shown, the interval holds 0")
    return f"{m.env}: {said} ({size}), by the ledger {m.ledger_difference / 2**10:+,.1f} KiB"


def _where_the_bytes_are(m: Memory) -> str:
    """The ledger of both arms, and how small it is beside the process."""
    total = sum(m.ledgers[FLOAT].values())
    imports, peak = fmean(m.imports[FLOAT]), fmean(m.peaks[FLOAT])
    replay = m.ledgers[FLOAT]["replay"]
    disk = [m.disk[q] for q in (FLOAT, QAT)]
    stored = (
        f" What shrinks is the deployed network: {disk[0] / 2**10:.1f} KiB in float,"
        f" {disk[1] / 2**10:.1f} KiB in 8 bits."
        if disk[0] and disk[1]
        else ""
    )
    return (
        f"<h3>Where the bytes are: {escape(m.env)}</h3>"
        + _ledger_table(m.ledgers)
        + _p(
            f"Of a float process's {peak / 2**20:.0f} MiB, {imports / 2**20:.0f} MiB are the"
            " interpreter and its libraries before anything is built. Of the"
            f" {total / 2**20:.1f} MiB of its agent, replay is {replay / 2**20:.1f} MiB, which no"
            " quantization of a network touches; everything else is"
            f" {(total - replay) / 2**10:,.0f} KiB. QAT trains float weights with float"
            f" gradients and adds ranges and codes.{stored}"
        )
    )


def _ledger_table(ledgers: Mapping[str, Mapping[str, float]]) -> str:
    """Arm -> records.MEMORY_KEYS -> bytes, as a table with a total."""
    before, after = ledgers[FLOAT], ledgers[QAT]
    rows = [
        _ledger_row(key, before[key] / 2**10, after[key] / 2**10) for key in records.MEMORY_KEYS
    ]
    rows.append(_ledger_row("total", sum(before.values()) / 2**10, sum(after.values()) / 2**10))
    return _table(("KiB per seed", "float", "QAT", "difference"), rows)


def _ledger_row(name: str, before: float, after: float) -> tuple[str, ...]:
    return name, f"{before:,.1f}", f"{after:,.1f}", f"{after - before:+,.1f}"


def _figure(env: str, found: dict[str, Arm]) -> str:
    title, ceiling = FIGURES[env]
    heading = f"<h2>{escape(title)}</h2>"
    if not found:
        return heading + _missing("cells of this env", f"experiment=paper env={env}")
    figure = _rewards(found, ceiling, env)
    num_episodes = min(len(r) for arm in found.values() for r in arm.returns.values())
    cut_at = f", cut at {ceiling:g} as the paper does" if ceiling is not None else ""
    caption = (
        f"Return of training episodes{cut_at}: mean of the last {WINDOW} episodes; thick, the IQM"
        " over seeds with its 95 % interval; thin, each seed. Curves end with the shortest seed's"
        f" {num_episodes} episodes."
    )
    ledgers = {q: (arm.cell.summary or {})["memory_bytes"] for q, arm in found.items()}
    # Table 2 has those of the other envs, from processes of one seed.
    has_ledger = env not in paper.TABLE_2 and {FLOAT, QAT} <= ledgers.keys()
    ledger = _p("What training holds for an agent:") + _ledger_table(ledgers) if has_ledger else ""
    return heading + figure + _p(caption) + _claims(env, found, ceiling) + ledger


def _claims(env: str, found: dict[str, Arm], ceiling: float | None) -> str:
    if not {FLOAT, QAT} <= found.keys():
        return _missing("the other arm", f"experiment=paper env={env} quant={FLOAT},{QAT}")
    ends, area = paper.last_returns(found, ceiling), paper.all_returns(found, ceiling)
    final = paper.final_returns(found, ceiling)
    contrasts = {
        f"mean return of the last {LAST} episodes": ends,
        "mean return of all episodes": area,
        "greedy return of the trained network, QAT's in integers": final,
    }
    said = ""
    if ceiling is None:
        said += _claim("The two trends are very similar", _alike(ends, area))
    else:
        first, spread = paper.earlier(found), paper.steadier(found)
        said += _claim(f"Float reaches {GOAL:g} earlier than QAT", _direction(first, "episodes"))
        said += _claim(
            f"Float is steadier after reaching {GOAL:g}", _direction(spread, "deviation")
        )
        said += _p(_censored(found, spread))
        contrasts = {
            f"first episode at {GOAL:g}": first,
            f"standard deviation after it, cut at {GOAL:g}": spread,
        } | contrasts
    return said + _table(
        ("per seed, IQM", "float", "QAT", "QAT minus float [95 %]"),
        [
            (name, _iqm(c.float_values), _iqm(c.qat_values), _scaled(c, 1, "+.1f"))
            for name, c in contrasts.items()
        ],
    )


def _direction(found: Contrast, what: str) -> str:
    verdict = {"yes": "holds", "no, below": "the opposite holds"}
    said = verdict.get(paper.is_more(found), "not shown")
    return f"{said}; {what}, QAT minus float: {_scaled(found, 1, '+.1f')}"


def _alike(ends: Contrast, area: Contrast) -> str:
    words = {
        "yes": "holds, the whole interval is within 5 % of float's return",
        "no": "does not hold, the interval leaves out 0",
        "not shown": "not shown, neither a difference nor equality within 5 % of float's return",
    }
    parts = [
        f"{name}: {words[paper.is_alike(c)]} ({_scaled(c, 1, '+.1f')})"
        for name, c in ((f"last {LAST} episodes", ends), ("all episodes", area))
    ]
    return "; ".join(parts)


def _censored(found: dict[str, Arm], spread: Contrast) -> str:
    """How many seeds never reach the goal, and how many have no deviation."""
    parts = []
    for quant, values in ((FLOAT, spread.float_values), (QAT, spread.qat_values)):
        returns = found[quant].returns.values()
        never = sum(paper.first_at(r) is None for r in returns)
        name = "float" if quant == FLOAT else "QAT"
        parts.append(
            f"{name}: {never} of {len(returns)} seeds never reach {GOAL:g} and count as their last"
            f" episode; {len(returns) - len(values)} have fewer than {WINDOW} episodes after it"
            " and no deviation"
        )
    return "; ".join(parts) + "."


def _provenance(cells: Sequence[Cell]) -> str:
    rows = [(cell.name, seeds_spelled([cell]), command(cell)) for cell in cells]
    shared = [settings(cell) for cell in cells if cell.axes["quant"] == QAT]
    grid = sorted({str(found.get("quant.activations.grid")) for found in shared})
    return (
        "<h2>How these numbers were made</h2>"
        + _p(f"Grid of inputs and activations of the QAT cells: {', '.join(grid) or '-'}.")
        + _p(f"Machine: {machines_spelled(cells) or '-'}. Commit: {commits_spelled(cells) or '-'}.")
        + _p(f"Versions: {versions_spelled(cells) or '-'}.")
        + "<details><summary>The command of each cell</summary>"
        + _table(("cell", "seeds", "command"), rows)
        + "</details>"
    )


def _rewards(found: dict[str, Arm], ceiling: float | None, name: str) -> str:
    try:
        from qbench.report.paper_figures import rewards
    except ImportError as error:
        raise PaperError("--paper needs matplotlib: pip install '.[report]'.") from error

    return rewards(found, ceiling, name)


def _iqm(values: Sequence[float]) -> str:
    return f"{float(stats.iqm(values)):.1f} (n={len(values)})" if values else "-"


def _scaled(found: Contrast, unit: float, form: str) -> str:
    """A difference with its interval, in another unit."""
    if found.difference != found.difference:
        return "-"
    ends = "-"
    if found.interval:
        ends = ", ".join(f"{end / unit:{form}}" for end in found.interval)
    return f"{found.difference / unit:{form}} [{ends}]"


def _missing(what: str, how: str) -> str:
    return f"<p>Not here yet: {escape(what)} (<code>python -m qbench {escape(how)}</code>).</p>"


def _claim(paper_says: str, ours: str) -> str:
    return f'<p class="claim"><b>{escape(paper_says)}</b>: {escape(ours)}.</p>'


def _p(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _table(headers: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    head = "".join(f"<th>{escape(str(h))}</th>" for h in headers)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(field))}</td>" for field in row) + "</tr>"
        for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'
