"""The grey that text is written in: a narrower look at a picture in which some text was found already.

What is burned in is written over a picture in a grey of its own, mostly the same for all of it. Small letters on
speckle, whose strokes are as thin as its grains, are lost in the whole range of greys; in a window from the grey of the
text that was found to just short of what is around it, the ground is flat and they are not.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from client.deid.pixels.box import Box, Mask, Picture

STROKES = 2.0
"""Percentage of a box that shows the grey of its text at least: thin strokes fill more, single bright grains do not."""
GROUND = 97.0
"""Percentage of the picture that is ground, from the dark end for bright text: small text is less ink than the rest."""
NARROWEST = 16.0
"""Greys of 255 below which text and ground are too much alike for a window between them."""


def ink_views(view: Picture, boxes: Iterable[Box], blanked: Mask) -> list[Picture]:
    """The picture in windows at the greys of its text: one where all of it is brighter, or darker, than the ground.

    Args:
        view: uint8, [rows, columns, 3], as it was before text was blanked.
        boxes: Where text was found.
        blanked: All that was blanked, bool, [rows, columns]: it does not count as ground.

    Returns:
        uint8, [rows, columns, 3] each; none where the ground is as bright and as dark as the text.
    """
    grey = view.mean(axis=2, dtype=np.float32)
    rest = grey[~blanked]
    if not rest.size:
        return []
    bright, dark = _inks(grey, boxes)
    middle = float(np.median(rest))
    views = []
    for inks, share in ((bright, GROUND), (dark, 100 - GROUND)):
        if not inks:
            continue
        ink, ground = float(np.median(inks)), float(np.percentile(rest, share))
        side = 1.0 if share == GROUND else -1.0
        # At least half the way, for the smooth edges of letters are no grain where the ground is flat.
        start = side * max(side * ground, side * (middle + ink) / 2)
        if side * (ink - start) >= NARROWEST:
            views.append(_windowed(grey, start, ink))
    return views


def _inks(grey: NDArray[np.float32], boxes: Iterable[Box]) -> tuple[list[float], list[float]]:
    """The greys of the text in the boxes, of what is brighter than the ground and of what is darker."""
    bright, dark = [], []
    for box in boxes:
        inside = grey[box.slices()]
        if not inside.size:
            continue
        low, ground, high = (float(one) for one in np.percentile(inside, (STROKES, 50, 100 - STROKES)))
        if high - ground >= ground - low:
            bright.append(high)
        else:
            dark.append(low)
    return bright, dark


def _windowed(grey: NDArray[np.float32], start: float, end: float) -> Picture:
    scaled = np.clip((grey - start) * (255.0 / (end - start)), 0, 255).astype(np.uint8)
    return np.repeat(scaled[..., None], 3, axis=2)
