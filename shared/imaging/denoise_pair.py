"""Denoising of a slice that is given with another contrast of the same place: anatomy is shared, noise is not."""

from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray

from shared.imaging.denoise import PATCH, Denoise
from shared.imaging.images import PatientImages, StudyImages
from shared.imaging.networks import UNet
from shared.imaging.patches import draw_windows, eligible_studies, stacked
from shared.imaging.tasks import Batch, Networks, register


@register
class DenoisePair(Denoise):
    """As :class:`~shared.imaging.denoise.Denoise`, with the second contrast as another channel."""

    name = "denoise_pair"
    title = "Denoising with a second contrast"
    modalities = frozenset({"MR"})
    networks: Networks = MappingProxyType({"unet": lambda: UNet(1, (16, 32, 64), residual=True, inputs=2)})

    def eligible(self, study: StudyImages) -> bool:
        """MR studies with both series and a second contrast."""
        return super().eligible(study) and study.second is not None

    def draw(self, patient: PatientImages, count: int, rng: np.random.Generator) -> Batch:
        """Patches of both contrasts ``[count, 2, 48, 48]`` and of the reference ``[count, 1, 48, 48]``."""
        studies = eligible_studies(self, patient)
        windows = draw_windows([study.noisy.shape for study in studies], count, PATCH, rng)
        stacks = (
            [study.noisy for study in studies],
            [second_of(study) for study in studies],
            [study.reference for study in studies],
        )
        noisy, second, reference = (torch.from_numpy(stacked(windows, one, PATCH)) for one in stacks)
        return torch.stack([noisy, second], dim=1), reference[:, None]

    def inputs(self, study: StudyImages) -> NDArray[np.float32]:
        """Each noisy slice and the second contrast, ``[n, 2, h, w]``."""
        return np.stack([study.noisy, second_of(study)], axis=1)

    def shown(self, study: StudyImages) -> NDArray[np.float32]:
        """The noisy series."""
        return study.noisy


def second_of(study: StudyImages) -> NDArray[np.float32]:
    """The second contrast, ``[n, h, w]``.

    Raises:
        ValueError: There is none; ask for eligibility first.
    """
    if study.second is None:
        raise ValueError("a study without a second contrast has no pair")
    return study.second
