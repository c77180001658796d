"""What a virtual scanner delivers for one study."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Acquisition:
    """The two series of one study and the truth, slice by slice from feet to head.

    Attributes:
        fast: The noisy series ``[n, height, width]``: MR signal 0..4095 (uint16), CT Hounsfield units (int16).
        reference: The same slices with many averages or a high dose, same type and scale.
        label: MR: 1 CSF, 2 grey matter, 3 white matter; CT: 1 liver, 2 tumour; 0 elsewhere. uint8.
        heights: z of each slice, mm.
        spacing: Distance of pixel centres, mm, equal in both directions.
    """

    fast: NDArray[np.uint16] | NDArray[np.int16]
    reference: NDArray[np.uint16] | NDArray[np.int16]
    label: NDArray[np.uint8]
    heights: NDArray[np.float64]
    spacing: float
