"""Which files may be released at all: what cannot be read is refused, what nobody may release unseen is quarantined.

Quarantined means: named in the report with the reason, and copied nowhere. Which pixels have to be looked at for text
is decided in :mod:`client.deid.pixels.decide`.
"""

import re
from collections.abc import Iterator

from client.deid.codec import PIXEL_DATA, Dataset, Encapsulated, Part10, Value
from client.deid.engine import text_of
from client.deid.tables import quarantined, released

_SOP_CLASS, _IMAGE_TYPE = 0x00080016, 0x00080008
_REQUIRED = {
    _SOP_CLASS: "SOP Class UID",
    0x00080018: "SOP Instance UID",
    0x0020000D: "Study Instance UID",
    0x0020000E: "Series Instance UID",
}
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_PIXELS = (PIXEL_DATA, 0x7FE00008, 0x7FE00009)
_DOCUMENT_WORDS = ("DOSE", "REPORT", "PATIENT PROTOCOL")

_MODEL_NAME, _CONTRIBUTING = 0x00081090, 0x0018A001
ENHANCER = "fedward node enhance"
"""What stands for Manufacturer's Model Name where a model of ours made or changed the images."""
_OWN_RESULT = "a model of fedward made it: results are never learnt from, and belong to the record that they came from"
_REPORT = "its Image Type says that it is a picture of a report"
LIFTABLE = frozenset({_REPORT})
"""Reasons that a person who looks at the picture may lift."""


def refusal(part10: Part10) -> str | None:
    """Why a file that can be parsed still is no image of a patient that could be worked on; None where it is one."""
    dataset = part10.dataset
    if any(tag >> 16 == 4 for tag in dataset):
        return None  # a DICOMDIR has no instance; it is quarantined as what it is
    missing = [name for tag, name in _REQUIRED.items() if not _UID.fullmatch(text_of(dataset, tag))]
    if missing:
        return f"it has no valid {missing[0]}"
    expected = _expected_bytes(dataset)
    value = dataset.get(PIXEL_DATA, ("", None))[1]
    if expected and isinstance(value, bytes | memoryview) and len(value) < expected:
        return "truncated: the pixel data are shorter than rows, columns and frames say"
    return None


def quarantine(part10: Part10, lifted: str = "") -> str | None:
    """Why a file must not be released without being looked at; None where nothing speaks against it.

    Args:
        part10: The file.
        lifted: A reason that a person who looked at the picture has lifted; others still hold.
    """
    return next((why for why in _reasons(part10) if why != lifted), None)


def _reasons(part10: Part10) -> Iterator[str]:
    dataset = part10.dataset
    sop_class = text_of(dataset, _SOP_CLASS)
    if any(tag >> 16 == 4 for tag in dataset):
        yield "a DICOMDIR, an index that names patients"
    if sop_class not in released():
        families = (why for uid, why in quarantined().items() if sop_class == uid or sop_class.startswith(uid + "."))
        yield next(families, "a SOP class that is not known to be safe to release")
    kind = text_of(dataset, _IMAGE_TYPE).upper()
    if any(word in kind for word in _DOCUMENT_WORDS):
        yield _REPORT
    contributed = dataset.get(_CONTRIBUTING, ("", []))[1]
    makers = [dataset, *(contributed if isinstance(contributed, list) else [])]
    if any(text_of(one, _MODEL_NAME) == ENHANCER for one in makers):
        yield _OWN_RESULT
    present = [tag for tag in _PIXELS if tag in dataset]
    if len(present) > 1:
        yield "it holds pixel data twice"
    if present and (why := _pixel_reason(part10)):
        yield why


def exact_pixels(part10: Part10) -> Part10:
    """The file with pixel data of exactly the length that its rows, columns and frames make; more is not pixels."""
    expected = _expected_bytes(part10.dataset)
    vr, value = part10.dataset.get(PIXEL_DATA, ("", b""))
    if not expected or not isinstance(value, bytes | memoryview) or len(value) == expected:
        return part10
    return Part10(part10.syntax, part10.encoding, {**part10.dataset, PIXEL_DATA: (vr, value[:expected])})


def _number(dataset: Dataset, tag: int, *, big: bool) -> int:
    value: Value = dataset.get(tag, ("", b""))[1]
    return int.from_bytes(value, "big" if big else "little") if isinstance(value, bytes) and len(value) == 2 else 0


def _expected_bytes(dataset: Dataset) -> int:
    """Bytes of uncompressed pixel data, 0 where the description is incomplete."""
    for big in (False, True):
        allocated = _number(dataset, 0x00280100, big=big)
        if allocated in {1, 8, 16, 32, 64}:
            rows, columns = _number(dataset, 0x00280010, big=big), _number(dataset, 0x00280011, big=big)
            samples = _number(dataset, 0x00280002, big=big) or 1
            if text_of(dataset, 0x00280004) == "YBR_FULL_422":
                samples = 2  # two pixels share a blue and a red (PS3.3 C.7.6.3.1.2)
            frames = text_of(dataset, 0x00280008) or "1"
            count = int(frames) if frames.isascii() and frames.isdigit() else 0
            return (rows * columns * samples * count * allocated + 7) // 8
    return 0


def _pixel_reason(part10: Part10) -> str | None:
    dataset = part10.dataset
    value = dataset.get(PIXEL_DATA, ("", None))[1]
    if isinstance(value, Encapsulated) or value is None:
        return None
    if not isinstance(value, bytes | memoryview):
        return "its pixel data are no pixel data"
    if not _expected_bytes(dataset):
        return "its pixel data are not described"
    allocated, stored, high = _bits(part10)
    if allocated in {8, 16, 32} and 0 < stored < allocated and not stored - 1 <= high < allocated:
        return "High Bit and Bits Stored contradict each other"
    return None


def _bits(part10: Part10) -> tuple[int, int, int]:
    """Bits Allocated, Bits Stored and High Bit."""
    dataset, big = part10.dataset, part10.encoding.big
    allocated, stored, high = (_number(dataset, tag, big=big) for tag in (0x00280100, 0x00280101, 0x00280102))
    return allocated, stored, high
