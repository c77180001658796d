"""The low-resolution images of a study, as the network and the interpolations are given them."""

import numpy as np
from numpy.typing import NDArray

from shared.imaging.degrade import kspace_downsample
from shared.imaging.images import StudyImages
from shared.imaging.memo import once_per_study

# Standard deviation of the complex noise, on the scale of images in [0, 1].
NOISE = 0.01


@once_per_study
def low_resolution(study: StudyImages, factor: int = 2) -> NDArray[np.float32]:
    """The reference series with the centre of its k-space only, ``[n, ceil(h / f), ceil(w / f)]``, in [0, 1].

    Sizes that are no multiples of the factor f are first extended by repeating the last row or column.
    """
    _, height, width = study.reference.shape
    whole = np.pad(study.reference, ((0, 0), (0, -height % factor), (0, -width % factor)), mode="edge")
    return np.clip(kspace_downsample(whole, factor, sigma=NOISE), 0.0, 1.0)
