"""EDSR: residual blocks without normalisation at low resolution, then sub-pixel upsampling.

Lim et al. 2017 (arXiv:1707.02921); the upsampling is Shi et al. 2016 (arXiv:1609.05158).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.imaging.networks.blocks import bicubic, doublings, zero_start


class ResidualBlock(nn.Module):
    """``x + conv(relu(conv(x)))``, without normalisation: the absolute intensity matters here."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape ``[n, width, h, w]``."""
        result: Tensor = x + self.second(torch.relu(self.first(x)))
        return result


class EDSR(nn.Module):
    """The generator for super-resolution: what it learns is added to bicubic interpolation.

    Args:
        factor: How many times finer, a power of two; each doubling is a stage of its own.
        width: Channels of the body.
        blocks: Number of residual blocks.
    """

    def __init__(self, factor: int = 2, width: int = 32, blocks: int = 6) -> None:
        super().__init__()
        self.factor = factor
        self.lift = nn.Conv2d(1, width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.expand = nn.Conv2d(width, 4 * width, 3, padding=1)
        more = range(doublings(factor) - 1)
        self.further = nn.ModuleList(nn.Conv2d(width, 4 * width, 3, padding=1) for _ in more)
        self.head = zero_start(nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """``[n, 1, h, w]`` to ``[n, 1, factor h, factor w]``."""
        h = F.pixel_shuffle(self.expand(self.body(self.lift(x))), 2)
        for stage in self.further:
            h = F.pixel_shuffle(stage(h), 2)
        result: Tensor = bicubic(x, self.factor) + self.head(torch.relu(h))
        return result
