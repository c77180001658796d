"""Held images as PNG, as a viewer shows them: grey the right way round, palettes and other colour models as colours."""

from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array

from client.deid.boxes import shape_of
from client.deid.known import UNREADABLE
from shared.errors import DataError

STORED = "stored"
"""The view that shows the numbers in the file: text may hide behind a palette whose colours do not differ."""
_COLOURS = 3


def png(path: Path, frame: int, *, window: str = "full") -> bytes:
    """One frame as PNG.

    Args:
        path: A DICOM file.
        frame: Its number, from 0.
        window: ``full`` spreads all values, faint marks included; ``middle`` the middle nine tenths; ``stored`` as
            ``full``, but the numbers in the file without palette and inversion.

    Raises:
        DataError: The picture cannot be shown.
    """
    shape = shape_of(path)
    if shape is None or not 0 <= frame < shape.frames:
        raise DataError("there is no such frame", hint="choose one of the list")
    try:
        stream = BytesIO()
        Image.fromarray(_shown(path, frame, window)).save(stream, "PNG", compress_level=1)
    except (*UNREADABLE, RuntimeError, MemoryError) as error:  # RuntimeError: what pydicom's decoders raise
        raise DataError("the picture cannot be shown", hint="look at it at a reading station, or refuse it") from error
    return stream.getvalue()


def _shown(path: Path, frame: int, window: str) -> NDArray[np.uint8]:
    # YBR_FULL and YBR_FULL_422 become RGB in here; the other YBR models by their decoders.
    pixels = pixel_array(path, index=frame)
    about = dcmread(path, stop_before_pixels=True)
    kind = str(about.get("PhotometricInterpretation", "")).strip()
    if kind == "PALETTE COLOR" and window != STORED:
        return _coloured(pixels, about)
    if pixels.ndim == _COLOURS and pixels.dtype == np.uint8:
        return pixels
    shown = _stretched(pixels, window)
    return np.subtract(255, shown, dtype=np.uint8) if kind == "MONOCHROME1" and window != STORED else shown


def _coloured(pixels: NDArray[np.generic], about: Dataset) -> NDArray[np.uint8]:
    """Through the palette of the file (PS3.3 C.7.6.3.1.5), without transparency."""
    colours = apply_color_lut(pixels, about)[..., :_COLOURS]
    # Some writers fill 16-bit palettes with numbers of 8 bits.
    wide = colours.dtype == np.uint16 and int(colours.max(initial=0)) > 255
    return np.ascontiguousarray(colours >> 8 if wide else colours).astype(np.uint8)


def _stretched(pixels: NDArray[np.generic], window: str) -> NDArray[np.uint8]:
    values = pixels.astype(np.float32)
    low, high = np.percentile(values, (5, 95)) if window == "middle" else (values.min(), values.max())
    scaled = np.clip((values - low) * (255 / max(float(high - low), 1e-6)), 0, 255)
    shown: NDArray[np.uint8] = scaled.astype(np.uint8)
    return shown
