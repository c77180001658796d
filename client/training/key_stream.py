"""Uniform randomness that nobody can predict or replay; without torch, whose import costs seconds."""

import os
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

FRACTION_BITS: Final = 53  # of a float64: every uniform k * 2**-53 is exact


class KeyStream:
    """Uniform integers from AES-256 in counter mode (NIST SP 800-38A) under a fresh key of the operating system.

    A process that inherits the object by ``fork`` draws a key of its own: two processes never share a stream.
    """

    kind = "aes-256-ctr"

    def __init__(self) -> None:
        self._owner = -1
        self._cipher: CipherContext | None = None

    def words(self, count: int) -> NDArray[np.uint64]:
        """``count`` independent words, uniform on [0, 2**64), uint64 ``[count]``."""
        cipher = self._cipher
        if cipher is None or self._owner != os.getpid():
            cipher = Cipher(algorithms.AES256(os.urandom(32)), modes.CTR(os.urandom(16))).encryptor()
            self._cipher, self._owner = cipher, os.getpid()
        return np.frombuffer(cipher.update(bytes(8 * count)), dtype=np.uint64)

    def integers(self, count: int) -> NDArray[np.uint64]:
        """``count`` independent integers, uniform on [0, 2**53), uint64 ``[count]``."""
        shifted: NDArray[np.uint64] = self.words(count) >> np.uint64(64 - FRACTION_BITS)
        return shifted
