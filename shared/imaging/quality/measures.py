"""All measures of a study as sums, and the figures that sums give: what a report shows of a model and of a method."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.imaging.classical_denoise import noise_level
from shared.imaging.degrade import zero_fill
from shared.imaging.images import StudyImages
from shared.imaging.metrics import Sums, confusion_sums, image_sums, summarise
from shared.imaging.quality import fidelity, segments
from shared.imaging.quality.calibration import calibration_sums, expected_calibration_error
from shared.imaging.quality.structures import Compared, Truth, consistency, finer
from shared.imaging.tasks import Task


@dataclass(frozen=True)
class Measure:
    """How a figure is shown and what exactly it is.

    Attributes:
        title: Heading of its column.
        higher_better: Whether more is better; None where the reference's value is, which is ``ideal``.
        decimals: Digits behind the point.
        definition: Definition, source and how it is averaged.
        scale: What it is multiplied with before it is shown; the heading says so.
        ideal: The value of a perfect result.
    """

    title: str
    higher_better: bool | None
    decimals: int
    definition: str
    scale: float = 1.0
    ideal: float = 0.0


_SLICES: Final = "Of each slice, then the mean over a patient's slices."
MEASURES: Final[Mapping[str, Measure]] = {
    "psnr": Measure(
        "PSNR, dB",
        True,
        2,
        f"Peak signal-to-noise ratio, data range 1. {_SLICES} 3 dB is half the squared error.",
        ideal=100.0,
    ),
    "ssim": Measure(
        "SSIM",
        True,
        3,
        f"Structural similarity (Wang et al. 2004), scikit-image, Gaussian window, σ = 1.5, data range 1. {_SLICES} "
        "Other libraries give other values.",
        ideal=1.0,
    ),
    "ms_ssim": Measure(
        "MS-SSIM",
        True,
        3,
        "Multi-scale structural similarity (Wang, Simoncelli and Bovik 2003), five scales, fewer where a slice is "
        f"below 176 pixels. {_SLICES} Not comparable between matrices.",
        ideal=1.0,
    ),
    "mse": Measure("MSE × 10³", False, 3, f"Mean squared error on intensities from 0 to 1. {_SLICES}", scale=1000.0),
    "gmsd": Measure(
        "GMSD × 10³",
        False,
        1,
        f"Gradient magnitude similarity deviation (Xue et al. 2014): how unevenly edges are kept. {_SLICES}",
        scale=1000.0,
    ),
    "detail": Measure(
        "Fine detail",
        None,
        2,
        "Energy above half of the highest frequency, over that of the reference. Below 1 the result is smoother, above "
        "1 it has more texture or noise than the reference.",
        ideal=1.0,
    ),
    "added": Measure(
        "Spots added, per slice",
        False,
        2,
        "Bright or dark spots of the result that neither the reference nor the input has (extrema of the Laplacian of "
        "a Gaussian, Lindeberg 1998; contrast from 10 % of the grey window and five times the noise).",
    ),
    "lost": Measure("Spots lost, per slice", False, 2, "Such spots of the reference that the result lacks."),
    "consistency": Measure(
        "Residual to the input",
        None,
        2,
        "The largest difference between the input and the result measured again, over that of the reference. Well "
        "above 1 the result contradicts what was measured; below 1 it keeps noise of the input.",
        ideal=1.0,
    ),
    "miou": Measure(
        "mIoU",
        True,
        3,
        "Mean intersection over union of all classes, background included, from one confusion matrix for each patient.",
        ideal=1.0,
    ),
    "dice": Measure(
        "Dice",
        True,
        3,
        "Mean Dice coefficient of the classes but background, from the same matrix.",
        ideal=1.0,
    ),
    "accuracy": Measure(
        "Accuracy",
        True,
        3,
        "Share of pixels given their true class, background included: a large background flatters every method.",
        ideal=1.0,
    ),
    "hd95": Measure(
        "Hausdorff 95 %, mm",
        False,
        2,
        "95th percentile Hausdorff distance of each class but background in each slice, the larger of both directions; "
        "the diagonal of the slice where only one of the two has the class. Mean over classes and slices of a patient.",
    ),
    "volume": Measure(
        "Volume error, ml",
        False,
        2,
        "Absolute error of the volume of each class but background, for each study; the mean over classes and studies "
        "of a patient. Where the distance of slices is known.",
    ),
    "volume_relative": Measure(
        "Volume error, %",
        False,
        1,
        "The same over the true volume, for classes that are there.",
        scale=100.0,
    ),
    "ece": Measure(
        "Calibration error, %",
        False,
        2,
        "Expected calibration error (Guo et al. 2017), 15 bins, over the pixels that the truth or the model gives a "
        "class but background.",
        scale=100.0,
    ),
}
"""By name, in the order of tables."""


def is_image_task(task: Task) -> bool:
    """Whether the task makes images, and not classes."""
    return "slices" in task.sums


@dataclass(frozen=True)
class Scored:
    """What one method made of one study.

    Attributes:
        sums: Of :func:`score`; can be added over the studies of a patient.
        slices: Main figure of each slice: PSNR, or mIoU.
    """

    sums: Sums
    slices: tuple[float, ...]


class Judge:
    """Scores what methods make of one study; what the study itself takes is computed once.

    Args:
        task: The task.
        study: The study; the task can use it.
        slice_distance: Distance of the centres of neighbouring slices, mm; None where it is not known.
    """

    def __init__(self, task: Task, study: StudyImages, slice_distance: float | None = None) -> None:
        self._task, self._study, self._distance = task, study, slice_distance
        self._inputs = task.shown(study)
        self._truth = task.truth(study)
        self._looked: list[Truth] | None = None

    def score(self, predictions: NDArray[Any], probabilities: NDArray[np.float32] | None = None) -> Scored:
        """All sums of one method's predictions.

        Args:
            predictions: ``[n, h, w]``: images in [0, 1], or classes.
            probabilities: ``[n, classes, h, w]``; None where the method has none.

        Raises:
            ValueError: The shapes differ.
        """
        if is_image_task(self._task):
            return self._images(np.clip(np.asarray(predictions, np.float32), 0.0, 1.0))
        return self._classes(np.asarray(predictions, np.uint8), probabilities)

    def spots(self, predictions: NDArray[np.float32], index: int) -> Compared:
        """Spots added and lost in one slice."""
        return self._truths[index].compare(np.clip(predictions[index], 0.0, 1.0))

    @property
    def source(self) -> NDArray[np.float32]:
        """The input at the matrix of the output, ``[n, h, w]``: zero-filled where it is smaller."""
        _, height, width = self._truth.shape
        factor = finer((height, width), self._inputs.shape[1:])
        if factor == 1:
            return self._inputs
        return np.clip(zero_fill(self._inputs, factor)[:, :height, :width], 0.0, 1.0)

    @property
    def _truths(self) -> list[Truth]:
        if self._looked is None:
            noise = [noise_level(image, self._study.modality) for image in self._truth]
            pairs = zip(self._truth, self.source, noise, strict=True)
            self._looked = [Truth.of(truth, source, noise=one) for truth, source, one in pairs]
        return self._looked

    def _images(self, predictions: NDArray[np.float32]) -> Scored:
        single = [image_sums(one[None], truth[None]) for one, truth in zip(predictions, self._truth, strict=True)]
        extra = dict.fromkeys(
            ("ms_ssim", "gmsd", "detail", "detail_truth", "added", "lost", "spots", "consistency"), 0.0
        )
        for index, (ours, truth) in enumerate(zip(predictions, self._truth, strict=True)):
            compared = self._truths[index].compare(ours)
            found = {
                "ms_ssim": fidelity.ms_ssim(ours, truth),
                "gmsd": fidelity.gmsd(ours, truth),
                "detail": fidelity.fine_detail(ours),
                "detail_truth": fidelity.fine_detail(truth),
                "added": len(compared.added),
                "lost": len(compared.lost),
                "spots": compared.reference,
                "consistency": consistency(ours, truth, self._inputs[index]),
            }
            extra = {name: extra[name] + value for name, value in found.items()}
        total = sum(single, start=Sums.zero()) + Sums(extra)
        return Scored(total, tuple(one.values["psnr"] for one in single))

    def _classes(self, found: NDArray[np.uint8], probabilities: NDArray[np.float32] | None) -> Scored:
        truth, classes = self._truth, round(len(self._task.sums) ** 0.5)
        single = [confusion_sums(one[None], true[None], classes) for one, true in zip(found, truth, strict=True)]
        distances = [
            distance
            for one, true in zip(found, truth, strict=True)
            for number in range(1, classes)
            if (distance := segments.hausdorff_95(one == number, true == number, self._study.spacing)) is not None
        ]
        rows, columns = self._study.spacing
        ours, theirs = (
            segments.volumes(one, classes, rows * columns * (self._distance or 1.0))[1:] for one in (found, truth)
        )
        there = theirs > 0
        extra = {
            "hd": sum(distances),
            "hd_n": len(distances),
            "ml": float(np.abs(ours - theirs).sum()) if self._distance else 0.0,
            "ml_n": float(len(ours)) if self._distance else 0.0,
            "relative": float((np.abs(ours - theirs)[there] / theirs[there]).sum()),
            "relative_n": float(there.sum()),
        }
        total = sum(single, start=Sums.zero()) + Sums(extra)
        if probabilities is not None:
            total = total + calibration_sums(probabilities, truth)
        return Scored(total, tuple(summarise(self._task.name, one)["miou"] for one in single))


def figures(task: Task, sums: Sums) -> dict[str, float]:
    """The figures of :data:`MEASURES` that sums of a patient's studies give.

    Raises:
        DataError: The sums are over nothing.
    """
    values = sums.values
    if is_image_task(task):
        slices = values["slices"]
        found = summarise(task.name, sums) | {
            "ms_ssim": values["ms_ssim"] / slices,
            "gmsd": values["gmsd"] / slices,
            "detail": values["detail"] / max(values["detail_truth"], 1e-12),
            "added": values["added"] / slices,
            "lost": values["lost"] / slices,
            "consistency": values["consistency"] / slices,
        }
        return {name: found[name] for name in MEASURES if name in found}
    found = summarise(task.name, Sums({name: one for name, one in values.items() if name in task.sums}))
    for name, over in (("hd95", "hd"), ("volume", "ml"), ("volume_relative", "relative")):
        if values[f"{over}_n"]:
            found[name] = values[over] / values[f"{over}_n"]
    if "bin0_n" in values:
        found["ece"] = expected_calibration_error(values)
    return {name: found[name] for name in MEASURES if name in found}
