"""Denoising of a slice from itself and its neighbours: noise differs from slice to slice, anatomy does less."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from shared.imaging import classical_volume
from shared.imaging.denoise import PATCH, Denoise
from shared.imaging.images import PatientImages, StudyImages
from shared.imaging.networks import ConvGRU, UNet25D
from shared.imaging.patches import draw_windows, eligible_studies, stacked
from shared.imaging.tasks import Batch, Method, Networks, register

REACH: Final = 2
"""So many slices on either side are given; beyond the ends of a series its last slice is repeated."""
SLICES: Final = 2 * REACH + 1


@register
class DenoiseVolume(Denoise):
    """As :class:`~shared.imaging.denoise.Denoise`, of the slice in the middle of five."""

    name = "denoise_volume"
    title = "Denoising with neighbouring slices"
    networks: Networks = MappingProxyType(
        {
            "unet25d": UNet25D,
            "unet25d_5": lambda: UNet25D(5),
            "convgru": ConvGRU,
            "convgru_causal": lambda: ConvGRU(causal=True),
        }
    )

    def draw(self, patient: PatientImages, count: int, rng: np.random.Generator) -> Batch:
        """Noisy patches ``[count, 5, 48, 48]`` and the reference of their middle ``[count, 1, 48, 48]``."""
        studies = eligible_studies(self, patient)
        windows = draw_windows([study.noisy.shape for study in studies], count, PATCH, rng)
        noisy = [study.noisy for study in studies]
        shifted = (
            [replace(one, index=min(max(one.index + step, 0), len(noisy[one.stack]) - 1)) for one in windows]
            for step in range(-REACH, REACH + 1)
        )
        inputs = np.stack([stacked(part, noisy, PATCH) for part in shifted], axis=1)
        targets = stacked(windows, [self.truth(study) for study in studies], PATCH)
        return torch.from_numpy(inputs), torch.from_numpy(targets)[:, None]

    def inputs(self, study: StudyImages) -> NDArray[np.float32]:
        """Each noisy slice between its neighbours, ``[n, 5, h, w]``: a view, which takes no memory."""
        return neighbours(study.noisy)

    def shown(self, study: StudyImages) -> NDArray[np.float32]:
        """The noisy series."""
        return study.noisy

    def classical(self) -> Mapping[str, Method]:
        """Filters of slices, and those of volumes, which see the same neighbours."""
        return {**super().classical(), **classical_volume.METHODS}


def reach(network: nn.Module) -> tuple[int, int]:
    """How many slices before and after the one in the middle a network of this task looks at."""
    if isinstance(network, UNet25D):
        return network.slices // 2, network.slices // 2
    return REACH, 0 if isinstance(network, ConvGRU) and network.causal else REACH


def neighbours(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each slice of ``[n, h, w]`` with two on either side, the last one repeated: a read-only view ``[n, 5, h, w]``."""
    padded = np.pad(images, ((REACH, REACH), (0, 0), (0, 0)), mode="edge")
    return np.moveaxis(np.lib.stride_tricks.sliding_window_view(padded, SLICES, axis=0), -1, 1)
