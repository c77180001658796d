"""Randomness that nobody can predict or replay: an AES key stream, and Gaussian noise made from it.

``torch.normal`` is no source for privacy noise: ``torch.manual_seed`` replays it, and of a seed PyTorch's CPU generator
uses 32 bits only, so that all its sequences can be tried out. Opacus' secure mode needs a package (torchcsprng) that is
not built for current versions of Python.
"""

from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from client.training.key_stream import FRACTION_BITS, KeyStream

_BLOCK: Final = 1 << 18  # normals made at a time, so that large models need no large scratch space


class NoiseSource(Protocol):
    """Where the privacy noise comes from."""

    @property
    def kind(self) -> str:
        """Name of the source as it stands in the record of a run."""

    def normal(self, count: int) -> NDArray[np.float64]:
        """``count`` independent standard normal numbers, float64 ``[count]``."""


class SecureNoise:
    """Standard normal numbers from a :class:`KeyStream` by the transform of Box and Muller (1958), in float64.

    The radius of a pair comes from a uniform number with the full precision of a float64 at both of its ends: made from
    53 bits alone, the few radii near zero and far out could be told apart in the noise. The largest number it can give
    is sqrt(2 * 107 * ln 2) = 12.2; a true normal exceeds that with probability 1e-33.
    """

    kind = KeyStream.kind

    def __init__(self) -> None:
        self._stream = KeyStream()

    def normal(self, count: int) -> NDArray[np.float64]:
        """``count`` independent standard normal numbers, float64 ``[count]``."""
        out = np.empty(count)
        for start in range(0, count, _BLOCK):
            block = out[start : start + _BLOCK]
            block[:] = self._pairs((len(block) + 1) // 2)[: len(block)]
        return out

    def _pairs(self, count: int) -> NDArray[np.float64]:
        drawn = self._stream.integers(3 * count).reshape(3, count)
        # Torch's functions of a float64 are as exact as numpy's to an ulp, and several times as fast.
        coarse, angle = (torch.from_numpy(row.astype(np.float64)) for row in drawn[:2])
        below = torch.from_numpy((drawn[2] & np.uint64(1)).astype(bool))
        fine = torch.from_numpy((drawn[2] >> np.uint64(1)).astype(np.float64))
        half = (coarse + (fine + 0.5) * 2.0 ** -(FRACTION_BITS - 1)) * 2.0 ** -(FRACTION_BITS + 1)  # in (0, 1/2)
        radius = torch.where(below, half.log(), torch.log1p(-half)).mul_(-2.0).sqrt_()
        angle.mul_(2.0 * np.pi * 2.0**-FRACTION_BITS)
        pairs: NDArray[np.float64] = torch.cat([angle.cos() * radius, angle.sin() * radius]).numpy()
        return pairs


class SeededNoiseForTests:
    """Noise that can be replayed, and therefore protects nobody: for tests only, and the run record says so.

    No charter, command or message reaches it: only a caller in Python that constructs it by name.
    """

    kind = "SEEDED, FOR TESTS ONLY: gives no privacy"

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def normal(self, count: int) -> NDArray[np.float64]:
        """``count`` independent standard normal numbers, float64 ``[count]``; the same for the same seed."""
        return self._generator.standard_normal(count)
