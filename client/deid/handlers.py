"""What each action does to an element, compiled once per tag so that a file costs one look-up per element.

A handler gets the state of the file, the VR that stands there and the value, and returns the element as it goes on, or
None where it goes no further.
"""

from collections.abc import Callable
from functools import lru_cache

from pydicom.uid import UID

from client.deid.actions import TEMPORAL_VRS, Action
from client.deid.codec import Dataset, Element, Value
from client.deid.keeping import keep, keep_references
from client.deid.state import REMOVED, TEXT_VRS, WIDTHS, FileState, Handler, invalid, remove
from client.deid.tables import Definition, definition, rules
from client.deid.text import cleaned, decode
from client.deid.values import (
    capped_age,
    shift_date,
    shift_datetime,
    valid_time,
    valid_zone,
    year_of_date,
    year_of_datetime,
)

_DUMMIES: dict[str, bytes] = {
    "AS": b"000Y", "DA": b"19000101", "DT": b"19000101000000", "TM": b"000000", "DS": b"0", "IS": b"0",
    "OB": b"\0\0", "OW": b"\0\0", "UN": b"\0\0", "UR": b"urn:removed",
}  # fmt: skip
_DUMMY_ITEM: Dataset = {0x00080100: ("SH", REMOVED), 0x00080102: ("SH", b"99FEDWARD"), 0x00080104: ("LO", REMOVED)}
_ZONE = 0x00080201

# Coding schemes that are named by UIDs from outside the DICOM registry (PS3.16 section 8).
_SCHEMES = frozenset(
    {"2.16.840.1.113883.6.96", "2.16.840.1.113883.6.8", "2.16.840.1.113883.6.1", "2.16.840.1.113883.6.119"}
)


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
    if known.vr in {"SQ", "CS", "DS", "IS"} or known.vr.split(" ")[0] in WIDTHS:
        return Action.REMOVE if "OW" in known.vr else Action.KEEP
    return Action.REMOVE


def compile_action(tag: int, action: Action, fallback: Action, *, explicit: bool) -> Handler:
    """The handler for ``tag``.

    Args:
        tag: The attribute.
        action: What the profile does to it.
        fallback: What is done where the action cannot be, since the value is not what its VR says.
        explicit: Whether the profile names the attribute, rather than the lists of what may stay outside the table.
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
        case Action.KEEP if known.vr in TEMPORAL_VRS:
            return _converted(known.vr, _shifter(tag, known.vr, still=True), "kept", _last_resort(known.vr, fallback))
        case Action.KEEP:
            return keep(tag, known, strict=not explicit)
        case Action.REFERENCES:
            return keep_references


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
    if vr in WIDTHS:
        return _constant((vr, b"\0" * WIDTHS[vr]), "dummy")
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
    if not isinstance(value, bytes) or (vr != "UI" and vr not in TEXT_VRS):
        return invalid(state)
    uids = []
    for one in value.decode("latin-1").split("\\"):
        plain = one.strip(" \0")
        if not plain or _registered(plain):
            uids.append(plain)
        else:
            state.counts["uid"] += 1
            uids.append(state.pseudonyms.uid(plain))
    return "UI", "\\".join(uids).encode("ascii", "replace")


def _shifter(tag: int, vr: str, *, still: bool = False) -> Callable[[str, int], str | None]:
    """How a temporal value moves with its patient's dates; ``still`` only checks that it is one."""
    if tag == _ZONE:
        return lambda text, _: valid_zone(text)
    if vr == "TM":
        return lambda text, _: valid_time(text)
    move = shift_date if vr == "DA" else shift_datetime
    return (lambda text, _: move(text, 0)) if still else move


def _converted(vr: str, change: Callable[[str, int], str | None], count: str, otherwise: Handler) -> Handler:
    """A handler that rewrites a date, time or age, and falls back where the value is none."""

    def handler(state: FileState, found: str, value: Value) -> Element | None:
        if not isinstance(value, bytes) or found not in TEXT_VRS:
            return invalid(state)
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
        if not isinstance(value, bytes) or vr not in TEXT_VRS:
            return invalid(state)
        text = decode(value, state.codecs)
        kept = cleaned(text) if text else ""
        if not kept or state.identifiers.found_in(kept):
            return otherwise(state, vr, value)
        state.counts["cleaned"] += 1
        return vr, kept.encode()

    return handler
