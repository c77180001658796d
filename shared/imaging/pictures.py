"""Arrays to small PNG files for the pages that people open.

PNG because it is lossless: what a reader judges is what the network made, not what a codec did to it.
"""

import io
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Okabe and Ito's palette (jfly.uni-koeln.de/color, 2008): told apart by every common form of colour blindness.
# Class 0 is background and stays bare.
CLASS_COLOURS: Final[tuple[tuple[int, int, int], ...]] = (
    (0, 0, 0),
    (86, 180, 233),
    (230, 159, 0),
    (204, 121, 167),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
)
_OVERLAY = 0.55
# Where a difference is too dark and where too bright: blue and orange of the same palette, on black.
_BELOW, _ABOVE = np.array([86, 180, 233], np.float32), np.array([255, 150, 40], np.float32)


def grayscale(image: NDArray[Any], *, size: tuple[int, int] | None = None) -> bytes:
    """``image`` ([h, w], intensities in [0, 1], clipped) as an 8-bit greyscale PNG.

    Args:
        image: The plane, [h, w].
        size: Height and width to enlarge to by repeating pixels, so that an input of half the resolution keeps its
            coarse pixels visible beside the others.

    Raises:
        ValueError: ``image`` is not a plane.
    """
    picture = Image.fromarray(_levels(image))
    if size is not None and size != image.shape:
        picture = picture.resize((size[1], size[0]), Image.Resampling.NEAREST)
    return _png(picture)


def overlay(image: NDArray[Any], labels: NDArray[Any]) -> bytes:
    """Classes in colour over the slice: ``image`` [h, w] in [0, 1], ``labels`` [h, w] with 0 for background.

    Raises:
        ValueError: The two differ in shape, or a label has no colour.
    """
    if image.shape != labels.shape:
        raise ValueError(f"image {image.shape} and labels {labels.shape} differ in shape")
    if labels.min(initial=0) < 0 or labels.max(initial=0) >= len(CLASS_COLOURS):
        raise ValueError(f"labels must be from 0 to {len(CLASS_COLOURS) - 1}")
    grey = np.repeat(_levels(image)[..., None], 3, axis=2).astype(np.float32)
    colours = np.asarray(CLASS_COLOURS, np.float32)[labels.astype(np.intp)]
    blended = np.where((labels > 0)[..., None], (1 - _OVERLAY) * grey + _OVERLAY * colours, grey)
    return _png(Image.fromarray(blended.round().astype(np.uint8)))


def signed(difference: NDArray[Any], window: float) -> bytes:
    """A difference [h, w] in colour on black: blue where it is below 0, orange above, full at ``window`` and beyond.

    Raises:
        ValueError: It is not a plane, or the window is not above 0.
    """
    if difference.ndim != 2 or window <= 0:
        raise ValueError("a difference is shown from a plane and a window above 0")
    share = (np.nan_to_num(np.asarray(difference, np.float32), nan=0.0) / window).clip(-1.0, 1.0)[..., None]
    coloured = np.where(share > 0, share * _ABOVE, -share * _BELOW)
    return _png(Image.fromarray(coloured.round().astype(np.uint8)))


def _levels(image: NDArray[Any]) -> NDArray[np.uint8]:
    if image.ndim != 2:
        raise ValueError(f"a picture is made from a plane, not from an array of shape {image.shape}")
    return np.asarray(np.nan_to_num(image, nan=0.0).clip(0.0, 1.0) * 255.0).round().astype(np.uint8)


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return stream.getvalue()
