"""Filling in hidden parts of an image without training."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from shared.imaging.hiding import CELL, hidden_of, unit
from shared.imaging.images import StudyImages
from shared.imaging.segment import standardised
from shared.imaging.tasks import Method

TITLES: Mapping[str, str] = {"masked": "Hidden parts left blank", "interpolated": "Normalised convolution"}


def masked(study: StudyImages) -> NDArray[np.float32]:
    """Nothing is filled in: the median of the head stands where the image is hidden."""
    return unit(np.where(hidden_of(study), np.float32(0), standardised(study)))


def interpolated(study: StudyImages) -> NDArray[np.float32]:
    """Normalised convolution (Knutsson and Westin 1993): a Gaussian mean of what is visible around."""
    gone, images = hidden_of(study), masked(study)
    near = (0, CELL / 2, CELL / 2)
    visible = (~gone).astype(np.float32)
    weights = ndimage.gaussian_filter(visible, near, mode="nearest")
    means = ndimage.gaussian_filter(images * visible, near, mode="nearest") / np.maximum(weights, 1e-6)
    return np.where(gone, np.clip(means, 0.0, 1.0), images).astype(np.float32)


METHODS: Mapping[str, Method] = MappingProxyType({"masked": masked, "interpolated": interpolated})
