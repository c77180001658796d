"""Masked pretraining: fill in what was hidden of an image that nobody labelled, so that its body learns anatomy first.

Context encoders (Pathak et al. 2016, arXiv:1604.07379) fill in a hole, masked autoencoders (He et al. 2022,
arXiv:2111.06377) many patches. The network is the U-Net of the segmentation but for its last layer, on the same
standardised intensities: a charter of that task may start from a release of this one (docs/sequences.md).
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.imaging import classical_masked, inference
from shared.imaging.hiding import hidden, hidden_of, unit
from shared.imaging.images import PatientImages, StudyImages
from shared.imaging.metrics import IMAGE_SUMS, Sums, image_sums
from shared.imaging.networks import UNet
from shared.imaging.patches import draw_windows, eligible_studies, stacked
from shared.imaging.segment import PATCH, standardised
from shared.imaging.tasks import Batch, Method, Networks, OneLoss, register


@register
class Masked(OneLoss):
    """The squared error where the image was hidden; what was visible does not count."""

    name = "masked"
    title = "Masked pretraining"
    modalities = frozenset({"MR", "CT"})
    main_metric = "psnr"
    sums: tuple[str, ...] = IMAGE_SUMS
    networks: Networks = MappingProxyType({"unet": lambda: UNet(1, (8, 16, 32, 64))})

    def eligible(self, study: StudyImages) -> bool:
        """Any MR or CT study: neither labels nor a reference are needed."""
        return study.modality in self.modalities

    def draw(self, patient: PatientImages, count: int, rng: np.random.Generator) -> Batch:
        """Patches ``[count, 1, 96, 96]`` with cells set to 0; ``[count, 2, 96, 96]``: the whole, and 1 where hidden.

        Every patch has as many cells hidden as the next one.
        """
        images = [standardised(study) for study in eligible_studies(self, patient)]
        windows = draw_windows([stack.shape for stack in images], count, PATCH, rng, turns=2)
        whole = stacked(windows, images, PATCH)
        blank = np.stack([hidden(PATCH, PATCH, rng) for _ in windows])
        inputs = np.where(blank, np.float32(0), whole)
        targets = np.stack([whole, blank.astype(np.float32)], axis=1)
        return torch.from_numpy(inputs)[:, None], torch.from_numpy(targets)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error over what was hidden in each row, then over the rows."""
        whole, blank = targets[:, :1], targets[:, 1:]
        error = (outputs - whole).square() * blank
        return (error.sum(dim=(1, 2, 3)) / blank.sum(dim=(1, 2, 3)).clamp_min(1)).mean()

    def inputs(self, study: StudyImages) -> NDArray[np.float32]:
        """Standardised slices with cells set to 0: the same ones in every run."""
        return np.where(hidden_of(study), np.float32(0), standardised(study))

    def shown(self, study: StudyImages) -> NDArray[np.float32]:
        """The same in [0, 1]."""
        return unit(self.inputs(study))

    def predict(self, network: nn.Module, study: StudyImages) -> NDArray[np.float32]:
        """Slices in [0, 1], what was hidden filled in."""
        filled = inference.run(network, self.inputs(study))[:, 0]
        return np.where(hidden_of(study), unit(filled), self.truth(study))

    def truth(self, study: StudyImages) -> NDArray[np.float32]:
        """The standardised slices in [0, 1], where 0.5 is the median of the head."""
        return unit(standardised(study))

    def score(self, predictions: NDArray[np.float32], study: StudyImages) -> Sums:
        """Sums of MSE, PSNR and SSIM over whole slices."""
        return image_sums(predictions, self.truth(study))

    def classical(self) -> Mapping[str, Method]:
        """What is hidden left as it is, and interpolated from around it."""
        return classical_masked.METHODS
