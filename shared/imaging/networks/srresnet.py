"""SRResNet: normalised residual blocks inside one long skip, wide filters at both ends (Ledig et al. 2017).

arXiv:1609.04802. As in the paper but for GroupNorm in the place of BatchNorm, and that what it learns is added to
bicubic interpolation.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from shared.imaging.networks.blocks import bicubic, doublings, group_norm, zero_start


class NormalisedBlock(nn.Module):
    """``x + norm(conv(prelu(norm(conv(x)))))``, with GroupNorm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.first_norm = group_norm(width)
        self.slope = nn.PReLU()
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.second_norm = group_norm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape ``[n, width, h, w]``."""
        h = self.slope(self.first_norm(self.first(x)))
        result: Tensor = x + self.second_norm(self.second(h))
        return result


class SRResNet(nn.Module):
    """A small SRResNet.

    Args:
        factor: How many times finer, a power of two; each doubling is a stage of its own.
        width: Channels of the body.
        blocks: Number of residual blocks.
    """

    def __init__(self, factor: int = 2, width: int = 32, blocks: int = 4) -> None:
        super().__init__()
        self.factor = factor
        stages = range(doublings(factor))
        self.lift = nn.Conv2d(1, width, 9, padding=4)
        self.lift_slope = nn.PReLU()
        self.body = nn.Sequential(*(NormalisedBlock(width) for _ in range(blocks)))
        self.merge = nn.Conv2d(width, width, 3, padding=1)
        self.merge_norm = group_norm(width)
        self.expand = nn.ModuleList(nn.Conv2d(width, 4 * width, 3, padding=1) for _ in stages)
        self.slopes = nn.ModuleList(nn.PReLU() for _ in stages)
        self.head = zero_start(nn.Conv2d(width, 1, 9, padding=4))

    def forward(self, x: Tensor) -> Tensor:
        """``[n, 1, h, w]`` to ``[n, 1, factor h, factor w]``."""
        lifted = self.lift_slope(self.lift(x))
        h = lifted + self.merge_norm(self.merge(self.body(lifted)))
        for stage, slope in zip(self.expand, self.slopes, strict=True):
            h = slope(F.pixel_shuffle(stage(h), 2))
        result: Tensor = bicubic(x, self.factor) + self.head(h)
        return result
