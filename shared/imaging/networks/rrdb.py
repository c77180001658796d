"""Residual blocks of residual dense blocks, without normalisation: ESRGAN's generator (Wang et al. 2018).

arXiv:1809.00219. Smaller than the paper's, and what it learns is added to bicubic interpolation.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.imaging.networks.blocks import bicubic, doublings, zero_start

_SLOPE, _SHARE = 0.2, 0.2  # of LeakyReLU, and of what a block adds


class DenseBlock(nn.Module):
    """Convolutions of which each sees the input and all that the earlier ones made; a fifth of the last is added.

    Args:
        width: Channels of input and output.
        growth: Channels that each convolution adds.
        depth: Number of convolutions.
    """

    def __init__(self, width: int, growth: int, depth: int = 5) -> None:
        super().__init__()
        outputs = (*[growth] * (depth - 1), width)
        self.layers = nn.ModuleList(
            nn.Conv2d(width + index * growth, out, 3, padding=1) for index, out in enumerate(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape ``[n, width, h, w]``."""
        seen = x
        for layer in self.layers[:-1]:
            seen = torch.cat([seen, F.leaky_relu(layer(seen), _SLOPE)], dim=1)
        result: Tensor = x + _SHARE * self.layers[-1](seen)
        return result


class NestedBlock(nn.Module):
    """Three dense blocks in a row, a fifth of which is added ("RRDB")."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(DenseBlock(width, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape ``[n, width, h, w]``."""
        result: Tensor = x + _SHARE * self.blocks(x)
        return result


class RRDBNet(nn.Module):
    """A small generator of ESRGAN.

    Args:
        factor: How many times finer, a power of two; each doubling is a stage of its own.
        width: Channels of the body.
        growth: Channels that a convolution inside a dense block adds.
        blocks: Number of nested blocks.
    """

    def __init__(self, factor: int = 2, width: int = 24, growth: int = 8, blocks: int = 2) -> None:
        super().__init__()
        self.factor = factor
        self.lift = nn.Conv2d(1, width, 3, padding=1)
        self.body = nn.Sequential(*(NestedBlock(width, growth) for _ in range(blocks)))
        self.merge = nn.Conv2d(width, width, 3, padding=1)
        self.expand = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(doublings(factor)))
        self.head = zero_start(nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """``[n, 1, h, w]`` to ``[n, 1, factor h, factor w]``."""
        lifted = self.lift(x)
        h = lifted + self.merge(self.body(lifted))
        for stage in self.expand:
            h = F.leaky_relu(stage(F.interpolate(h, scale_factor=2.0, mode="nearest")), _SLOPE)
        result: Tensor = bicubic(x, self.factor) + self.head(h)
        return result
