"""Classical interpolation of the low-resolution images, aligned at pixel centres."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.imaging.degrade import zero_fill
from shared.imaging.images import StudyImages
from shared.imaging.lowres import FACTOR, low_resolution
from shared.imaging.tasks import Method

Images = NDArray[np.float32]

TITLES: Mapping[str, str] = {
    "bicubic": "Bicubic",
    "lanczos": "Lanczos",
    "zero_fill": "Zero-filled k-space",
}


def enlarge(images: Images, kernel: Image.Resampling) -> Images:
    """Pillow's interpolation of ``[n, h, w]`` by two; Pillow aligns pixel centres, as the degradation does."""
    height, width = (FACTOR * edge for edge in images.shape[1:])
    return np.stack([np.asarray(Image.fromarray(image).resize((width, height), kernel)) for image in images])


def _finish(images: Images, study: StudyImages) -> Images:
    """Crop what an odd size was extended by, and clip to the grey scale."""
    _, height, width = study.reference.shape
    return np.clip(images[:, :height, :width], 0.0, 1.0).astype(np.float32)


def _bicubic(study: StudyImages) -> Images:
    return _finish(enlarge(low_resolution(study), Image.Resampling.BICUBIC), study)


def _lanczos(study: StudyImages) -> Images:
    return _finish(enlarge(low_resolution(study), Image.Resampling.LANCZOS), study)


def _zero_fill(study: StudyImages) -> Images:
    return _finish(zero_fill(low_resolution(study), FACTOR), study)


METHODS: Mapping[str, Method] = {"bicubic": _bicubic, "lanczos": _lanczos, "zero_fill": _zero_fill}
