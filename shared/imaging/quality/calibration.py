"""Whether a segmentation knows how sure it may be: expected calibration error and the reliability curve."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.imaging.metrics import Sums

BINS: Final = 15
"""Bins of equal width, as in Guo, Pleiss, Sun and Weinberger 2017."""
_PARTS: Final = ("n", "sure", "right")


@dataclass(frozen=True)
class Bin:
    """Pixels whose most likely class was given about this probability.

    Attributes:
        pixels: How many.
        confidence: Mean of that probability.
        accuracy: Share of them where the class is the true one.
    """

    pixels: float
    confidence: float
    accuracy: float


def calibration_sums(probabilities: NDArray[np.float32], truth: NDArray[np.uint8]) -> Sums:
    """For each bin the pixels, the sum of their probabilities, and how many are right.

    Only pixels count that the truth or the prediction gives a class but background: sure and right about the air around
    a head, any network looks calibrated.

    Args:
        probabilities: ``[n, classes, h, w]``, adding up to 1 over classes.
        truth: ``[n, h, w]``.
    """
    found, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    counted = (truth > 0) | (found > 0)
    right, sure = (found == truth)[counted], sure[counted].astype(np.float64)
    # Right-closed bins ((i - 1) / 15, i / 15], as the paper has them.
    place = np.clip(np.ceil(sure * BINS).astype(np.intp) - 1, 0, BINS - 1)
    columns = (np.ones(len(sure)), sure, right.astype(np.float64))
    sums = (np.bincount(place, weights=column, minlength=BINS) for column in columns)
    return Sums(
        {
            f"bin{index}_{part}": float(one)
            for part, row in zip(_PARTS, sums, strict=True)
            for index, one in enumerate(row)
        }
    )


def reliability(values: Mapping[str, float]) -> tuple[Bin | None, ...]:
    """The bins of sums of :func:`calibration_sums`; None for one without a pixel, nothing where there are no sums."""
    if "bin0_n" not in values:
        return ()
    rows = ([values[f"bin{index}_{part}"] for part in _PARTS] for index in range(BINS))
    return tuple(Bin(n, sure / n, right / n) if n else None for n, sure, right in rows)


def expected_calibration_error(values: Mapping[str, float]) -> float:
    """The gap between accuracy and confidence, averaged over bins by pixels (Guo et al. 2017, eq. 5); in [0, 1]."""
    bins = [one for one in reliability(values) if one is not None]
    pixels = sum(one.pixels for one in bins)
    return sum(one.pixels * abs(one.accuracy - one.confidence) for one in bins) / pixels if pixels else 0.0
