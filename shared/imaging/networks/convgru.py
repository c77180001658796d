"""ConvGRU: a memory that is an image, carried from slice to slice (Ballas et al. 2016, arXiv:1511.06432).

The cell is a gated recurrent unit (Cho et al. 2014, arXiv:1406.1078) with convolutions for its products. It runs at
half the resolution, where most of the noise is and a quarter of the pixels; the middle slice itself comes in again at
full resolution, as in a U-Net.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.imaging.networks.blocks import DoubleConv, zero_start


class ConvGRUCell(nn.Module):
    """One step: what is remembered ``[n, width, h, w]`` and what is seen, of the same shape, to what is remembered."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gates = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.candidate = nn.Conv2d(2 * width, width, 3, padding=1)

    def forward(self, seen: Tensor, state: Tensor) -> Tensor:
        """Keep, forget and take in: the next state."""
        update, reset = torch.sigmoid(self.gates(torch.cat([seen, state], dim=1))).chunk(2, dim=1)
        fresh = torch.tanh(self.candidate(torch.cat([seen, reset * state], dim=1)))
        return (1 - update) * state + update * fresh


class ConvGRU(nn.Module):
    """Denoises the middle slice with a memory of those before it and, unless it is causal, of those after it.

    A series of slices is there as a whole, so both directions can be used. Of frames that are shown while they are
    acquired only the past is there: then ``causal`` is the one to take. It does not look at what comes later.

    Args:
        causal: Whether the slices after the middle one stay unseen.
        widths: Channels at full and at half resolution.
    """

    def __init__(self, *, causal: bool = False, widths: tuple[int, int] = (16, 32)) -> None:
        super().__init__()
        self.causal = causal
        fine, coarse = widths
        self.lift = DoubleConv(1, fine)
        self.deepen = DoubleConv(fine, coarse)
        self.cells = nn.ModuleList(ConvGRUCell(coarse) for _ in range(1 if causal else 2))
        self.narrow = nn.Conv2d(len(self.cells) * coarse, fine, 1)
        self.merge = DoubleConv(2 * fine, fine)
        self.head = zero_start(nn.Conv2d(fine, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``[n, k, h, w]``, ``k`` odd, height and width even, to ``[n, 1, h, w]``; it starts as the middle slice."""
        _, slices, height, width = x.shape
        middle = slices // 2
        used = x if len(self.cells) > 1 else x[:, : middle + 1]
        fine = self.lift(used.reshape(-1, 1, height, width))
        coarse = self.deepen(F.max_pool2d(fine, 2)).unflatten(0, (-1, used.shape[1]))
        forth = range(middle + 1)
        back = range(slices - 1, middle - 1, -1)
        states = []
        for cell, order in zip(self.cells, (forth, back), strict=False):
            state = coarse[:, order[0]].clamp(0, 0)  # not zeros_like, whose size an exported graph would keep
            for index in order:
                state = cell(coarse[:, index], state)
            states.append(state)
        up = F.interpolate(self.narrow(torch.cat(states, dim=1)), scale_factor=2.0, mode="nearest")
        own = fine.unflatten(0, (-1, used.shape[1]))[:, middle]
        noise: Tensor = self.head(self.merge(torch.cat([up, own], dim=1)))
        return x[:, middle : middle + 1] - noise
