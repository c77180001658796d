"""Confidence intervals over patients: a patient's slices are not independent, so patients are drawn, never slices."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

FEWEST: Final = 5
"""Patients below which there is no interval: with so few, no resampling says what others would be like."""
LEVEL: Final = 0.95
RESAMPLES: Final = 2000
SEED: Final = 20170817
"""Of the draws: the same figures give the same interval."""


@dataclass(frozen=True)
class Estimate:
    """A mean over patients.

    Attributes:
        n: How many patients.
        mean: Over patients, each of the same weight.
        low: Lower end of the interval; None where there is none.
        high: Upper end.
        least: The lowest patient's figure.
        most: The highest patient's figure.
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    least: float
    most: float


def estimate(values: Sequence[float]) -> Estimate | None:
    """The mean of a figure over patients with its 95 % interval; None over nobody.

    The bias-corrected and accelerated bootstrap (Efron 1987) of ``scipy.stats.bootstrap``, 2000 resamples, seeded; the
    percentile method where acceleration has no finite value. Figures that are not finite are left out. Below
    :data:`FEWEST` patients there is no interval; where all are alike it is that one value.
    """
    finite = np.array([value for value in values if np.isfinite(value)], dtype=np.float64)
    if not len(finite):
        return None
    low, high = _interval(finite)
    return Estimate(len(finite), float(finite.mean()), low, high, float(finite.min()), float(finite.max()))


def _interval(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> tuple[float | None, float | None]:
    from scipy.stats import bootstrap  # noqa: PLC0415  half a second that only reports need

    if len(values) < FEWEST:
        return None, None
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy warns of a degenerate distribution, and answers with nan
            found = bootstrap(
                (values,),
                np.mean,
                n_resamples=RESAMPLES,
                confidence_level=LEVEL,
                method=method,
                rng=np.random.default_rng(SEED),
            ).confidence_interval
        if np.isfinite([found.low, found.high]).all():
            return float(found.low), float(found.high)
    return None, None
