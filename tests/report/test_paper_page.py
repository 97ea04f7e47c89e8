import html
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from qbench.report import load_cells, paper_page
from qbench.report.__main__ import main
from qbench.report.paper import PaperError
from tests.report.paper_cells import LEDGER, MIB, write_cell

pytest.importorskip("matplotlib", reason="the report extra is not installed")
from qbench.report import paper_figures


def write_experiment(folder):
    """Float reaches 200 at episode 20 and stays; QAT at 40 and swings. LunarLander: the same."""
    early = [20.0] * 19 + [250.0] * 41
    late = [20.0] * 39 + [250.0] + [200.0, 100.0] * 10
    write_cell(folder / "paper", "none", dict.fromkeys(range(5), early))
    write_cell(folder / "paper", "paper8", dict.fromkeys(range(5), late))
    for quant in ("none", "paper8"):
        landing = dict.fromkeys(range(5), (-100.0, 200.0) * 30)
        write_cell(folder / "paper", quant, landing, env="lunarlander")
    for seed in range(3):
        for env in ("cartpole", "lunarlander"):
            for quant, peak in (("none", 400), ("paper8", 410)):
                peak = (peak + seed) * MIB
                single = folder / "paper_memory" / f"seed_{seed}"
                write_cell(single, quant, {seed: [1.0]}, env=env, peak=peak)
    return folder


def text_of(page):
    """What a reader sees, without figures."""
    words = re.sub(r"<svg.*?</svg>|<style.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(words))


def test_the_page_answers_every_claim_of_the_paper(tmp_path):
    text = text_of(paper_page.page(load_cells([write_experiment(tmp_path)])))
    assert "1197 → 1136 (-61)" in text
    assert "1504 → 1447 (-57)" in text
    assert "401.0 → 411.0" in text  # the mean of 400, 401, 402 and of 410, 411, 412
    assert "QAT decreases memory in training : cartpole: does not hold, QAT takes more" in text
    assert "earlier than QAT : holds; episodes, QAT minus float: +20.0 [+20.0, +20.0]" in text
    assert (
        "steadier after reaching 200 : holds; deviation, QAT minus float: +50.0 [+50.0, +50.0]"
        in text
    )
    assert "last 100 episodes: holds, the whole interval is within 5 %" in text
    assert "128 10 10.078" in text
    assert "401 MiB, 391 MiB are the interpreter" in text  # less the 10 MiB above imports
    assert "python -m qbench env=cartpole quant=none experiment=paper" in text
    assert "torch 2.13.0" in text
    assert "affine" in text


def test_the_page_is_one_file_that_asks_for_nothing_and_is_well_formed(tmp_path):
    page = paper_page.page(load_cells([write_experiment(tmp_path)]))
    assert page.count("<svg") == 2
    assert not re.search(r'(src|href)="(?!#)', page.replace("xlink:href", "href"))
    assert not re.search(r"url\((?!#)|@import|<script|<link", page)
    assert "var(--ink)" in page  # the figures follow the page, dark or light
    open_tags = []
    void = {"meta", "br", "path", "use", "image"}

    class Checker(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag not in void:
                open_tags.append(tag)

        def handle_endtag(self, tag):
            if tag not in void:
                assert open_tags.pop() == tag

    Checker().feed(page)
    assert open_tags == []


def test_ids_in_the_figures_do_not_clash(tmp_path):
    page = paper_page.page(load_cells([write_experiment(tmp_path)]))
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_the_same_runs_give_the_same_page(tmp_path):
    cells = load_cells([write_experiment(tmp_path)])
    assert paper_page.page(cells) == paper_page.page(cells)


def test_a_partial_experiment_says_what_is_not_here_yet(tmp_path):
    write_cell(tmp_path / "paper", "paper8", dict.fromkeys(range(2), [20.0] * 12))
    text = text_of(paper_page.page(load_cells([tmp_path])))
    assert "Not here yet: the other arm ( python -m qbench experiment=paper env=cartpole" in text
    assert "Not here yet: single-seed cells ( python -m qbench experiment=paper_memory" in text
    assert "Not here yet: cells of this env ( python -m qbench experiment=paper env=lunarl" in text


def test_frames_have_a_figure_and_a_ledger_of_their_own(tmp_path):
    for quant, activations in (("none", 4096), ("paper8", 6144)):
        ledger = {**LEDGER, "activations": activations}
        returns = dict.fromkeys(range(2), (9.0,) * 12)
        write_cell(tmp_path, quant, returns, env="cartpole_pixels", ledger=ledger)
    text = text_of(paper_page.page(load_cells([tmp_path])))
    assert "On frames: CartPole with the paper's CNN Return of training episodes, cut" in text
    assert "activations 4.0 6.0 +2.0" in text
    assert "total 10.0 12.0 +2.0" in text
    assert "lunarlander_pixels" not in text


def test_what_comes_from_files_is_escaped(tmp_path):
    write_cell(
        tmp_path / "paper", "paper8", dict.fromkeys(range(2), [20.0] * 12),
        config={"quant": {"activations": {"grid": "<b>affine</b>"}}},
    )  # fmt: skip
    page = paper_page.page(load_cells([tmp_path]))
    assert "<b>affine" not in page
    assert "&lt;b&gt;affine" in page


def test_cells_with_a_budget_of_env_steps_are_not_the_papers(tmp_path):
    for quant in ("none", "paper8"):
        returns = dict.fromkeys(range(2), [20.0] * 12)
        write_cell(tmp_path / "other", quant, returns, config={"total_episodes": None})
    with pytest.raises(PaperError, match="no finished cell of the paper's experiment here: train"):
        paper_page.page(load_cells([tmp_path]))


def test_the_command_writes_the_page_beside_the_first_folder(tmp_path, capsys):
    folder = write_experiment(tmp_path)
    main([str(folder / "paper"), str(folder / "paper_memory"), "--paper"])
    assert (folder / "paper" / "report" / "paper.html").read_text().startswith("<!doctype html>")
    assert "The paper, side by side: " in capsys.readouterr().out


def test_the_command_refuses_other_runs_with_one_sentence(tmp_path, capsys):
    write_cell(tmp_path / "other", "qat4", {0: [1.0]})
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "other"), "--paper"])
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert "qat4" in captured.out  # the table is printed all the same
    assert captured.err.count("\n") == 1
    assert "python -m qbench experiment=paper" in captured.err


def test_a_curve_is_the_iqm_of_trailing_means_and_ends_with_the_shortest_seed():
    returns = [
        np.array([0.0, 0, 0]),
        np.array([4.0, 4, 4]),
        np.array([8.0, 8, 8]),
        np.full(5, 100.0),
    ]
    middle, band = paper_figures.curve(returns)
    assert middle.tolist() == [6, 6, 6]  # the middle two of 0, 4, 8, 100
    assert band.shape == (2, 3)
    assert (band[0] < 6).all() and (band[1] > 6).all()


def test_equal_seeds_have_a_band_of_no_width():
    middle, band = paper_figures.curve([np.array([1.0, 3.0])] * 3)
    assert middle.tolist() == [1, 2]
    assert band.tolist() == [[1, 2], [1, 2]]
