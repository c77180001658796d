"""What the networks are made of, and how they are started.

The house's rules, checked by a test: GroupNorm and never BatchNorm, since a batch statistic couples the patients of a
batch and would void the patient-level guarantee; no operation in place; zero padding only.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation (Wu and He 2018) in groups of at least four channels, at most eight groups."""
    return nn.GroupNorm(max(1, min(8, channels // 4)), channels)


class DoubleConv(nn.Module):
    """Twice convolution 3x3, GroupNorm, ReLU: ``[n, inputs, h, w]`` to ``[n, outputs, h, w]``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.first_norm = group_norm(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.second_norm = group_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both convolutions."""
        x = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(x)))


def zero_start(layer: nn.Conv2d) -> nn.Conv2d:
    """Set a last layer to zero, so that a residual network starts as the identity (Zhang, Dauphin and Ma 2019)."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def bicubic(images: Tensor, factor: int) -> Tensor:
    """``[n, c, h, w]`` to ``[n, c, factor h, factor w]``, aligned at pixel centres as the degradation is."""
    return F.interpolate(images, scale_factor=float(factor), mode="bicubic", align_corners=False)


def doublings(factor: int) -> int:
    """How many stages that double an image make it ``factor`` times as fine.

    Raises:
        ValueError: ``factor`` is no power of two from 2 up.
    """
    stages = factor.bit_length() - 1
    if factor < 2 or factor != 1 << stages:
        raise ValueError(f"images are made finer by a power of two, not by {factor}")
    return stages


def seeded(build: Callable[[], Network], seed: int) -> Network:
    """Build a network whose weights depend on ``seed`` alone; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build()
