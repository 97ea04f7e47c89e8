"""The page in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from qbench import records
from qbench.report import folders, rows, write
from tests.report import chromium
from tests.report.grids import write_cell, write_grid
from tests.report.test_page import HOSTILE

pytestmark = pytest.mark.skipif(
    chromium.find() is None, reason="Chromium is not installed: apt-get install chromium"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every section, and with markup in every name."""
    sweep_dir = tmp_path_factory.mktemp("grid")
    write_grid(sweep_dir, quants=["none", "qat8", "qat4", "ptq8"], num_seeds=5, num_episodes=5)
    hostile = write_cell(
        sweep_dir, "qat8", [1.0, 2.0], env="x", config={"a": HOSTILE}, git_commit=HOSTILE
    )
    records.write_summary(hostile, records.read_summary(hostile) | {"env": HOSTILE})
    records.write_status(sweep_dir / f"cartpole-mlp-qat8-ddpg-{'f' * 8}", "failed", HOSTILE)
    made = rows.make(folders.find_run_dirs([sweep_dir]))
    return write.write_report(made, sweep_dir / "report")


@pytest.fixture(scope="module")
def browser() -> Iterator[chromium.Chromium]:
    program = chromium.find()
    assert program is not None
    with chromium.Chromium(program) as started:
        yield started


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("is_dark", [False, True])
def test_the_page_shows_without_error_request_or_sideways_scrolling(
    browser: chromium.Chromium, page: Path, width: int, is_dark: bool
) -> None:
    browser.messages.clear()
    browser.requests.clear()
    browser.open(page, width, is_dark=is_dark)
    assert browser.messages == []
    assert set(browser.requests) == {page.as_uri()}
    assert browser.evaluate("document.scrollingElement.scrollWidth") <= width
    assert browser.evaluate("typeof window.pwned") == "undefined"
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 23, 26)" if is_dark else "rgb(246, 247, 248)")


def test_figures_follow_the_colours_of_the_page(browser: chromium.Chromium, page: Path) -> None:
    title = "getComputedStyle(document.querySelector('#curves svg text')).fill"
    browser.open(page)
    assert browser.evaluate(title) == "rgb(27, 31, 36)"
    browser.open(page, is_dark=True)
    assert browser.evaluate(title) == "rgb(232, 235, 238)"


def test_a_click_sorts_by_value_and_leaves_empty_cells_last(
    browser: chromium.Chromium, page: Path
) -> None:
    browser.open(page)
    keys = "[...table.tBodies[0].rows].map(row => row.cells[{}].dataset.key ?? null)"
    heads = browser.evaluate("[...table.tHead.rows[0].cells].map(th => th.innerText)")
    column = next(k for k, head in enumerate(heads) if head.startswith("return"))
    for direction, sign in (("ascending", 1), ("descending", -1)):
        browser.evaluate(f"table.tHead.rows[0].cells[{column}].firstChild.click()")
        found = browser.evaluate(keys.format(column))
        numbers = [sign * float(key) for key in found if key is not None]
        assert numbers == sorted(numbers)
        assert found[-1] is None  # the failed cell
        sort = f"table.tHead.rows[0].cells[{column}].getAttribute('aria-sort')"
        assert browser.evaluate(sort) == direction
    browser.evaluate("table.tHead.rows[0].cells[0].firstChild.click()")
    labels = browser.evaluate(keys.format(0))
    assert labels == sorted(labels)


def test_a_link_of_the_table_opens_the_details_of_its_cell(
    browser: chromium.Chromium, page: Path
) -> None:
    browser.open(page)
    browser.evaluate("table.tBodies[0].rows[0].querySelector('a').click()")
    opened = "document.getElementById(location.hash.slice(1)).open"
    assert browser.evaluate(f"new Promise(r => setTimeout(() => r({opened}), 50))") is True


def test_the_page_prints(browser: chromium.Chromium, page: Path, tmp_path: Path) -> None:
    browser.open(page, is_dark=True)
    browser.send("Emulation.setEmulatedMedia", media="print")
    assert browser.evaluate("getComputedStyle(document.body).color") == "rgb(27, 31, 36)"
    browser.print_pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_these_tests_would_see_an_error_and_a_request(
    browser: chromium.Chromium, tmp_path: Path
) -> None:
    browser.messages.clear()
    browser.requests.clear()
    (tmp_path / "bad.html").write_text('<img src="http://127.0.0.1:9/x"><script>fail()</script>')
    browser.open(tmp_path / "bad.html")
    assert any("fail is not defined" in message for message in browser.messages)
    assert "http://127.0.0.1:9/x" in browser.requests
