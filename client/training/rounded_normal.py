"""Integers with the law of a rounded normal number, drawn without ever rounding one.

A share of noise (:mod:`shared.noise_shares`) has the law of rint(N(0, s^2)), with s of 2^16 to 2^28. Made from a
float64 normal number it would have that law only roughly: of its 53 bits the last ones decide on which side of a half
it falls, and far out a normal number made from 53 random bits has few values left. Here the integer itself is drawn, by
rejection: a block of integers from a table, a place in it, and a coin that keeps it with the right chance. Only that
chance is a float64, and what it lacks is relative to it.

**How exact it is.** For every integer up to 12.5 s in size the chance to be drawn differs from that of rint(N(0, s^2))
by a factor within e^+-:data:`DEVIATION`; larger ones may never be drawn, and have :data:`TAIL` of the mass. In units of
2^-53 the chance to be kept is wrong by at most 1 (table) + 7 (exponent, up to 1.6) + 4 (exp) + 1 (the cell's mass from
the density at its centre: 1 + (z^2 - 1) / 24 s^2, and at s >= 2^16 no more) + 2 (products) + 13 (the coin), and the
mass that all others have by as much: below 2^-47 together. N numbers then turn a guarantee (epsilon, delta) into no
worse than (epsilon + 2 N DEVIATION, e^(N DEVIATION) (delta + e^epsilon N TAIL)), which is what is stated.
"""

import functools
import math
from decimal import Decimal, localcontext
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from client.training.secure_noise import FRACTION_BITS, KeyStream
from shared.noise_shares import LEAST_STEPS

DEVIATION: Final = 2.0**-47
TAIL: Final = 1e-35
"""Mass of a normal law beyond 12.5 standard deviations, both sides: 7.5e-36."""
EDGE: Final = 12.5
_MOST: Final = 2.0**28
_TICKET_BITS: Final = 63
_COIN: Final = 64 - FRACTION_BITS
_BLOCK: Final = 1 << 16  # numbers at a time, so that large models need no large scratch space


class Words(Protocol):
    """A source of random bits."""

    @property
    def kind(self) -> str:
        """Name of the source as it stands in the record of a run."""

    def words(self, count: int) -> NDArray[np.uint64]:
        """``count`` independent words, uniform on [0, 2**64), uint64 ``[count]``."""


class Table(NamedTuple):
    """Blocks of integers from 0 up, by how likely they are.

    Attributes:
        width: Integers in a block; a power of two between s/16 and s/8.
        tickets: Of 2^63 tickets, how many fall to the blocks up to each one, uint64 ``[blocks]``.
        keep: 2^53 times the chance to keep the first integer of a block, float64 ``[blocks]``.
    """

    width: int
    tickets: NDArray[np.uint64]
    keep: NDArray[np.float64]


@functools.lru_cache(maxsize=32)
def table_of(std: float) -> Table:
    """The table for a standard deviation; in decimal arithmetic of 60 digits, so that it adds one rounding."""
    width = 2 ** math.floor(math.log2(std / 8))
    blocks = math.ceil(EDGE * std / width) + 1
    with localcontext() as context:
        context.prec = 60
        scale = 2 * Decimal(std) ** 2
        weights = [(-(Decimal(block * width) ** 2) / scale).exp() for block in range(blocks)]
        factor = (2**_TICKET_BITS - blocks) / sum(weights)
        tickets = [math.ceil(weight * factor) for weight in weights]
        # A little below one, so that the factor for a cell's mass never takes a chance above one.
        spare = 1 - Decimal(2) ** -20
        keep = [
            float(weight * factor * spare * 2**FRACTION_BITS / count)
            for weight, count in zip(weights, tickets, strict=True)
        ]
    return Table(width, np.cumsum(np.array(tickets, np.uint64), dtype=np.uint64), np.array(keep))


def keeping(table: Table, std: float, block: NDArray[np.int64], place: NDArray[np.int64]) -> NDArray[np.float64]:
    """2^53 times the chance to keep the integer at ``place`` of ``block``, float64 of their shape."""
    first = block * table.width
    beyond = (place * (2 * first + place)).astype(np.float64)  # (first + place)^2 - first^2, below 2^63
    z = (first + place) / std
    cell = 1.0 + (z * z - 1.0) / (24.0 * std * std)
    kept: NDArray[np.float64] = table.keep[block] * np.exp(beyond * (-0.5 / (std * std))) * cell
    return kept


class RoundedNormal:
    """Independent integers with the law of rint(N(0, std^2)).

    Args:
        std: Standard deviation, 2^16 to 2^28.
        source: Where the random bits come from; a fresh :class:`KeyStream` where left out.

    Raises:
        ValueError: ``std`` is out of its range.
    """

    def __init__(self, std: float, source: Words | None = None) -> None:
        if not LEAST_STEPS <= std <= _MOST:
            raise ValueError(f"the standard deviation must lie in [{LEAST_STEPS:g}, {_MOST:g}], not {std}")
        self._std, self._table = std, table_of(std)
        self._source: Words = source if source is not None else KeyStream()

    @property
    def kind(self) -> str:
        """Name of the source as it stands in the record of a run."""
        return self._source.kind

    def draw(self, count: int) -> NDArray[np.int64]:
        """``count`` integers, int64 ``[count]``."""
        out = np.empty(count, np.int64)
        done = 0
        while done < count:
            some = self._kept(min(_BLOCK, (count - done) + (count - done) // 8 + 16))[: count - done]
            out[done : done + some.size] = some
            done += some.size
        return out

    def _kept(self, tries: int) -> NDArray[np.int64]:
        """What is kept of so many tries, some nine in ten."""
        ticket, where, coin = self._source.words(3 * tries).reshape(3, tries)
        table = self._table
        block = np.searchsorted(table.tickets, ticket >> np.uint64(1), side="right")
        drawn = block < table.tickets.size  # a few tickets fall to no block
        block = np.where(drawn, block, 0)
        place = (where & np.uint64(table.width - 1)).astype(np.int64)
        kept = drawn & self._toss(keeping(table, self._std, block, place), coin >> np.uint64(_COIN))
        value = block * table.width + place
        minus = (ticket & np.uint64(1)).astype(bool)
        kept &= ~(minus & (value == 0))  # of the two zeros one is thrown away
        np.negative(value, out=value, where=minus)
        found: NDArray[np.int64] = value[kept]
        return found

    def _toss(self, chance: NDArray[np.float64], coin: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Whether coins of 53 bits, and where they leave it open of 106, fall below ``chance`` of 2^53."""
        whole = np.floor(chance)
        head = coin.astype(np.float64)
        below: NDArray[np.bool_] = head < whole
        (open_,) = np.nonzero(head == whole)
        if open_.size:
            tail = (self._source.words(open_.size) >> np.uint64(_COIN)).astype(np.float64)
            below[open_] = tail < (chance - whole)[open_] * 2.0**FRACTION_BITS
        return below
