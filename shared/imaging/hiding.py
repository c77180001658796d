"""What is hidden of an image that a network is to fill in, and the grey scale on which it is judged."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.imaging.images import StudyImages
from shared.imaging.segment import LIMIT

CELL: Final = 8
"""Edge of what is hidden together, pixels: as far as the deepest layer of the U-Net sees at once."""
SHARE: Final = 0.5
"""Share of the cells that are hidden."""


def hidden(height: int, width: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which pixels of a slice are hidden: :data:`SHARE` of the cells that begin in it."""
    rows, columns = -(-height // CELL), -(-width // CELL)
    cells = np.zeros(rows * columns, np.bool_)
    cells[rng.permutation(len(cells))[: round(SHARE * len(cells))]] = True
    return np.kron(cells.reshape(rows, columns), np.ones((CELL, CELL), np.bool_))[:height, :width]


def hidden_of(study: StudyImages) -> NDArray[np.bool_]:
    """What is hidden of each slice when a network is judged, ``[n, h, w]``; the study's shape alone decides it."""
    rng = np.random.default_rng(0)
    _, height, width = study.noisy.shape
    return np.stack([hidden(height, width, rng) for _ in range(len(study))])


def unit(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Standardised intensities in [0, 1], where 0.5 is the median of the head."""
    return np.asarray(np.clip((images + LIMIT) / (2 * LIMIT), 0.0, 1.0), np.float32)
