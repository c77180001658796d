"""Frames of a file, one at a time: stored values out, changed ones back in without loss.

Uncompressed pixels of either byte order, RLE (PS3.5 Annex G), JPEG-LS and JPEG 2000 without loss are changed in place:
frames that nobody changed keep their bytes. Lossy streams cannot take a change without changing everything; all their
frames are decoded and stored without loss, and the file goes on saying that it was compressed with loss once. Frames of
JPEG Lossless are stored as JPEG-LS, since nothing here writes the former; their values stay.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.encoders.base import get_encoder

from client.deid.codec import PIXEL_DATA, Dataset, Encapsulated, Part10
from client.deid.engine import text_of
from client.deid.pixels.decide import SHARED_COLOURS, SPREAD, UNUSUAL_BITS
from client.deid.streams import RLE, UnclearError

Frame = NDArray[Any]
"""Stored values: [rows, columns], or [rows, columns, 3] of colour."""

JPEG_LS, JPEG_2000 = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"
_JPEG = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"}
_JPEG_LOSSLESS = {"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"}  # processes 14 and 14, selection value 1
# How frames are stored when they were changed, by how they came.
_STORED_AS = {
    RLE: RLE,
    JPEG_LS: JPEG_LS,
    JPEG_2000: JPEG_2000,
    "1.2.840.10008.1.2.4.81": JPEG_LS,
    "1.2.840.10008.1.2.4.91": JPEG_2000,
    "1.2.840.10008.1.2.4.201": JPEG_2000,
    "1.2.840.10008.1.2.4.203": JPEG_2000,
} | dict.fromkeys(_JPEG | _JPEG_LOSSLESS, JPEG_LS)
# Lossy Image Compression Method (PS3.3 C.7.6.1.1.5.1) of those that may have lost something.
_LOSSY = {
    "1.2.840.10008.1.2.4.81": b"ISO_14495_1",
    "1.2.840.10008.1.2.4.91": b"ISO_15444_1",
    "1.2.840.10008.1.2.4.203": b"ISO_15444_15",
} | dict.fromkeys(_JPEG, b"ISO_10918_1")
_PHOTOMETRIC, _PLANAR, _LOSS, _RATIO, _METHOD = 0x00280004, 0x00280006, 0x00282110, 0x00282112, 0x00282114
_SMALLEST, _LARGEST = 0x00280106, 0x00280107


@dataclass(frozen=True)
class Layout:
    """How a file describes its pixels (PS3.3 C.7.6.3)."""

    rows: int
    columns: int
    samples: int
    frames: int
    allocated: int
    stored: int
    signed: bool
    planar: bool
    photometric: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one frame."""
        return (self.rows, self.columns) if self.samples == 1 else (self.rows, self.columns, self.samples)


def layout_of(part10: Part10) -> Layout:
    """The description of the pixels.

    Raises:
        UnclearError: They are described in a way that is not understood here.
    """
    order = "big" if part10.encoding.big else "little"

    def number(tag: int, default: int = 0) -> int:
        value = part10.dataset.get(tag, ("", b""))[1]
        return int.from_bytes(value, order) if isinstance(value, bytes) and len(value) == 2 else default  # type: ignore[arg-type]

    frames = text_of(part10.dataset, 0x00280008) or "1"
    layout = Layout(
        rows=number(0x00280010),
        columns=number(0x00280011),
        samples=number(0x00280002, 1),
        frames=int(frames) if frames.isascii() and frames.isdigit() else 0,
        allocated=number(0x00280100),
        stored=number(0x00280101),
        signed=number(0x00280103) == 1,
        planar=number(_PLANAR) == 1,
        photometric=text_of(part10.dataset, _PHOTOMETRIC),
    )
    if layout.allocated not in {8, 16} or layout.samples not in {1, 3} or not 0 < layout.stored <= layout.allocated:
        raise UnclearError(UNUSUAL_BITS)
    if not layout.rows or not layout.columns or not layout.frames:
        raise UnclearError("its pixel data are not described")
    return layout


class Frames:
    """The frames of a file, to be read one at a time and written back where they were changed.

    Args:
        part10: The file, with nothing but pixels in its compressed streams.
        hidden: Whether compressed frames are read with all bits that their streams hold; without those that Bits
            Stored does not cover otherwise.

    Raises:
        UnclearError: The transfer syntax is not one that can be decoded here.
    """

    def __init__(self, part10: Part10, *, hidden: bool = False) -> None:
        self._part10, self.layout, self._hidden = part10, layout_of(part10), hidden
        self._vr, value = part10.dataset.get(PIXEL_DATA, ("", b""))
        self._changed = False
        self._rewritten: bytearray | None = None
        self.recoded = isinstance(value, Encapsulated) and _STORED_AS.get(part10.syntax) != part10.syntax
        if isinstance(value, Encapsulated):
            if part10.syntax not in _STORED_AS or not get_decoder(part10.syntax).is_available:
                raise UnclearError("its pixels are compressed in a way that cannot be decoded here")
            self._fragments: list[bytes | memoryview] = list(value.fragments[1:])
            if len(self._fragments) != self.layout.frames:
                raise UnclearError(SPREAD)
        elif isinstance(value, bytes | memoryview):
            self._fragments, self._raw = [], value
            if self.layout.photometric == "YBR_FULL_422":
                raise UnclearError(SHARED_COLOURS)
            if part10.encoding.big and self.layout.allocated == 8 and self._vr == "OW":
                raise UnclearError("its bytes are stored as swapped words")
        else:
            raise UnclearError("its pixel data are no pixel data")

    def read(self, index: int) -> Frame:
        """The stored values of a frame, counted from 0.

        Raises:
            UnclearError: It cannot be decoded, or is not of the size that the file says.
        """
        if self._fragments:
            return self._decoded(self._fragments[index], self._part10.syntax)
        place, order = self._place(index)
        frame = np.frombuffer(self._raw, self._dtype(), offset=place, count=int(np.prod(self.layout.shape)))
        if order:
            return frame.reshape(3, self.layout.rows, self.layout.columns).transpose(1, 2, 0)
        return frame.reshape(self.layout.shape)

    def write(self, index: int, frame: Frame) -> None:
        """Put changed values in the place of a frame.

        Raises:
            UnclearError: What was stored does not come back as it was.
        """
        self._changed = True
        if self._fragments:
            self._fragments[index] = memoryview(self._encoded(frame))
            return
        if self._rewritten is None:
            self._rewritten = bytearray(self._raw)
        place, order = self._place(index)
        content = (frame.transpose(2, 0, 1) if order else frame).astype(self._dtype()).tobytes()
        self._rewritten[place : place + len(content)] = content

    def result(self) -> Part10:
        """The file with the changed frames; the same file where none was changed.

        A file that has to be stored in another transfer syntax has all its frames written by the caller.
        """
        if not self._changed:
            return self._part10
        dataset: Dataset = {tag: one for tag, one in self._part10.dataset.items() if tag not in {_SMALLEST, _LARGEST}}
        if not self._fragments:
            dataset[PIXEL_DATA] = (self._vr, memoryview(bytes(self._rewritten or b"")))
            return Part10(self._part10.syntax, self._part10.encoding, dataset)
        dataset[PIXEL_DATA] = (self._vr, Encapsulated([memoryview(b""), *(memoryview(one) for one in self._fragments)]))
        if self.recoded:
            self._describe(dataset)
        return Part10(_STORED_AS[self._part10.syntax], self._part10.encoding, dataset)

    def _describe(self, dataset: Dataset) -> None:
        """Say how the pixels are stored now, and that they have been through a lossy compression."""
        dataset[_PHOTOMETRIC] = ("CS", self._photometric().encode())
        if self.layout.samples > 1:
            dataset[_PLANAR] = ("US", b"\0\0")
        method = _LOSSY.get(self._part10.syntax)
        if method is None or (text_of(dataset, _LOSS) == "01" and _RATIO in dataset):
            return
        dataset[_LOSS], dataset[_METHOD] = ("CS", b"01"), ("CS", method)
        value = self._part10.dataset[PIXEL_DATA][1]
        coded = sum(len(one) for one in value.fragments) if isinstance(value, Encapsulated) else 1
        plain = int(np.prod(self.layout.shape)) * self.layout.frames * self.layout.allocated // 8
        dataset[_RATIO] = ("DS", f"{plain / max(coded, 1):.2f}".encode())

    def _photometric(self) -> str:
        """Of the values as :meth:`read` gives them."""
        if self.layout.samples == 1 or not self.recoded:
            return self.layout.photometric
        return "RGB" if self._part10.syntax in _JPEG or "YBR_" in self.layout.photometric else self.layout.photometric

    @property
    def photometric(self) -> str:
        """How the values that :meth:`read` gives are to be understood; JPEG 2000 undoes its own colour transforms."""
        found = self._photometric()
        return "RGB" if found in {"YBR_RCT", "YBR_ICT"} else found

    def _dtype(self) -> np.dtype[Any]:
        order = ">" if self._part10.encoding.big else "<"
        return np.dtype(f"{order}{'i' if self.layout.signed else 'u'}{self.layout.allocated // 8}")

    def _place(self, index: int) -> tuple[int, bool]:
        size = int(np.prod(self.layout.shape)) * self.layout.allocated // 8
        return index * size, self.layout.planar and self.layout.samples == 3

    def _options(self, photometric: str) -> dict[str, Any]:
        layout = self.layout
        planar = {"planar_configuration": 0} if layout.samples == 3 else {}
        return {
            "rows": layout.rows,
            "columns": layout.columns,
            "samples_per_pixel": layout.samples,
            "number_of_frames": 1,
            "bits_allocated": layout.allocated,
            "bits_stored": layout.stored,
            "pixel_representation": int(layout.signed),
            "photometric_interpretation": photometric,
            "pixel_keyword": "PixelData",
            **planar,
        }

    def _decoded(self, fragment: bytes | memoryview, syntax: str) -> Frame:
        more = {"bits_stored": self.layout.allocated} if self._hidden else {}
        try:
            frame, _ = get_decoder(syntax).as_array(
                encapsulate([bytes(fragment)]),
                index=0,
                raw=syntax not in _JPEG,
                **(self._options(self.layout.photometric) | more),
            )
        except MemoryError:
            raise
        except Exception as error:  # the boundary to the decoders, which raise whatever they like
            raise UnclearError("a compressed frame cannot be decoded") from error
        if frame.shape != self.layout.shape:
            raise UnclearError("a compressed frame is not of the size that the file says")
        return frame

    def _encoded(self, frame: Frame) -> bytes:
        syntax = _STORED_AS[self._part10.syntax]
        photometric = self._photometric()
        options = self._options(photometric)
        more: dict[str, Any] = {"use_mct": photometric == "YBR_RCT"} if syntax == JPEG_2000 else {}
        try:
            stream = get_encoder(syntax).encode(np.ascontiguousarray(frame), **options, **more)
            again, _ = get_decoder(syntax).as_array(encapsulate([stream]), index=0, raw=True, **options)
        except MemoryError:
            raise
        except Exception as error:  # the boundary to the encoders
            raise UnclearError("a changed frame cannot be compressed again") from error
        if not np.array_equal(again, frame):
            raise UnclearError("a changed frame does not come back from its compression as it was")
        return stream + b"\0" * (len(stream) % 2)
