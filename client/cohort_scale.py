"""Values of a series on the scale that networks see, [0, 1]."""

import numpy as np
from numpy.typing import NDArray

CT_WINDOW = (-160.0, 240.0)  # Hounsfield units: the usual abdominal window (level 40, width 400)
MR_PERCENTILE = 99.5


def scaled(
    modality: str, noisy: NDArray[np.float32], reference: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Both series on one scale in [0, 1], set by the input alone: it is all there is when a model is applied."""
    ends = window(modality, noisy)
    return in_window(noisy, ends), in_window(reference, ends)


def window(modality: str, noisy: NDArray[np.float32]) -> tuple[float, float]:
    """What becomes 0 and what becomes 1, in the unit of the values: fixed for CT, a percentile of the series for MR."""
    return CT_WINDOW if modality == "CT" else (0.0, max(float(np.percentile(noisy, MR_PERCENTILE)), 1e-6))


def in_window(image: NDArray[np.float32], ends: tuple[float, float]) -> NDArray[np.float32]:
    """Values of a series on the scale of :func:`window`, in [0, 1]."""
    low, high = ends
    return np.asarray(np.clip((image - low) / (high - low), 0, 1), np.float32)
