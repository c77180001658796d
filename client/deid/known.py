"""Who a file is about, as the checker sees it: read from the input with pydicom, apart from the engine."""

import re
import struct
import unicodedata
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import UID

UNREADABLE = (
    ArithmeticError, AttributeError, BytesLengthException, InvalidDicomError, LookupError, NotImplementedError, OSError,
    EOFError, RecursionError, TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip
"""What pydicom raises on bytes that it does not understand."""

IDS = frozenset({0x00100020, 0x00101000, 0x00101090, 0x00080050, 0x00200010, 0x00380010, 0x00401001, 0x00402016,
    0x00402017, 0x00181000, 0x00102154})  # fmt: skip
"""Numbers that hospitals and insurers give: Patient, Accession, Study, Admission, Order, Device, telephone."""
_PLACES = frozenset({0x00101040, 0x00080080, 0x00080081})
_DATE_VRS = frozenset({"DA", "DT"})
_CHARACTER_SET = 0x00080005
_META_INSTANCE = 0x00020003
_PUBLIC_UIDS = ("1.2.840.10008.", "2.16.840.1.113883.6.")  # the registry of PS3.6, and HL7's of coding schemes
_TOKEN = re.compile(r"[^\W_]+")
_DAY = re.compile(rb"(?<!\d)(\d{4})\.?(0[1-9]|1[0-2])\.?(0[1-9]|[12]\d|3[01])")
_DELIMITERS = {ord(one) for one in "\n\r\t\f\\^="}
_LONG_NAME, _LONG_ID, _LONG_UID, _LONG_RAW = 5, 6, 12, 6


@dataclass(frozen=True)
class Known:
    """What the header of an input says of its patient, in the forms that the checker looks for.

    Attributes:
        inside: Folded letters and digits that must not stand in any text.
        words: Folded words that must not stand in any text as a word.
        raw: Bytes that must not stand anywhere before the pixels.
        uids: UIDs that must not come out.
        days: Every calendar day that the input names, ``YYYYMMDD``.
        dates: The day of each date attribute of the top level.
        readable: Whether pydicom could read the input; where not, nothing can be said and nothing may go out.
    """

    inside: frozenset[str] = frozenset()
    words: frozenset[str] = frozenset()
    raw: frozenset[bytes] = frozenset()
    uids: frozenset[str] = frozenset()
    days: frozenset[str] = frozenset()
    dates: tuple[tuple[int, str], ...] = ()
    readable: bool = True

    @classmethod
    def of(cls, original: bytes | memoryview | Path, kept: frozenset[int] = frozenset()) -> "Known":
        """Collect from an input file; what stands in an attribute of ``kept`` may come out and is no identifier."""
        stream = original if isinstance(original, Path) else BytesIO(original)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                dataset = dcmread(stream, stop_before_pixels=True)
                found = _Found()
                meta = dataset.file_meta.get(_META_INSTANCE)
                if meta is not None:
                    found.uids.add(str(meta.value))
                _collect(dataset, kept, found, ("iso8859",), top=True)
            except UNREADABLE:
                return cls(readable=False)
        return found.known()


@dataclass
class _Found:
    """What the walk has met so far."""

    names: set[tuple[bytes, tuple[str, ...]]] = field(default_factory=set)
    ids: set[tuple[bytes, tuple[str, ...]]] = field(default_factory=set)
    uids: set[str] = field(default_factory=set)
    free_uids: set[str] = field(default_factory=set)
    days: set[str] = field(default_factory=set)
    dates: dict[int, str] = field(default_factory=dict)

    def known(self) -> Known:
        inside: set[str] = set()
        words: set[str] = set()
        raw: set[bytes] = set()
        for value, codecs in self.names:
            terms = _name_terms(value, codecs)
            inside |= terms[0]
            words |= terms[1]
            raw |= terms[2]
        for value, codecs in self.ids:
            for text in decoded(value, codecs).split("\\"):
                term = squeeze(text)
                if len(term) >= _LONG_ID:
                    inside.add(term)
        raw |= {term.encode() for term in inside if term.isascii() and not term.isdigit()}
        uids = {one for one in self.uids - self.free_uids if one and not is_public(one)}
        raw |= {one.encode() for one in uids if len(one) >= _LONG_UID}
        return Known(
            frozenset(inside), frozenset(words), frozenset(raw), frozenset(uids), frozenset(self.days),
            tuple(sorted(self.dates.items())),
        )  # fmt: skip


@lru_cache(maxsize=4096)
def is_public(uid: str) -> bool:
    """Whether a UID was given out by a registry that everybody uses."""
    return uid.startswith(_PUBLIC_UIDS) or UID(uid).name != uid


def squeeze(text: str) -> str:
    """Letters and digits of ``text`` alone, without case, accents and width."""
    return "".join(tokens(text))


def tokens(text: str) -> list[str]:
    """The words of ``text`` without case, accents and width."""
    if text.isascii():
        return _TOKEN.findall(text.lower())
    flat = unicodedata.normalize("NFKD", text)
    return _TOKEN.findall("".join(one for one in flat if not unicodedata.combining(one)).casefold())


def days_of(value: bytes) -> list[str]:
    """The full calendar days that a DA or DT value names; a zone or a part of a day is none."""
    return ["".join(part.decode() for part in match) for match in _DAY.findall(value)]


def codecs_in(dataset: Dataset, outer: tuple[str, ...]) -> tuple[str, ...]:
    """The encodings that a data set declares, or those of the one around it."""
    element = dataset.get_item(_CHARACTER_SET) if _CHARACTER_SET in dataset else None
    if element is None:
        return outer
    value = element.value
    if isinstance(value, bytes):
        return _codecs(value)
    return _codecs((value if isinstance(value, str) else "\\".join(value or [])).encode())


@lru_cache(maxsize=256)
def _codecs(declared: bytes) -> tuple[str, ...]:
    """The encodings that a Specific Character Set declares; the default where it declares none that is known."""
    names = [one.strip() for one in declared.decode("ascii", "replace").strip(" \0").split("\\")]
    try:
        return tuple(convert_encodings(names))
    except (LookupError, ValueError):
        return ("iso8859",)


def decoded(value: bytes, codecs: tuple[str, ...]) -> str:
    """``value`` as text; what is no text in these encodings as Latin-1."""
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii").rstrip(" \0")
    try:
        return decode_bytes(value, list(codecs), _DELIMITERS).rstrip(" \0")
    except (LookupError, UnicodeError, ValueError):
        return value.decode("latin-1").rstrip(" \0")


@lru_cache(maxsize=4096)
def vr_in_dictionary(tag: int) -> str:
    """What PS3.6 says, ``UN`` where it says nothing."""
    try:
        return dictionary_VR(tag)
    except KeyError:
        return "UN"


def raw_elements(dataset: Dataset) -> Iterator[tuple[int, str, object]]:
    """Tag, VR and value of each element as it stands in the file; sequences are read, other values left as bytes."""
    for tag in dataset.keys():  # noqa: SIM118  # a data set iterates over converted elements, which costs much
        element = dataset.get_item(tag)
        number = int(tag)
        vr = str(element.VR) if element.VR else vr_in_dictionary(number)
        if vr == "SQ" or (vr == "UN" and not number & 0x10000 and vr_in_dictionary(number) == "SQ"):
            value: object = dataset[tag].value
            yield number, "SQ", value
        else:
            yield number, vr, element.value


def _collect(dataset: Dataset, kept: frozenset[int], found: _Found, codecs: tuple[str, ...], *, top: bool) -> None:
    codecs = codecs_in(dataset, codecs)
    for tag, vr, value in raw_elements(dataset):
        if vr == "SQ":
            for item in value if not isinstance(value, bytes) and value else ():  # type: ignore[attr-defined]
                _collect(item, kept, found, codecs, top=False)
            continue
        if not isinstance(value, bytes) or not value:
            continue
        if vr == "UI":
            target = found.free_uids if tag in kept else found.uids
            target.update(value.decode("latin-1").rstrip(" \0").split("\\"))
        elif vr in _DATE_VRS:
            days = days_of(value)
            found.days.update(days)
            if top and days:
                found.dates[tag] = days[0]
        elif tag in kept:
            continue
        elif vr == "PN":
            found.names.add((value, codecs))
        elif tag in IDS or (tag in _PLACES and len(value.split()) > 1):  # one word may be a maker's name
            found.ids.add((value, codecs))


@lru_cache(maxsize=4096)
def _name_terms(value: bytes, codecs: tuple[str, ...]) -> tuple[frozenset[str], frozenset[str], frozenset[bytes]]:
    """A name's parts: those long enough to be found inside longer words, those that must stand alone, and bytes."""
    inside, words = set(), set()
    for part in tokens(decoded(value, codecs)):
        if len(part) >= _LONG_NAME or (len(part) >= 2 and ord(part[0]) > 0x2E7F):  # a syllable or word a sign
            inside.add(part)
        elif len(part) >= 3:
            words.add(part)
    pieces = re.split(rb"[\\^=\s\0]+", value)
    raw = frozenset(piece.lower() for piece in pieces if len(piece) >= _LONG_RAW and not piece.isdigit())
    return frozenset(inside), frozenset(words), raw


def has_text(pixels: bytes) -> bool:
    """Whether six printable bytes stand side by side: only then pixels are worth searching."""
    pairs_of_bytes = np.frombuffer(pixels, dtype="<u2", count=len(pixels) // 2)
    if pairs_of_bytes.size and pairs_of_bytes.max() < 0x2000:
        return False  # as in most images: every second byte is a control character
    values = np.frombuffer(pixels, dtype=np.uint8)
    printable = (values - np.uint8(0x20)) < 0x5F
    pairs = printable[:-1] & printable[1:]
    fours = pairs[:-2] & pairs[2:]
    return bool((fours[:-2] & pairs[4:]).any()) if fours.size > 2 else False
