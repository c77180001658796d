"""Integers with the law of a rounded normal number: how exactly, integer by integer, and as a whole."""

from decimal import Decimal, localcontext

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from client.training.key_stream import KeyStream
from client.training.rounded_normal import EDGE, RoundedNormal, exactly, keeping, table_of

SPREADS = [2.0**16, 6659352.161081342, 2.0**28]

# Nodes and weights of Gauss and Legendre on [-1, 1], five points: exact to (1/s)^10 over one cell of a normal density.
_NODES = [
    ("0", "0.568888888888888888888888888888888889"),
    ("0.538469310105683091036314420700208805", "0.478628670499366468041291514835638193"),
    ("0.906179845938663992797626878299392965", "0.236926885056189087514264040719917363"),
]


def mass(value: int, std: float) -> Decimal:
    """The density of N(0, std^2), without its constant, integrated over the cell of an integer."""
    scale = 2 * Decimal(std) ** 2
    total = Decimal(0)
    for node, weight in _NODES:
        for sign in (1, -1) if node != "0" else (1,):
            total += Decimal(weight) / 2 * (-((value + sign * Decimal(node) / 2) ** 2) / scale).exp()
    return total


@pytest.mark.parametrize("std", SPREADS)
def test_every_integer_has_its_chance_to_thirty_digits(std: float) -> None:
    """The chance of a block times that to keep a place in it is the mass of the cell, times one constant for all."""
    table = table_of(std)
    rng = np.random.default_rng(1)
    blocks = np.repeat(np.arange(len(table.keep)), 3)
    places = np.concatenate([[0, table.width - 1, rng.integers(table.width)] for _ in table.keep])
    tickets = np.diff(np.concatenate([[np.uint64(0)], table.tickets]))
    with localcontext() as context:
        context.prec = 60
        ratios = [
            int(tickets[block]) * exactly(table, std, block, place) / mass(block * table.width + place, std)
            for block, place in zip(blocks.tolist(), places.tolist(), strict=True)
        ]
        assert max(ratios) / min(ratios) - 1 < Decimal("1e-30")


@pytest.mark.parametrize("std", SPREADS)
def test_the_fast_chance_is_off_by_less_than_the_guard(std: float) -> None:
    table = table_of(std)
    rng = np.random.default_rng(2)
    blocks, places = rng.integers(len(table.keep), size=3000), rng.integers(table.width, size=3000)
    fast = keeping(table, std, blocks, places)
    exact = [exactly(table, std, block, place) for block, place in zip(blocks.tolist(), places.tolist(), strict=True)]
    assert max(exact) < 2**53
    assert max(abs(Decimal(one) - two) for one, two in zip(fast.tolist(), exact, strict=True)) < 16


def test_the_table_ends_where_a_normal_number_never_is() -> None:
    for std in SPREADS:
        table = table_of(std)
        assert len(table.keep) * table.width >= EDGE * std
        assert int(table.tickets[-1]) <= 2**63
    assert 2 * stats.norm.sf(EDGE) < 1.3e-57


def test_what_is_drawn_is_normal() -> None:
    std = SPREADS[1]
    drawn = RoundedNormal(std).draw(400_000)
    assert drawn.dtype == np.int64
    assert stats.kstest(drawn / std, "norm").pvalue > 1e-6
    assert drawn.std() / std == pytest.approx(1, abs=5 / np.sqrt(2 * 400_000))
    assert abs(drawn.mean()) < 5 * std / np.sqrt(400_000)


def test_zero_is_no_likelier_than_its_neighbours() -> None:
    """Of the two zeros, one for each sign, one is thrown away: seen where every block but the first is left out."""
    std = 2.0**16
    generator = RoundedNormal(std)
    generator._table = table_of(std)._replace(width=2)  # two integers in a block: 0 and 1 of block 0
    drawn = generator.draw(400_000)
    near = [int((drawn == value).sum()) for value in (-1, 0, 1)]
    assert min(near) > 9000
    assert max(near) - min(near) < 6 * np.sqrt(2 * max(near))


class Coins:
    """Words that are given."""

    kind = "given"

    def __init__(self, *words: int) -> None:
        self.left = list(words)

    def words(self, count: int) -> NDArray[np.uint64]:
        taken, self.left = self.left[:count], self.left[count:]
        return np.array(taken, np.uint64)


def test_a_coin_that_leaves_it_open_is_tossed_on_and_decided_exactly() -> None:
    std, block, place = 6659352.161081342, 3, 1234
    table = table_of(std)
    wanted = exactly(table, std, block, place)
    whole = int(wanted)
    with localcontext() as context:
        context.prec = 120
        edge = int((wanted - whole) * 2**212)  # the further tosses that decide
    one, other = np.array([block]), np.array([place])
    for further, kept in ((edge, True), (edge + 1, False)):
        words = [((further >> 53 * (3 - k)) & (2**53 - 1)) << 11 for k in range(4)]
        source = Coins(*words)
        assert RoundedNormal(std, source)._toss(one, other, np.array([whole], np.uint64)).tolist() == [kept]
        assert source.left == []
    for away, kept in ((-65, True), (65, False)):
        source = Coins()
        coin = np.array([whole + away], np.uint64)
        assert RoundedNormal(std, source)._toss(one, other, coin).tolist() == [kept]
    for near, kept in ((-60, True), (60, False)):
        source = Coins(*[2**63] * 4)
        coin = np.array([whole + near], np.uint64)
        assert RoundedNormal(std, source)._toss(one, other, coin).tolist() == [kept]
        assert source.left == []


@pytest.mark.parametrize("std", [0.0, 1000.0, 2.0**29, float("nan")])
def test_a_spread_for_which_nothing_is_shown_is_refused(std: float) -> None:
    with pytest.raises(ValueError, match="standard deviation"):
        RoundedNormal(std)


def test_it_draws_from_the_key_stream_and_any_number_at_once() -> None:
    assert RoundedNormal(2.0**20).kind == KeyStream.kind
    assert [RoundedNormal(2.0**20).draw(count).size for count in (0, 1, 200_001)] == [0, 1, 200_001]
    assert RoundedNormal(2.0**20).draw(9).tolist() != RoundedNormal(2.0**20).draw(9).tolist()
