"""Compressed pixel data: what rides along in the streams besides the picture is taken out; the picture stays as it is.

JPEG, JPEG-LS (ITU-T T.81 Annex B, T.87) and JPEG 2000 (ITU-T T.800 Annex A) streams may carry comments and application
segments, such as Exif with dates and places, and bytes after their end. The coded picture does not depend on them.
"""

from collections.abc import Iterable

from client.deid.codec import PIXEL_DATA, Bytes, Dataset, Encapsulated, Part10
from client.deid.engine import text_of

RLE = "1.2.840.10008.1.2.5"
_JPEG = "1.2.840.10008.1.2.4."
_JPEG_2000 = {_JPEG + number for number in ("90", "91", "92", "93", "201", "202", "203")}
_JPEG_FAMILY = {_JPEG + number for number in ("50", "51", "57", "70", "80", "81")}
_OFFSET_TABLES = (0x7FE00001, 0x7FE00002)

_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_COMMENT, _JFIF, _ADOBE, _SPIFF = 0xFE, 0xE0, 0xEE, 0xE8
_APPLICATION = range(0xE0, 0xF0)
_J2K_START, _J2K_SIZE, _J2K_COMMENT, _J2K_TILE, _J2K_END = 0xFF4F, 0xFF51, 0xFF64, 0xFF90, 0xFFD9


FrameBox = tuple[int, int, int, int, int]
"""Frame, top, left, bottom, right: rows from top up to bottom, columns from left up to right, neither end included."""


class UnclearError(Exception):
    """A stream cannot be looked into, or its picture not be cleared; the text says why.

    Attributes:
        boxes: What may be text, for the person who decides.
    """

    def __init__(self, why: str, boxes: Iterable[FrameBox] = ()) -> None:
        super().__init__(why)
        self.boxes = tuple(boxes)


def stripped(part10: Part10) -> Part10:
    """The file with compressed frames that hold nothing but their picture, and offset tables that fit them.

    Uncompressed files come back as they are.

    Raises:
        UnclearError: The transfer syntax or the layout of the frames is not one that can be looked into.
    """
    vr, value = part10.dataset.get(PIXEL_DATA, ("", b""))
    if not isinstance(value, Encapsulated):
        return part10
    frames = [_strip(part10.syntax, frame) for frame in _frames(part10.syntax, part10.dataset, value)]
    # A basic offset table may be empty (PS3.5 A.4); with one fragment per frame nobody needs it.
    fragments = [memoryview(b""), *(memoryview(frame) for frame in frames)]
    kept: Dataset = {tag: element for tag, element in part10.dataset.items() if tag not in _OFFSET_TABLES}
    kept[PIXEL_DATA] = (vr, Encapsulated(fragments))
    return Part10(part10.syntax, part10.encoding, kept)


def _frames(syntax: str, dataset: Dataset, value: Encapsulated) -> list[bytes]:
    if not value.fragments:
        raise UnclearError("its compressed pixel data are empty")
    fragments = value.fragments[1:]
    frames = text_of(dataset, 0x00280008) or "1"
    if frames == "1" and syntax == RLE and len(fragments) > 1:  # PS3.5 A.4.2: one fragment a frame
        raise UnclearError("it holds more frames than it says")
    if frames == "1":
        return [b"".join(fragments)]
    if not frames.isdigit() or int(frames) != len(fragments):
        raise UnclearError("its compressed frames are spread over fragments")
    return [bytes(fragment) for fragment in fragments]


def _strip(syntax: str, frame: bytes) -> bytes:
    if syntax in _JPEG_FAMILY:
        stream = _strip_jpeg(frame)
    elif syntax in _JPEG_2000:
        stream = _strip_jpeg_2000(frame)
    elif syntax == RLE:
        stream = frame
    else:
        raise UnclearError("its transfer syntax is not one that can be looked into")
    return stream + b"\0" * (len(stream) % 2)


def _strip_jpeg(frame: bytes) -> bytes:
    """Drop comments, application segments that decoding does not need, and what follows the end of the image."""
    if frame[:2] != b"\xff\xd8":
        raise UnclearError("a compressed frame is no JPEG stream")
    kept: list[Bytes] = [frame[:2]]
    at = 2
    while at + 4 <= len(frame) and frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        stop = at + 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
        if marker == _SCAN:
            end = frame.rfind(b"\xff\xd9")
            if end < stop:
                break
            _require_entropy_only(frame, stop, end)
            return b"".join([*kept, frame[at : end + 2]])
        if stop > len(frame):
            break
        if _needed(marker, frame[at + 4 : stop]):
            kept.append(frame[at:stop])
        at = stop
    raise UnclearError("a compressed frame is cut short")


def _needed(marker: int, body: bytes) -> bool:
    if marker == _COMMENT:
        return False
    if marker in _APPLICATION:
        plain_jfif = marker == _JFIF and body[:5] == b"JFIF\0" and len(body) == 14 and body[12:14] == b"\0\0"
        return plain_jfif or (marker == _ADOBE and body[:5] == b"Adobe" and len(body) == 12)
    return True


def _require_entropy_only(frame: bytes, start: int, end: int) -> None:
    """Between scans there may be tables, but no comments and no second image."""
    at = frame.find(b"\xff", start, end)
    while at >= 0:
        marker = frame[at + 1]
        if marker in {_COMMENT, _START, _END} or marker in _APPLICATION:
            raise UnclearError("a compressed frame carries more than its picture")
        at = frame.find(b"\xff", at + 1, end)


def _strip_jpeg_2000(frame: bytes) -> bytes:
    """Drop comments from the main header, and what follows the end of the code stream."""
    if frame[:4] != b"\xff\x4f\xff\x51":
        raise UnclearError("a compressed frame is no JPEG 2000 code stream")
    kept: list[Bytes] = [frame[:2]]
    at = 2
    while at + 4 <= len(frame):
        marker = int.from_bytes(frame[at : at + 2], "big")
        if marker == _J2K_TILE:
            return b"".join([*kept, frame[at : _tiles_end(frame, at)], b"\xff\xd9"])
        stop = at + 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
        if marker >> 8 != 0xFF or stop > len(frame):
            break
        if marker != _J2K_COMMENT:
            kept.append(frame[at:stop])
        at = stop
    raise UnclearError("a compressed frame is cut short")


def _tiles_end(frame: bytes, at: int) -> int:
    """Where the last tile part ends, going from one to the next by their lengths (T.800 A.4.2)."""
    while frame[at : at + 2] == b"\xff\x90" and at + 12 <= len(frame):
        length = int.from_bytes(frame[at + 6 : at + 10], "big")
        if length == 0:  # the last tile part, up to the end of the code stream
            return frame.rfind(b"\xff\xd9") if frame.rfind(b"\xff\xd9") > at else len(frame)
        _require_no_comment(frame, at + 12, at + length)
        at += length
    if frame[at : at + 2] != b"\xff\xd9":
        raise UnclearError("a compressed frame is cut short")
    return at


def _require_no_comment(frame: bytes, at: int, end: int) -> None:
    """Tile part headers may carry comments too; they count in the tile part's length, so they are not cut out."""
    while at + 4 <= end and frame[at : at + 2] != b"\xff\x93":
        if frame[at : at + 2] == b"\xff\x64":
            raise UnclearError("a compressed frame carries a comment inside")
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
