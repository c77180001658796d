"""Attempts to see an update in what leaves a hospital by statistics alone, without any key."""

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from shared.secagg import field, keys
from shared.secagg.round_messages import Upload
from shared.vector import Vector
from tests.attacks.secagg.arena import arena, send, task_of
from tests.attacks.secagg.attacker import Attacker
from tests.shared.secagg.world import World

SIZE = 1 << 16
BOTH_RINGS = pytest.mark.parametrize("bits", [32, 16])
UNLIKELY = 1e-4  # the bytes are the same in every run, so no verdict hangs on luck


def update(kind: str) -> Vector:
    """Updates whose bytes are as regular as can be."""
    if kind == "zeros":
        return np.zeros(SIZE, np.float32)
    if kind == "full":
        return np.ones(SIZE, np.float32)
    return (np.random.default_rng(5).standard_normal(SIZE) * 0.05).astype(np.float32)


def masked(world: World, number: int, vector: Vector) -> Upload:
    task = task_of(world, number, SIZE)
    return Upload.read(send(world, task, 1, vector), task, Attacker(world).codec)


def signed(upload: Upload) -> NDArray[np.float64]:
    return upload.body.view(f"<i{upload.body.itemsize}").astype(np.float64)


@BOTH_RINGS
@pytest.mark.parametrize("kind", ["zeros", "full", "normal"])
def test_the_bytes_of_a_masked_vector_are_uniform(kind: str, bits: int) -> None:
    """A recorder counts bytes, pairs of bits and bits of each place in one vector: all are as of coin tosses."""
    upload = masked(arena(4, f"uniform {kind}", ring_bits=bits), 1, update(kind))
    raw = np.frombuffer(upload.body.tobytes(), np.uint8)
    assert stats.chisquare(np.bincount(raw, minlength=256)).pvalue > UNLIKELY
    assert stats.chisquare(np.bincount(raw[:-1] // 16 * 16 + raw[1:] // 16, minlength=256)).pvalue > UNLIKELY
    ones = np.unpackbits(raw.reshape(-1, bits // 8), axis=1).sum(axis=0)
    assert np.abs(ones - SIZE / 2).max() < 5 * np.sqrt(SIZE) / 2


@BOTH_RINGS
def test_the_masked_vector_does_not_follow_the_update(bits: int) -> None:
    """A recorder who knows the update looks for it in the vector, by value, sign and size: only noise is found."""
    vector = update("normal")
    words = signed(masked(arena(4, "follow", ring_bits=bits), 1, vector))
    noise = 5 / np.sqrt(SIZE)
    for seen, known in (
        (words, vector),
        (np.sign(words), np.sign(vector)),
        (np.abs(words), np.abs(vector)),
        (words[1:], vector[:-1]),
    ):
        assert abs(np.corrcoef(seen, known)[0, 1]) < noise


@BOTH_RINGS
def test_two_rounds_with_the_same_update_are_unrelated(bits: int) -> None:
    """A recorder subtracts and correlates two vectors of one hospital with one update: their difference is uniform."""
    world = arena(4, "two rounds", ring_bits=bits)
    one, two = (masked(world, number, update("normal")) for number in (1, 2))
    assert abs(np.corrcoef(signed(one), signed(two))[0, 1]) < 5 / np.sqrt(SIZE)
    difference = np.frombuffer((one.body - two.body).tobytes(), np.uint8)
    assert stats.chisquare(np.bincount(difference, minlength=256)).pvalue > UNLIKELY
    assert not np.array_equal(one.lanes, two.lanes)


def test_two_hospitals_with_the_same_update_are_unrelated() -> None:
    """A recorder adds and subtracts the vectors of two hospitals that share a mask: it alone is no leak."""
    world = arena(4, "two hospitals")
    task = task_of(world, 1, SIZE)
    codec = Attacker(world).codec
    one, two = (Upload.read(send(world, task, index, update("zeros")), task, codec).body for index in (1, 2))
    for words in (one + two, one - two):
        assert stats.chisquare(np.bincount(np.frombuffer(words.tobytes(), np.uint8), minlength=256)).pvalue > UNLIKELY


def test_the_header_is_masked_as_well() -> None:
    """A recorder reads the lanes of many vectors of weight 1 and no metric: none is small, none is met twice."""
    world = arena(4, "header", rounds=40)
    lanes: list[int] = []
    for number in range(1, 41):
        task = task_of(world, number, 4, metrics=())
        raw = send(world, task, 1, np.zeros(4, np.float32), 1)
        lanes += Upload.read(raw, task, Attacker(world).codec).lanes.tolist()
    assert len(set(lanes)) == len(lanes) == 320
    assert min(lanes) > 2**48
    bits = np.unpackbits(np.array(lanes, np.uint64).view(np.uint8))
    assert abs(bits.mean() - 0.5) < 5 * 0.5 / np.sqrt(bits.size)


def test_body_and_header_have_keys_of_their_own() -> None:
    """A recorder subtracts the header of a zero update from its body: the two streams are not one."""
    world = arena(4, "own keys")
    upload = masked(world, 1, update("zeros"))
    header = np.frombuffer(upload.lanes.tobytes(), np.uint8)
    start = np.frombuffer(upload.body.tobytes()[: header.size], np.uint8)
    assert np.count_nonzero(header == start) < 6


@BOTH_RINGS
def test_the_length_says_nothing(bits: int) -> None:
    """A recorder measures messages of very different updates, weights and metrics: all have the same length."""
    lengths = set()
    for label, weight, value in (("a", 1, 0.0), ("b", 1000, 1.0), ("c", 500, -1e20)):
        world = arena(4, label, ring_bits=bits)
        vector = np.full(1000, value, np.float32)
        lengths.add(len(send(world, task_of(world, size=1000), 1, vector, weight)))
    assert lengths == {144 + 1000 * bits // 8}


def test_shares_say_nothing_below_the_threshold() -> None:
    """Holders of t - 1 shares of one secret join them in every way: no combination has a bit of it in common."""
    world = arena(5, "shares")
    state = world.ledgers[1].state(1)
    assert state is not None
    here = state.at(1)
    b = keys.self_secret(here.own)
    shares = field.split(b, keys.polynomial(here.own, keys.Label.SELF_POLYNOMIAL, 4), world.everyone)
    assert field.combine(shares, 4) == field.to_bytes(b)
    for some in combinations(world.everyone, 3):
        guess = field.combine({index: shares[index] for index in some}, 3)
        assert guess != field.to_bytes(b)
