"""DICOM Part 10 files as bytes, read strictly and written back from what was understood.

De-identification has a reader and a writer of its own for three reasons. What is released is built up from elements
that were parsed, so bytes that nobody looked at cannot come through. A lenient reader guesses where a file contradicts
itself; this one refuses, before it has read on or taken memory, whatever the file claims about lengths and depths. And
whoever re-reads the output with pydicom checks it with other code.

Encodings: PS3.5 section 7 and Annex A. Values stay as the bytes they are in the file; sequences become lists of data
sets.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from client.deid.tables import show_tag

DEEPEST = 32
"""Nesting beyond this is refused: no IOD needs it, and recursive readers fail on it."""
MOST_ELEMENTS = 1_000_000
LARGEST_INFLATED = 256 << 20

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"

PIXEL_DATA = 0x7FE00010
UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_COPIED = 4096  # longer values stay views into the file instead of copies

_SHORT = {
    "AE",
    "AS",
    "AT",
    "CS",
    "DA",
    "DS",
    "DT",
    "FD",
    "FL",
    "IS",
    "LO",
    "LT",
    "PN",
    "SH",
    "SL",
    "SS",
    "ST",
    "TM",
    "UI",
}
_SHORT |= {"UL", "US"}
_LONG = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}
_VRS = {vr.encode(): (vr, vr in _LONG) for vr in _SHORT | _LONG}
_PAD_NULL = {"UI", "OB", "OD", "OF", "OL", "OV", "OW", "UN", "AT", "FD", "FL", "SL", "SS", "UL", "US", "SV", "UV"}
_ENCAPSULATED_VRS = {"OB", "OW", "UN"}


class MalformedError(Exception):
    """The bytes are no DICOM, or no DICOM that can be read without guessing; the text says why, without values."""


class Encapsulated(NamedTuple):
    """Compressed pixel data: the offset table and the fragments, as they are (PS3.5 A.4)."""

    fragments: list[memoryview]


Bytes = bytes | memoryview
Value = Bytes | list["Dataset"] | Encapsulated
Element = tuple[str, Value]
_Head = tuple[int, str, int, int]  # tag, VR, length of the value, where the value starts
Dataset = dict[int, Element]


@dataclass(frozen=True)
class Encoding:
    """How data sets are laid out: with their VRs or without, low byte first or last."""

    explicit: bool
    big: bool = False


@dataclass(frozen=True)
class Part10:
    """A file: its transfer syntax, how its data set is laid out, and the data set."""

    syntax: str
    encoding: Encoding
    dataset: Dataset


IMPLICIT = Encoding(explicit=False)


def read(data: bytes, vr_of: Callable[[int], str]) -> Part10:
    """Parse a Part 10 file.

    Args:
        data: The whole file.
        vr_of: The VR that PS3.6 gives a tag, ``UN`` where it gives none.

    Raises:
        MalformedError: It is not DICOM, is cut short, nests deeper than :data:`DEEPEST`, or contradicts itself.
    """
    if data[128:132] != b"DICM":
        raise MalformedError("not a DICOM file: no DICM prefix")
    meta = _Reader(data, Encoding(explicit=True), vr_of)
    group_two, start = meta.dataset(132, len(data), 0, only_group=2)
    syntax = _uid(group_two.get(0x00020010))
    if not syntax:
        raise MalformedError("no Transfer Syntax UID in the file meta information")
    body: bytes = data
    encoding = Encoding(explicit=syntax != IMPLICIT_LITTLE, big=syntax == EXPLICIT_BIG)
    if syntax == DEFLATED:
        body, start = _inflate(data[start:]), 0
    if start >= len(body):
        raise MalformedError("truncated: nothing follows the file meta information")
    if not encoding.big:
        # Some writers label one layout and use the other; the first element tells.
        encoding = Encoding(explicit=body[start + 4 : start + 6] in _VRS)
        if encoding.explicit and syntax == IMPLICIT_LITTLE:
            syntax = EXPLICIT_LITTLE
        elif not encoding.explicit and syntax != IMPLICIT_LITTLE:
            if syntax != EXPLICIT_LITTLE:
                raise MalformedError("the data set is not laid out as its transfer syntax says")
            syntax = IMPLICIT_LITTLE
    dataset, _ = _Reader(body, encoding, vr_of).dataset(start, len(body), 0)
    return Part10(syntax, encoding, dataset)


def write(part10: Part10, meta: Dataset) -> list[Bytes]:
    """The file as chunks of bytes, with an empty preamble and ``meta`` as its file meta information."""
    head = b"".join(_encode(meta, Encoding(explicit=True)))
    length = b"".join(_encode({0x00020000: ("UL", struct.pack("<I", len(head)))}, Encoding(explicit=True)))
    body = _encode(part10.dataset, part10.encoding)
    if part10.syntax == DEFLATED:
        squeezer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = [squeezer.compress(b"".join(body)) + squeezer.flush()]
        if len(body[0]) % 2:
            body.append(b"\0")
    return [b"\0" * 128 + b"DICM" + length + head, *body]


def _uid(element: Element | None) -> str:
    if element is None or not isinstance(element[1], bytes):
        return ""
    return element[1].decode("ascii", "replace").strip(" \0")


def _inflate(data: bytes) -> bytes:
    squeezed = zlib.decompressobj(-zlib.MAX_WBITS)
    # Pictures shrink to a tenth, black ones to a hundredth; what shrinks more is not worth a machine's memory.
    limit = min(LARGEST_INFLATED, 100 * len(data) + (16 << 20))
    try:
        body = squeezed.decompress(data, limit)
    except zlib.error as error:
        raise MalformedError("truncated or damaged: the deflated data set cannot be inflated") from error
    if squeezed.unconsumed_tail or not squeezed.eof:
        raise MalformedError("the deflated data set is cut short or larger than the limit")
    return body


class _Reader:
    """One pass over the bytes of a data set in one encoding."""

    def __init__(self, data: bytes, encoding: Encoding, vr_of: Callable[[int], str]) -> None:
        order = ">" if encoding.big else "<"
        self._data, self._view, self._encoding, self._vr_of = data, memoryview(data), encoding, vr_of
        self._explicit_head = struct.Struct(f"{order}HH2sH").unpack_from
        self._implicit_head = struct.Struct(f"{order}HHI").unpack_from
        self._long = struct.Struct(f"{order}I").unpack_from
        self._left = MOST_ELEMENTS

    def dataset(
        self, at: int, end: int, depth: int, *, delimited: bool = False, only_group: int | None = None
    ) -> tuple[Dataset, int]:
        """The elements from ``at`` to ``end``, or to the delimiter, or to the first of another group."""
        if depth > DEEPEST:
            raise MalformedError(f"sequences are nested deeper than {DEEPEST}")
        explicit = self._encoding.explicit
        if explicit and depth and at + 6 <= end and self._data[at + 4 : at + 6] not in _VRS:
            explicit = False  # some writers leave the items of a sequence in implicit VR
        found: Dataset = {}
        while at < end:
            if end - at < 8:
                self._require_zeros(at, end, "truncated: bytes are left over that are no element")
                break
            if only_group is not None and self._implicit_head(self._data, at)[0] != only_group:
                return found, at
            head = self._head(at, end, explicit=explicit)
            tag = head[0]
            if tag >> 16 == 0xFFFE:
                if tag == _ITEM_END and delimited:
                    return found, head[3]
                raise MalformedError(f"a delimiter {show_tag(tag)} stands where an element should")
            if tag == 0:
                self._require_zeros(at, end, "an element of a message stands in the data set")
                break
            if tag in found:
                raise MalformedError(f"{show_tag(tag)} stands twice in one data set")
            found[tag], at = self._value(head, end, depth)
        else:
            if delimited:
                raise MalformedError("truncated: an item does not end")
        self._left -= len(found)
        if self._left < 0:
            raise MalformedError(f"more than {MOST_ELEMENTS} elements")
        return found, at

    def _head(self, at: int, end: int, *, explicit: bool) -> _Head:
        if not explicit or self._data[at : at + 2] in (b"\xfe\xff", b"\xff\xfe"):
            group, element, length = self._implicit_head(self._data, at)
            tag = group << 16 | element
            return tag, self._vr_of(tag), length, at + 8
        group, element, code, length = self._explicit_head(self._data, at)
        tag = group << 16 | element
        known = _VRS.get(code)
        if known is None and tag == 0:
            return tag, "UN", 0, at + 8
        if known is None:
            raise MalformedError(f"{show_tag(tag)} has no known VR")
        vr, is_long = known
        if not is_long:
            return tag, vr, length, at + 8
        if end - at < 12:
            raise MalformedError(f"truncated in {show_tag(tag)}")
        return tag, vr, self._long(self._data, at + 8)[0], at + 12

    def _require_zeros(self, at: int, end: int, otherwise: str) -> None:
        """Some writers fill up the end of a file with zeros; anything else there is no DICOM."""
        if self._data[at:end].strip(b"\0"):
            raise MalformedError(otherwise)

    def _value(self, head: _Head, end: int, depth: int) -> tuple[Element, int]:
        tag, vr, length, at = head
        if length == UNDEFINED:
            if tag == PIXEL_DATA and vr in _ENCAPSULATED_VRS:
                return self._encapsulated(vr, at, end)
            # UN of undefined length is a sequence in implicit VR (PS3.5 6.2.2); so is an unknown attribute.
            if vr == "UN" and self._encoding.explicit:
                items, stop = self._again(IMPLICIT).sequence(at, end, depth, delimited=True)
                return ("SQ", items), stop
            if vr not in {"SQ", "UN"}:
                raise MalformedError(f"{show_tag(tag)} has no length and is no sequence")
            items, stop = self.sequence(at, end, depth, delimited=True)
            return ("SQ", items), stop
        stop = at + length
        if stop > end:
            raise MalformedError(f"truncated in {show_tag(tag)}: it claims more bytes than there are")
        if vr == "SQ":
            items, _ = self.sequence(at, stop, depth, delimited=False)
            return ("SQ", items), stop
        if vr == "UN" and self._encoding.explicit:
            return self._unknown(tag, at, stop, depth), stop
        return (vr, self._bytes(at, stop)), stop

    def _bytes(self, at: int, stop: int) -> Bytes:
        return self._view[at:stop] if stop - at > _COPIED else self._data[at:stop]

    def _again(self, encoding: Encoding) -> "_Reader":
        """A reader of the same bytes in another encoding."""
        return _Reader(self._data, encoding, self._vr_of)

    def _unknown(self, tag: int, at: int, stop: int, depth: int) -> Element:
        """A UN value of a known attribute takes its VR; sequences inside are read in either encoding."""
        vr = self._vr_of(tag)
        if vr == "SQ" and not self._encoding.big:
            for encoding in (IMPLICIT, Encoding(explicit=True)):
                try:
                    return "SQ", self._again(encoding).sequence(at, stop, depth, delimited=False)[0]
                except MalformedError:
                    continue
            return "UN", b""
        return vr, self._bytes(at, stop)

    def sequence(self, at: int, end: int, depth: int, *, delimited: bool) -> tuple[list[Dataset], int]:
        """The items from ``at`` to ``end`` or to the delimiter."""
        items: list[Dataset] = []
        while at < end:
            if end - at < 8:
                raise MalformedError("truncated in a sequence")
            group, element, length = self._implicit_head(self._data, at)
            tag, at = group << 16 | element, at + 8
            if tag == _SEQUENCE_END and delimited:
                return items, at
            if tag != _ITEM:
                raise MalformedError("a sequence holds something that is no item")
            if length == UNDEFINED:
                item, at = self.dataset(at, end, depth + 1, delimited=True)
            else:
                if at + length > end:
                    raise MalformedError("truncated: an item claims more bytes than there are")
                item, _ = self.dataset(at, at + length, depth + 1)
                at += length
            items.append(item)
        if delimited:
            raise MalformedError("truncated: a sequence does not end")
        return items, at

    def _encapsulated(self, vr: str, at: int, end: int) -> tuple[Element, int]:
        fragments: list[memoryview] = []
        while end - at >= 8:
            group, element, length = self._implicit_head(self._data, at)
            tag, at = group << 16 | element, at + 8
            if tag == _SEQUENCE_END:
                return ("OB" if vr == "UN" else vr, Encapsulated(fragments)), at
            if tag != _ITEM or at + length > end:
                break
            fragments.append(self._view[at : at + length])
            at += length
        raise MalformedError("truncated in the compressed pixel data")


def _encode(dataset: Dataset, encoding: Encoding) -> list[Bytes]:
    order = ">" if encoding.big else "<"
    head = struct.Struct(f"{order}HH2sH").pack
    head_long = struct.Struct(f"{order}HH2sHI").pack
    head_implicit = struct.Struct(f"{order}HHI").pack
    chunks: list[Bytes] = []
    for tag in sorted(dataset):
        vr, value = dataset[tag]
        group, element = tag >> 16, tag & 0xFFFF
        length, body = _body(vr, value, encoding, head_implicit)
        if not encoding.explicit:
            chunks.append(head_implicit(group, element, length))
        elif vr in _SHORT and length < 0x10000:
            chunks.append(head(group, element, vr.encode(), length))
        else:
            chunks.append(head_long(group, element, b"UN" if vr in _SHORT else vr.encode(), 0, length))
        chunks += body
    return chunks


def _body(vr: str, value: Value, encoding: Encoding, head: Callable[[int, int, int], bytes]) -> tuple[int, list[Bytes]]:
    if isinstance(value, Encapsulated):
        body: list[Bytes] = []
        for fragment in value.fragments:
            body += [head(0xFFFE, 0xE000, len(fragment)), fragment]
        return UNDEFINED, [*body, head(0xFFFE, 0xE0DD, 0)]
    if isinstance(value, list):
        body, total = [], 0
        for item in value:
            inside = b"".join(_encode(item, encoding))
            body += [head(0xFFFE, 0xE000, len(inside)), inside]
            total += 8 + len(inside)
        return total, body
    if len(value) % 2:
        return len(value) + 1, [value, b"\0" if vr in _PAD_NULL else b" "]
    return len(value), [value]
