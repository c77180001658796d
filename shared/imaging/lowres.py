"""The low-resolution images of a study, as the network and the interpolations are given them."""

import numpy as np
from numpy.typing import NDArray

from shared.imaging.degrade import kspace_downsample
from shared.imaging.images import StudyImages
from shared.imaging.memo import once_per_study

FACTOR = 2
# Standard deviation of the complex noise, on the scale of images in [0, 1].
NOISE = 0.01


@once_per_study
def low_resolution(study: StudyImages) -> NDArray[np.float32]:
    """The reference series with the centre of its k-space only, ``[n, ceil(h / 2), ceil(w / 2)]``, in [0, 1].

    Odd sizes are first extended by repeating the last row or column.
    """
    _, height, width = study.reference.shape
    even = np.pad(study.reference, ((0, 0), (0, height % FACTOR), (0, width % FACTOR)), mode="edge")
    return np.clip(kspace_downsample(even, FACTOR, sigma=NOISE), 0.0, 1.0)
