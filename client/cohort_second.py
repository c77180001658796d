"""The second contrast of a study on the grid of its first, if it can be brought there with certainty."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.cohort_scale import in_window, window
from client.cohort_series import Instance
from client.registration import Kind, Series, met, register, resampled
from shared.errors import DataError

UNCERTAIN = "the images do not say with certainty where the second contrast lies"


@dataclass(frozen=True, eq=False)
class Second:
    """What became of a second contrast.

    Attributes:
        images: On the grid of the first, float32 ``[n, h, w]`` in [0, 1], 0 where it has no values; None where it was
            not taken.
        why_not: The reason then; empty where there was nothing to take.
        slices: For each slice of the first, which slices of the second it was interpolated from, counted from 0.
    """

    images: NDArray[np.float32] | None = None
    why_not: str = ""
    slices: tuple[range, ...] = ()


def taken(
    low: Sequence[Instance],
    low_values: NDArray[np.float32],
    beside: Sequence[Instance],
    beside_values: NDArray[np.float32],
    kind: Kind,
) -> Second:
    """Register the series ``beside`` onto ``low`` and resample it; or the reason why that cannot be done.

    It is registered onto the noisy series, since that is all there will be when a model is applied, and scaled as MR
    series are, by itself.
    """
    try:
        first = Series.of(low_values, [one.header for one in low])
        second = Series.of(in_window(beside_values, window("MR", beside_values)), [one.header for one in beside])
        found = register(first, second, kind=kind)
    except DataError as error:
        return Second(why_not=error.message)
    if not found.certain:
        return Second(why_not=UNCERTAIN)
    return Second(np.clip(resampled(second, first, found), 0.0, 1.0), slices=met(second, first, found))
