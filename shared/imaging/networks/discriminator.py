"""A discriminator: tells references from what a generator made.

Ledig et al. 2017 (arXiv:1609.04802) judge super-resolved images by such a network. This one scores overlapping patches
(Isola et al. 2017, arXiv:1611.07004) and averages them, so that it takes images of any size and has few parameters.
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from shared.imaging.networks.blocks import group_norm
from shared.imaging.networks.edsr import EDSR

_SLOPE = 0.2


class Discriminator(nn.Module):
    """Strided convolutions 4x4 with GroupNorm but in the first, LeakyReLU, a score per patch, their mean.

    Args:
        widths: Channels after each halving of the image.
    """

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64)) -> None:
        super().__init__()
        self.body = nn.ModuleList(nn.Conv2d(i, o, 4, stride=2, padding=1) for i, o in pairwise((1, *widths)))
        self.norms = nn.ModuleList([nn.Identity(), *(group_norm(width) for width in widths[1:])])
        self.head = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, 1, h, w]`` to log odds ``[n]`` that an image is a reference; sides of at least 8 pixels."""
        for layer, norm in zip(self.body, self.norms, strict=True):
            x = F.leaky_relu(norm(layer(x)), _SLOPE)
        scores: Tensor = self.head(x).mean(dim=(1, 2, 3))
        return scores


class AdversarialPair(nn.Module):
    """A generator and the discriminator that it trains against; for whoever applies it, the generator alone."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = EDSR()
        self.discriminator = Discriminator()

    def forward(self, x: Tensor) -> Tensor:
        """The generator's images: ``[n, 1, h, w]`` to ``[n, 1, 2h, 2w]``."""
        images: Tensor = self.generator(x)
        return images
