"""How figures look: colours, sizes, and SVG whose colours follow the page.

Okabe and Ito (2008), https://jfly.uni-koeln.de/color/: told apart by the colour-blind. Colour
never stands alone: each series has its own marker and dashes too.
"""

import html
import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import matplotlib.style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

WIDTH, HEIGHT = 4.6, 3.1
"""Inches of a figure. At 350 pixels, on a phone, its letters are then 8 pixels high."""

INK, MUTED, GRID, GROUND = "#1b1f24", "#59636e", "#d4d8dd", "#fffffe"

SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = "osD^vPX"
DASHES = ("-", "--", "-.", ":")

VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", GROUND: "card"} | {
    colour: f"series-{k}" for k, colour in enumerate(SERIES)
}
"""Colour in a figure -> CSS variable that stands for it in the page, where it may be dark."""

PNG_DPI = 150

SETTINGS = {
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 8.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titley": 1.02,  # said, or matplotlib lays out every label twice to find it
    "figure.facecolor": GROUND,
    "figure.figsize": (WIDTH, HEIGHT),
    "font.size": 8.5,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "savefig.facecolor": GROUND,
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and restyled
    "svg.hashsalt": "qbench",  # the same figure has the same bytes
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8,
}


class Style(NamedTuple):
    """How one series is told from the others."""

    colour: str
    marker: str
    dashes: str


@contextmanager
def applied() -> Iterator[None]:
    """Matplotlib's defaults with our settings, whatever the user's own are."""
    with matplotlib.style.context(["default", SETTINGS]):
        yield


def styles(labels: Iterable[str]) -> dict[str, Style]:
    """Label -> style, in order; `none` is drawn in the colour of the text."""
    found = {"none": Style(INK, "o", "-")}
    for k, label in enumerate(label for label in dict.fromkeys(labels) if label != "none"):
        lap = k // len(SERIES)
        marker = MARKERS[(k + 1 + lap) % len(MARKERS)]
        found[label] = Style(SERIES[k % len(SERIES)], marker, DASHES[lap % len(DASHES)])
    return found


def svg(figure: Figure) -> str:
    """A figure as a file of its own."""
    text = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    FigureCanvasSVG(figure).print_svg(text, metadata=nothing)  # type: ignore[no-untyped-call]
    return text.getvalue()


def png(figure: Figure) -> bytes:
    """A figure as pixels, for slides and for programs that know no SVG."""
    data = io.BytesIO()
    figure.set_dpi(PNG_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.print_png(data, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return data.getvalue()


def inline(text: str, name: str, description: str) -> str:
    """An SVG file as a part of a page.

    Its colours become the page's variables, its ids cannot clash with those of other figures,
    and the style sheet that matplotlib adds, which would reach the whole page, goes.

    Args:
        text: the file.
        name: unique in the page.
        description: read aloud in place of the figure.
    """
    text = text[text.index("<svg") :]
    hidden = r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->"
    text = re.sub(hidden, "", text, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([\w.-]+)', text))
    # Only within tags: what stands between them is the names and numbers that a reader sees.
    text = re.sub(r"<[^>]*>", lambda tag: _themed(tag[0], name, used), text)
    view = re.search(r'viewBox="[^"]*"', text)
    assert view is not None
    head = f'<svg role="img" aria-label="{html.escape(description)}" {view[0]}>'
    return head + text[text.index(">") + 1 :].strip()


def _themed(tag: str, name: str, used: set[str]) -> str:
    """One tag with variables for colours, and with ids that are unique and are needed."""
    tag = re.sub(r"#[0-9a-f]{6}\b", _as_variable, tag)
    tag = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", tag)
    tag = re.sub(r'url\(#|href="#', lambda match: f"{match[0]}{name}-", tag)
    return re.sub(r"(\.\d\d)\d+", r"\1", tag)  # two decimals are finer than any screen


def _as_variable(match: re.Match[str]) -> str:
    variable = VARIABLES.get(match[0])
    return match[0] if variable is None else f"var(--{variable})"
