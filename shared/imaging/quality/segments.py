"""How far the outline of a segmented class is off, and how far its volume."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]


def hausdorff_95(prediction: Mask, truth: Mask, spacing: tuple[float, float]) -> float | None:
    """The 95th percentile Hausdorff distance of one class in one slice, mm.

    The larger of both directions, each the 95th percentile of the distances from the pixels of one outline to the
    nearest of the other (Huttenlocher, Klanderman and Rucklidge 1993; as MONAI defines it). An outline is what erosion
    by the four neighbours takes away. Where only one of the two has the class, the diagonal of the slice: the farthest
    that anything can be off, so that leaving a class out is never rewarded. It is measured within slices, since
    distances between thick slices are not those of an outline.

    Args:
        prediction: ``[h, w]``.
        truth: ``[h, w]``.
        spacing: Distance of rows and of columns, mm.

    Returns:
        None where neither has the class.

    Raises:
        ValueError: The shapes differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in shape")
    if not prediction.any() and not truth.any():
        return None
    if not prediction.any() or not truth.any():
        return float(np.hypot(truth.shape[0] * spacing[0], truth.shape[1] * spacing[1]))
    ours, theirs = (mask & ~ndimage.binary_erosion(mask) for mask in (prediction, truth))
    return max(_directed(ours, theirs, spacing), _directed(theirs, ours, spacing))


def _directed(outline: Mask, other: Mask, spacing: tuple[float, float]) -> float:
    distance = ndimage.distance_transform_edt(~other, sampling=spacing)
    return float(np.percentile(distance[outline], 95))


def volumes(classes: NDArray[np.uint8], count: int, voxel: float) -> NDArray[np.float64]:
    """Volume of each class of a study, ml.

    Args:
        classes: ``[n, h, w]``.
        count: How many classes there are.
        voxel: Volume of a voxel, mm³: spacing of rows times that of columns times the distance of slices.
    """
    return np.bincount(classes.ravel(), minlength=count).astype(np.float64) * voxel / 1000.0
