import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from qbench import records
from qbench.report import page, rows, write
from tests.report.grids import BITS, write_cell, write_grid

if (fault := write.missing_packages()) is not None:
    pytest.skip(fault, allow_module_level=True)

from qbench.report.figures import KINDS, MAX_PANELS

HOSTILE = '<script>window.pwned=1</script><img src=x onerror="window.pwned=1">\'"&$x_1$'


class Outline(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.references: list[str] = []
        self.table: list[list[str]] = []
        self._is_in_table = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id" and value is not None:
                self.ids.append(value)
            if name in ("href", "src", "xlink:href", "action", "data", "srcset"):
                self.references.append(value or "")
        if tag == "tr":
            self.table.append([])
        self._is_in_table |= tag in ("td", "th")
        if tag in ("td", "th"):
            self.table[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._is_in_table &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._is_in_table:
            self.table[-1][-1] += data.strip()


def reported(sweep_dir: Path, out: Path | None = None) -> str:
    """The page of everything below a folder."""
    from qbench.report import folders

    made = rows.make(folders.find_run_dirs([sweep_dir]))
    path = write.write_report(made, out or sweep_dir / "report")
    return path.read_text(encoding="utf-8")


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    write_grid(tmp_path, envs=["cartpole"], quants=["none", "qat8", "qat4"], num_episodes=2)
    text = reported(tmp_path)
    outline = Outline(text)
    assert {ref for ref in outline.references if not ref.startswith("#")} == {"data:,"}
    assert not re.search(r"url\((?!#)|@import|<link[^>]*stylesheet", text)
    assert "default-src 'none'" in text
    assert outline.tags["svg"] == len(KINDS)  # of one env, a figure of each kind


def test_every_id_is_there_once_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    write_grid(tmp_path, quants=["none", "ptq8"], num_episodes=2)
    outline = Outline(reported(tmp_path))
    assert [name for name, count in Counter(outline.ids).items() if count > 1] == []
    targets = {ref[1:] for ref in outline.references if ref.startswith("#")}
    assert targets <= set(outline.ids)


def test_the_table_has_every_cell_with_its_intervals(tmp_path: Path) -> None:
    write_cell(tmp_path, "none", [100.0] * 5)
    write_cell(tmp_path, "ptq8", [98.0] * 5)
    records.write_status(tmp_path / "cartpole-mlp-qat8-dqn-00000000", "failed", "out of memory")
    text = reported(tmp_path)
    head, none, ptq, failed = Outline(text).table
    assert head[:2] == ["quant", "seeds"]
    assert none[:4] == ["none", "5", "100.0 [100.0, 100.0]", ""]
    # 98 never beats 100; 4000 + 70000 / 4 and 4000 + 70000 bytes.
    assert ptq[3:8] == ["-2.00 [-2.00, -2.00]", "no loss", "0.00 [0.00, 0.00]", "21.0", "0.29"]
    assert failed[0] == "qat8"
    assert failed[1:-1] == [""] * 12
    assert failed[-1] == "failed"
    assert "out of memory" in text


def test_what_comes_from_files_is_text(tmp_path: Path) -> None:
    run_dir = write_cell(
        tmp_path / "<b>sweep</b>", "none", [1.0, 2.0],
        config={"note": HOSTILE, HOSTILE: 1, "total_env_steps": HOSTILE},
        machine={HOSTILE: HOSTILE}, latency_us={HOSTILE: {HOSTILE: HOSTILE}}, git_commit=HOSTILE,
    )  # fmt: skip
    summary = records.read_summary(run_dir)
    records.write_summary(run_dir, summary | {"env": HOSTILE, "network": HOSTILE})
    failed = tmp_path / "<b>sweep</b>" / "x-mlp-<i>-dqn-00000000"
    records.write_status(failed, "failed", HOSTILE)
    outline = Outline(reported(tmp_path))
    assert outline.tags["script"] == 1
    assert outline.tags["img"] + outline.tags["i"] == 0
    assert outline.tags["b"] == 2  # the two seeds of the cell's details


def test_text_that_no_file_can_hold_is_replaced(tmp_path: Path) -> None:
    run_dir = write_cell(tmp_path, "none", [1.0, 2.0], git_commit="\ud800")
    summary = records.read_summary(run_dir)
    records.write_json(run_dir / "summary.json", summary | {"env": "a\ud800\x00\x1bb"})
    records.write_status(run_dir, "interrupted", "\ud800 and\nmore")
    text = reported(tmp_path)
    assert "a���b" in text
    assert "� and more" in text


def test_a_page_without_a_finished_cell_says_so(tmp_path: Path) -> None:
    records.write_status(tmp_path / "cartpole-mlp-qat8-dqn-00000000", "running")
    text = reported(tmp_path)
    assert "No quantized cell is finished yet." in text
    assert "State: 1 running." in text


def test_figures_beyond_the_limit_are_counted(tmp_path: Path) -> None:
    drawn = [page.Drawn(kind="curves", name="a", svg="<svg></svg>", note="")]
    text = page.render([], [], drawn, num_panels=dict.fromkeys(KINDS, 4), faults=["one"], share=0.9)
    assert "3 further figures of this kind are not drawn: name fewer folders" in text
    assert "<li>one</li>" in text
    assert "at least 90 % of float" in text


def test_a_cell_of_hand_edited_files_has_a_page(tmp_path: Path) -> None:
    wrong = {"latency_us": 5, "cost": [], "versions": "x", "machine": None, "return_ci": {}}
    run_dir = write_cell(tmp_path, "none", [1.0, 2.0], **wrong)
    records.write_text(run_dir / ".hydra" / "config.yaml", "quant: [")
    (run_dir / "records.jsonl").write_text("junk\n")
    text = reported(tmp_path)
    assert "records.jsonl: 1 damaged, left out (line 1)." in text
    assert ".hydra/config.yaml cannot be read." in text


def test_the_page_of_twelve_cells_of_ten_seeds_is_small(tmp_path: Path) -> None:
    write_grid(tmp_path, num_seeds=10)
    assert len(reported(tmp_path)) < 6 * 10**6


@pytest.mark.slow  # a minute of drawing
def test_a_thousand_cells_have_a_page_with_a_limited_number_of_figures(tmp_path: Path) -> None:
    envs = [f"env{k}" for k in range(25)]
    networks = [f"net{k}" for k in range(5)]
    write_grid(tmp_path, envs=envs, networks=networks, quants=list(BITS), num_episodes=50)
    text = reported(tmp_path)
    outline = Outline(text)
    assert len(outline.table) == 1 + 1000
    assert outline.tags["svg"] == MAX_PANELS * len(KINDS)
    # Learning curves, profiles and bit sweeps are drawn per network too, 125 of each.
    assert text.count("113 further figures of this kind are not drawn") == 3
    assert len(text) < 20 * 10**6
