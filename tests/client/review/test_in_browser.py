"""The review page in headless Chromium: looking, drawing with mouse, finger and keys, and deciding."""

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from client.deid.quarantine import Decision
from client.deid.report import FileRecord, Status
from client.deid.single import Processed, Processor
from tests.browser import LOW_CONTRAST, WIDE, Browser, chromium
from tests.client.deid.files import image, to_bytes
from tests.client.review.hospital import HELD_FOR, Address, Review, film, undecodable

pytestmark = pytest.mark.system("chromium")

DRAWN = "document.querySelectorAll('#boxes rect').length"
LOADED = "at('picture').complete && at('picture').naturalWidth > 0"
UNLABELLED = """
[...document.querySelectorAll('input, select, button')].filter(e => e.checkVisibility()
  && !(e.labels?.length || e.getAttribute('aria-label') || e.textContent.trim())).map(e => e.outerHTML)
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as tab:
        yield tab


@pytest.fixture
def hospital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Review]:
    """A hospital with a film of three frames that comes first in the list."""

    def release(self: Processor, path: str, lifted: str, boxes: Any = ()) -> Processed:
        if not boxes:
            return real(self, path, lifted)
        return Processed(FileRecord(path, Status.RELEASED, frames=3, boxes=len(boxes)), "somewhere")

    real = Processor.release
    monkeypatch.setattr(Processor, "release", release)
    made = Review(tmp_path, a_film=film(frames=3))
    yield made
    made.close()


def wait(browser: Browser, script: str) -> None:
    deadline = time.monotonic() + 10
    while not browser.evaluate(script):
        assert time.monotonic() < deadline, (script, browser.complaints)
        time.sleep(0.02)


def visit(browser: Browser, review: Review, **window: Any) -> None:
    browser.evaluate("sessionStorage.clear()") if browser.requests else None
    browser.open(Address(review.server.address), **window)  # type: ignore[arg-type]
    wait(browser, LOADED)


def place(browser: Browser, x: float, y: float) -> dict[str, float]:
    """Where a point of the picture is in the window, which is scrolled to it; from 0 to 1 in both directions."""
    left, top, width, height = browser.evaluate(
        "(() => { const r = at('boxes').getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; })()"
    )
    return {"x": left + x * width, "y": top + y * height}


def drag(browser: Browser, start: tuple[float, float], end: tuple[float, float]) -> None:
    browser.evaluate("at('well').scrollIntoView({block: 'center'})")
    for kind, where, held in (("Pressed", start, 1), ("Moved", end, 1), ("Released", end, 0)):
        browser.call(
            "Input.dispatchMouseEvent",
            type=f"mouse{kind}", **place(browser, *where), button="left", buttons=held, clickCount=1,
        )  # fmt: skip


def boxes(browser: Browser) -> list[dict[str, int]]:
    return json.loads(browser.evaluate("JSON.stringify(boxesOf(current))"))  # type: ignore[no-any-return]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_can_be_read_and_asks_nobody_else(browser: Browser, hospital: Review, width: int, dark: bool) -> None:
    hospital.propose("a_film.dcm", (0, 8, 10, 54, 230), (1, 8, 10, 54, 231), (1, 450, 556, 472, 622))
    visit(browser, hospital, width=width, dark=dark)
    wait(browser, f"{DRAWN} === 1")
    assert browser.evaluate("location.hash") == ""
    assert all(url.startswith((hospital.server.origin, "blob:", "data:")) for url in browser.requests)
    assert browser.evaluate(WIDE) == 0, "the page scrolls sideways"
    assert browser.evaluate(LOW_CONTRAST) == []
    assert browser.evaluate(UNLABELLED) == []
    assert len(browser.screenshot()) > 10_000
    assert browser.complaints == []


@pytest.mark.parametrize("width", [390, 1280])
def test_it_says_what_a_file_is_and_what_the_keys_do(browser: Browser, hospital: Review, width: int) -> None:
    visit(browser, hospital, width=width)
    assert browser.evaluate("at('about').textContent").startswith("US, 20")
    browser.evaluate("document.querySelector('#keys summary').click()")
    told = browser.evaluate("at('keys').innerText")
    for phrase in ("Tab", "Enter", "frame before", "by one pixel", "No key decides by itself"):
        assert phrase in told
    assert browser.evaluate(WIDE) == 0, "the page scrolls sideways"
    assert browser.evaluate(LOW_CONTRAST) == []
    browser.evaluate("at('refuse').click()")
    wait(browser, "at('outcome').textContent.startsWith('a_film.dcm: refused')")
    assert browser.complaints == []


def test_proposed_boxes_are_drawn_on_their_frames_and_can_be_joined(browser: Browser, hospital: Review) -> None:
    hospital.propose("a_film.dcm", (0, 8, 10, 54, 230), (1, 8, 12, 50, 231), (1, 450, 556, 472, 622))
    visit(browser, hospital)
    wait(browser, f"{DRAWN} === 1")
    browser.evaluate("at('on').click()")
    wait(browser, f"{DRAWN} === 2 && looked.get(current.id).size === 2")
    assert browser.evaluate("at('number').textContent") == "2 of 3"
    assert "Looked at 2 of 3 frames" in browser.evaluate("at('advice').textContent")
    browser.evaluate("at('merge').click()")
    joined = [{"frame": -1, "top": 8, "left": 10, "bottom": 54, "right": 231},
              {"frame": -1, "top": 450, "left": 556, "bottom": 472, "right": 622}]  # fmt: skip
    assert boxes(browser) == joined
    browser.evaluate("at('on').click()")
    wait(browser, f"{DRAWN} === 2")
    browser.evaluate("at('restore').click()")
    assert len(boxes(browser)) == 3
    assert browser.complaints == []


def test_more_proposed_boxes_than_may_be_sent_are_joined(browser: Browser, hospital: Review) -> None:
    hospital.propose("a_film.dcm", *((n % 3, 8, 10 + n % 7, 54, 230) for n in range(600)))
    visit(browser, hospital)
    assert boxes(browser) == [{"frame": -1, "top": 8, "left": 10, "bottom": 54, "right": 230}]


def test_boxes_drawn_with_the_mouse_are_what_is_decided(browser: Browser, hospital: Review) -> None:
    visit(browser, hospital, height=1100)
    drag(browser, (0.01, 0.01), (0.4, 0.13))
    [box] = boxes(browser)
    assert box["frame"] == 0
    assert abs(box["left"] - 6) <= 2
    assert abs(box["right"] - 256) <= 2
    assert abs(box["bottom"] - 62) <= 2
    drag(browser, (0.9, 0.9), (1.5, 1.5))  # beyond the picture: cut off at its edge
    assert (boxes(browser)[1]["right"], boxes(browser)[1]["bottom"]) == (640, 480)
    drag(browser, (0.2, 0.05), (0.2, 0.05))  # a click picks what is under it
    assert browser.evaluate("boxesOf(current).indexOf(chosen)") == 0
    assert len(boxes(browser)) == 2
    browser.evaluate("document.querySelector('#marks input[type=checkbox]').click()")
    assert boxes(browser)[0]["frame"] == -1
    browser.evaluate("document.querySelectorAll('#marks button:last-child')[1].click()")
    assert len(boxes(browser)) == 1
    assert browser.evaluate("at('blank').textContent") == "Release with 1 box blanked"
    browser.evaluate("at('blank').click()")
    wait(browser, "document.querySelectorAll('.cleared').length === 1")
    wait(browser, "at('outcome').textContent.includes('released, 1 box blanked by Dr. M. Grey')")
    held = hospital.quarantine.get(hospital.named("a_film.dcm"))
    assert held.blanked == ((-1, box["top"], box["left"], box["bottom"], box["right"]),)
    assert browser.complaints == []


def test_a_finger_draws(browser: Browser, hospital: Review) -> None:
    visit(browser, hospital, width=390, height=844)
    browser.call("Emulation.setTouchEmulationEnabled", enabled=True)
    browser.evaluate("at('well').scrollIntoView({block: 'center'})")
    for kind, where in (("touchStart", (0.1, 0.1)), ("touchMove", (0.4, 0.2)), ("touchMove", (0.6, 0.4))):
        browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=[place(browser, *where)])
    browser.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    browser.call("Emulation.setTouchEmulationEnabled", enabled=False)
    wait(browser, "boxesOf(current).length === 1")
    [box] = boxes(browser)
    assert abs(box["left"] - 64) <= 4
    assert abs(box["right"] - 384) <= 4


def test_a_box_can_be_made_with_keys_alone(browser: Browser, hospital: Review) -> None:
    visit(browser, hospital)
    browser.evaluate("at('add').focus()")
    for key, code in (("Enter", 13), ("ArrowUp", 38), ("Tab", 9)):
        text = {"text": "\r"} if key == "Enter" else {}
        browser.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, **text)
        browser.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)
    [box] = boxes(browser)
    assert box == {"frame": 0, "left": 214, "top": 160, "right": 427, "bottom": 320}
    assert browser.evaluate("document.activeElement.getAttribute('aria-label')") == "Box 1, top edge, pixels"
    browser.evaluate("document.activeElement.value = '400'; document.activeElement.dispatchEvent(new Event('change'))")
    assert boxes(browser)[0]["top"] == 160, "a box cannot be turned inside out"


def test_release_as_it_is_with_boxes_drawn_is_asked_twice(browser: Browser, hospital: Review) -> None:
    hospital.propose("a_film.dcm", (0, 8, 10, 54, 230))
    visit(browser, hospital)
    wait(browser, f"{DRAWN} === 1")
    browser.evaluate("at('clear').click()")
    assert browser.evaluate("at('clear').textContent") == "Press again: 1 box will not be blanked"
    name = hospital.named("a_film.dcm")
    assert hospital.quarantine.get(name).decision is Decision.PENDING
    browser.evaluate("at('clear').click()")
    wait(browser, "document.querySelectorAll('.cleared').length === 1")
    held = hospital.quarantine.get(name)
    assert (held.decision, held.blanked) == (Decision.CLEARED, ())
    assert len(list(hospital.out.rglob("*.dcm"))) == 1
    assert browser.complaints == []


def test_what_cannot_be_released_can_only_be_refused(browser: Browser, hospital: Review) -> None:
    visit(browser, hospital)
    browser.evaluate("[...document.querySelectorAll('#list button')].at(-1).click()")
    assert browser.evaluate("at('input').textContent") == "report.dcm"
    assert browser.evaluate("at('clear').disabled && at('blank').disabled && !at('refuse').disabled")
    assert browser.evaluate("at('drawing').hidden")
    browser.evaluate("at('refuse').click()")
    wait(browser, "document.querySelectorAll('.refused').length === 1")


def test_names_of_files_are_text(browser: Browser, tmp_path: Path) -> None:
    name = "<img src=x onerror=document.title='run'>\u202e"
    review = Review(tmp_path, **{name.replace("/", ""): film(frames=1)})
    try:
        visit(browser, review)
        assert browser.evaluate("at('input').textContent") == "<img src=x onerror=document.title='run'>\\u202e.dcm"
        assert browser.evaluate("document.title").startswith("Files that wait")
        assert browser.complaints == []
    finally:
        review.close()


def test_a_decision_takes_what_was_held_along(browser: Browser, hospital: Review) -> None:
    before = hospital.quarantine.get(hospital.named("burned.dcm"))
    visit(browser, hospital)
    browser.evaluate("document.querySelectorAll('#list button')[1].click()")
    wait(browser, "looked.get(current.id).size === 1")
    browser.evaluate("at('refuse').click()")
    wait(browser, "document.querySelectorAll('.refused').length === 1")
    after = hospital.quarantine.get(before.id)
    assert dataclasses.replace(after, decision=before.decision, reviewer="", decided="", looked=0) == before
    assert after.looked == 1


def test_every_frame_of_a_long_film_can_be_chosen_and_the_page_says_how_many_were(
    browser: Browser, tmp_path: Path
) -> None:
    def long(dataset: Dataset) -> None:
        dataset.ImageType, dataset.NumberOfFrames, dataset.PixelData = HELD_FOR, 300, bytes(300 * 32)

    review = Review(tmp_path, a_film=to_bytes(image(long, number=9)), a_gap=undecodable())
    try:
        visit(browser, review)
        for number in (17, 253, 299):
            browser.evaluate(f"at('frame').value = '{number}'; at('frame').dispatchEvent(new Event('input'))")
            wait(browser, f"looked.get(current.id).has({number})")
        assert browser.evaluate("at('number').textContent") == "300 of 300"
        assert "Looked at 4 of 300 frames" in browser.evaluate("at('advice').textContent")
        browser.evaluate("at('clear').click()")
        wait(browser, "document.querySelectorAll('.cleared').length === 1")
        assert review.quarantine.get(review.named("a_film.dcm")).looked == 4
        assert "4 of 300 frames looked at" in browser.evaluate("at('list').textContent")
        # The next one in the list cannot be shown: nothing of the film may stand in its place.
        wait(browser, "at('state').textContent.includes('cannot be shown')")
        assert browser.evaluate("current.input") == "a_gap.dcm"
        assert not browser.evaluate("at('picture').hasAttribute('src')")
    finally:
        review.close()
