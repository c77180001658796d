"""A network over images of any size in bounded memory: a few slices at a time, large ones in tiles.

Tiles overlap by more than the receptive field of the shipped networks and are blended linearly, and they begin at
multiples of the coarsest scale, so that pooling meets the same pixels as in the whole image. What is left is that group
normalisation takes its statistics from a tile instead of from the whole image: a network that has it (the U-Nets) gives
slightly other values in tiles than at once. EDSR has none, and gives the same.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import nn

from shared.imaging import inference
from shared.imaging.inference import MULTIPLE

BUDGET: Final = 2**21
"""Pixels of the result that a network makes at once: at 32 channels 256 MB for each layer that is held."""
SIDE: Final = 1024
"""Rows and columns of the result of one tile."""
MARGIN: Final = 48
"""So far into a tile its border is felt: the radius of the receptive field of the deepest U-Net is 44."""
OVERLAP: Final = 128
"""Rows and columns of the source that two tiles share: the margins of both, and what they are blended over."""


def outputs(
    network: nn.Module, images: NDArray[np.float32], *, scale: int = 1, budget: int = BUDGET, side: int = SIDE
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """The network's outputs for ``images``, a part of the slices after the other; numbers or not.

    Args:
        network: ``[n, 1, h, w]`` to ``[n, channels, scale h, scale w]``; or ``[n, k, h, w]``.
        images: ``[n, h, w]`` float32, or ``[n, k, h, w]`` for a network that takes k channels.
        scale: Output pixels to one input pixel.
        budget: Output pixels at once; an image with more is worked on in tiles.
        side: Output rows and columns of a tile, before it is rounded to what the network can halve.

    Yields:
        Which slices, and ``[m, channels, scale h, scale w]``.
    """
    count, (height, width) = len(images), images.shape[-2:]
    pixels = height * width * scale**2
    if pixels > budget:
        for index in range(count):
            yield slice(index, index + 1), _tiled(network, images[index], scale, max(side // scale, 2 * OVERLAP))
        return
    step = max(budget // pixels, 1)
    for start in range(0, count, step):
        part = slice(start, min(start + step, count))
        yield part, inference.outputs(network, images[part], scale=scale)


def _tiled(network: nn.Module, image: NDArray[np.float32], scale: int, side: int) -> NDArray[np.float32]:
    """One image ``[h, w]`` or ``[k, h, w]`` in tiles: ``[1, channels, scale h, scale w]``."""
    height, width = image.shape[-2:]
    total: NDArray[np.float32] | None = None
    weights = np.zeros((scale * height, scale * width), np.float32)
    for rows in _spans(height, side):
        for columns in _spans(width, side):
            made = inference.outputs(network, image[None, ..., rows, columns], scale=scale)[0]
            if total is None:
                total = np.zeros((len(made), *weights.shape), np.float32)
            place = tuple(slice(scale * one.start, scale * one.stop) for one in (rows, columns))
            weight = np.multiply.outer(_ramp(rows, height, scale), _ramp(columns, width, scale))
            total[:, *place] += made * weight
            weights[place] += weight
    if total is None:
        raise ValueError("an image without pixels has no tiles")
    total /= weights
    return total[None]


def _spans(size: int, side: int) -> list[slice]:
    """Overlapping spans that cover ``size``; each begins at a multiple of the network's coarsest scale."""
    if size <= side:
        return [slice(0, size)]
    step = (side - OVERLAP) // MULTIPLE * MULTIPLE
    last = -(-(size - side) // MULTIPLE) * MULTIPLE
    return [slice(start, min(start + side, size)) for start in (*range(0, last, step), last)]


def _ramp(span: slice, size: int, scale: int) -> NDArray[np.float32]:
    """The weight of a tile along one axis: 1 in its middle, falling to 0 at the margin where another tile lies."""
    length = scale * (span.stop - span.start)
    distance = np.arange(length, dtype=np.float32) + 0.5
    edge, width = scale * MARGIN, scale * (OVERLAP - 2 * MARGIN)
    weight = np.ones(length, np.float32)
    for inner, there in ((distance, span.start > 0), (distance[::-1], span.stop < size)):
        if there:
            weight *= np.clip((inner - edge) / width, 0.0, 1.0)
    return weight
