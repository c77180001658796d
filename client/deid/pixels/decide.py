"""Which images somebody has to look at: those of classes that carry text, those that say so, and those that look so."""

import re
from dataclasses import dataclass

from client.deid.codec import Dataset, Part10
from client.deid.engine import text_of
from client.deid.tables import released

_SOP_CLASS, _IMAGE_TYPE, _BURNED_IN, _MODALITY = 0x00080016, 0x00080008, 0x00280301, 0x00080060
_PHOTOMETRIC, _CONVERSION, _ALLOCATED, _ROWS, _COLUMNS = 0x00280004, 0x00080064, 0x00280100, 0x00280010, 0x00280011
_PIXEL_DATA = 0x7FE00010
_GREY = {"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"}
_SCREEN = ("SCREEN", "CAPTURE")
_DESCRIPTIONS = (0x0008103E, 0x00081030, 0x00181030)  # of the series, the study and the protocol
# A low dose and a screening are no reason: what is meant are pictures of screens, of reports and of dose sheets.
SUSPECT_WORDS = re.compile(
    r"screen ?(save|shot|dump)|capture|\breport|summary|dose (report|info|sheet|page|record)|annotat|\bresults?\b|"
    r"snapshot|key ?image|protocol page"
)
# Sizes of screens, columns by rows; scanners do not make them.
_SCREENS = {(640, 480), (720, 480), (720, 576), (800, 600), (1024, 768), (1152, 864), (1280, 720), (1280, 800)} | {
    (1280, 1024), (1440, 900), (1600, 1200), (1680, 1050), (1920, 1080), (1920, 1200), (2560, 1440), (3840, 2160)
}  # fmt: skip

_SAYS_BURNED_IN = "Burned In Annotation says that its pixels carry text"
_SAYS_SCREEN = "its Image Type says that it is a picture of a screen"
NONE_FOUND = ", and no text was found in them"
TOO_MUCH = "what looks like text covers much of a frame"
LEFT = "text is left in its pixels after redaction"
DOUBTFUL = "text was blanked in its pixels, and what is left may be more of it"
UNUSUAL_BITS = "text is not looked for in pixels other than of 8 or 16 bits with one or three samples"
DEEP_COLOURS = "its colours are of more than 8 bits"
UNKNOWN_COLOURS = "its colours are described in a way that is not understood"
NO_PALETTE = "it has no palette that can be read"
SPREAD = "its compressed frames are spread over fragments"
SHARED_COLOURS = "its pixels share their colours, uncompressed"
HELD_FOR_A_PERSON = frozenset({
    _SAYS_BURNED_IN + NONE_FOUND, _SAYS_SCREEN + NONE_FOUND, TOO_MUCH, LEFT, DOUBTFUL,
    UNUSUAL_BITS, DEEP_COLOURS, UNKNOWN_COLOURS, NO_PALETTE, SPREAD, SHARED_COLOURS,
})  # fmt: skip
"""Reasons that a person who looks at the picture may lift."""

_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66."
_FACE = 0x00280302
_HEAD_PLACES = (0x00180015, *_DESCRIPTIONS)
HEAD = re.compile(r"head|brain|skull|crani|cereb|face|facial|orbit|sinus|maxill|mandib|neuro|schaedel|schadel|kopf")
_HEAD_CODES = {b"69536005", b"12738006", b"89546000", b"89545001", b"T-D1100", b"T-A0100", b"T-D1200", b"T-11100"}
_ANATOMY = 0x00082218
_HEAD_MODALITIES = {"CT", "MR"}


@dataclass(frozen=True)
class Look:
    """Why a file's pixels have to be looked at.

    Attributes:
        why: For people.
        claimed: Whether the file itself says that there is text: then finding none clears nothing.
    """

    why: str
    claimed: bool = False


def look(part10: Part10, *, everything: bool = False) -> Look | None:
    """Why the pixels of a file have to be looked at; None where nothing speaks for it.

    Args:
        part10: The file, before anything is taken out of its header.
        everything: Whether the profile has all images looked at.
    """
    dataset = part10.dataset
    if _PIXEL_DATA not in dataset:
        return None
    if text_of(dataset, _BURNED_IN).upper() == "YES":
        return Look(_SAYS_BURNED_IN, claimed=True)
    if any(word in text_of(dataset, _IMAGE_TYPE).upper() for word in _SCREEN):
        return Look(_SAYS_SCREEN, claimed=True)
    sop_class = released().get(text_of(dataset, _SOP_CLASS))
    if sop_class is not None and sop_class.risky:
        return Look(f"{sop_class.name}, a class that may carry text in its pixels")
    if text_of(dataset, _SOP_CLASS).startswith(_SEGMENTATION) and (not everything or _short(part10, _ALLOCATED) == 1):
        return None  # a mask of single bits, drawn over an image
    if text_of(dataset, _PHOTOMETRIC) not in _GREY:
        return Look("a colour picture in a class of grey ones, as reports and screens are")
    if text_of(dataset, _CONVERSION):
        return Look("its Conversion Type says that it did not come from the scanner")
    if any(SUSPECT_WORDS.search(_plain(dataset, tag)) for tag in _DESCRIPTIONS):
        return Look("its description speaks of a screen, a report or annotations")
    if _short(part10, _ALLOCATED) == 8 and text_of(dataset, _MODALITY) in {"CT", "MR", "PT"}:
        return Look("a scanner's image of 8 bits, as screens have")
    if (_short(part10, _COLUMNS), _short(part10, _ROWS)) in _SCREENS:
        return Look("it has the size of a screen")
    return Look("the profile has every image looked at") if everything else None


def is_head(dataset: Dataset) -> bool:
    """Whether a file shows a face, or a CT or MR a head from which one could be rendered, as far as its header says."""
    if _PIXEL_DATA in dataset and text_of(dataset, _FACE).upper() == "YES":
        return True
    if text_of(dataset, _MODALITY) not in _HEAD_MODALITIES or _PIXEL_DATA not in dataset:
        return False
    if any(HEAD.search(_plain(dataset, tag)) for tag in _HEAD_PLACES):
        return True
    items = dataset.get(_ANATOMY, ("", []))[1]
    return isinstance(items, list) and any(text_of(item, 0x00080100).encode() in _HEAD_CODES for item in items)


def _plain(dataset: Dataset, tag: int) -> str:
    value = dataset.get(tag, ("", b""))[1]
    return value.decode("latin-1").lower() if isinstance(value, bytes) else ""


def _short(part10: Part10, tag: int) -> int:
    """A number of two bytes."""
    value = part10.dataset.get(tag, ("", b""))[1]
    return int.from_bytes(value, "big" if part10.encoding.big else "little") if isinstance(value, bytes) else 0
