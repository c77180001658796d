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

    The largest number it can give is sqrt(2 * 53 * ln 2) = 8.57; a true normal exceeds that with probability 1e-17.
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
        uniform = self._stream.integers(2 * count).astype(np.float64)
        # One is added so that the logarithm never meets zero: (0, 1] instead of [0, 1).
        radius = np.sqrt(-2.0 * np.log((uniform[:count] + 1.0) * 2.0**-FRACTION_BITS))
        # Torch's cosine of a float64 is as exact as numpy's to an ulp, and four times as fast.
        angle = torch.from_numpy(uniform[count:]).mul_(2.0 * np.pi * 2.0**-FRACTION_BITS)
        pairs: NDArray[np.float64] = np.concatenate([angle.cos().numpy(), angle.sin().numpy()])
        pairs[:count] *= radius
        pairs[count:] *= radius
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
