"""Denoising: the reference image from a fast (MR) or low-dose (CT) one."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.imaging import classical_denoise, inference
from shared.imaging.images import PatientImages, StudyImages
from shared.imaging.metrics import IMAGE_SUMS, Sums, image_sums
from shared.imaging.networks import DnCNN, Restormer, UNet
from shared.imaging.patches import draw_windows, eligible_studies, stacked
from shared.imaging.tasks import Batch, Method, Networks, OneLoss, register

PATCH = 48


@register
class Denoise(OneLoss):
    """A network that starts as the identity, under the L1 loss (Zhao et al. 2017: sharper than L2)."""

    name = "denoise"
    title = "Denoising"
    modalities = frozenset({"MR", "CT"})
    main_metric = "psnr"
    sums: tuple[str, ...] = IMAGE_SUMS
    networks: Networks = MappingProxyType(
        {"unet": lambda: UNet(1, (16, 32, 64), residual=True), "dncnn": DnCNN, "restormer": Restormer}
    )

    def eligible(self, study: StudyImages) -> bool:
        """MR or CT studies with both series."""
        return study.modality in self.modalities and study.paired

    def draw(self, patient: PatientImages, count: int, rng: np.random.Generator) -> Batch:
        """Noisy and reference patches, ``[count, 1, 48, 48]`` each."""
        studies = eligible_studies(self, patient)
        windows = draw_windows([study.noisy.shape for study in studies], count, PATCH, rng)
        noisy = stacked(windows, [study.noisy for study in studies], PATCH)
        reference = stacked(windows, [study.reference for study in studies], PATCH)
        return torch.from_numpy(noisy)[:, None], torch.from_numpy(reference)[:, None]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean absolute error."""
        return F.l1_loss(outputs, targets)

    def inputs(self, study: StudyImages) -> NDArray[np.float32]:
        """The noisy series."""
        return study.noisy

    def predict(self, network: nn.Module, study: StudyImages) -> NDArray[np.float32]:
        """Denoised slices in [0, 1]."""
        return self.finished(inference.run(network, self.inputs(study)), study.noisy, study.modality)

    def finished(self, outputs: NDArray[np.float32], noisy: NDArray[np.float32], modality: str) -> NDArray[np.float32]:
        """Images in [0, 1] of a network's outputs.

        Args:
            outputs: ``[n, 1, h, w]``.
            noisy: The same slices as they were acquired, ``[n, h, w]``.
            modality: ``MR`` or ``CT``.
        """
        del noisy, modality
        return np.clip(outputs[:, 0], 0.0, 1.0)

    def truth(self, study: StudyImages) -> NDArray[np.float32]:
        """The reference series."""
        return study.reference

    def score(self, predictions: NDArray[np.float32], study: StudyImages) -> Sums:
        """Sums of MSE, PSNR and SSIM."""
        return image_sums(predictions, self.truth(study))

    def classical(self) -> Mapping[str, Method]:
        """Filters on the noisy series."""
        return classical_denoise.METHODS
