"""Arrays to small PNG files for the run's page, and the one way to line up a picture row.

PNG because it is lossless: what a reader judges is what the network made, not what a codec did to it.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simulation.record import Metrics, Panel, Picture

# Okabe and Ito's palette (jfly.uni-koeln.de/color, 2008): told apart by every common form of colour blindness.
# Class 0 is background and stays bare.
CLASS_COLOURS: tuple[tuple[int, int, int], ...] = (
    (0, 0, 0),
    (86, 180, 233),
    (230, 159, 0),
    (204, 121, 167),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
)
_OVERLAY = 0.55


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


def intensity_picture(
    site: str,
    caption: str,
    *,
    inputs: tuple[NDArray[Any], Metrics],
    classical: Sequence[tuple[str, NDArray[Any], Metrics]],
    ours: tuple[str, NDArray[Any], Metrics],
    truth: NDArray[Any],
) -> Picture:
    """A row for denoising or super-resolution.

    Args:
        site: Id of the site.
        caption: What the slice is, without naming anybody.
        inputs: The slice as the network sees it, [h, w] in [0, 1], perhaps of half the resolution, and its scores.
        classical: Name, result [H, W] and scores of one or more classical methods, best last.
        ours: Name of the arm, its result [H, W] and scores.
        truth: The reference slice [H, W].
    """
    shape = (int(truth.shape[0]), int(truth.shape[1]))
    panels = [Panel("input", grayscale(inputs[0], size=shape), metrics=inputs[1])]
    panels += [Panel("classical", grayscale(image), name, metrics) for name, image, metrics in classical]
    panels.append(Panel("ours", grayscale(ours[1]), ours[0], ours[2]))
    panels.append(Panel("truth", grayscale(truth)))
    return Picture(site, caption, tuple(panels))


def class_picture(
    site: str,
    caption: str,
    *,
    image: NDArray[Any],
    classical: Sequence[tuple[str, NDArray[Any], Metrics]],
    ours: tuple[str, NDArray[Any], Metrics],
    truth: NDArray[Any],
) -> Picture:
    """A row for segmentation: the bare slice ([h, w] in [0, 1]), then labels ([h, w], 0 for background) over it."""
    panels = [Panel("input", grayscale(image))]
    panels += [Panel("classical", overlay(image, labels), name, metrics) for name, labels, metrics in classical]
    panels.append(Panel("ours", overlay(image, ours[1]), ours[0], ours[2]))
    panels.append(Panel("truth", overlay(image, truth)))
    return Picture(site, caption, tuple(panels))


def _levels(image: NDArray[Any]) -> NDArray[np.uint8]:
    if image.ndim != 2:
        raise ValueError(f"a picture is made from a plane, not from an array of shape {image.shape}")
    return np.asarray(np.nan_to_num(image, nan=0.0).clip(0.0, 1.0) * 255.0).round().astype(np.uint8)


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return stream.getvalue()
