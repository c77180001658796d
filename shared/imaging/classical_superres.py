"""Classical interpolation of the low-resolution images, aligned at pixel centres."""

from collections.abc import Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.imaging.degrade import zero_fill
from shared.imaging.images import StudyImages
from shared.imaging.lowres import low_resolution
from shared.imaging.tasks import Method

Images = NDArray[np.float32]

TITLES: Mapping[str, str] = {
    "bicubic": "Bicubic",
    "lanczos": "Lanczos",
    "zero_fill": "Zero-filled k-space",
}


def methods(factor: int) -> Mapping[str, Method]:
    """The interpolations that make the images of :func:`low_resolution` ``factor`` times finer, by key."""
    return {
        "bicubic": partial(_resampled, factor=factor, kernel=Image.Resampling.BICUBIC),
        "lanczos": partial(_resampled, factor=factor, kernel=Image.Resampling.LANCZOS),
        "zero_fill": partial(_zero_fill, factor=factor),
    }


def enlarge(images: Images, kernel: Image.Resampling, factor: int = 2) -> Images:
    """Pillow's interpolation of ``[n, h, w]``; Pillow aligns pixel centres, as the degradation does."""
    height, width = (factor * edge for edge in images.shape[1:])
    return np.stack([np.asarray(Image.fromarray(image).resize((width, height), kernel)) for image in images])


def _finish(images: Images, study: StudyImages) -> Images:
    """Crop what a size was extended by, and clip to the grey scale."""
    _, height, width = study.reference.shape
    return np.clip(images[:, :height, :width], 0.0, 1.0).astype(np.float32)


def _resampled(study: StudyImages, *, factor: int, kernel: Image.Resampling) -> Images:
    return _finish(enlarge(low_resolution(study, factor), kernel, factor), study)


def _zero_fill(study: StudyImages, *, factor: int) -> Images:
    return _finish(zero_fill(low_resolution(study, factor), factor), study)
