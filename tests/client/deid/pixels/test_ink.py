"""The second look at a picture that carries text, and boxes that hug what is written."""

import numpy as np
import pytest

from client.deid.pixels import clear, look
from client.deid.pixels.box import Box, tightened
from client.deid.pixels.decide import DOUBTFUL
from client.deid.pixels.detect import Detector, Seen
from client.deid.pixels.ink import ink_views
from client.deid.quarantine import may_be_lifted
from client.deid.streams import UnclearError
from tests.client.deid.pixels.rendering import US, Page, background, dicom, write
from tests.client.deid.pixels.test_pixels import blanked_in, page_with, parsed

SANS = "dejavu/DejaVuSans.ttf"


def cleared(page: Page) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    part10 = parsed(dicom(page, sop_class=US))
    return blanked_in(clear(part10, look(part10) or pytest.fail("not looked at")), page)


def grain(grey: float, spread: float) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    values = np.random.default_rng(4).normal(grey, spread, (60, 120))
    return np.repeat(np.clip(values, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("spread", [0.0, 8.0])
def test_a_box_hugs_what_stands_out_but_for_a_margin(spread: float) -> None:
    picture = grain(90, spread)
    picture[20:30, 30:80] = 250
    covered = np.zeros((60, 120), bool)
    covered[12:38, 20:95] = True
    tight = tightened(picture, Box(12, 20, 38, 95), Box(22, 33, 28, 77), covered)
    written = Box(18, 28, 32, 82)
    assert tight == written if not spread else (tight.top <= 18 and tight.left <= 28 and tight.bottom >= 32)
    assert tight.right >= written.right


def test_a_box_keeps_its_core_and_stays_as_it_is_where_nothing_stands_out() -> None:
    picture = grain(90, 0)
    covered = np.zeros((60, 120), bool)
    covered[12:38, 20:95] = True
    box, core = Box(12, 20, 38, 95), Box(22, 33, 28, 77)
    assert tightened(picture, box, core, covered) == box
    picture[24, 50:60] = 250  # too little for letters: the others may be hidden
    assert tightened(picture, box, core, covered) == box
    picture[24:26, 40:70] = 250
    assert tightened(picture, box, core, covered) == core
    assert tightened(picture, box, core, np.ones((60, 120), bool)) == box


@pytest.mark.parametrize("ink", [255, 0])
def test_a_window_at_the_grey_of_the_text_flattens_the_ground(ink: int) -> None:
    picture = grain(125, 25)
    picture[10:12, 10:110] = picture[40:42, 10:60] = ink
    gone = np.zeros((60, 120), bool)
    gone[6:16, 6:114] = True
    [view] = ink_views(picture, [Box(6, 6, 16, 114)], gone)
    assert (view[40:42, 10:60] == 255).all()  # text is bright, whichever way it was
    rest = np.ones((60, 120), bool)
    rest[:16] = rest[40:42, 10:60] = False
    assert np.percentile(view[rest], 96) == 0


def test_no_window_where_the_ground_is_of_the_grey_of_the_text() -> None:
    picture = grain(125, 3)
    picture[10:12, 10:110] = 130
    gone = np.zeros((60, 120), bool)
    gone[6:16, 6:114] = True
    assert ink_views(picture, [Box(6, 6, 16, 114)], gone) == []
    assert ink_views(picture, [Box(0, 0, 60, 120)], np.ones((60, 120), bool)) == []


def test_what_may_be_more_text_waits_for_a_person_who_is_shown_where(monkeypatch: pytest.MonkeyPatch) -> None:
    search = Detector.search

    def doubting(self: Detector, *of: object, window: bool = False, **more: object) -> Seen:
        return Seen([], [Box(90, 100, 99, 140)]) if window else search(self, *of, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Detector, "search", doubting)
    with pytest.raises(UnclearError, match="may be more of it") as caught:
        cleared(page_with())
    assert (0, 90, 100, 99, 140) in caught.value.boxes
    assert len(caught.value.boxes) > 1
    assert may_be_lifted(DOUBTFUL)
    clean = Page(background("dark", np.random.default_rng(2), 192, 256))
    assert not cleared(clean).any()  # where nothing was written, nobody doubts


@pytest.mark.parametrize("name", ["freefont/FreeSerif.ttf", "liberation/LiberationSerif-Italic.ttf"])
def test_small_letters_on_speckle_are_found_once_the_grey_of_the_text_is_known(name: str) -> None:
    page = Page(background("us", np.random.default_rng(1), 256, 320))
    assert write(page, "Mustermann", (6, 6), name=SANS, size=14)
    assert write(page, "0815 4711 99", (150, 120), name=name, size=8)
    mask = cleared(page)
    assert [one.covered(mask) for one in page.written] == [True, True]
