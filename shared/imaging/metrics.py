"""Figures of merit, as sums that can be added over slices, patients and hospitals.

Images: MSE; PSNR with data range 1, for each slice, then averaged; SSIM of Wang et al. 2004 as scikit-image computes it
with a Gaussian window (sigma 1.5, 11 pixels, biased covariance, data range 1, borders left out of the mean), for each
slice, then averaged. Other libraries differ: MONAI agrees to six digits, torchmetrics gives other values (0.554 against
0.614 on one slice), so figures of different libraries must not be compared.

Classes: one confusion matrix over all pixels of all slices; mIoU is the mean of the intersection over union of all
classes, background included; ``miou_foreground`` leaves the background out; Dice is the mean over the classes but
background; accuracy is the share of all pixels. A class that occurs neither in truth nor in prediction does not count.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import DataError

IMAGE_SUMS = ("slices", "mse", "psnr", "ssim")
"""Names of the sums of :func:`image_sums`."""
# PSNR of a perfect prediction would be infinite; this floor on the MSE caps it at 100 dB.
MSE_FLOOR = 1e-10


@dataclass(frozen=True)
class Sums:
    """Additive statistics: name to sum. The empty one is the zero of the addition."""

    values: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: "Sums") -> "Sums":
        names = [*self.values, *(name for name in other.values if name not in self.values)]
        return Sums({name: self.values.get(name, 0.0) + other.values.get(name, 0.0) for name in names})

    @classmethod
    def zero(cls) -> "Sums":
        """The sum over nothing."""
        return cls()


def mse(prediction: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    """Mean squared error of one slice ``[height, width]``."""
    return float(np.mean((prediction.astype(np.float64) - truth) ** 2))


def psnr(prediction: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    """Peak signal-to-noise ratio of one slice, dB, data range 1, at most 100 dB."""
    return float(-10 * np.log10(max(mse(prediction, truth), MSE_FLOOR)))


def ssim(prediction: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    """Structural similarity of one slice of at least 11x11 pixels (Wang et al. 2004, as scikit-image defines it)."""
    from skimage.metrics import structural_similarity  # noqa: PLC0415  half a second that only scoring should cost

    return float(
        structural_similarity(
            prediction, truth, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0
        )
    )


def image_sums(predictions: NDArray[np.float32], truth: NDArray[np.float32]) -> Sums:
    """Sums over slices of MSE, PSNR and SSIM, with the number of slices.

    Args:
        predictions: ``[n, h, w]``; clipped to [0, 1] first, as a viewer would.
        truth: ``[n, h, w]`` in [0, 1].

    Raises:
        ValueError: The shapes differ.
    """
    _same_shape(predictions, truth)
    clipped = np.clip(predictions, 0.0, 1.0).astype(np.float32)
    pairs = list(zip(clipped, truth, strict=True))
    return Sums(
        {
            "slices": float(len(pairs)),
            "mse": sum(mse(p, t) for p, t in pairs),
            "psnr": sum(psnr(p, t) for p, t in pairs),
            "ssim": sum(ssim(p, t) for p, t in pairs),
        }
    )


def confusion(predictions: NDArray[Any], truth: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Counts of pixels by true class (rows) and predicted class (columns).

    Raises:
        ValueError: The shapes differ, or a class is outside ``range(classes)``.
    """
    _same_shape(predictions, truth)
    pairs = truth.astype(np.int64).ravel() * classes + predictions.astype(np.int64).ravel()
    if pairs.size and max(int(truth.max()), int(predictions.max())) >= classes:
        raise ValueError(f"a class outside 0..{classes - 1}")
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def confusion_sums(predictions: NDArray[Any], truth: NDArray[Any], classes: int) -> Sums:
    """The confusion matrix as sums: ``c02`` counts the pixels of class 0 that were called class 2."""
    matrix = confusion(predictions, truth, classes)
    return Sums({f"c{t}{p}": float(matrix[t, p]) for t in range(classes) for p in range(classes)})


def confusion_names(classes: int) -> tuple[str, ...]:
    """Names of the sums of :func:`confusion_sums`."""
    return tuple(f"c{t}{p}" for t in range(classes) for p in range(classes))


def overlap(matrix: NDArray[Any]) -> dict[str, float]:
    """``miou``, ``miou_foreground``, ``dice`` and ``accuracy`` of a confusion matrix ``[classes, classes]``."""
    counts = matrix.astype(np.float64)
    hits, truth, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    present = (truth + predicted) > 0
    either = np.where(present, truth + predicted - hits, 1.0)
    iou, dice = hits / either, 2 * hits / np.where(present, truth + predicted, 1.0)
    foreground = present & (np.arange(len(counts)) > 0)
    return {
        "miou": _mean(iou[present]),
        "miou_foreground": _mean(iou[foreground]),
        "dice": _mean(dice[foreground]),
        "accuracy": float(hits.sum() / counts.sum()),
    }


def summarise(task: str, sums: Sums) -> dict[str, float]:
    """Turn sums into figures: ``mse``, ``psnr``, ``ssim``, or those of :func:`overlap`.

    Args:
        task: Name of the task, for the message.
        sums: What :func:`image_sums` or :func:`confusion_sums` gave, added over any number of studies.

    Raises:
        DataError: The sums are over nothing.
    """
    values = sums.values
    slices = values.get("slices", 0.0)
    if slices > 0:
        return {name: values[name] / slices for name in ("mse", "psnr", "ssim")}
    counts = np.array([count for name, count in sorted(values.items()) if name.startswith("c")])
    if counts.sum() <= 0:
        raise DataError(f"no slice was scored for the task {task}", hint="check that the held-out split is not empty")
    classes = round(len(counts) ** 0.5)
    return overlap(counts.reshape(classes, classes))


def _same_shape(predictions: NDArray[Any], truth: NDArray[Any]) -> None:
    if predictions.shape != truth.shape:
        raise ValueError(f"predictions {predictions.shape} and truth {truth.shape} differ in shape")


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else 0.0
