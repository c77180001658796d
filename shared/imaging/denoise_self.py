"""Denoising without a clean target: what a hospital can train that has one noisy series and no reference.

Neighbor2Neighbor (Huang et al. 2021, arXiv:2101.02824): of each cell of 2x2 pixels two neighbours are drawn, which
makes two small images of the same anatomy. A network that is to tell one from the other can learn all of it but the
noise, as long as the noise of neighbouring pixels is independent and has mean zero. What that means here:

- The noise of MR magnitudes is Rician and has no mean of zero: dark tissue and air come out too bright. It is corrected
  afterwards, as for non-local means (:func:`~shared.imaging.classical_denoise.remove_rician_bias`).
- Noise of neighbours that is alike is learnt as anatomy and stays. In MR k-space that is not filled to the edge does
  that, in CT the reconstruction kernel. docs/sequences.md has what it costs, and what was tried instead.
"""

from types import MappingProxyType
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from shared.imaging.classical_denoise import background_sigma, remove_rician_bias
from shared.imaging.denoise import PATCH, Denoise
from shared.imaging.images import PatientImages, StudyImages
from shared.imaging.metrics import Sums
from shared.imaging.networks import DnCNN, UNet
from shared.imaging.patches import draw_windows, eligible_studies, stacked
from shared.imaging.tasks import Batch, Networks, register

_PAIRS: Final = np.array([(0, 1), (1, 0), (0, 2), (2, 0), (1, 3), (3, 1), (2, 3), (3, 2)])
"""Pixels of a cell, numbered 0 1 over 2 3, that have an edge in common."""


@register
class DenoiseSelf(Denoise):
    """The small image of one draw of neighbours from that of the other, under the squared error.

    The squared error, since its best answer is the mean, which the noise leaves alone; the median it does not.
    """

    name = "denoise_self"
    title = "Denoising without references"
    networks: Networks = MappingProxyType({"unet": lambda: UNet(1, (16, 32, 64), residual=True), "dncnn": DnCNN})

    def eligible(self, study: StudyImages) -> bool:
        """Any MR or CT study, with a reference or without."""
        return study.modality in self.modalities

    def judged(self, study: StudyImages) -> bool:
        """Where there is a reference."""
        return study.paired

    def draw(self, patient: PatientImages, count: int, rng: np.random.Generator) -> Batch:
        """Two draws of neighbours out of noisy windows of 96 pixels, ``[count, 1, 48, 48]`` each."""
        noisy = [study.noisy for study in eligible_studies(self, patient)]
        windows = draw_windows([stack.shape for stack in noisy], count, 2 * PATCH, rng)
        cells = stacked(windows, noisy, 2 * PATCH).reshape(count, PATCH, 2, PATCH, 2)
        pixels = cells.transpose(0, 1, 3, 2, 4).reshape(count, PATCH, PATCH, 4)
        drawn = _PAIRS[rng.integers(len(_PAIRS), size=(count, PATCH, PATCH))]
        pair = np.take_along_axis(pixels, drawn, axis=-1)
        return torch.from_numpy(pair[..., 0].copy())[:, None], torch.from_numpy(pair[..., 1].copy())[:, None]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error."""
        return F.mse_loss(outputs, targets)

    def finished(self, outputs: NDArray[np.float32], noisy: NDArray[np.float32], modality: str) -> NDArray[np.float32]:
        """As :meth:`Denoise.finished`; of MR the bias of the noise is removed, whose level is seen in the air."""
        images = super().finished(outputs, noisy, modality)
        if modality != "MR":
            return images
        pairs = zip(images, noisy, strict=True)
        return np.stack([remove_rician_bias(image, background_sigma(source)) for image, source in pairs])

    def score(self, predictions: NDArray[np.float32], study: StudyImages) -> Sums:
        """As :meth:`Denoise.score`; zero where there is no reference."""
        return super().score(predictions, study) if study.paired else Sums(dict.fromkeys(self.sums, 0.0))
