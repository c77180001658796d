"""Segmentation of the brain's tissues: background, cerebrospinal fluid, grey and white matter."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from shared.imaging import classical_segment, inference
from shared.imaging.images import PatientImages, StudyImages
from shared.imaging.memo import once_per_study
from shared.imaging.metrics import Sums, confusion_names, confusion_sums
from shared.imaging.networks import FCN, DeepUNet, UNet
from shared.imaging.patches import draw_windows, eligible_studies, stacked
from shared.imaging.tasks import Batch, Method, Networks, Objective, OneLoss, register

CLASSES = ("background", "cerebrospinal fluid", "grey matter", "white matter")
PATCH = 96
# Standardised intensities further out carry no anatomy (vessels, artefacts) and would upset the first layer.
LIMIT = 5.0


@register
class Segment(OneLoss):
    """One output channel per class, under cross-entropy and soft Dice.

    The Dice loss: Milletari, Navab and Ahmadi 2016; both together: Isensee et al. 2021.
    """

    name = "segment"
    title = "Tissue segmentation"
    modalities = frozenset({"MR"})
    main_metric = "miou"
    sums: tuple[str, ...] = confusion_names(len(CLASSES))
    networks: Networks = MappingProxyType(
        {
            "unet": lambda: UNet(len(CLASSES), (8, 16, 32, 64)),
            "fcn": lambda: FCN(len(CLASSES)),
            "unet_deep": lambda: DeepUNet(len(CLASSES), (8, 16, 32, 64)),
        }
    )

    def eligible(self, study: StudyImages) -> bool:
        """MR studies that somebody segmented into these classes."""
        return study.modality in self.modalities and study.label is not None

    def draw(self, patient: PatientImages, count: int, rng: np.random.Generator) -> Batch:
        """Standardised patches ``[count, 1, 96, 96]`` and their classes, int64 ``[count, 96, 96]``.

        Gain and offset of each patch vary: another scanner, another coil. Heads are mirrored left to right only: the
        network may know which way is up.
        """
        studies = eligible_studies(self, patient)
        images = [standardised(study) for study in studies]
        windows = draw_windows([stack.shape for stack in images], count, PATCH, rng, turns=2)
        gain = rng.uniform(0.8, 1.2, size=(count, 1, 1)).astype(np.float32)
        offset = rng.uniform(-0.2, 0.2, size=(count, 1, 1)).astype(np.float32)
        inputs = stacked(windows, images, PATCH) * gain + offset
        targets = stacked(windows, [self.truth(study) for study in studies], PATCH)
        return torch.from_numpy(inputs)[:, None], torch.from_numpy(targets.astype(np.int64))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy plus one minus soft Dice over the tissues, for each row, then averaged.

        Dice over the whole batch would couple the patients of the batch.
        """
        share = outputs.softmax(dim=1)
        truth = F.one_hot(targets, len(CLASSES)).movedim(-1, 1).to(outputs.dtype)
        hits = (share * truth).sum(dim=(2, 3))
        total = share.sum(dim=(2, 3)) + truth.sum(dim=(2, 3))
        dice = ((2 * hits + 1) / (total + 1))[:, 1:].mean(dim=1)
        return F.cross_entropy(outputs, targets) + (1 - dice).mean()

    def objectives(self, network: nn.Module, batch: Batch) -> tuple[Objective, ...]:
        """The loss of the scores; under deep supervision a mean over scales, each weighing half of the next finer.

        Labels are thinned out, not averaged: every second row and column, as in nnU-Net (Isensee et al. 2021).
        """
        if not isinstance(network, DeepUNet):
            return super().objectives(network, batch)
        inputs, targets = batch
        losses = [
            self.loss(scores.float(), targets[:, :: 2**scale, :: 2**scale])
            for scale, scores in enumerate(network.scales(inputs))
        ]
        weights = [0.5**scale for scale in range(len(losses))]
        total = torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum()
        return (Objective(total / sum(weights), network),)

    def inputs(self, study: StudyImages) -> NDArray[np.float32]:
        """The standardised noisy series."""
        return standardised(study)

    def predict(self, network: nn.Module, study: StudyImages) -> NDArray[np.uint8]:
        """The most likely class of each pixel."""
        scores = inference.run(network, self.inputs(study))
        return np.asarray(scores.argmax(axis=1), dtype=np.uint8)

    def truth(self, study: StudyImages) -> NDArray[np.uint8]:
        """The labels.

        Raises:
            ValueError: The study has none; ask :meth:`eligible` first.
        """
        if study.label is None:
            raise ValueError("a study without labels cannot be segmented against anything")
        return study.label

    def score(self, predictions: NDArray[np.uint8], study: StudyImages) -> Sums:
        """The confusion matrix."""
        return confusion_sums(predictions, self.truth(study), len(CLASSES))

    def classical(self) -> Mapping[str, Method]:
        """Clusterings of the intensities."""
        return classical_segment.METHODS


@once_per_study
def standardised(study: StudyImages) -> NDArray[np.float32]:
    """The noisy series less the median of the head, over its robust spread (interquartile range / 1.349).

    Sites differ in contrast and in how much air surrounds the head; statistics of the whole image would mix the two.
    """
    return standard_scale(study.noisy)


def standard_scale(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Images ``[n, h, w]`` on the scale of :func:`standardised`."""
    head = images[_head(images)]
    low, median, high = np.percentile(head, [25, 50, 75])
    spread = max(float(high - low) / 1.349, 1e-3)
    scaled = (images - np.float32(median)) / np.float32(spread)
    return np.asarray(np.clip(scaled, -LIMIT, LIMIT), dtype=np.float32)


def _head(images: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where the head is: Otsu's threshold on the smoothed slices; everything where there is nothing to separate."""
    from skimage.filters import threshold_otsu  # noqa: PLC0415  half a second that only this needs

    smooth = ndimage.gaussian_filter(images, sigma=(0, 2, 2))
    mask: NDArray[np.bool_] = smooth > threshold_otsu(smooth)
    return mask if mask.any() else np.ones(images.shape, dtype=bool)
