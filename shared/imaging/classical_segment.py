"""Classical segmentation by intensity, slice by slice, with an ORACLE for the order of the classes.

A clustering does not know which cluster is which tissue, and the order of brightness differs between contrasts. Here
the truth chooses the best assignment for each slice: the figures are an upper bound for these methods, which no real
use reaches.
"""

from collections.abc import Callable, Mapping
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from shared.imaging.images import StudyImages
from shared.imaging.metrics import confusion, overlap
from shared.imaging.tasks import Method

Classes = NDArray[np.uint8]

TITLES: Mapping[str, str] = {
    "multi_otsu": "Multi-Otsu (oracle order)",
    "gmm": "Gaussian mixture (oracle order)",
    "gmm_brain": "Gaussian mixture (oracle brain mask and order)",
}

CLASSES = 4


def oracle_order(clusters: NDArray[Any], truth: Classes, *, fixed: int = 0) -> Classes:
    """Rename the clusters of one slice so that the mIoU against the truth is highest.

    Args:
        clusters: ``[h, w]``, numbers below 4.
        truth: ``[h, w]``.
        fixed: How many of the lowest numbers keep their meaning.
    """
    counts = confusion(clusters, truth, CLASSES)
    orders = [(*range(fixed), *rest) for rest in permutations(range(fixed, CLASSES))]
    # Column c of the counts becomes column order[c]; argsort is the inverse permutation.
    best = max(orders, key=lambda order: overlap(counts[:, np.argsort(order)])["miou"])
    names: Classes = np.array(best, dtype=np.uint8)
    return np.take(names, clusters)


def _smooth(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """A median 3x3, without which noise alone decides."""
    return np.asarray(ndimage.median_filter(image, 3), dtype=np.float32)


def _mixture(values: NDArray[np.float32], components: int) -> NDArray[np.int64]:
    """The most likely component of each value; fitted to every fourth one, from a fixed start."""
    from sklearn.mixture import GaussianMixture  # noqa: PLC0415  heavy, and only reports need it

    model = GaussianMixture(components, random_state=0, max_iter=50).fit(values[::4, None])
    return np.asarray(model.predict(values[:, None]), dtype=np.int64)


def _multi_otsu(image: NDArray[np.float32], truth: Classes) -> Classes:
    """Liao, Chen and Chung 2001."""
    from skimage.filters import threshold_multiotsu  # noqa: PLC0415  heavy, and only reports need it

    smooth = _smooth(image)
    if len(np.unique(smooth)) <= CLASSES:
        return np.zeros_like(truth)
    return oracle_order(np.digitize(smooth, threshold_multiotsu(smooth, CLASSES)), truth)


def _gmm(image: NDArray[np.float32], truth: Classes) -> Classes:
    smooth = _smooth(image)
    return oracle_order(_mixture(smooth.ravel(), CLASSES).reshape(image.shape), truth)


def _gmm_brain(image: NDArray[np.float32], truth: Classes) -> Classes:
    """Given the true brain as well, so that only the three tissues have to be told apart."""
    brain = truth > 0
    clusters = np.zeros(truth.shape, dtype=np.int64)
    if brain.sum() >= 4 * CLASSES:
        clusters[brain] = 1 + _mixture(_smooth(image)[brain], CLASSES - 1)
    return oracle_order(clusters, truth, fixed=1)


def _slice_by_slice(apply: Callable[[NDArray[np.float32], Classes], Classes]) -> Method:
    def method(study: StudyImages) -> Classes:
        if study.label is None:
            raise ValueError("the order of the classes is taken from the truth, which this study lacks")
        return np.stack([apply(image, truth) for image, truth in zip(study.noisy, study.label, strict=True)])

    return method


METHODS: Mapping[str, Method] = {
    "multi_otsu": _slice_by_slice(_multi_otsu),
    "gmm": _slice_by_slice(_gmm),
    "gmm_brain": _slice_by_slice(_gmm_brain),
}
