"""Integers with the law of a rounded normal number, drawn without ever rounding one.

A share of noise (:mod:`shared.noise_shares`) has the law of rint(N(0, s^2)), with s of 2^16 to 2^28. Made from a
float64 normal number it would have that law only roughly: of its 53 bits the last ones decide on which side of a half
it falls, and far out a normal number made from 53 random bits has few values left. Here the integer itself is drawn, by
rejection: a block of integers from a table, a place in it, and a coin that keeps it with the right chance.

**How exact it is.** The chance is computed as a float64, which is off by at most 16 units of 2^-53: 1 of the table, 8
of the exponent (up to 2), 4 of exp, 1 of the cell's mass from the density at its centre, 2 of products. Where the coin
comes within 64 units of it, about once in 10^14 draws, it is tossed on and the decision made in decimal arithmetic of
60 digits. So every integer up to 16 s in size has its chance to a factor within 1 +- 10^-30, and those beyond, which
may never be drawn, have a mass of 10^-57. Over 10^15 numbers that moves epsilon and delta by less than float64 can say.
"""

import functools
import math
from decimal import Decimal, localcontext
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from client.training.key_stream import FRACTION_BITS, KeyStream
from shared.noise_shares import LEAST_STEPS

EDGE: Final = 16.0
_MOST: Final = 2.0**28
_TICKET_BITS: Final = 63
_SPARE: Final = 64 - FRACTION_BITS
_GUARD: Final = 64.0
_FURTHER: Final = 4  # words that an open coin is tossed on for
_DIGITS: Final = 60
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
        keep: 2^53 times the chance to keep the first integer of a block, but for its cell's mass, ``[blocks]``.
        scale: 2^53 times the chance to keep an integer of a block, over its mass without the normal law's constant.
    """

    width: int
    tickets: NDArray[np.uint64]
    keep: NDArray[np.float64]
    scale: tuple[Decimal, ...]


@functools.lru_cache(maxsize=32)
def table_of(std: float) -> Table:
    """The table for a standard deviation."""
    width = 2 ** math.floor(math.log2(std / 8))
    blocks = math.ceil(EDGE * std / width) + 1
    with localcontext() as context:
        context.prec = _DIGITS
        weights = [(-(Decimal(block * width) ** 2) / (2 * Decimal(std) ** 2)).exp() for block in range(blocks)]
        factor = (2**_TICKET_BITS - blocks) / sum(weights)
        tickets = [math.ceil(weight * factor) for weight in weights]
        # A little below one, so that the mass of a cell, for its centre's density, never takes a chance above one.
        most = factor * 2**FRACTION_BITS * (1 - Decimal(2) ** -20)
        scale = tuple(most / count for count in tickets)
        keep = np.array([float(weight * one) for weight, one in zip(weights, scale, strict=True)])
    return Table(width, np.cumsum(np.array(tickets, np.uint64), dtype=np.uint64), keep, scale)


def keeping(table: Table, std: float, block: NDArray[np.int64], place: NDArray[np.int64]) -> NDArray[np.float64]:
    """2^53 times the chance to keep the integer at ``place`` of ``block``, float64 of their shape; 16 off at most."""
    first = block * table.width
    beyond = (place * (2 * first + place)).astype(np.float64)  # (first + place)^2 - first^2, below 2^63
    z = (first + place) / std
    cell = 1.0 + (z * z - 1.0) / (24.0 * std * std)
    kept: NDArray[np.float64] = table.keep[block] * np.exp(beyond * (-0.5 / (std * std))) * cell
    return kept


def exactly(table: Table, std: float, block: int, place: int) -> Decimal:
    """The same to 30 digits and more.

    The mass of a cell is the density at its centre times the sum of He_2k(z) / ((2k + 1)! 4^k s^2k) over k, from the
    Taylor series of the density; He are Hermite's polynomials. What is left out after k = 4 is below 1e-45.
    """
    with localcontext() as context:
        context.prec = _DIGITS
        s = Decimal(std)
        z = (block * table.width + place) / s
        before, hermite, cell = Decimal(1), z, Decimal(1)
        for k in range(1, 5):
            before, hermite = hermite, z * hermite - (2 * k - 1) * before  # He_2k
            cell += hermite / (math.factorial(2 * k + 1) * (4 * s * s) ** k)
            before, hermite = hermite, z * hermite - 2 * k * before  # He_(2k + 1)
        return table.scale[block] * (-z * z / 2).exp() * cell


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
        kept = drawn & self._toss(block, place, coin >> np.uint64(_SPARE))
        value = block * table.width + place
        minus = (ticket & np.uint64(1)).astype(bool)
        kept &= ~(minus & (value == 0))  # of the two zeros one is thrown away
        np.negative(value, out=value, where=minus)
        found: NDArray[np.int64] = value[kept]
        return found

    def _toss(self, block: NDArray[np.int64], place: NDArray[np.int64], coin: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Whether coins of 53 bits, and where they leave it open of more, fall below the chance to keep an integer."""
        over = coin.astype(np.float64) - keeping(self._table, self._std, block, place)
        below: NDArray[np.bool_] = over < 0
        for place_open in np.flatnonzero(np.abs(over) <= _GUARD).tolist():
            bits = 0
            for word in (self._source.words(_FURTHER) >> np.uint64(_SPARE)).tolist():
                bits = (bits << FRACTION_BITS) | word
            with localcontext() as context:
                context.prec = 2 * _DIGITS
                tossed = int(coin[place_open]) + Decimal(bits) / 2 ** (FRACTION_BITS * _FURTHER)
            wanted = exactly(self._table, self._std, int(block[place_open]), int(place[place_open]))
            below[place_open] = tossed < wanted
        return below
