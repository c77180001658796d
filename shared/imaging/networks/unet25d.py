"""A U-Net that sees a slice between its neighbours: slices are channels, the slice in the middle is the result (2.5-D).

Roth et al. 2014 (arXiv:1406.2639) call such views 2.5-D; for denoising Tassano, Delon and Veit 2020 ("FastDVDnet",
arXiv:1907.01361) take five frames in this way.
"""

from torch import Tensor

from shared.imaging.networks.blocks import DoubleConv, zero_start
from shared.imaging.networks.unet import UNet


class UNet25D(UNet):
    """The U-Net with a first layer that is wider by the neighbours; it starts as the middle slice itself.

    Args:
        slices: How many slices, an odd number; where more are given, those in the middle are taken.
        widths: As those of :class:`~shared.imaging.networks.unet.UNet`.
    """

    def __init__(self, slices: int = 3, widths: tuple[int, ...] = (16, 32, 64)) -> None:
        super().__init__(1, widths)
        self.slices = slices
        self.encode[0] = DoubleConv(slices, widths[0])
        zero_start(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, k, h, w]`` with ``k`` of at least ``slices`` to ``[n, 1, h, w]``: the middle slice less its noise."""
        first = (x.shape[1] - self.slices) // 2
        near = x[:, first : first + self.slices]
        middle = self.slices // 2
        result: Tensor = near[:, middle : middle + 1] - super().forward(near)
        return result
