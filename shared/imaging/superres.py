"""Super-resolution by two: the reference image from a quarter of its k-space; by other factors in its subclasses."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.imaging import classical_superres, inference
from shared.imaging.images import PatientImages, StudyImages
from shared.imaging.lowres import low_resolution
from shared.imaging.metrics import IMAGE_SUMS, Sums, image_sums
from shared.imaging.networks import EDSR, SRResNet
from shared.imaging.patches import draw_windows, eligible_studies, stacked
from shared.imaging.tasks import Batch, Method, Networks, OneLoss, register


@register
class SuperResolution(OneLoss):
    """A generator that starts as bicubic interpolation, under the L1 loss (Lim et al. 2017).

    Attributes:
        factor: Pixels of the result to one of the input, along rows and columns.
        patch: Edge of a training patch of the input, pixels.
    """

    name = "superres"
    title = "Super-resolution ×2"
    modalities = frozenset({"MR"})
    main_metric = "psnr"
    sums: tuple[str, ...] = IMAGE_SUMS
    networks: Networks = MappingProxyType({"edsr": EDSR, "srresnet": SRResNet})
    factor: int = 2
    patch: int = 24

    def eligible(self, study: StudyImages) -> bool:
        """MR with a reference only: k-space truncation is not how CT loses resolution."""
        return study.modality in self.modalities and study.paired

    def draw(self, patient: PatientImages, count: int, rng: np.random.Generator) -> Batch:
        """Patches of low resolution, ``[count, 1, patch, patch]``, and of full resolution, ``factor`` times as wide."""
        studies = eligible_studies(self, patient)
        small = [low_resolution(study, self.factor) for study in studies]
        windows = draw_windows([images.shape for images in small], count, self.patch, rng)
        inputs = stacked(windows, small, self.patch)
        targets = stacked(windows, [study.reference for study in studies], self.patch, self.factor)
        return torch.from_numpy(inputs)[:, None], torch.from_numpy(targets)[:, None]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean absolute error: the content loss."""
        return F.l1_loss(outputs, targets)

    def inputs(self, study: StudyImages) -> NDArray[np.float32]:
        """The low-resolution images ``[n, ceil(h / factor), ceil(w / factor)]``."""
        return low_resolution(study, self.factor)

    def predict(self, network: nn.Module, study: StudyImages) -> NDArray[np.float32]:
        """Slices at full resolution, in [0, 1]."""
        _, height, width = study.reference.shape
        images = inference.run(network, self.inputs(study), scale=self.factor)[:, 0, :height, :width]
        return np.clip(images, 0.0, 1.0)

    def truth(self, study: StudyImages) -> NDArray[np.float32]:
        """The reference series."""
        return study.reference

    def score(self, predictions: NDArray[np.float32], study: StudyImages) -> Sums:
        """Sums of MSE, PSNR and SSIM."""
        return image_sums(predictions, self.truth(study))

    def classical(self) -> Mapping[str, Method]:
        """Interpolations of the low-resolution images."""
        return classical_superres.methods(self.factor)
