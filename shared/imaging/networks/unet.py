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
        inputs: Channels of the input; of more than one the first is what the result is compared with.
    """

    def __init__(
        self, outputs: int = 1, widths: tuple[int, ...] = (16, 32, 64), *, residual: bool = False, inputs: int = 1
    ) -> None:
        super().__init__()
        self.residual = residual
        self.stride = 2 ** (len(widths) - 1)
        finer, coarser = widths[:-1], widths[1:]
        self.encode = nn.ModuleList(DoubleConv(i, o) for i, o in zip((inputs, *finer), widths, strict=True))
        self.narrow = nn.ModuleList(nn.Conv2d(c, f, 1) for f, c in zip(finer, coarser, strict=True))
        self.decode = nn.ModuleList(DoubleConv(2 * f, f) for f in finer)
        self.head = nn.Conv2d(widths[0], outputs, 1)
        if residual:
            zero_start(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, inputs, h, w]`` to ``[n, outputs, h, w]``."""
        result: Tensor = self.head(self.decoded(x)[-1])
        if not self.residual:
            return result
        return (x if x.shape[1] == 1 else x[:, :1]) - result

    def decoded(self, x: Tensor) -> list[Tensor]:
        """What the decoder makes at each of its scales, coarsest first; the last is ``[n, widths[0], h, w]``."""
        h, skips, made = self.encode[0](x), [], []
        for block in self.encode[1:]:
            skips.append(h)
            h = block(F.max_pool2d(h, 2))
        for narrow, block, skip in zip(reversed(self.narrow), reversed(self.decode), reversed(skips), strict=True):
            up = F.interpolate(narrow(h), scale_factor=2.0, mode="nearest")
            h = block(torch.cat([up, skip], dim=1))
            made.append(h)
        return made


class DeepUNet(UNet):
    """A U-Net whose decoder gives an answer at each of its scales, so that all of them are told directly what to do.

    Deep supervision: Lee et al. 2015 (arXiv:1409.5185); of a U-Net as in nnU-Net (Isensee et al. 2021). Whoever applies
    the network gets the finest answer, and the others are not computed.

    Args:
        outputs: Number of classes.
        widths: As of :class:`UNet`, three at least.
    """

    def __init__(self, outputs: int, widths: tuple[int, ...] = (8, 16, 32, 64)) -> None:
        super().__init__(outputs, widths)
        self.score = nn.ModuleList(nn.Conv2d(width, outputs, 1) for width in widths[1:-1])

    def scales(self, x: Tensor) -> tuple[Tensor, ...]:
        """``[n, 1, h, w]`` to ``[n, outputs, h / 2**k, w / 2**k]`` for k = 0, 1, ...: the finest first."""
        *coarser, finest = self.decoded(x)
        return (self.head(finest), *(score(h) for score, h in zip(self.score, reversed(coarser), strict=True)))
