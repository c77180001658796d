"""What each action does to an element, compiled once per tag so that a file costs one look-up per element.

A handler gets the state of the file, the VR that stands there and the value, and returns the element as it goes on, or
None where it goes no further. Keeping is the action that needs most care: a value stays only if it is what its VR says.
"""

import re
from collections import Counter
from collections.abc import Callable
from functools import lru_cache

from pydicom.uid import UID

from client.deid.codec import Dataset, Element, Encapsulated, Value
from client.deid.profile import Action
from client.deid.pseudonyms import Pseudonyms
from client.deid.tables import Definition, definition, rules
from client.deid.text import Identifiers, cleaned, decode, printable, readings, telltale
from client.deid.values import (
    CODE,
    LONGEST_CODE,
    LONGEST_NUMBER,
    NUMBER,
    capped_age,
    fits,
    shift_date,
    shift_datetime,
    valid_time,
    valid_zone,
    year_of_date,
    year_of_datetime,
)

REMOVED = b"REMOVED"
_TEXT_VRS = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UR", "UT"})
_WIDTHS = {"AT": 4, "FD": 8, "FL": 4, "SL": 4, "SS": 2, "SV": 8, "UL": 4, "US": 2, "UV": 8}
_NUMBER_VRS = frozenset({"DS", "IS"})
_BULK_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "US", "SS", "UN"})
_DUMMIES: dict[str, bytes] = {
    "AS": b"000Y", "DA": b"19000101", "DT": b"19000101000000", "TM": b"000000", "DS": b"0", "IS": b"0",
    "OB": b"\0\0", "OW": b"\0\0", "UN": b"\0\0", "UR": b"urn:removed",
}  # fmt: skip
_DUMMY_ITEM: Dataset = {0x00080100: ("SH", REMOVED), 0x00080102: ("SH", b"99FEDWARD"), 0x00080104: ("LO", REMOVED)}
_ZONE = 0x00080201
_CHARACTER_SET = 0x00080005
_LONGEST_TABLE = 1 << 18

# Defined terms of Specific Character Set (PS3.3 C.12.1.1.2).
_TERM = rb"(?:ISO_IR \d{1,3}|ISO 2022 (?:IR \d{1,3}|GBK)|GB18030|GBK)?"
_CHARACTER_SETS = re.compile(_TERM + rb"(?: *\\ *" + _TERM + rb")* *\0?")

# The attributes of a code (PS3.3 section 8). Codes are made of digits: what looks like a date there is none.
_SCHEME, _CODE_MEANING = 0x00080102, 0x00080104
_CODES = frozenset({0x00080100, _SCHEME, 0x00080103, _CODE_MEANING, 0x00080119, 0x00080120})
_LOCAL = b"99LOCAL"

# Without these an image cannot be read; a patient called like one of the enumerated values must not cost it.
_ENUMERATED: dict[int, frozenset[bytes]] = {
    0x00080060: frozenset({b"CT", b"MR", b"PT", b"SEG"}),
    0x00280004: frozenset({b"MONOCHROME1", b"MONOCHROME2", b"PALETTE COLOR"}),
    0x00620001: frozenset({b"BINARY", b"FRACTIONAL", b"LABELMAP"}),
}

# Coding schemes that are named by UIDs from outside the DICOM registry (PS3.16 section 8).
_SCHEMES = frozenset(
    {"2.16.840.1.113883.6.96", "2.16.840.1.113883.6.8", "2.16.840.1.113883.6.1", "2.16.840.1.113883.6.119"}
)


class FileState:
    """One file on its way through the engine: what the handlers need to know of it, and what they did.

    Attributes:
        identifiers: What to search the remaining values for.
        patient: The patient's pseudonym.
        shift: By how many days this patient's dates move.
        counts: How often each rule was applied.
        codecs: The encodings of the data set that is being walked.
        public_code: Whether that data set is a code of a public coding scheme.
        enter: De-identifies the items of a sequence.
    """

    __slots__ = ("codecs", "counts", "enter", "identifiers", "patient", "pseudonyms", "public_code", "seen", "shift")

    def __init__(
        self,
        identifiers: Identifiers,
        pseudonyms: Pseudonyms,
        identity: str,
        seen: dict[tuple[bytes, tuple[str, ...]], bool],
        enter: Callable[["FileState", list[Dataset]], list[Dataset]],
    ) -> None:
        self.identifiers, self.pseudonyms, self.seen, self.enter = identifiers, pseudonyms, seen, enter
        self.patient, self.shift = pseudonyms.patient(identity), pseudonyms.shift(identity)
        self.counts: Counter[str] = Counter()
        self.codecs: tuple[str, ...] = ()
        self.public_code = False

    def identifies(self, value: bytes) -> bool:
        """Whether a text value names the patient; remembered, since the files of a series repeat their values."""
        asked = (value, self.codecs)
        answer = self.seen.get(asked)
        if answer is None:
            answer = any(self.identifiers.found_in(text) for text in readings(value, self.codecs))
            self.seen[asked] = answer
        return answer


Handler = Callable[[FileState, str, Value], Element | None]


def remove(state: FileState, _vr: str, _value: Value) -> Element | None:
    """Take the element out."""
    state.counts["removed"] += 1
    return None


def _invalid(state: FileState) -> Element | None:
    """Take out an element whose value is not what its VR or its attribute says."""
    state.counts["invalid_removed"] += 1
    return None


def default_action(tag: int) -> Action:
    """What happens to an attribute that neither Table E.1-1 nor the profile names: see ``data/rules.toml``."""
    known, lists = definition(tag), rules()
    if not tag & 0xFFFF or known is None or known.retired or tag in lists.never:
        return Action.REMOVE
    if tag in lists.text or tag in lists.also or tag in lists.bulk:
        return Action.KEEP
    if tag in lists.dummy:
        return Action.DUMMY
    if tag >> 16 not in lists.image_groups:
        return Action.REMOVE
    if known.vr == "UI":
        return Action.UID
    if known.vr in {"SQ", "CS", "DS", "IS"} or known.vr.split(" ")[0] in _WIDTHS:
        return Action.REMOVE if "OW" in known.vr else Action.KEEP
    return Action.REMOVE


def compile_action(tag: int, action: Action, fallback: Action) -> Handler:
    """The handler for ``tag``.

    Args:
        tag: The attribute.
        action: What the profile does to it.
        fallback: What is done where the action cannot be, since the value is not what its VR says.
    """
    known = definition(tag) or Definition("UN", 0, retired=False)
    match action:
        case Action.REMOVE:
            return remove
        case Action.EMPTY:
            return _constant((known.vr, [] if known.vr == "SQ" else b""), "emptied")
        case Action.DUMMY:
            return _dummy(known.vr)
        case Action.PSEUDONYM:
            return _pseudonym(known.vr)
        case Action.UID:
            return _uid
        case Action.AGE:
            return _converted(known.vr, lambda text, _: capped_age(text), "kept", _last_resort(known.vr, fallback))
        case Action.SHIFT:
            return _converted(known.vr, _shifter(tag, known.vr), "shifted", _last_resort(known.vr, fallback))
        case Action.YEAR:
            change = year_of_date if known.vr == "DA" else year_of_datetime
            return _converted(known.vr, lambda text, _: change(text), "year_only", _last_resort(known.vr, fallback))
        case Action.CLEAN:
            return _cleaner(_last_resort(known.vr, fallback))
        case Action.KEEP:
            return keep(tag, known)
        case Action.REFERENCES:
            return _keep_references


def _last_resort(vr: str, fallback: Action) -> Handler:
    if fallback is Action.DUMMY:
        return _dummy(vr)
    return _constant((vr, b""), "emptied") if fallback is Action.EMPTY else remove


def _constant(element: Element, count: str) -> Handler:
    def handler(state: FileState, _vr: str, _value: Value) -> Element | None:
        state.counts[count] += 1
        return element

    return handler


def _dummy(vr: str) -> Handler:
    if vr == "SQ":
        return _constant((vr, [_DUMMY_ITEM]), "dummy")
    if vr == "UI":
        return _uid
    if vr in _WIDTHS:
        return _constant((vr, b"\0" * _WIDTHS[vr]), "dummy")
    return _constant((vr, _DUMMIES.get(vr, REMOVED)), "dummy")


def _pseudonym(vr: str) -> Handler:
    def handler(state: FileState, _vr: str, _value: Value) -> Element | None:
        state.counts["pseudonym"] += 1
        return vr, state.patient.encode()

    return handler


@lru_cache(maxsize=4096)
def _registered(value: str) -> bool:
    return UID(value).name != value or value in _SCHEMES


def _uid(state: FileState, vr: str, value: Value) -> Element | None:
    """Replace UIDs, but for those that the standard itself has given out (SOP classes, syntaxes, coding schemes)."""
    if not isinstance(value, bytes) or (vr != "UI" and vr not in _TEXT_VRS):
        return _invalid(state)
    uids = []
    for one in value.decode("latin-1").split("\\"):
        plain = one.strip(" \0")
        if not plain or _registered(plain):
            uids.append(plain)
        else:
            state.counts["uid"] += 1
            uids.append(state.pseudonyms.uid(plain))
    return "UI", "\\".join(uids).encode("ascii", "replace")


def _shifter(tag: int, vr: str) -> Callable[[str, int], str | None]:
    if tag == _ZONE:
        return lambda text, _: valid_zone(text)
    if vr == "DA":
        return shift_date
    return shift_datetime if vr == "DT" else lambda text, _: valid_time(text)


def _converted(vr: str, change: Callable[[str, int], str | None], count: str, otherwise: Handler) -> Handler:
    """A handler that rewrites a date, time or age, and falls back where the value is none."""

    def handler(state: FileState, found: str, value: Value) -> Element | None:
        if not isinstance(value, bytes) or found not in _TEXT_VRS:
            return _invalid(state)
        text = value.decode("ascii", "replace").rstrip(" \0")
        if not text:
            return vr, b""
        changed = change(text, state.shift)
        if changed is None:
            state.counts["invalid_date"] += 1
            return otherwise(state, found, value)
        state.counts[count] += 1
        return vr, changed.encode()

    return handler


def _cleaner(otherwise: Handler) -> Handler:
    def handler(state: FileState, vr: str, value: Value) -> Element | None:
        if not isinstance(value, bytes) or vr not in _TEXT_VRS:
            return _invalid(state)
        text = decode(value, state.codecs)
        kept = cleaned(text) if text else ""
        if not kept or state.identifiers.found_in(kept):
            return otherwise(state, vr, value)
        state.counts["cleaned"] += 1
        return vr, kept.encode()

    return handler


def keep(tag: int, known: Definition) -> Handler:
    """The handler that keeps ``tag`` where its value is what its VR says and names nobody."""
    vr = known.vr
    if tag in rules().bulk:
        return _keep_bulk
    if vr == "SQ":
        return _keep_items
    if vr in {"DS", "IS"}:
        return _keep_number(known.most)
    if tag == _CHARACTER_SET:
        return _keep_character_set
    if vr == "CS":
        return _keep_code(known.most, _ENUMERATED.get(tag, frozenset()))
    if vr == "UI":
        return _keep_uid
    if vr in _TEXT_VRS:
        return _keep_code_part(tag) if tag in _CODES else _keep_text(strict=True)
    return _keep_binary(known.most) if vr.split(" ")[0] in _WIDTHS else remove


def _keep_items(state: FileState, vr: str, value: Value) -> Element | None:
    if vr != "SQ" or not isinstance(value, list):
        return _invalid(state)
    items = state.enter(state, value)
    if value and not any(items) and all(value):
        state.counts["removed"] += 1  # nothing that was said in it may stay
        return None
    return vr, items


def _keep_references(state: FileState, vr: str, value: Value) -> Element | None:
    """Keep which instances are referenced, under their new UIDs, and nothing else that is said of them."""
    if vr != "SQ" or not isinstance(value, list):
        return _invalid(state)
    allowed = rules().reference
    return _keep_items(state, vr, [{tag: one for tag, one in item.items() if tag in allowed} for item in value])


def _keep_number(most: int) -> Handler:
    def handler(state: FileState, vr: str, value: Value) -> Element | None:
        if not isinstance(value, bytes) or vr not in _NUMBER_VRS or not fits(value, NUMBER, LONGEST_NUMBER, most):
            return _invalid(state)
        if state.identifiers.numbers and state.identifiers.is_number(value):
            state.counts["identifier_found"] += 1
            return None
        return vr, value

    return handler


def _keep_code(most: int, enumerated: frozenset[bytes]) -> Handler:
    def handler(state: FileState, vr: str, value: Value) -> Element | None:
        if not isinstance(value, bytes) or vr != "CS":
            return _invalid(state)
        if not fits(value, CODE, LONGEST_CODE, most):
            if b"\\" not in value or (most and value.count(b"\\") >= most):
                return _invalid(state)
            state.counts["invalid_removed"] += 1
            value = b"\\".join(one if fits(one, CODE, LONGEST_CODE, 1) else REMOVED for one in value.split(b"\\"))
        if value and value.rstrip(b" \0") not in enumerated and state.identifies(value):
            state.counts["identifier_found"] += 1
            return None
        return vr, value

    return handler


def _keep_character_set(state: FileState, vr: str, value: Value) -> Element | None:
    if not isinstance(value, bytes) or not _CHARACTER_SETS.fullmatch(value):
        return _invalid(state)
    return "CS", value


def _keep_uid(state: FileState, vr: str, value: Value) -> Element | None:
    if vr != "UI" or not isinstance(value, bytes) or value.strip(b"0123456789.\\ \0"):
        return _invalid(state)
    return vr, value


def _keep_text(*, strict: bool) -> Handler:
    def handler(state: FileState, vr: str, value: Value) -> Element | None:
        if not isinstance(value, bytes) or vr not in _TEXT_VRS:
            return _invalid(state)
        if not value:
            return vr, value
        text = decode(value, state.codecs)
        if text is None or not printable(text):
            return _invalid(state)
        if state.identifies(value) or (strict and telltale(text)):
            state.counts["identifier_found"] += 1
            return vr, REMOVED
        return vr, value

    return handler


def _keep_code_part(tag: int) -> Handler:
    """Keep the parts of a code of a public scheme; those of a local one are free text under another name."""
    keep_text = _keep_text(strict=tag == _CODE_MEANING)
    replacement = _LOCAL if tag == _SCHEME else REMOVED

    def handler(state: FileState, vr: str, value: Value) -> Element | None:
        if state.public_code or not value or vr not in _TEXT_VRS:
            return keep_text(state, vr, value)
        state.counts["local_code"] += 1
        return vr, replacement

    return handler


def _keep_binary(most: int) -> Handler:
    def handler(state: FileState, vr: str, value: Value) -> Element | None:
        width = _WIDTHS.get(vr)
        if width is None or not isinstance(value, bytes | memoryview) or len(value) % width:
            return _invalid(state)
        if most and len(value) > most * width:
            return _invalid(state)
        if len(value) > 4 and state.identifiers.found_in_bytes(bytes(value)):
            state.counts["identifier_found"] += 1
            return None
        return vr, value

    return handler


def _keep_bulk(state: FileState, vr: str, value: Value) -> Element | None:
    """Keep pixels and the tables over them; a table is short enough to be searched as text."""
    if vr not in _BULK_VRS or isinstance(value, list):
        return _invalid(state)
    if isinstance(value, Encapsulated):
        return vr, value
    if len(value) <= _LONGEST_TABLE and state.identifiers.found_in_bytes(bytes(value)):
        state.counts["identifier_found"] += 1
        return None
    return "OW" if vr == "UN" else vr, value


def private_definition(vr: str) -> Definition:
    """How a safe private attribute of ``vr`` is kept (PS3.15 Table E.3.10-1)."""
    return Definition(vr, 0, retired=False)
