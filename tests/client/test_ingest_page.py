"""The page of an ingest: what it says, and that nothing from an archive becomes markup."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.deid import Profile
from client.deid.page import MOST_FILES
from client.ingest import Tally
from client.ingest_page import render, write_ingest_page
from tests.browser import LOW_CONTRAST, WIDE, Browser, chromium, outside

HOSTILE = "</code><script>document.title='run'</script>\u202e\udcfc"


@pytest.fixture
def basic() -> Profile:
    return Profile.load("basic")


def report(folder: Path, rows: list[dict[str, str]], *, complete: bool = True) -> Path:
    tally = Tally(studies=3, unchanged=1, fetched=12, released=8, quarantined=2, refused=1, missing=1, lines=rows)
    head = {"format": 1, "source": "dicomweb", "complete": complete, "profile": "basic", "profile_sha256": "0" * 64}
    path = folder / "ingest.json"
    path.write_text(json.dumps({**head, "counts": tally.counts, "seconds": 1.5, "files": rows}))
    return path


def line(name: str, reason: str = "ultrasound, which carries text in its pixels") -> dict[str, str]:
    return {"study": "1.2.3", "instance": name, "status": "quarantined", "reason": reason}


def test_it_says_what_came_out_and_what_did_not(tmp_path: Path, basic: Profile) -> None:
    path = write_ingest_page(
        report(tmp_path, [line("1.2.3.4"), {"where": "a.zip", "status": "x", "reason": "y"}]), basic
    )
    text = path.read_text("utf-8")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for phrase in ("8 of 12 files released", "3 studies", "1.2.3 / 1.2.3.4", "a.zip", basic.sha256, "evidence for"):
        assert phrase in text
    assert "broken off" not in text
    assert "broken off" in render(report(tmp_path, [], complete=False), basic)


def test_long_lists_say_where_the_others_are(tmp_path: Path, basic: Profile) -> None:
    text = render(report(tmp_path, [line(f"1.{n}", f"r{n}") for n in range(MOST_FILES + 7)]), basic)
    assert "The other 7 are in <code>ingest.json</code>" in text
    assert "1.506" not in text
    assert "407 more reasons" in text


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as tab:
        yield tab


@pytest.mark.system("chromium")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_has_no_complaint(browser: Browser, tmp_path: Path, basic: Profile, width: int, dark: bool) -> None:
    page = write_ingest_page(report(tmp_path, [line(HOSTILE, HOSTILE), line("x" * 4000)], complete=False), basic)
    browser.open(page, width=width, dark=dark)
    assert browser.complaints == []
    assert outside(browser, page) == []
    assert browser.evaluate("document.title") == "Ingest of 3 studies – fedward"
    assert browser.evaluate(WIDE) == 0, "the page scrolls sideways"
    assert browser.evaluate(LOW_CONTRAST) == []
