"""The independent checker: reads every file again before it is put in place, and knows nothing of how it was made.

It shares no code with the engine: pydicom reads the bytes, and a short list of its own says what must not be there. A
mistake in the engine has to be made here a second time, in other words, before it leaks. What it finds it names by kind
and tag, never by value. It is narrower than the engine on purpose: a file that the engine treated rightly passes.
"""

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from enum import StrEnum
from functools import cache
from importlib.resources import files
from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset

from client.deid.actions import Action
from client.deid.known import (
    IDS,
    UNREADABLE,
    Known,
    codecs_in,
    days_of,
    decoded,
    has_text,
    is_public,
    raw_elements,
    squeeze,
    tokens,
)
from client.deid.profile import Profile
from client.deid.tables import Option
from shared.parsing import parse_json


class Kind(StrEnum):
    """What the checker may find, for people."""

    UNREADABLE = "something that cannot be read"
    PREAMBLE = "a preamble that is not empty"
    META = "file meta information of another writer"
    IDENTIFIER = "an attribute that identifies directly"
    PERSON = "a person's name"
    KNOWN = "an identifier of the input"
    UID = "a UID of the input"
    DATE = "a date that was not removed or moved"
    TIME = "a time that was not removed"
    AGE = "an age over 89"
    PRIVATE = "a private attribute"
    OVERLAY = "an overlay or a curve"
    STRUCTURE = "a group length, a signature, an icon or padding"
    UNKNOWN = "a value of unknown kind"
    ADDRESS = "an e-mail or web address"
    MARKER = "a missing or untrue marker of de-identification"
    DOCUMENT = "a document, a report or an index"
    PIXELS = "bytes behind the pixels"
    NAME = "an identifier of the input in the name of the file"


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that must not be there: what, and at which tag; 0 where it is in none."""

    kind: Kind
    tag: int = 0

    def __str__(self) -> str:
        where = f" at ({self.tag >> 16:04X},{self.tag & 0xFFFF:04X})" if self.tag else ""
        return f"{self.kind}{where}"


@dataclass(frozen=True)
class Facts:
    """What a profile promises, as far as a reader of the result can see it.

    Attributes:
        sha256: The profile's digest, which every file must name.
        kept: Attributes whose values may stay.
        moved: Dates and times that move with the patient's.
        years: Dates of which only the year stays.
        safe_private: Whether the private attributes of PS3.15 Table E.3.10-1 may stay.
        uids: Whether UIDs stay.
        temporal: What Longitudinal Temporal Information Modified must say.
    """

    sha256: str
    kept: frozenset[int] = field(repr=False)
    moved: frozenset[int] = field(repr=False)
    years: frozenset[int] = field(repr=False)
    safe_private: bool
    uids: bool
    temporal: str

    @classmethod
    def of(cls, profile: Profile) -> "Facts":
        """The facts of a profile."""
        by_action: dict[Action, set[int]] = {action: set() for action in Action}
        for tag, rule in profile.rules.items():
            for action in (rule.optional, rule.empty, rule.required):
                by_action[action].add(tag)
        moved, years = by_action[Action.SHIFT], by_action[Action.YEAR]
        temporal = "UNMODIFIED" if profile.has(Option.RETAIN_LONG_FULL_DATES) else "REMOVED"
        return cls(
            sha256=profile.sha256,
            kept=frozenset(by_action[Action.KEEP] | by_action[Action.CLEAN]),
            moved=frozenset(moved),
            years=frozenset(years),
            safe_private=profile.has(Option.RETAIN_SAFE_PRIVATE),
            uids=profile.has(Option.RETAIN_UIDS),
            temporal="MODIFIED" if moved or years else temporal,
        )


# Attributes that name somebody or somewhere whatever they say: only a pseudonym, a dummy or nothing may stand in them.
_DIRECT = IDS | frozenset({
    0x00080080, 0x00080081, 0x00080092, 0x00080094, 0x00081010, 0x00081040, 0x00100030, 0x00100032, 0x00100050,
    0x00101040, 0x00101060, 0x00101080, 0x00101081, 0x00102150, 0x00102152, 0x00102155, 0x00102160, 0x00102180,
    0x001021B0, 0x001021C0, 0x001021F0, 0x00104000, 0x00120040, 0x00120042, 0x00120050, 0x00180012, 0x00181002,
    0x00204000, 0x00321060, 0x00324000, 0x00380300, 0x00380400, 0x00380500, 0x00384000, 0x00400241, 0x00400242,
    0x00400243, 0x00400253, 0x00401400, 0x00402400, 0x4008010B, 0x40084000,
})  # fmt: skip
_ICONS = frozenset({0x00880200, 0x04000500, 0x04000561, 0xFFFAFFFA, 0xFFFCFFFC, 0x04000510})
_META = frozenset(range(0x00020000, 0x00020004)) | {0x00020010, 0x00020012, 0x00020013}
_MARKERS = frozenset({0x00120062, 0x00120063, 0x00120064, 0x00280303})
_METHOD, _METHOD_CODES, _TEMPORAL, _REMOVED, _BURNED_IN = 0x00120063, 0x00120064, 0x00280303, 0x00120062, 0x00280301
_CHARACTER_SET, _SOP_CLASS, _INSTANCE = 0x00080005, 0x00080016, 0x00080018
_PIXELS = 0x7FE00010
_DOCUMENTS = ("1.2.840.10008.1.3.10", "1.2.840.10008.5.1.4.1.1.104", "1.2.840.10008.5.1.4.1.1.88")
_PSEUDONYM = re.compile(rb"FW[A-Z2-7]{16}")
_DUMMIES = frozenset({b"", b"REMOVED", b"19000101", b"19000101000000", b"000000", b"000Y", b"0", b"urn:removed",
    b"99FEDWARD"})  # fmt: skip
_ENUMERATED = frozenset({b"CT", b"MR", b"PT", b"SEG", b"MONOCHROME1", b"MONOCHROME2", b"PALETTE COLOR", b"BINARY",
    b"FRACTIONAL", b"LABELMAP"})  # fmt: skip
_SAME = tuple(one.lower() for one in _DUMMIES | _ENUMERATED | {b"FEDWARD_0_1"})  # in every file, whoever it is about
_ADDRESS = re.compile(rb"[\w.+-]+@[\w-]+\.\w|https?://|www\.", re.IGNORECASE)
_TEXT = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT", "UN"})
_WIDE = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UL", "SL", "SS", "US", "FL", "FD", "SV", "UV"})
_AGE = re.compile(rb"(\d{3})([DWMY])")
_PER_YEAR = {b"D": 366, b"W": 53, b"M": 12, b"Y": 1}
_LONGEST_SHIFT = 1461


@cache
def _safe_private() -> frozenset[tuple[str, int, int]]:
    """PS3.15 Table E.3.10-1: creator, group, low byte of the element."""
    text = (files("client.deid") / "data" / "ps3.15_e3.10-1.json").read_text("utf-8")
    rows = parse_json(text)["rows"]
    return frozenset((row["private_creator"], int(row["group"], 16), int(row["element"][2:], 16)) for row in rows)


def check(released: bytes | Path, known: Known, facts: Facts, name: str = "") -> tuple[Finding, ...]:
    """What stands in a released file although it must not.

    Args:
        released: The file as it would go out.
        known: What its input said of its patient.
        facts: What the profile promises.
        name: The path that it would get below the output folder.

    Returns:
        The findings, sorted, each once; empty where nothing speaks against the file.
    """
    if not known.readable:
        return (Finding(Kind.UNREADABLE),)
    content = released.read_bytes() if isinstance(released, Path) else released
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = dcmread(BytesIO(content))
            checker = _Checker(known, facts, _shift(dataset, known), implicit=dataset.original_encoding[0] is True)
            found = set(checker.around(content, dataset))
            found.update(checker.markers(dataset))
            found.update(checker.walk(dataset, ("iso8859",), top=True))
        except UNREADABLE:
            return (Finding(Kind.UNREADABLE),)
    if any(term in squeeze(name) for term in known.inside) or any(uid in name for uid in known.uids if len(uid) > 11):
        found.add(Finding(Kind.NAME))
    return tuple(sorted(found))


def reason(findings: Iterable[Finding], most: int = 3) -> str:
    """The findings as the reason of a quarantine: kinds and tags, never values."""
    told = [str(one) for one in findings]
    more = f" and {len(told) - most} more" if len(told) > most else ""
    return f"the checker found {'; '.join(told[:most])}{more}"


def _day(text: str) -> date | None:
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8]))
    except ValueError:
        return None


def _shift(dataset: FileDataset, known: Known) -> int | None:
    """By how many days the dates moved, from the first date that both files have; None where there is none."""
    for tag, before in known.dates:
        if tag not in dataset:
            continue
        value = dataset.get_item(tag).value
        days = days_of(value) if isinstance(value, bytes) and value.strip(b" \0") not in _DUMMIES else []
        first, second = _day(before), _day(days[0]) if days else None
        if first and second:
            return (first - second).days
    return None


class _Checker:
    """The rules, for one file."""

    def __init__(self, known: Known, facts: Facts, shift: int | None, *, implicit: bool) -> None:
        self._known, self._facts, self._shift, self._implicit = known, facts, shift, implicit

    def around(self, content: bytes, dataset: FileDataset) -> Iterator[Finding]:
        """Preamble, file meta information, bytes as they stand before the pixels, and the pixels."""
        if content[:132] != b"\0" * 128 + b"DICM":
            yield Finding(Kind.PREAMBLE)
        for element in dataset.file_meta:
            if int(element.tag) not in _META:
                yield Finding(Kind.META, int(element.tag))
        if str(dataset.file_meta.get("MediaStorageSOPInstanceUID", "")) != _plain(dataset, _INSTANCE):
            yield Finding(Kind.META, 0x00020003)
        if _plain(dataset, _SOP_CLASS).startswith(_DOCUMENTS) or any(int(tag) >> 16 == 4 for tag in dataset.keys()):  # noqa: SIM118
            yield Finding(Kind.DOCUMENT)
        pixels = dataset.get_item(_PIXELS) if _PIXELS in dataset else None
        start = getattr(pixels, "value_tell", 0) or len(content)
        head = content[:start]
        for marker in self._constants(dataset):
            head = head.replace(marker, b"")
        head = head.lower()
        if any(term in head for term in self._known.raw if not any(term in same for same in _SAME)):
            yield Finding(Kind.KNOWN)
        if pixels is None or not isinstance(pixels.value, bytes):
            return
        if getattr(pixels, "length", 0) != 0xFFFFFFFF and len(pixels.value) > _expected(dataset):
            yield Finding(Kind.PIXELS, _PIXELS)
        if has_text(pixels.value) and any(term in pixels.value.lower() for term in self._known.raw):
            yield Finding(Kind.KNOWN, _PIXELS)

    def _constants(self, dataset: FileDataset) -> Iterator[bytes]:
        """What the markers say in every file, whoever it is about: a patient may be called like a word of them."""
        for tag in (_METHOD, _METHOD_CODES):
            element = dataset.get_item(tag) if tag in dataset else None
            if element is not None and isinstance(element.value, bytes) and element.value:
                yield element.value
        for item in dataset.get("DeidentificationMethodCodeSequence", None) or ():
            for _, _, value in raw_elements(item):
                if isinstance(value, bytes) and value:
                    yield value

    def markers(self, dataset: FileDataset) -> Iterator[Finding]:
        """Whether the file says what was done to it, and says it truly (PS3.3 C.7.1.1, C.12.1)."""
        if _plain(dataset, _REMOVED) != "YES":
            yield Finding(Kind.MARKER, _REMOVED)
        if self._facts.sha256 not in _plain(dataset, _METHOD).split("\\"):
            yield Finding(Kind.MARKER, _METHOD)
        codes = dataset.get("DeidentificationMethodCodeSequence", None) or ()
        if "113100" not in {str(item.get("CodeValue", "")) for item in codes}:
            yield Finding(Kind.MARKER, _METHOD_CODES)
        if _plain(dataset, _TEMPORAL) != self._facts.temporal:
            yield Finding(Kind.MARKER, _TEMPORAL)
        if _plain(dataset, _BURNED_IN).upper() == "YES":
            yield Finding(Kind.MARKER, _BURNED_IN)

    def walk(self, dataset: Dataset, codecs: tuple[str, ...], *, top: bool) -> Iterator[Finding]:
        """Every element at every depth."""
        codecs = codecs_in(dataset, codecs)
        for tag, vr, value in raw_elements(dataset):
            if tag in {_CHARACTER_SET, _PIXELS} or (top and tag in _MARKERS):
                continue
            if kind := self._structural(dataset, tag):
                yield Finding(kind, tag)
            elif vr == "SQ":
                for item in value if not isinstance(value, bytes) and value else ():  # type: ignore[attr-defined]
                    yield from self.walk(item, codecs, top=False)
            elif isinstance(value, bytes) and value.strip(b" \0"):
                plain = value.strip(b" \0")
                if (found := self._value(tag, vr, plain, codecs)) is not None:
                    yield Finding(found, tag)

    def _structural(self, dataset: Dataset, tag: int) -> Kind | None:
        """What must not be there whatever its value is."""
        group = tag >> 16
        if group & 1:
            return None if self._safe(dataset, tag) else Kind.PRIVATE
        if group & 0xFF00 in {0x5000, 0x6000}:
            return Kind.OVERLAY
        if not tag & 0xFFFF or tag in _ICONS:
            return Kind.STRUCTURE
        return None

    def _safe(self, dataset: Dataset, tag: int) -> bool:
        if not self._facts.safe_private:
            return False
        group, element = tag >> 16, tag & 0xFFFF
        creators = {row[0] for row in _safe_private() if row[1] == group}
        if 0x10 <= element <= 0xFF:
            return _plain(dataset, tag) in creators
        return (_plain(dataset, group << 16 | element >> 8), group, element & 0xFF) in _safe_private()

    def _value(self, tag: int, vr: str, value: bytes, codecs: tuple[str, ...]) -> Kind | None:
        if vr == "UI":
            return self._uid(tag, value)
        if vr in {"DA", "DT", "TM"}:
            return self._temporal(tag, vr, value)
        if vr == "AS":
            return Kind.AGE if any(_over_89(one) for one in value.split(b"\\")) else None
        if value in _DUMMIES or _PSEUDONYM.fullmatch(value):
            return None
        if tag not in self._facts.kept:
            if vr == "PN":
                return Kind.PERSON
            if tag in _DIRECT:
                return Kind.IDENTIFIER
        if vr == "UN" and not self._implicit:
            return Kind.UNKNOWN
        if vr in _TEXT and value not in _ENUMERATED:
            return self._text(value, codecs, urls=tag >> 16 != 8)
        if vr in _WIDE and len(value) > 5 and any(term in value.lower() for term in self._known.raw):
            return Kind.KNOWN
        return None

    def _text(self, value: bytes, codecs: tuple[str, ...], *, urls: bool) -> Kind | None:
        if urls and _ADDRESS.search(value):
            return Kind.ADDRESS
        for text in decoded(value, codecs).split("\\"):
            words = tokens(text)
            whole = "".join(words)
            if any(term in whole for term in self._known.inside) or not self._known.words.isdisjoint(words):
                return Kind.KNOWN
            if any(day in whole for day in self._known.days):
                return Kind.DATE
        return None

    def _uid(self, tag: int, value: bytes) -> Kind | None:
        if self._facts.uids or tag in self._facts.kept:
            return None
        uids = value.decode("latin-1").split("\\")
        return Kind.UID if any(one in self._known.uids and not is_public(one) for one in uids) else None

    def _temporal(self, tag: int, vr: str, value: bytes) -> Kind | None:
        if value in _DUMMIES or tag in self._facts.kept:
            return None
        if vr == "TM":
            return None if tag in self._facts.moved else Kind.TIME
        if tag in self._facts.years:
            whole = value.endswith(b"0101") and len(value) == 8 if vr == "DA" else len(value) == 4
            return None if whole or b"\\" in value or b"-" in value else Kind.DATE
        if tag not in self._facts.moved:
            return Kind.DATE
        return Kind.DATE if any(not self._moved(day) for day in days_of(value)) else None

    def _moved(self, text: str) -> bool:
        """Whether a date is one of the input's, moved as the first one was."""
        day = _day(text)
        if day is None or text == "19000101":
            return True
        if self._shift is None:
            return text not in self._known.days
        if not 1 <= self._shift <= _LONGEST_SHIFT:
            return False
        return (day + timedelta(days=self._shift)).strftime("%Y%m%d") in self._known.days


def _plain(dataset: Dataset, tag: int) -> str:
    """A value as ASCII text without padding; empty where there is none."""
    element = dataset.get_item(tag) if tag in dataset else None
    value = element.value if element is not None else b""
    return value.decode("ascii", "replace").strip(" \0") if isinstance(value, bytes) else str(value or "")


def _over_89(age: bytes) -> bool:
    match = _AGE.fullmatch(age.strip())
    return match is not None and age.strip() != b"090Y" and int(match[1]) / _PER_YEAR[match[2]] >= 90


def _number(dataset: Dataset, name: str) -> int:
    return int(dataset.get(name, 0) or 0)


def _expected(dataset: Dataset) -> int:
    """Bytes of native pixel data, padded to an even number."""
    frames = _number(dataset, "NumberOfFrames") or 1
    cells = _number(dataset, "Rows") * _number(dataset, "Columns") * (_number(dataset, "SamplesPerPixel") or 1)
    size = (cells * frames * _number(dataset, "BitsAllocated") + 7) // 8
    return size + size % 2


def count_of(findings: Iterable[Finding]) -> Mapping[str, int]:
    """How often each kind was found, as rule counts of a report line."""
    counts: dict[str, int] = {}
    for one in findings:
        key = f"check_{one.kind.name.lower()}"
        counts[key] = counts.get(key, 0) + 1
    return counts
