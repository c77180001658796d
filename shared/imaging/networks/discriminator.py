"""A discriminator: tells references from what a generator made.

Ledig et al. 2017 (arXiv:1609.04802) judge super-resolved images by such a network. This one scores overlapping patches
(Isola et al. 2017, arXiv:1611.07004) and averages them, so that it takes images of any size and has few parameters.
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from shared.imaging.networks.blocks import group_norm

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
    """A generator and the discriminator that it trains against; for whoever applies it, the generator alone.

    Args:
        generator: Makes images ``[n, 1, h, w]``, for example a fresh :class:`EDSR`.
    """

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator
        self.discriminator = Discriminator()

    def forward(self, x: Tensor) -> Tensor:
        """The generator's images."""
        images: Tensor = self.generator(x)
        return images

    def judged(self, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """What the generator pays for images that are told apart, and the discriminator for those that are not.

        Scalars, means over rows that do not know of each other: the cross-entropies of log odds s with the answers
        "reference", softplus(-s), and "made", softplus(s). The second depends on the discriminator alone.

        Args:
            fake: The generator's images ``[n, 1, h, w]``.
            real: The references of the same rows.
        """
        fools = F.softplus(-self._odds(fake)).mean()
        told_apart = F.softplus(-self._odds(real)).mean() + F.softplus(self._odds(fake.detach())).mean()
        return fools, told_apart

    def _odds(self, images: Tensor) -> Tensor:
        """Log odds ``[n]`` in float32: autocast's own would round what the losses live on."""
        scores: Tensor = self.discriminator(images).float()
        return scores


class RelativisticPair(AdversarialPair):
    """Adversaries about which of two images is the reference (RSGAN: Jolicoeur-Martineau 2018, arXiv:1807.00734).

    ESRGAN compares with the mean score of the batch instead, which would couple its rows. Here the two are always the
    reference and the made image of one row.
    """

    def judged(self, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`AdversarialPair.judged`, of the odds that the one is more of a reference than the other."""
        truth = self._odds(real)
        fools = F.softplus(truth.detach() - self._odds(fake)).mean()
        told_apart = F.softplus(self._odds(fake.detach()) - truth).mean()
        return fools, told_apart
