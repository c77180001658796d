"""Fixed point that never wraps, loses no more than it says, and refuses what must not enter a sum."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import PolicyError, ProtocolError
from shared.secagg.codec import LANES, Codec, Quantiser, lane_count

KEY = bytes(32)


def quantise(codec: Codec, values: np.ndarray, weight: int, key: bytes = KEY) -> np.ndarray:
    out = np.zeros(values.size, codec.words)
    coins = key if codec.bits == 16 else None
    Quantiser(codec, weight, clips=codec.check(values, weight), coins=coins).quantise(values, out)
    return out


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("members", [3, 5, 7, 10, 31, 32, 100])
@pytest.mark.parametrize("sign", [1, -1])
def test_everyone_at_full_scale_and_full_weight_does_not_wrap(bits: int, members: int, sign: int) -> None:
    codec = Codec(bits, members, 0.1, 1000)
    values = np.full(999, sign * 9.9, np.float32)
    total = np.zeros(999, codec.words)
    for member in range(members):
        total += quantise(codec, values, 1000, bytes([member]) * 32)
    average = np.zeros(999)
    codec.average(total, 1000 * members, average)
    assert np.allclose(average, sign * 0.1, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=20),
    weight=st.integers(1, 1000),
    bits=st.sampled_from([16, 32]),
    members=st.integers(3, 100),
)
def test_a_value_is_off_by_half_a_step_or_by_one_if_stochastic(
    values: list[float], weight: int, bits: int, members: int
) -> None:
    codec = Codec(bits, members, 1.0, 1000)
    vector = np.array(values, np.float32)
    back = np.zeros(vector.size)
    codec.average(quantise(codec, vector, weight), weight, back)
    step = 1000 / (codec.scale * weight)
    assert np.abs(back - np.clip(vector.astype(float), -1, 1)).max() <= step * (1 if bits == 16 else 0.5) * (1 + 1e-9)


def test_stochastic_rounding_has_no_bias_and_repeats_with_its_key() -> None:
    codec = Codec(16, 10, 1.0, 1000)
    values = np.full(400_000, 0.12345, np.float32)
    words = quantise(codec, values, 777)
    assert np.array_equal(words, quantise(codec, values, 777))
    assert not np.array_equal(words, quantise(codec, values, 777, b"\x01" * 32))
    exact = 0.12345 * 0.777 * codec.scale
    assert set(words.tolist()) == {int(exact), int(exact) + 1}
    assert abs(words.mean() - exact) < 6 * 0.5 / np.sqrt(values.size)
    assert not quantise(codec, np.zeros(1000, np.float32), 1000).any()


def test_pieces_are_quantised_as_the_whole() -> None:
    codec = Codec(16, 3, 1.0, 1000)
    values = np.linspace(-1.5, 1.5, 200_001, dtype=np.float32)
    whole, parts = quantise(codec, values, 5), np.zeros(values.size, codec.words)
    quantiser = Quantiser(codec, 5, clips=True, coins=KEY)
    for start, stop in ((0, 3), (3, 65_536), (65_536, 200_001)):
        quantiser.quantise(values[start:stop], parts[start:stop])
    assert np.array_equal(parts, whole)
    assert quantiser.clipped == np.count_nonzero(np.abs(values) > 1)


@pytest.mark.parametrize("vector", [np.zeros((2, 2), np.float32), np.zeros(3), np.zeros(6, np.float32)[::2]])
def test_only_a_flat_float32_vector_is_an_update(vector: np.ndarray) -> None:
    with pytest.raises(PolicyError, match="contiguous float32"):
        Codec(32, 3, 1.0, 10).check(vector, 1)


def test_coins_go_with_sixteen_bits_and_only_with_them() -> None:
    for bits, coins in ((16, None), (32, KEY)):
        with pytest.raises(ValueError, match="coins"):
            Quantiser(Codec(bits, 3, 1.0, 10), 1, clips=False, coins=coins)


@pytest.mark.parametrize(("metrics", "lanes"), [(0, 8), (6, 8), (7, 10), (8, 10), (64, 66)])
def test_lanes(metrics: int, lanes: int) -> None:
    assert lane_count(metrics) == lanes
    with pytest.raises(PolicyError, match="at most 64"):
        lane_count(65)


@given(values=st.lists(st.floats(-(2.0**36), 2.0**36), max_size=6), count=st.integers(1, 100))
def test_metrics_are_summed_to_a_millionth_each(values: list[float], count: int) -> None:
    codec = Codec(32, 100, 1.0, 1000)
    names = [f"m{place}" for place in range(len(values))]
    total = np.zeros(LANES, np.uint64)
    for _ in range(count):
        total += codec.header(7, values)
    weight, sums = codec.read_header(total, count, names)
    assert weight == 7 * count
    for name, value in zip(names, values, strict=True):
        assert abs(sums[name] - count * value) <= count * 2**-21 + abs(count * value) * 1e-15


@pytest.mark.parametrize("lanes", [[2, 5], [4, 5], [3, 2], [3, 31], [3, 5, 1], [3, 5, 0, 0, 0, 0, 0, 1]])
def test_a_header_that_does_not_come_out_is_refused(lanes: list[int]) -> None:
    header = np.zeros(LANES, np.uint64)
    header[: len(lanes)] = lanes
    with pytest.raises(ProtocolError, match="masks did not cancel"):
        Codec(32, 3, 1.0, 10).read_header(header, 3, [])
