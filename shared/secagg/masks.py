"""Mask streams: AES-256 in counter mode from the all-zero counter (NIST SP 800-38A, section 6.5), one key per stream.

The stream is read as little-endian words of the ring and added to, or subtracted from, an array modulo 2^16, 2^32 or
2^64. Memory is bounded by a chunk whatever the length; ``update_into`` and numpy's sums release the GIL, so that
segments of one array are masked by several threads. numpy's own generators are never used for masks.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

Ring: TypeAlias = NDArray[np.unsignedinteger[Any]]

CHUNK_BYTES = 2**18  # stays in the second-level cache together with the words that it is added to
BLOCK_BYTES = 16

_ZEROS = memoryview(bytes(CHUNK_BYTES))


def key_stream(key: bytes, offset: int = 0) -> CipherContext:
    """The stream of ``key`` (32 bytes) from byte ``offset`` on, a multiple of 16."""
    if offset % BLOCK_BYTES:
        raise ValueError("a stream is entered at a multiple of 16 bytes")
    return Cipher(AES256(key), CTR((offset // BLOCK_BYTES).to_bytes(BLOCK_BYTES, "big"))).encryptor()


class MaskStreams:
    """Several streams that are applied to consecutive pieces of one array.

    Args:
        add: Keys of the streams to add, 32 bytes each.
        subtract: Keys of the streams to subtract.
        offset: Bytes of the array before the first piece, a multiple of 16.
    """

    def __init__(self, add: Sequence[bytes], subtract: Sequence[bytes], offset: int = 0) -> None:
        self._add = [key_stream(key, offset) for key in add]
        self._subtract = [key_stream(key, offset) for key in subtract]
        self._buffer = np.empty(CHUNK_BYTES, np.uint8)

    def apply(self, words: Ring) -> None:
        """Mask the next ``words`` (little-endian, contiguous, ``[m]``) in place."""
        step = CHUNK_BYTES // words.itemsize
        for place in range(0, words.size, step):
            piece = words[place : place + step]
            stream = self._buffer[: piece.nbytes]
            zeros, target = _ZEROS[: piece.nbytes], stream.data
            mask = stream.view(words.dtype)
            for cipher in self._add:
                cipher.update_into(zeros, target)
                np.add(piece, mask, out=piece)
            for cipher in self._subtract:
                cipher.update_into(zeros, target)
                np.subtract(piece, mask, out=piece)


def apply_masks(words: Ring, add: Sequence[bytes], subtract: Sequence[bytes]) -> None:
    """Add and subtract whole streams to and from ``words`` ``[d]``, in place."""
    MaskStreams(add, subtract).apply(words)


def over_segments(work: Callable[[int, int], None], size: int, itemsize: int, workers: int) -> None:
    """Call ``work(start, stop)`` for segments that cover [0, size), in ``workers`` threads.

    Segments begin at multiples of a chunk, so that a stream can be entered at each of them. An exception of any
    segment is raised here.
    """
    step = CHUNK_BYTES // itemsize
    share = max(-(-size // (step * max(workers, 1))), 1) * step
    starts = range(0, size, share)
    if len(starts) <= 1:
        work(0, size)
        return
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(work, start, min(start + share, size)) for start in starts]:
            done.result()
