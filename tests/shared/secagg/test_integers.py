"""Integers under masks: summed as they are, modulo 2^32, whoever drops out; and nothing else is taken for them."""

import dataclasses

import numpy as np
import pytest

from shared.errors import CharterError, PolicyError
from shared.secagg.codec import Codec
from tests.shared.secagg.world import World, federation, update

SIZE = 5000


def world(members: int = 4) -> World:
    made = World.of(members, integers=True, w_max=1)
    made.begin()
    return made


def numbers(member: int, least: int = -(2**31), most: int = 2**31) -> np.ndarray:
    """Words over the whole ring: a sum of them wraps, and no element could be clipped without being seen."""
    return np.random.default_rng(member).integers(least, most, SIZE).astype(np.int64) & 0xFFFFFFFF


@pytest.mark.parametrize(("early", "silent"), [((), ((), ())), ((2,), ((), ())), ((), ((3,), ())), ((), ((), (3,)))])
def test_the_masked_sum_is_the_sum_in_the_clear_of_those_who_are_in_it(
    early: tuple[int, ...], silent: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    made = world(5)
    task = made.task(1, SIZE, ())
    words = {index: numbers(index).astype(np.uint32) for index in made.everyone if index not in early}
    outcome = made.run(task, words, dict.fromkeys(words, 1), silent=silent)
    assert outcome.included == tuple(words)
    assert outcome.weight == len(words)
    clear = sum(one.astype(np.int64) for one in words.values())
    signed = (clear + 2**31) % 2**32 - 2**31
    assert outcome.average.dtype == np.float64
    assert np.array_equal(outcome.average, signed.astype(np.float64))


def test_a_sum_that_fits_comes_out_as_it_is_though_its_summands_do_not() -> None:
    made = world(3)
    task = made.task(1, SIZE, ())
    one, two = numbers(1, -(2**40), 2**40), numbers(2, -(2**40), 2**40)
    small = np.arange(SIZE) - SIZE // 2
    three = (small - one - two) & 0xFFFFFFFF
    words = {index: value.astype(np.uint32) for index, value in ((1, one), (2, two), (3, three))}
    assert np.array_equal(made.run(task, words, dict.fromkeys(words, 1)).average, small)


def test_metrics_alone_go_without_integers() -> None:
    made = world(3)
    outcome = made.run(
        made.task(1, 0), dict.fromkeys(made.everyone, np.zeros(0, np.float32)), dict.fromkeys(made.everyone, 1)
    )
    assert outcome.metrics == {"loss": 3.0}


@pytest.mark.parametrize(
    "vector",
    [
        update(1, 6),
        np.zeros(6, np.int64),
        np.zeros(6, ">u4"),
        np.zeros((2, 3), np.uint32),
        np.zeros(12, np.uint32)[::2],
    ],
)
def test_what_is_no_vector_of_words_is_not_masked(vector: np.ndarray) -> None:
    codec = Codec.of(federation(3, integers=True, w_max=1))
    with pytest.raises(PolicyError, match="sums integers"):
        codec.check(vector, 1)
    with pytest.raises(PolicyError, match="float32"):
        Codec.of(federation(3)).check(np.zeros(6, np.uint32), 1)


@pytest.mark.parametrize("change", [{"ring_bits": 16}, {"w_max": 2}])
def test_integers_go_with_the_wide_ring_and_one_weight(change: dict[str, int]) -> None:
    with pytest.raises(CharterError, match="integers are summed in a ring of 32 bits"):
        federation(3, **{"integers": True, "w_max": 1, **change})


def test_who_sums_integers_and_who_does_not_are_not_of_one_federation() -> None:
    plain = federation(3, w_max=1)
    whole = dataclasses.replace(plain, integers=True)
    assert plain.fingerprint != whole.fingerprint
    assert Codec.of(plain).encoded() != Codec.of(whole).encoded()
