"""Whether uncertainty points to errors: the rank correlation of both, and the sparsification curve."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

STEPS: Final = 20
"""Points of a sparsification curve."""
BODY: Final = 0.05
"""Pixels of an image below this share of the grey window are air, and no uncertainty is judged there."""


@dataclass(frozen=True)
class Agreement:
    """How uncertainty and error of the pixels of one slice go together.

    Attributes:
        spearman: Rank correlation, from -1 to 1; 0 where either is the same everywhere.
        curve: Mean error of what is left when the most uncertain 0, 5, ... 95 % of the pixels are taken away, over that
            of all pixels (Ilg et al. 2018, arXiv:1802.07095).
        oracle: The same when the pixels with the greatest error are taken away: the best that can be.
    """

    spearman: float
    curve: tuple[float, ...]
    oracle: tuple[float, ...]

    @property
    def ause(self) -> float:
        """Area between both curves: 0 where uncertainty ranks pixels as the error does."""
        return float(np.mean(np.subtract(self.curve, self.oracle)))

    @property
    def ause_random(self) -> float:
        """That area for pixels taken away at random, whose curve stays at 1: what any use begins below."""
        return float(np.mean(np.subtract(1.0, self.oracle)))


def agreement(uncertainty: NDArray[Any], error: NDArray[Any], where: NDArray[np.bool_]) -> Agreement | None:
    """The agreement of one slice over the pixels ``where``; None where there are none, or none is wrong.

    Args:
        uncertainty: ``[h, w]``.
        error: ``[h, w]``, at least 0: absolute differences, or 1 where the class is wrong.
        where: ``[h, w]``.

    Raises:
        ValueError: The shapes differ.
    """
    from scipy.stats import spearmanr  # noqa: PLC0415  half a second that only reports need

    if not uncertainty.shape == error.shape == where.shape:
        raise ValueError("uncertainty, error and mask must be of one shape")
    ours, wrong = uncertainty[where].astype(np.float64), error[where].astype(np.float64)
    if len(ours) < STEPS or not wrong.any():
        return None
    varies = np.ptp(ours) > 0 and np.ptp(wrong) > 0
    ranked = float(spearmanr(ours, wrong).statistic) if varies else 0.0
    return Agreement(ranked, _curve(ours, wrong), _curve(wrong, wrong))


def judged(truth: NDArray[Any], predictions: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Error of each pixel, and where uncertainty is judged: within the body, or where either has a class.

    Air is easy and makes up half of an image: with it any map would look good.

    Args:
        truth: ``[h, w]``: an image in [0, 1], or classes.
        predictions: ``[h, w]`` alike.
    """
    if np.issubdtype(truth.dtype, np.integer):
        return np.asarray(truth != predictions, np.float64), (truth > 0) | (predictions > 0)
    return np.abs(predictions.astype(np.float64) - truth), truth > BODY


def _curve(order: NDArray[np.float64], error: NDArray[np.float64]) -> tuple[float, ...]:
    """Equal uncertainties share their errors: else the order of pixels in memory would decide."""
    values, group = np.unique(order, return_inverse=True)
    mean = np.bincount(group, weights=error, minlength=len(values)) / np.bincount(group, minlength=len(values))
    ascending = mean[group[np.argsort(order, kind="stable")]]
    left = np.cumsum(ascending) / np.arange(1, len(ascending) + 1)
    keep = [max(1, round(len(error) * (1 - step / STEPS))) for step in range(STEPS)]
    return tuple(float(left[count - 1] / error.mean()) for count in keep)
