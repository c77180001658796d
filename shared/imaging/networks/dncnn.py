"""DnCNN: a plain stack of convolutions that predicts the noise (Zhang et al. 2017, arXiv:1608.03981)."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from shared.imaging.networks.blocks import zero_start


class DnCNN(nn.Module):
    """A small DnCNN without normalisation layers (the paper's BatchNorm would couple patients).

    Args:
        depth: Number of convolutions 3x3, at least 2.
        width: Channels between them.
    """

    def __init__(self, depth: int = 8, width: int = 32) -> None:
        super().__init__()
        channels = [1, *[width] * (depth - 1)]
        self.body = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in pairwise(channels))
        self.head = zero_start(nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """``[n, 1, h, w]`` to the same shape: the input less the predicted noise."""
        h = x
        for layer in self.body:
            h = torch.relu(layer(h))
        noise: Tensor = self.head(h)
        return x - noise
