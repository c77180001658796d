"""U-Net: an encoder and a decoder with skips at every scale (Ronneberger, Fischer and Brox 2015, arXiv:1505.04597)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.imaging.networks.blocks import DoubleConv, zero_start


class UNet(nn.Module):
    """A small U-Net with GroupNorm.

    Args:
        outputs: Channels of the result: classes, or 1 for an image.
        widths: Channels at each scale; each scale halves height and width. Both must be multiples of ``stride``.
        residual: Predict what is to be taken away from the input (Zhang et al. 2017, arXiv:1608.03981);
            the last layer then starts at zero, so that the untrained network returns its input.
    """

    def __init__(self, outputs: int = 1, widths: tuple[int, ...] = (16, 32, 64), *, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        self.stride = 2 ** (len(widths) - 1)
        finer, coarser = widths[:-1], widths[1:]
        self.encode = nn.ModuleList(DoubleConv(i, o) for i, o in zip((1, *finer), widths, strict=True))
        self.narrow = nn.ModuleList(nn.Conv2d(c, f, 1) for f, c in zip(finer, coarser, strict=True))
        self.decode = nn.ModuleList(DoubleConv(2 * f, f) for f in finer)
        self.head = nn.Conv2d(widths[0], outputs, 1)
        if residual:
            zero_start(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, 1, h, w]`` to ``[n, outputs, h, w]``."""
        h, skips = self.encode[0](x), []
        for block in self.encode[1:]:
            skips.append(h)
            h = block(F.max_pool2d(h, 2))
        for narrow, block, skip in zip(reversed(self.narrow), reversed(self.decode), reversed(skips), strict=True):
            up = F.interpolate(narrow(h), scale_factor=2.0, mode="nearest")
            h = block(torch.cat([up, skip], dim=1))
        result: Tensor = self.head(h)
        return x - result if self.residual else result
