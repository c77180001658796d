"""Boxes in pictures, and how tightly they are drawn around what is written in them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""What a person would see: [rows, columns, 3]."""
Mask = NDArray[np.bool_]
"""[rows, columns]."""

NEAR = 4
"""Pixels around a box that show the ground that its text is written on."""
STANDS_OUT = 4.0
"""Standard deviations of the ground, by its median absolute deviation, from which a pixel is no ground."""
FAINTEST = 8.0
"""Greys of 255 from which a pixel is no ground where that has no grain: less is a trace of a lossy compression."""
LEAST_INK = 0.2
"""Share of the core of a line that stands out at least, as strokes do; where less does, margins may hide ink."""
MARGIN = 2
"""Pixels left around what stands out: the smooth edges of letters, and the blur of a lossy compression."""


@dataclass(frozen=True, order=True)
class Box:
    """A rectangle of pixels, half open: rows ``top`` to ``bottom``, columns ``left`` to ``right``."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def area(self) -> int:
        """Pixels in it."""
        return (self.bottom - self.top) * (self.right - self.left)

    def slices(self) -> tuple[slice, slice]:
        """As an index into a frame."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


def clipped(box: Box, rows: int, columns: int) -> Box:
    """The part of a box that lies in a picture."""
    return Box(max(box.top, 0), max(box.left, 0), min(box.bottom, rows), min(box.right, columns))


def tightened(picture: Picture, box: Box, inner: Box, covered: Mask) -> Box:
    """A box without those of its outer rows and columns in which nothing stands out from the ground around it.

    Args:
        picture: uint8, [rows, columns, 3].
        box: In the picture; grown from ``inner`` to the height that letters may have, which most have not.
        inner: What stays in any case, in the box.
        covered: All boxes of text, bool, [rows, columns]: the ground lies outside them.

    Returns:
        The box as it is where no ground is seen around it, or too little stands out.
    """
    around = clipped(Box(box.top - NEAR, box.left - NEAR, box.bottom + NEAR, box.right + NEAR), *covered.shape).slices()
    ground = picture[around][~covered[around]].astype(np.float32)
    if len(ground) <= NEAR * NEAR:  # a corner of it says little
        return box
    usual = np.median(ground, axis=0)
    spread = 1.4826 * np.median(np.abs(ground - usual), axis=0)  # the standard deviation of a normal distribution
    stands_out = (np.abs(picture[box.slices()] - usual) > np.maximum(STANDS_OUT * spread, FAINTEST)).any(axis=2)
    rows, columns = np.flatnonzero(stands_out.any(axis=1)), np.flatnonzero(stands_out.any(axis=0))
    core = Box(inner.top - box.top, inner.left - box.left, inner.bottom - box.top, inner.right - box.left)
    strokes = stands_out[clipped(core, *stands_out.shape).slices()]
    if not rows.size or strokes.mean() < LEAST_INK:
        return box
    return Box(
        max(min(box.top + int(rows[0]) - MARGIN, inner.top), box.top),
        max(min(box.left + int(columns[0]) - MARGIN, inner.left), box.left),
        min(max(box.top + int(rows[-1]) + 1 + MARGIN, inner.bottom), box.bottom),
        min(max(box.left + int(columns[-1]) + 1 + MARGIN, inner.right), box.right),
    )
