"""Segmentation from two contrasts of the same place: tissues that look alike in one may differ in the other."""

from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray

from shared.imaging.denoise_pair import second_of
from shared.imaging.images import PatientImages, StudyImages
from shared.imaging.memo import once_per_study
from shared.imaging.networks import UNet
from shared.imaging.patches import draw_windows, eligible_studies, stacked
from shared.imaging.segment import CLASSES, PATCH, Segment, standard_scale, standardised
from shared.imaging.tasks import Batch, Networks, register


@register
class SegmentPair(Segment):
    """As :class:`~shared.imaging.segment.Segment`, with the second contrast as another channel."""

    name = "segment_pair"
    title = "Tissue segmentation with a second contrast"
    networks: Networks = MappingProxyType({"unet": lambda: UNet(len(CLASSES), (8, 16, 32, 64), inputs=2)})

    def eligible(self, study: StudyImages) -> bool:
        """MR studies that somebody segmented, with a second contrast."""
        return super().eligible(study) and study.second is not None

    def draw(self, patient: PatientImages, count: int, rng: np.random.Generator) -> Batch:
        """Standardised patches of both contrasts ``[count, 2, 96, 96]`` and their classes, int64 ``[count, 96, 96]``.

        Gain and offset vary for each contrast by itself: each has its own scan.
        """
        studies = eligible_studies(self, patient)
        windows = draw_windows([study.noisy.shape for study in studies], count, PATCH, rng, turns=2)
        stacks = ([standardised(study) for study in studies], [_second(study) for study in studies])
        inputs = np.stack([stacked(windows, one, PATCH) for one in stacks], axis=1)
        gain = rng.uniform(0.8, 1.2, size=(count, 2, 1, 1)).astype(np.float32)
        offset = rng.uniform(-0.2, 0.2, size=(count, 2, 1, 1)).astype(np.float32)
        targets = stacked(windows, [self.truth(study) for study in studies], PATCH)
        return torch.from_numpy(inputs * gain + offset), torch.from_numpy(targets.astype(np.int64))

    def inputs(self, study: StudyImages) -> NDArray[np.float32]:
        """Both contrasts, each standardised by itself, ``[n, 2, h, w]``."""
        return np.stack([standardised(study), _second(study)], axis=1)

    def shown(self, study: StudyImages) -> NDArray[np.float32]:
        """The standardised noisy series."""
        return standardised(study)


@once_per_study
def _second(study: StudyImages) -> NDArray[np.float32]:
    return standard_scale(second_of(study))
