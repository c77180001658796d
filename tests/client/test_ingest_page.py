"""The page of an ingest: what it says, and that nothing from an archive becomes markup."""

import html
import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.deid import Profile
from client.deid.page import MOST_FILES
from client.ingest import Tally
from client.ingest_page import render, write_ingest_page
from tests.browser import Browser, check_page, chromium

HOSTILE = "</code><script>document.title='run'</script>\u202e\udcfc"


@pytest.fixture
def basic() -> Profile:
    return Profile.load("basic")


def report(
    folder: Path, rows: list[dict[str, str]], *, complete: bool = True, waiting: list[dict[str, str]] | None = None
) -> Path:
    tally = Tally(studies=3, unchanged=1, fetched=12, released=8, quarantined=2, refused=1, missing=1, lines=rows)
    head = {"format": 1, "source": "dicomweb", "complete": complete, "profile": "basic", "profile_sha256": "0" * 64}
    path = folder / "ingest.json"
    path.write_text(
        json.dumps({**head, "counts": tally.counts, "seconds": 1.5, "waiting": waiting or [], "files": rows})
    )
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
    assert "ended before it was through" not in text
    assert "ended before it was through" in render(report(tmp_path, [], complete=False), basic)


def test_long_lists_say_where_the_others_are(tmp_path: Path, basic: Profile) -> None:
    text = render(report(tmp_path, [line(f"1.{n}", f"r{n}") for n in range(MOST_FILES + 7)]), basic)
    assert "The other 7 are in <code>ingest.json</code>" in text
    assert "1.506" not in text
    assert "407 more reasons" in text


def test_it_says_how_many_wait_and_for_which_command(tmp_path: Path, basic: Profile) -> None:
    reports = tmp_path / "my node" / "reports"
    reports.mkdir(parents=True)
    waiting = [{"held": f"{n:032x}", "reason": "too much of it" if n else HOSTILE} for n in range(4)]
    text = html.unescape(render(report(reports, [], waiting=waiting), basic))
    assert re.search(r"too much of it</th><td class=\"figure\">3</td>", text)
    assert "4 files of this and of earlier runs are kept" in text
    place = tmp_path / "my node"
    command = f"fedward node review '{reports}' '{place / 'released'}' --node '{place}' --reviewer NAME"
    assert command in text
    harbor = html.unescape(render(report(reports, [], waiting=waiting[:1]), Profile.load("safe-harbor")))
    assert "1 file of this and of earlier runs is kept" in harbor
    assert "--profile safe-harbor --reviewer NAME" in harbor
    assert "fedward node review" not in render(report(reports, []), basic)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as tab:
        yield tab


@pytest.mark.system("chromium")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_has_no_complaint(browser: Browser, tmp_path: Path, basic: Profile, width: int, dark: bool) -> None:
    rows, waiting = [line(HOSTILE, HOSTILE), line("x" * 4000)], [{"held": "0" * 32, "reason": HOSTILE}]
    page = write_ingest_page(report(tmp_path, rows, complete=False, waiting=waiting), basic)
    check_page(browser, page, width=width, dark=dark)
    assert browser.evaluate("document.title") == "Ingest of 3 studies – fedward"
