"""Pixels of MR and CT files: stored values to what the network is given, and its answer back to stored values."""

import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    MRImageStorage,
)
from scipy import ndimage

from client.deid.codec import LARGEST_INFLATED
from client.deid.known import UNREADABLE

SINGLE: Final = {str(MRImageStorage): "MR", str(CTImageStorage): "CT"}
ENHANCED: Final = {str(EnhancedMRImageStorage): "MR", str(EnhancedCTImageStorage): "CT"}
"""Modality by SOP class, of one frame a file and of many (PS3.3 A.3, A.4, A.36, A.38)."""
MOST_PIXELS: Final = 2**28
"""Of one file, and of the files that are scaled together: 1 GB as the network is given them."""
NO_MAGNITUDE: Final = frozenset({"PHASE", "REAL", "IMAGINARY", "MIXED", "PHASE MAP", "VELOCITY MAP"})

Stored = NDArray[Any]


class UnusableError(Exception):
    """A file that cannot be worked on; the text says why, without any value of its header."""


@dataclass(frozen=True)
class Frames:
    """The frames of a file.

    Attributes:
        stored: Stored values ``[n, rows, columns]``, sign and unused bits put right (PS3.5 8.1.1).
        slope: Of each frame, from stored values to those of the modality, float32 ``[n]`` (PS3.3 C.11.1).
        intercept: Of each frame, float32 ``[n]``.
        padding: Where nothing was measured, bool ``[n, rows, columns]`` (PS3.3 C.7.5.1.1.2).
        filler: The value that stands there.
        limits: Lowest and highest value that can be stored.
    """

    stored: Stored
    slope: NDArray[np.float32]
    intercept: NDArray[np.float32]
    padding: NDArray[np.bool_]
    filler: int
    limits: tuple[int, int]

    @property
    def values(self) -> NDArray[np.float32]:
        """In the unit of the modality, Hounsfield units for CT, as :mod:`client.cohort` reads them."""
        scaled = self.stored.astype(np.float32) * self.slope[:, None, None]
        return np.asarray(scaled + self.intercept[:, None, None], np.float32)

    def of(self, part: slice) -> "Frames":
        """Some of the frames."""
        return replace(
            self,
            stored=self.stored[part],
            slope=self.slope[part],
            intercept=self.intercept[part],
            padding=self.padding[part],
        )


def bounded(path: Path) -> Path:
    """``path``, if it does not inflate to more than :data:`client.deid.codec.LARGEST_INFLATED`.

    pydicom inflates a deflated file (PS3.5 A.5) as a whole, also for its header: 600 kB may be 600 MB.

    Raises:
        UnusableError: It would.
        OSError, ValueError, ...: As :func:`pydicom.dcmread`, see :data:`UNREADABLE`.
    """
    with path.open("rb") as stream:
        if stream.read(132)[128:] != b"DICM":
            return path
        meta = read_dataset(stream, False, True, stop_when=lambda tag, *_: tag.group != 2)
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return path
        squeezed, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while not squeezed.eof and (part := squeezed.unconsumed_tail or stream.read(1 << 16)):
            size += len(squeezed.decompress(part, 1 << 20))
            if size > LARGEST_INFLATED:
                raise UnusableError(f"it inflates to more than {LARGEST_INFLATED >> 20} MiB")
    return path


def read(path: Path) -> Dataset:
    """The whole file.

    Raises:
        UnusableError: It cannot be understood.
    """
    try:
        return dcmread(path)
    except UNREADABLE as error:
        raise UnusableError("it cannot be read as DICOM") from error


def frames(dataset: Dataset) -> Frames:
    """The pixels of a file that :func:`client.enhance.found.fault` has nothing against.

    Raises:
        UnusableError: They cannot be decoded, or their scale is not told.
    """
    try:
        array = dataset.pixel_array
    except MemoryError as error:
        raise UnusableError("its pixels take more memory than there is") from error
    except Exception as error:  # the boundary to the decoders, which raise whatever they like
        raise UnusableError("its pixels cannot be decoded") from error
    shape = (frame_count(dataset), int(dataset.Rows), int(dataset.Columns))
    if array.size != np.prod(shape):
        raise UnusableError("its pixels are not of the size that the file says")
    try:
        stored, limits = _sound(array.reshape(shape), dataset)
        scale = np.array([_rescale(dataset, index) for index in range(len(stored))], np.float32)
        padding, filler = _padding(stored, dataset)
    except UNREADABLE as error:
        raise UnusableError("its description of the pixels cannot be understood") from error
    if not np.isfinite(scale).all() or (scale[:, 0] == 0).any():
        raise UnusableError("its rescale slope is no scale")
    return Frames(stored, scale[:, 0], scale[:, 1], padding, filler, limits)


def frame_count(dataset: Dataset) -> int:
    """Number of frames; 1 where the file does not say."""
    return int(dataset.get("NumberOfFrames") or 1)


def group_of(dataset: Dataset, index: int, macro: str) -> Dataset | None:
    """The item of a functional group macro that holds for a frame: its own, else the shared one (PS3.3 C.7.6.16)."""
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for group in (*own[index : index + 1], *shared[:1]):
        if items := group.get(macro):
            return items[0]  # type: ignore[no-any-return]  # items of sequences are data sets
    return None


def _sound(array: Stored, dataset: Dataset) -> tuple[Stored, tuple[int, int]]:
    """Stored values without what lies in the bits beside them, such as an overlay, and the range of such values."""
    bits, signed = int(dataset.BitsStored), int(dataset.PixelRepresentation) == 1
    spare = array.dtype.itemsize * 8 - bits
    array = array.astype(np.dtype(f"{'i' if signed else 'u'}{array.dtype.itemsize}"), copy=False)
    array = (array << spare) >> spare if spare else array
    return array, (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def _rescale(dataset: Dataset, index: int) -> tuple[float, float]:
    found = group_of(dataset, index, "PixelValueTransformationSequence") or dataset
    return float(found.get("RescaleSlope", 1)), float(found.get("RescaleIntercept", 0))


def _padding(stored: Stored, dataset: Dataset) -> tuple[NDArray[np.bool_], int]:
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, np.bool_), 0
    other = dataset.get("PixelPaddingRangeLimit")
    # Where it was written as the other one of US and SS, the same bits are meant.
    filler, limit = (
        int(np.asarray(int(one)).astype(stored.dtype)) for one in (value, value if other is None else other)
    )
    return (stored >= min(filler, limit)) & (stored <= max(filler, limit)), filler


def back(source: Frames, made: NDArray[np.float32], ends: tuple[float, float]) -> Stored:
    """The network's images as stored values of the source's own scale.

    The network saw no more than its window. At the source's size a pixel outside the window keeps its stored value; at
    a finer size what stood out of the window is put on top again, interpolated linearly. Padding stays padding.

    Args:
        source: The frames that the network was given.
        made: ``[n, k rows, k columns]`` in [0, 1].
        ends: What 0 and 1 stand for, in the unit of the modality.

    Returns:
        ``[n, k rows, k columns]``, of the source's type, within what its bits can hold.
    """
    low, high = ends
    values = source.values
    factor = made.shape[1] // values.shape[1]
    beyond = values - np.clip(values, low, high)
    result = made * np.float32(high - low) + np.float32(low)
    if factor > 1:
        result += np.stack([finer(one, factor) for one in beyond])
    result = (result - source.intercept[:, None, None]) / source.slope[:, None, None]
    stored = np.clip(np.rint(result), *source.limits).astype(source.stored.dtype)
    if factor == 1:
        return np.where((beyond != 0) | source.padding, source.stored, stored)
    padding = source.padding.repeat(factor, axis=1).repeat(factor, axis=2)
    return np.where(padding, np.asarray(source.filler, stored.dtype), stored)


def finer(image: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Linear interpolation ``[rows, columns]`` to ``[factor rows, factor columns]`` with the same outline."""
    if not image.any():
        return np.zeros((factor * image.shape[0], factor * image.shape[1]), np.float32)
    made = ndimage.zoom(image, factor, order=1, mode="nearest", grid_mode=True)
    return np.asarray(made, np.float32)


def pixel_bytes(stored: Stored) -> bytes:
    """Stored values as uncompressed little-endian Pixel Data of even length (PS3.5 8.2)."""
    array = np.ascontiguousarray(stored)
    data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return data + b"\0" * (len(data) % 2)
