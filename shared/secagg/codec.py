"""Updates as integers of a ring, and back as a weighted average.

Body: ``q = rint(clip(x, C) w / w_max M / C)``, two's complement in 32 or 16 bits, with M so small that n summands never
wrap. Average: ``sum(q) C w_max / (M sum(w))``. Sixteen bits are rounded stochastically, so that the error has mean zero
(the coins are an AES-CTR stream; Suresh et al. 2017, "Distributed mean estimation", section 2). The error of the
32-bit average is below C / M times n w_max / (2 sum(w)).

A federation may sum integers instead, modulo 2^32 and as they are: a word goes in as it comes, and the sum comes out as
a number from -2^31 to 2^31 - 1.

Header: 64-bit lanes, modulo 2^64: a canary that counts the hospitals, the weight, and metrics in fixed point.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import CipherContext
from numpy.typing import NDArray

from shared.errors import PolicyError, ProtocolError
from shared.secagg.encoding import encode
from shared.secagg.federation import Federation
from shared.secagg.masks import Ring, key_stream
from shared.vector import Vector

LANES = 8  # canary, weight, 6 metrics; more only where a round carries more metrics
MAX_METRICS = 64
METRIC_SCALE = 2**20  # a metric is an integer of 2^-20
MAX_METRIC = 2**36  # |metric|; 2^36 2^20 times 100 hospitals stays below 2^63
CHUNK = 2**16  # elements
HEADROOM = 1 - 2**-20

_ZEROS = memoryview(bytes(2 * CHUNK))

Lanes = NDArray[np.uint64]
Words = NDArray[np.uint32]
Average = NDArray[np.float64]


@dataclass(frozen=True)
class Codec:
    """Fixed point for at most ``members`` summands (see the module for the formulas).

    Attributes:
        bits: 32 or 16.
        members: N, the summands that must not wrap.
        clip: C.
        w_max: Greatest weight.
        integers: The body is words of the caller's, uint32 ``[d]``; C and M are without effect.
    """

    bits: int
    members: int
    clip: float
    w_max: int
    integers: bool = False

    @classmethod
    def of(cls, federation: Federation) -> "Codec":
        """The codec that a federation's charter asks for."""
        return cls(federation.ring_bits, len(federation.peers), federation.clip, federation.w_max, federation.integers)

    @property
    def scale(self) -> int:
        """M: the integer of an element C at full weight; n M < 2^(bits - 1)."""
        whole = ((1 << (self.bits - 1)) - 1) // self.members
        return math.floor(whole * HEADROOM) if self.bits == 32 else whole

    @property
    def words(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The type of the ring, little-endian."""
        return np.dtype("<u4" if self.bits == 32 else "<u2")

    @property
    def signed(self) -> np.dtype[np.signedinteger[Any]]:
        """The same words read as two's complement."""
        return np.dtype("<i4" if self.bits == 32 else "<i2")

    def encoded(self) -> bytes:
        """For the context of a round: both ends must mean the same numbers."""
        kind = ("integers",) if self.integers else ()
        return encode("codec", self.bits, self.members, struct.pack(">d", self.clip), self.w_max, self.scale, *kind)

    def check(self, update: Vector | Words, weight: int) -> bool:
        """Refuse an update that must not be masked; says whether any element will be clipped.

        Args:
            update: float32 ``[d]``; of integers uint32 ``[d]``, or ``[0]`` of either type.
            weight: 1 to w_max.

        Raises:
            PolicyError: NaN or infinity in it, another type or shape, or the weight is 0, negative or above the cap.
        """
        if isinstance(weight, bool) or not isinstance(weight, int) or not 1 <= weight <= self.w_max:
            # Without the number: a refusal is read by the coordinator, who must not learn a weight.
            raise PolicyError(
                f"the weight is not a whole number from 1 to {self.w_max}",
                hint="the charter caps a hospital's weight; with nothing to contribute, do not answer",
            )
        if self.integers and update.size:
            if update.dtype != self.words or update.ndim != 1 or not update.flags.c_contiguous:
                raise PolicyError("this charter sums integers modulo 2^32", hint="give them as contiguous uint32 words")
            return False
        if update.dtype != np.float32 or update.ndim != 1 or not update.flags.c_contiguous:
            raise PolicyError("an update is a contiguous float32 vector", hint="flatten it with shared.vector.Layout")
        low = high = 0.0
        for place in range(0, update.size, CHUNK):
            piece = update[place : place + CHUNK]
            least, most = float(piece.min()), float(piece.max())
            if not (math.isfinite(least) and math.isfinite(most)):
                raise PolicyError(
                    "the update has numbers that are not finite", hint="lower the learning rate; nothing was sent"
                )
            low, high = min(low, least), max(high, most)
        return max(-low, high) > self.clip

    def average(self, words: Ring, weight: int, out: Average) -> None:
        """Decode a sum: ``out[k] = int(words[k]) C w_max / (M weight)``, float64 ``[m]``; of integers the sum itself.

        ``weight`` is the sum of w.
        """
        factor = np.float64(1.0 if self.integers else self.clip * self.w_max / (self.scale * weight))
        signed = words.view(self.signed)
        for place in range(0, words.size, CHUNK):
            part = out[place : place + CHUNK]
            np.copyto(part, signed[place : place + CHUNK])
            part *= factor

    def header(self, weight: int, metrics: Sequence[float]) -> Lanes:
        """The lanes of one hospital: ``[1, weight, metrics in fixed point ...]``, uint64 ``[lanes]``.

        Raises:
            PolicyError: A metric is not finite or beyond 2^36.
        """
        lanes = np.zeros(lane_count(len(metrics)), np.dtype("<u8"))
        lanes[:2] = 1, weight
        for place, metric in enumerate(metrics, 2):
            if not abs(metric) <= MAX_METRIC:  # also where it is NaN
                raise PolicyError(
                    f"metric {place - 1} is not a number within 2^36", hint="nothing was sent; mend its computation"
                )
            lanes[place] = round(metric * METRIC_SCALE) % 2**64
        return lanes

    def read_header(self, lanes: Lanes, included: int, names: Sequence[str]) -> tuple[int, Mapping[str, float]]:
        """The total weight and the summed metrics by name, from summed lanes.

        Raises:
            ProtocolError: The canary is not ``included``, or the weight is impossible: masks did not cancel.
        """
        canary, weight = int(lanes[0]), int(lanes[1])
        if canary != included or not included <= weight <= included * self.w_max or lanes[2 + len(names) :].any():
            raise ProtocolError(
                "the masks did not cancel: the canary of the sum does not count the hospitals that are in it",
                hint="one of them sent a vector that was masked wrongly; repeat the round under a new number",
            )
        signed = lanes.view(np.dtype("<i8"))
        return weight, {name: int(signed[place]) / METRIC_SCALE for place, name in enumerate(names, 2)}


def lane_count(metrics: int) -> int:
    """Lanes of a header with that many metrics: 8 for up to 6, else 2 and one each, rounded up to an even number."""
    if not 0 <= metrics <= MAX_METRICS:
        raise PolicyError(f"a round carries at most {MAX_METRICS} metrics", hint="ask for fewer")
    return max(LANES, 2 + metrics + metrics % 2)


class Verbatim:
    """Takes integers over as they are, where a :class:`Quantiser` would scale and clip."""

    clipped = 0

    def quantise(self, piece: Vector | Words, out: Ring) -> None:
        """Write ``piece`` (uint32 ``[m]``) to ``out`` (ring ``[m]``)."""
        np.copyto(out, piece, casting="no")


class Quantiser:
    """Quantises consecutive pieces of one update; the pieces together give what one call would.

    Args:
        codec: The ring.
        weight: W of this hospital, checked by :meth:`Codec.check`.
        clips: Whether an element may need clipping (:meth:`Codec.check` says so).
        coins: 32-byte key of the stream for stochastic rounding; wanted by 16 bits, and by no other.
    """

    def __init__(self, codec: Codec, weight: int, *, clips: bool, coins: bytes | None = None) -> None:
        if (coins is not None) != (codec.bits == 16):
            raise ValueError("a key for coins goes with 16 bits, and only with them")
        # A numpy double, because a Python float would leave the product with float32 in float32, which holds 24 bits.
        self._factor = np.float64(codec.scale / codec.clip * (weight / codec.w_max))
        self._limit = codec.scale * (weight / codec.w_max)
        self._clips = clips
        self._coins = key_stream(coins) if coins is not None else None
        self._signed = codec.signed
        self._buffer = np.empty(CHUNK, np.float64)
        self._draw = np.empty(CHUNK if coins is not None else 0, np.float64)
        self._coin_words = np.empty(self._draw.size, np.dtype("<u2"))
        self.clipped = 0

    def quantise(self, piece: Vector | Words, out: Ring) -> None:
        """Write ``piece`` (finite float32 ``[m]``) to ``out`` (ring ``[m]``); counts what it clips."""
        signed = out.view(self._signed)
        for place in range(0, piece.size, CHUNK):
            part = piece[place : place + CHUNK]
            scaled = self._buffer[: part.size]
            np.copyto(scaled, part)
            scaled *= self._factor
            if self._clips:
                self.clipped += int(np.count_nonzero(np.abs(scaled) > self._limit))
                np.clip(scaled, -self._limit, self._limit, out=scaled)
            if self._coins is None:
                np.rint(scaled, out=scaled)
            else:
                self._add_coins(scaled, self._coins)
                np.floor(scaled, out=scaled)
            np.copyto(signed[place : place + CHUNK], scaled, casting="unsafe")

    def _add_coins(self, scaled: NDArray[np.float64], stream: CipherContext) -> None:
        """Add uniform odd multiples of 2^-17 below 1: the bias of a rounded element is at most 2^-17 of a step."""
        coins, draw = self._coin_words[: scaled.size], self._draw[: scaled.size]
        stream.update_into(_ZEROS[: coins.nbytes], coins.view(np.uint8).data)
        np.copyto(draw, coins)
        draw += 0.5
        draw *= 2.0**-16
        scaled += draw
