"""The series with less effort, where a data set has none: simulated, and marked as that in the record.

MR gets the magnitude of complex noise, CT noise with the spectrum of filtered back-projection; both in
:mod:`shared.imaging.degrade`, which the virtual hospitals' tasks use too.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.imaging.degrade import add_fbp_noise, add_rician_noise

LEVELS: Final[Mapping[str, float]] = {"MR": 0.06, "CT": 30.0}
"""Standard deviation of the noise by modality: a share of the 99.5th percentile for MR, Hounsfield units for CT. The
middle of what the virtual hospitals have."""
_PERCENTILE = 99.5


@dataclass(frozen=True)
class Degradation:
    """How a noisy series is made.

    Attributes:
        seed: With the source's digest, of the random numbers.
        level: Standard deviation of the noise; 0 for that of :data:`LEVELS`.
    """

    seed: int
    level: float = 0.0

    def told(self, modality: str) -> str:
        """What is done, for the record."""
        level = self.level or LEVELS[modality]
        if modality == "CT":
            return f"simulated: filtered back-projection noise of {level:g} HU, seed {self.seed}"
        return f"simulated: Rician noise of {level:g} of the {_PERCENTILE}th percentile, seed {self.seed}"

    def apply(self, modality: str, images: NDArray[np.float32], digest: str) -> NDArray[np.float32]:
        """The noisy series of ``images`` ``[n, rows, columns]``, the same in every run.

        Args:
            modality: ``MR`` or ``CT``.
            images: Without noise of our own; Hounsfield units for CT.
            digest: What stands for the source, so that no two studies have the same noise.
        """
        seed = hashlib.sha256(f"{self.seed}|{digest}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(seed, "big"))
        level = self.level or LEVELS[modality]
        made = np.empty_like(images)
        scale = 1.0 if modality == "CT" else level * float(np.percentile(images, _PERCENTILE))
        for number in range(len(images)):  # slice by slice: a volume of doubles more would not fit into memory
            part = images[number : number + 1]
            noisy = add_fbp_noise(part, level, rng) if modality == "CT" else add_rician_noise(part, scale, rng)
            made[number] = noisy[0]
        return made
