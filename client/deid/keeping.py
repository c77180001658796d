"""Keeping: the action that needs most care. A value stays only if it is what its VR says and names nobody."""

import re

from client.deid.codec import Element, Encapsulated, Value
from client.deid.state import REMOVED, TEXT_VRS, WIDTHS, FileState, Handler, invalid, remove
from client.deid.tables import Definition, rules
from client.deid.text import decode, printable, telltale
from client.deid.values import CODE, LONGEST_CODE, LONGEST_NUMBER, NUMBER, fits

_UIDS = re.compile(rb"(?:\d+(?:\.\d+)*(?:\\\d+(?:\.\d+)*)*)? *\0?")
_NUMBER_VRS = frozenset({"DS", "IS"})
_BULK_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "US", "SS", "UN"})
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
    0x00080060: frozenset(
        {b"CT", b"MR", b"PT", b"SEG", b"US", b"CR", b"DX", b"MG", b"XA", b"RF", b"ES", b"NM", b"OT", b"IO"}
    ),
    0x00280004: frozenset(
        {b"MONOCHROME1", b"MONOCHROME2", b"PALETTE COLOR", b"RGB"}
        | {b"YBR_FULL", b"YBR_FULL_422", b"YBR_RCT", b"YBR_ICT"}
    ),
    0x00620001: frozenset({b"BINARY", b"FRACTIONAL", b"LABELMAP"}),
}


def keep(tag: int, known: Definition, *, strict: bool = True) -> Handler:
    """The handler that keeps ``tag`` where its value is what its VR says and names nobody.

    Args:
        tag: The attribute.
        known: What PS3.6 says of it.
        strict: Whether free text that looks like a date, a telephone number or an address goes as well.
    """
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
    if vr in TEXT_VRS:
        return _keep_code_part(tag) if tag in _CODES else _keep_text(strict=strict)
    return _keep_binary(known.most) if vr.split(" ")[0] in WIDTHS else remove


def _keep_items(state: FileState, vr: str, value: Value) -> Element | None:
    if vr != "SQ" or not isinstance(value, list):
        return invalid(state)
    items = state.enter(state, value)
    if value and not any(items) and all(value):
        state.counts["removed"] += 1  # nothing that was said in it may stay
        return None
    return vr, items


def keep_references(state: FileState, vr: str, value: Value) -> Element | None:
    """Keep which instances are referenced, under their new UIDs, and nothing else that is said of them."""
    if vr != "SQ" or not isinstance(value, list):
        return invalid(state)
    allowed = rules().reference
    return _keep_items(state, vr, [{tag: one for tag, one in item.items() if tag in allowed} for item in value])


def _keep_number(most: int) -> Handler:
    def handler(state: FileState, vr: str, value: Value) -> Element | None:
        if not isinstance(value, bytes) or vr not in _NUMBER_VRS or not fits(value, NUMBER, LONGEST_NUMBER, most):
            return invalid(state)
        if state.identifiers.numbers and state.identifiers.is_number(value):
            state.counts["identifier_found"] += 1
            return None
        return vr, value

    return handler


def _keep_code(most: int, enumerated: frozenset[bytes]) -> Handler:
    def handler(state: FileState, vr: str, value: Value) -> Element | None:
        if not isinstance(value, bytes) or vr != "CS":
            return invalid(state)
        if not fits(value, CODE, LONGEST_CODE, most):
            if b"\\" not in value or (most and value.count(b"\\") >= most):
                return invalid(state)
            state.counts["invalid_removed"] += 1
            value = b"\\".join(one if fits(one, CODE, LONGEST_CODE, 1) else REMOVED for one in value.split(b"\\"))
        if not value or value.rstrip(b" \0") in enumerated or not state.identifies(value):
            return vr, value
        state.counts["identifier_found"] += 1
        # Image Type, say, is required: of several values only those go that name somebody.
        parts = value.split(b"\\")
        others = [REMOVED if state.identifies(one) else one for one in parts]
        return (vr, b"\\".join(others)) if len(parts) > 1 and others != parts else None

    return handler


def _keep_character_set(state: FileState, vr: str, value: Value) -> Element | None:
    if not isinstance(value, bytes) or not _CHARACTER_SETS.fullmatch(value):
        return invalid(state)
    return "CS", value


def _keep_uid(state: FileState, vr: str, value: Value) -> Element | None:
    # A UID may become the name of a folder: nothing but numbers with single dots between them.
    if vr != "UI" or not isinstance(value, bytes) or not _UIDS.fullmatch(value):
        return invalid(state)
    return vr, value


def _keep_text(*, strict: bool) -> Handler:
    def handler(state: FileState, vr: str, value: Value) -> Element | None:
        if not isinstance(value, bytes) or vr not in TEXT_VRS:
            return invalid(state)
        if not value:
            return vr, value
        text = decode(value, state.codecs)
        if text is None or not printable(text):
            return invalid(state)
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
        if state.public_code or not value or vr not in TEXT_VRS:
            return keep_text(state, vr, value)
        state.counts["local_code"] += 1
        return vr, replacement

    return handler


def _keep_binary(most: int) -> Handler:
    def handler(state: FileState, vr: str, value: Value) -> Element | None:
        width = WIDTHS.get(vr)
        if width is None or not isinstance(value, bytes | memoryview) or len(value) % width:
            return invalid(state)
        if most and len(value) > most * width:
            return invalid(state)
        if len(value) > 4 and state.identifiers.found_in_bytes(bytes(value)):
            state.counts["identifier_found"] += 1
            return None
        return vr, value

    return handler


def _keep_bulk(state: FileState, vr: str, value: Value) -> Element | None:
    """Keep pixels and the tables over them; a table is short enough to be searched as text."""
    if vr not in _BULK_VRS or isinstance(value, list):
        return invalid(state)
    if isinstance(value, Encapsulated):
        return vr, value
    if len(value) <= _LONGEST_TABLE and state.identifiers.found_in_bytes(bytes(value)):
        state.counts["identifier_found"] += 1
        return None
    return "OW" if vr == "UN" else vr, value


def private_definition(vr: str) -> Definition:
    """How a safe private attribute of ``vr`` is kept (PS3.15 Table E.3.10-1)."""
    return Definition(vr, 0, retired=False)
