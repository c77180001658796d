"""Held images as PNG: grey or colour, with the file's window or one that shows everything."""

from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.pixels.utils import pixel_array

from client.deid.known import UNREADABLE
from shared.errors import DataError

MOST_FRAMES = 256
"""Frames that can be chosen; of longer films the others are spread evenly over their length."""
_MOST_PIXELS = 64 << 20


def frames_of(path: Path) -> tuple[int, ...]:
    """The frames that can be looked at; empty where the file has no picture that can be shown."""
    try:
        dataset = dcmread(path, stop_before_pixels=True)
        count = int(dataset.get("NumberOfFrames", 1) or 1)
        drawable = int(dataset.get("Rows", 0)) * int(dataset.get("Columns", 0))
    except UNREADABLE:
        return ()
    if not 0 < drawable <= _MOST_PIXELS or count < 1:
        return ()
    return tuple(sorted({round(one) for one in np.linspace(0, count - 1, min(count, MOST_FRAMES))}))


def png(path: Path, frame: int, *, window: str = "full") -> bytes:
    """One frame as PNG.

    Args:
        path: A DICOM file.
        frame: Its number, from 0.
        window: ``full`` spreads all values, faint marks included; ``middle`` the middle nine tenths.

    Raises:
        DataError: The picture cannot be shown.
    """
    if frame not in frames_of(path):
        raise DataError("there is no such frame", hint="choose one of the list")
    try:
        pixels = pixel_array(path, index=frame)
    except (*UNREADABLE, MemoryError) as error:
        raise DataError("the picture cannot be shown", hint="look at it at a reading station") from error
    shown = pixels if pixels.ndim == 3 and pixels.dtype == np.uint8 else _stretched(pixels, window)
    stream = BytesIO()
    Image.fromarray(shown).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _stretched(pixels: NDArray[np.generic], window: str) -> NDArray[np.uint8]:
    values = pixels.astype(np.float32)
    low, high = np.percentile(values, (5, 95)) if window == "middle" else (values.min(), values.max())
    scaled = np.clip((values - low) * (255 / max(float(high - low), 1e-6)), 0, 255)
    shown: NDArray[np.uint8] = scaled.astype(np.uint8)
    return shown
