"""FCN: class scores at several scales, upsampled and summed (Long, Shelhamer and Darrell 2015, arXiv:1411.4038)."""

import torch.nn.functional as F
from torch import Tensor, nn

from shared.imaging.networks.blocks import DoubleConv


class FCN(nn.Module):
    """A small fully convolutional network without a decoder, with GroupNorm.

    Args:
        outputs: Number of classes.
        widths: Channels at each scale; each scale halves height and width. Both must be multiples of ``stride``.
    """

    def __init__(self, outputs: int, widths: tuple[int, ...] = (8, 16, 32, 64)) -> None:
        super().__init__()
        self.stride = 2 ** (len(widths) - 1)
        self.encode = nn.ModuleList(DoubleConv(i, o) for i, o in zip((1, *widths[:-1]), widths, strict=True))
        self.score = nn.ModuleList(nn.Conv2d(width, outputs, 1) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, 1, h, w]`` to ``[n, outputs, h, w]``."""
        h = self.encode[0](x)
        total: Tensor = self.score[0](h)
        for block, score in zip(self.encode[1:], self.score[1:], strict=True):
            h = block(F.max_pool2d(h, 2))
            total = total + F.interpolate(score(h), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return total
