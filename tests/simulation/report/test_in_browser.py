"""The page in headless Chromium: it opens, asks for nothing, fits a phone, and can be read in light and dark."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simulation.report import write_report
from tests.browser import WIDE, Browser, check_page, chromium, outside
from tests.simulation.report.example import example

pytestmark = pytest.mark.system("chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as tab:
        yield tab


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(example(), path)
    return path


def seen(browser: Browser) -> np.ndarray:
    """What the window shows, [height, width, 3] from 0 to 255."""
    return np.asarray(Image.open(io.BytesIO(browser.screenshot())).convert("RGB"))


def test_a_page_that_misbehaves_is_noticed(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<!doctype html><img src='http://127.0.0.1:9/x.png'><script>undefinedName.call()</script>")
    browser.open(page)
    assert outside(browser, page) == ["http://127.0.0.1:9/x.png"]
    assert any("undefinedName" in complaint for complaint in browser.complaints)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_opens_without_a_complaint_or_a_request_and_fits(
    browser: Browser, report: Path, width: int, dark: bool
) -> None:
    check_page(browser, report, width=width, dark=dark)
    assert browser.evaluate("[...document.images].every(i => i.complete && i.naturalWidth === 96)")
    shown = seen(browser)
    assert shown.shape == (900, width, 3)
    assert shown.std() > 20, "the window is blank"


def test_light_and_dark_are_two_looks(browser: Browser, report: Path) -> None:
    browser.open(report)
    light = seen(browser)[2, 2].mean()
    browser.open(report, dark=True)
    dark = seen(browser)[2, 2].mean()
    assert light > 200
    assert dark < 60


def test_wide_tables_scroll_in_their_own_box_on_a_phone(browser: Browser, report: Path) -> None:
    browser.open(report, width=390)
    boxes = browser.evaluate(
        "[...document.querySelectorAll('.scroll')].filter(b => b.checkVisibility())"
        ".map(b => [b.scrollWidth - b.clientWidth, b.getBoundingClientRect().right])"
    )
    assert max(over for over, _ in boxes) > 50
    assert all(right <= 390 for _, right in boxes)


def test_print_shows_what_the_screen_folds_away_and_is_light(browser: Browser, report: Path) -> None:
    browser.open(report, dark=True)
    folded = "[...document.querySelectorAll('details .scroll')].map(b => b.checkVisibility())"
    assert not any(browser.evaluate(folded))
    browser.emulate("print")
    assert all(browser.evaluate(folded))
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(252, 253, 253)"


def test_hostile_names_run_nothing(browser: Browser, tmp_path: Path) -> None:
    text = "</title></style><script>document.title='run'</script><img src=http://127.0.0.1:9/x onerror=alert(1)>"
    run = example()
    page = tmp_path / "report.html"
    write_report(replace(run, title=text, limits=(text,), sites=(replace(run.sites[0], contrast=text),)), page)
    browser.open(page, width=390)
    assert browser.evaluate("document.title") == text
    assert (browser.complaints, outside(browser, page)) == ([], [])
    assert browser.evaluate(WIDE) == 0, "a long word widens the page"
