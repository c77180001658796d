"""Bits that no picture shows: old scanners kept overlays in those that Bits Stored does not cover (PS3.3 C.9.2.1.1)."""

from typing import Any

import numpy as np

from client.deid.codec import PIXEL_DATA, Encapsulated, Part10
from client.deid.pixels.frames import Frame, Frames
from client.deid.streams import RLE

_ALLOCATED, _STORED, _HIGH, _SIGN = 0x00280100, 0x00280101, 0x00280102, 0x00280103
_JPEG_2000_SIZE = b"\xff\x4f\xff\x51"
_J2K_PRECISION = 42  # of the first component, from the start of the code stream (ITU-T T.800 A.5.1)
# Start of a frame, of the processes of ITU-T T.81 that DICOM has, and of JPEG-LS (T.87).
_FRAME_MARKERS = {0xC0, 0xC1, 0xC2, 0xC3, 0xF7}


def stored_bits_only(part10: Part10) -> Part10:
    """The file without the bits that Bits Stored does not cover, zeros or copies of the sign in their place.

    The picture does not depend on them. A file in which nothing is hidden comes back as it is; compressed frames are
    decoded where their streams have room for more bits than are stored.

    Args:
        part10: The file, with nothing but pixels in its compressed streams.

    Raises:
        UnclearError: A stream has room for hidden bits and cannot be decoded.
    """
    allocated, stored, high = (_number(part10, tag) for tag in (_ALLOCATED, _STORED, _HIGH))
    value = part10.dataset.get(PIXEL_DATA, ("", None))[1]
    if allocated not in {8, 16, 32} or not 0 < stored < allocated:
        return part10
    signed = _number(part10, _SIGN) == 1
    if isinstance(value, bytes | memoryview):
        kind = f"{'>' if part10.encoding.big else '<'}{'i' if signed else 'u'}{allocated // 8}"
        pixels = np.frombuffer(value, kind, count=len(value) * 8 // allocated)
        if not pixels.size or not _hides(pixels, stored, high, signed=signed):
            return part10
        vr = part10.dataset[PIXEL_DATA][0]
        cleared = memoryview(_cleared(pixels, allocated, stored, high).tobytes())
        return Part10(part10.syntax, part10.encoding, {**part10.dataset, PIXEL_DATA: (vr, cleared)})
    if not isinstance(value, Encapsulated) or not _room(part10.syntax, value, stored, high):
        return part10
    frames = Frames(part10, hidden=True)
    for index in range(frames.layout.frames):
        frame = frames.read(index)
        if frames.recoded or _hides(frame, stored, high, signed=signed):
            frames.write(index, _cleared(frame, allocated, stored, high))
    return frames.result()


def _room(syntax: str, value: Encapsulated, stored: int, high: int) -> bool:
    """Whether the streams can hold more than the stored bits."""
    if high + 1 != stored or syntax == RLE:
        return True
    return any(_precision(bytes(one[:4096])) > stored for one in value.fragments[1:])


def _precision(stream: bytes) -> int:
    """Bits a sample that a JPEG, JPEG-LS or JPEG 2000 stream says it holds; 32 where it does not say."""
    if stream.startswith(_JPEG_2000_SIZE):
        return (stream[_J2K_PRECISION] & 0x7F) + 1 if len(stream) > _J2K_PRECISION else 32
    at = 2
    while at + 5 <= len(stream) and stream[at] == 0xFF:
        if stream[at + 1] in _FRAME_MARKERS:
            return stream[at + 4]
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return 32


def _cleared(pixels: Frame, allocated: int, stored: int, high: int) -> Frame:
    # Shifting up drops what is above; shifting down fills with zeros, or with the sign.
    above, below = allocated - 1 - high, high + 1 - stored
    cleared: Frame = (((pixels << above) >> (above + below)) << below).astype(pixels.dtype)
    return cleared


def _hides(pixels: np.ndarray[Any, np.dtype[Any]], stored: int, high: int, *, signed: bool) -> bool:
    flat = pixels.reshape(-1)
    below = high + 1 - stored
    if below and int(np.bitwise_or.reduce(flat)) & ((1 << below) - 1):
        return True
    if signed:
        # Sign extension fills the bits above with the sign; some writers leave them zero.
        upper = flat >> high
        return bool(upper.min() < -1 or upper.max() > 1)
    return bool(int(np.bitwise_or.reduce(flat)) >> (high + 1))


def _number(part10: Part10, tag: int) -> int:
    value = part10.dataset.get(tag, ("", b""))[1]
    return int.from_bytes(value, "big" if part10.encoding.big else "little") if isinstance(value, bytes) else 0
