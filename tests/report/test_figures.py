import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from qbench.report import rows, write

if (fault := write.missing_packages()) is not None:
    pytest.skip(fault, allow_module_level=True)

from qbench.report import figures, plot, theme
from qbench.report.figures import MAX_CELLS, Gallery
from qbench.report.plot import Bar, Line, Point, Ticks
from qbench.report.stats import Interval
from tests.report.grids import write_cell

STYLE = theme.Style("#0072b2", "s", "-")


def gallery(sweep_dir: Path) -> Gallery:
    made = rows.make(sorted(path for path in sweep_dir.iterdir() if path.is_dir()))
    return Gallery(rows.families(made))


def drawn(kind: str, sweep_dir: Path) -> list[str]:
    """The figures of one kind, as SVG."""
    with theme.applied():
        found = [panel.draw() for panel in gallery(sweep_dir).panels()[kind]]
        return [theme.svg(figure) for figure in found if figure is not None]


def words_in(svg: str) -> list[str]:
    root = ET.fromstring(svg)
    return [node.text or "" for node in root.iter() if node.tag.endswith("text")]


def test_a_figure_names_its_cells(tmp_path: Path) -> None:
    for quant in ("none", "qat8"):
        write_cell(tmp_path, quant, [1.0, 2.0, 3.0])
    (svg,) = drawn("bytes", tmp_path)
    assert {"none", "qat8", "cartpole, 200,000 env steps"} <= set(words_in(svg))


def test_two_budgets_never_share_a_trade_off(tmp_path: Path) -> None:
    write_cell(tmp_path, "none", [1.0, 2.0], digits="a" * 8, total_env_steps=1000)
    write_cell(tmp_path, "none", [1.0, 2.0], digits="b" * 8, total_env_steps=2000)
    titles = {word for svg in drawn("bytes", tmp_path) for word in words_in(svg)}
    assert {"cartpole, 1,000 env steps", "cartpole, 2,000 env steps"} <= titles


def test_networks_are_told_apart_by_markers(tmp_path: Path) -> None:
    for network in ("mlp", "wide"):
        write_cell(tmp_path, "none", [1.0, 2.0], network=network)
    (svg,) = drawn("bit-operations", tmp_path)
    assert {"mlp", "wide", "none"} <= set(words_in(svg))


def test_more_cells_than_can_be_told_apart_are_left_out_with_a_word(tmp_path: Path) -> None:
    for bits in range(MAX_CELLS + 3):
        config = {"quant": {"weights": {"bits": bits}, "activations": {"bits": 8}}}
        write_cell(tmp_path, "qat8", [float(bits)], digits=f"{bits:08x}", config=config)
    write_cell(tmp_path, "none", [-5.0])
    (panel,) = gallery(tmp_path).panels()["profiles"]
    assert panel.note == "Drawn are the 12 of 16 cells with the highest return."
    shown = set(words_in(drawn("profiles", tmp_path)[0]))
    assert "none" in shown  # the float cell, although its return is the lowest
    assert {"qat8 w14a8", "qat8 w4a8"} <= shown
    assert "qat8 w3a8" not in shown


def test_a_bit_sweep_has_a_line_for_each_scheme_and_the_float_band(tmp_path: Path) -> None:
    for quant in ("none", "qat8", "qat4", "qat2", "ptq8"):
        write_cell(tmp_path, quant, [1.0, 2.0])
    (svg,) = drawn("bits", tmp_path)
    assert {"qat", "none", "2", "4", "8"} <= set(words_in(svg))
    assert "ptq" not in words_in(svg)  # one width is no sweep


def test_schemes_that_differ_in_more_than_bits_are_lines_of_their_own(tmp_path: Path) -> None:
    for k, (bits, range_) in enumerate([(8, "max"), (4, "max"), (8, "mse"), (4, "mse")]):
        quant = {"weights": {"bits": bits, "range": range_}, "activations": {"bits": bits}}
        write_cell(tmp_path, "qat8", [1.0 + k], digits=f"{k:08x}", config={"quant": quant})
    write_cell(tmp_path, "none", [1.0])
    (svg,) = drawn("bits", tmp_path)
    assert {"qat, range max", "qat, range mse"} <= set(words_in(svg))


def test_fewer_bits_of_weights_than_of_activations_are_a_line_of_their_own(tmp_path: Path) -> None:
    for k, (weights, activations) in enumerate([(8, 8), (4, 4), (4, 8), (2, 8)]):
        quant = {"weights": {"bits": weights}, "activations": {"bits": activations}}
        write_cell(tmp_path, "qat8", [1.0 + k], digits=f"{k:08x}", config={"quant": quant})
    write_cell(tmp_path, "none", [1.0])
    (svg,) = drawn("bits", tmp_path)
    assert {"qat", "qat, activations 8"} <= set(words_in(svg))


def test_a_grid_of_one_width_has_no_bit_sweep(tmp_path: Path) -> None:
    for quant in ("none", "qat8", "ptq8"):
        write_cell(tmp_path, quant, [1.0, 2.0])
    assert gallery(tmp_path).panels()["bits"] == []


def test_post_training_cells_have_no_memory_of_a_training(tmp_path: Path) -> None:
    for quant in ("none", "ptq8"):
        write_cell(tmp_path, quant, [1.0, 2.0])
    (svg,) = drawn("memory", tmp_path)
    assert "none" in words_in(svg)
    assert "ptq8" not in words_in(svg)
    # (72,000 + 73,000 + 146,000 + 72,000 + 35,000 + 73,000) bytes without the replay.
    assert " 460" in words_in(svg)


def test_the_parts_of_a_process_add_up_to_its_peak(tmp_path: Path) -> None:
    run_dir = write_cell(tmp_path, "none", [1.0, 2.0])
    (row,) = rows.make([run_dir])
    parts = figures._process_parts(row.cell, 8_071_000)
    assert parts["imports"] == 450 * 2**20
    assert parts["ledger, all seeds"] == 2 * 8_071_000
    assert sum(parts.values()) == 900 * 2**20


def test_a_name_with_dollars_and_markup_is_drawn_as_it_is() -> None:
    with theme.applied():
        figure = plot.profiles("$x_1$ <b>&", [("a $b$", STYLE, [1.0, 2.0])])
        shown = words_in(theme.svg(figure))
    assert {"$x_1$ <b>&", "a $b$"} <= set(shown)


def test_colours_become_variables_and_nothing_else_changes(tmp_path: Path) -> None:
    with theme.applied():
        bars = [Bar("#1b1f24 0.12345", {"a": 1.0, "b": 2.0})]
        svg = theme.svg(plot.memory("t", bars, "KiB", 1))
    inline = theme.inline(svg, "name", 'say "it"')
    assert set(re.findall(r"#[0-9a-f]{6}\b", re.sub(r">[^<]*<", "><", inline))) == set()
    assert "var(--ink)" in inline
    assert "#1b1f24 0.12345" in inline  # a name, not a colour and not a coordinate
    assert inline.startswith('<svg role="img" aria-label="say &quot;it&quot;" viewBox=')
    assert "<style" not in inline
    ids = re.findall(r' id="([^"]*)"', inline)
    assert all(name.startswith("name-") for name in ids)
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', inline)) == set(ids)


def test_the_same_figure_has_the_same_bytes() -> None:
    with theme.applied():
        one, two = (
            theme.svg(plot.profiles("t", [("a", STYLE, [1.0, 2.0, 5.0])])) for _ in range(2)
        )
    assert one == two


def test_a_curve_without_anything_to_show_is_no_figure() -> None:
    assert plot.learning_curves("t", [Line("a", STYLE, None, math.nan, None)]) is None


def test_extreme_values_are_drawn() -> None:
    ticks = Ticks(plot.spelled_count)
    points = [Point(STYLE, x, 1e12 * x, Interval(0, 1)) for x in (1e-3, 1.0, 1e9)]
    with theme.applied():
        theme.svg(plot.trade_off("t" * 999, "x", points, points, ticks, [("l" * 999, STYLE)]))
        theme.svg(plot.trade_off("t", "x", points[:1], points[:1], ticks, [("l", STYLE)]))
        theme.svg(plot.profiles("t", [("a", STYLE, [3.0, 3.0])]))
        theme.svg(plot.memory("t", [Bar("a", {"x": 0.0})], "KiB", 1))


def test_sizes_and_counts_are_short() -> None:
    assert [plot.spelled_bytes(n) for n in (12, 1536, 3 * 2**20, 2**31)] == [
        "12 B", "1.5 KiB", "3 MiB", "2 GiB",
    ]  # fmt: skip
    assert [plot.spelled_count(n) for n in (7.5, 1500, 2e6, 3e9)] == ["7.5", "1.5k", "2M", "3G"]


def test_no_two_of_the_first_series_look_alike() -> None:
    found = theme.styles(["none", *(f"scheme{k}" for k in range(24))])
    assert found["none"].colour == theme.INK
    assert len(set(found.values())) == 25


@pytest.mark.parametrize("colour", [theme.INK, *theme.SERIES])
def test_every_colour_has_a_variable_in_the_style_sheet(colour: str) -> None:
    css = (Path(write.__file__).parent / "page.css").read_text()
    # Once for light, once for dark.
    assert len(re.findall(rf"--{theme.VARIABLES[colour]}: #", css)) == 2
