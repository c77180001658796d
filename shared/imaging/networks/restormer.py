"""A light transformer for denoising whose attention is between channels (Zamir et al. 2022, arXiv:2111.09881).

Attention between pixels costs the square of their number. Here each channel looks at all others, over the whole image
at once, so that the cost grows with the image alone and images of any size go through.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.imaging.networks.blocks import zero_start


class ChannelNorm(nn.Module):
    """Layer normalisation (Ba, Kiros and Hinton 2016) over the channels of each pixel, with gain and offset."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape ``[n, channels, h, w]``."""
        variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
        gain, offset = (part[:, None, None] for part in (self.weight, self.bias))
        return (x - mean) * torch.rsqrt(variance + 1e-5) * gain + offset


class TransposedAttention(nn.Module):
    """Attention between channels ("MDTA"): queries and keys are whole channels, compared by their cosine.

    Args:
        channels: Of input and output.
        heads: Groups of channels that attend among themselves.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(heads))
        self.project = nn.Conv2d(channels, 3 * channels, 1)
        self.local = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels)
        self.merge = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape ``[n, channels, h, w]``."""
        count, channels, height, width = x.shape
        heads = len(self.temperature)
        parts = self.local(self.project(x)).view(count, 3, heads, channels // heads, height * width)
        query, key = (F.normalize(parts[:, which], dim=-1) for which in (0, 1))
        alike = (query @ key.transpose(-2, -1)) * self.temperature[:, None, None]
        mixed = alike.softmax(dim=-1) @ parts[:, 2]
        result: Tensor = self.merge(mixed.reshape(x.shape))
        return result


class GatedForward(nn.Module):
    """Two paths of which one, through GELU, is the gate of the other ("GDFN").

    Args:
        channels: Of input and output.
        hidden: Of each path.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, 2 * hidden, 1)
        self.local = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden)
        self.merge = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape ``[n, channels, h, w]``."""
        gate, path = self.local(self.project(x)).chunk(2, dim=1)
        result: Tensor = self.merge(F.gelu(gate) * path)
        return result


class TransformerBlock(nn.Module):
    """Attention, then the gated layers, each of what is normalised, and added: ``[n, channels, h, w]`` to the same."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = ChannelNorm(channels)
        self.attention = TransposedAttention(channels, heads)
        self.forward_norm = ChannelNorm(channels)
        self.gated = GatedForward(channels, 2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both."""
        x = x + self.attention(self.attention_norm(x))
        result: Tensor = x + self.gated(self.forward_norm(x))
        return result


class Restormer(nn.Module):
    """A small Restormer; like the other denoisers it starts as the identity.

    Args:
        widths: Channels at each scale, multiples of 16 and coarsest last; each scale halves height and width.
        blocks: Transformer blocks at each scale, on the way down as on the way up.
    """

    def __init__(self, widths: tuple[int, ...] = (16, 32, 48), blocks: tuple[int, ...] = (1, 1, 2)) -> None:
        super().__init__()
        finer, coarser = widths[:-1], widths[1:]
        self.lift = nn.Conv2d(1, widths[0], 3, padding=1)
        self.encode = nn.ModuleList(_level(width, count) for width, count in zip(widths, blocks, strict=True))
        self.shrink = nn.ModuleList(nn.Conv2d(i, o // 4, 3, padding=1) for i, o in pairwise(widths))
        self.grow = nn.ModuleList(nn.Conv2d(c, 4 * f, 3, padding=1) for f, c in zip(finer, coarser, strict=True))
        self.narrow = nn.ModuleList(nn.Conv2d(2 * f, f, 1) for f in finer)
        self.decode = nn.ModuleList(_level(width, count) for width, count in zip(finer, blocks[:-1], strict=True))
        self.head = zero_start(nn.Conv2d(widths[0], 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """``[n, 1, h, w]`` to the same shape; sides that are multiples of 4."""
        h, skips = self.encode[0](self.lift(x)), []
        for shrink, level in zip(self.shrink, self.encode[1:], strict=True):
            skips.append(h)
            h = level(F.pixel_unshuffle(shrink(h), 2))
        ways = zip(reversed(self.grow), reversed(self.narrow), reversed(self.decode), reversed(skips), strict=True)
        for grow, narrow, level, skip in ways:
            h = level(narrow(torch.cat([F.pixel_shuffle(grow(h), 2), skip], dim=1)))
        result: Tensor = x + self.head(h)
        return result


def _level(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(TransformerBlock(width, heads=width // 16) for _ in range(count)))
