"""Streams are added and taken off modulo the ring, piece by piece as in one go, in one thread as in several."""

import numpy as np
import pytest

from shared.secagg.masks import CHUNK_BYTES, MaskStreams, apply_masks, key_stream, over_segments

KEYS = [bytes([n]) * 32 for n in range(1, 6)]


@pytest.mark.parametrize("name", ["<u2", "<u4", "<u8"])
def test_what_is_added_comes_off(name: str) -> None:
    words = np.arange(100_003).astype(name)
    before = words.copy()
    apply_masks(words, KEYS[:3], KEYS[3:])
    assert np.count_nonzero(words == before) < 20
    apply_masks(words, KEYS[3:], KEYS[:3])
    assert np.array_equal(words, before)


@pytest.mark.parametrize("name", ["<u2", "<u4"])
def test_pieces_of_any_length_are_masked_as_the_whole(name: str) -> None:
    whole = np.zeros(200_001, name)
    apply_masks(whole, KEYS[:2], KEYS[2:3])
    parts = np.zeros_like(whole)
    streams = MaskStreams(KEYS[:2], KEYS[2:3])
    for start, stop in ((0, 1), (1, 7), (7, 65_536), (65_536, 200_001)):
        streams.apply(parts[start:stop])
    assert np.array_equal(parts, whole)


@pytest.mark.parametrize("size", [0, 1, 1000, CHUNK_BYTES // 4, CHUNK_BYTES // 4 + 1, CHUNK_BYTES + 5])
@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_threads_mask_as_one_does(size: int, workers: int) -> None:
    whole, parts = np.zeros(size, "<u4"), np.zeros(size, "<u4")
    apply_masks(whole, KEYS[:1], KEYS[1:])
    over_segments(
        lambda start, stop: MaskStreams(KEYS[:1], KEYS[1:], start * 4).apply(parts[start:stop]), size, 4, workers
    )
    assert np.array_equal(parts, whole)


def test_a_stream_is_entered_at_a_block() -> None:
    whole = key_stream(KEYS[0]).update(bytes(64))
    assert key_stream(KEYS[0], 32).update(bytes(32)) == whole[32:]
    with pytest.raises(ValueError, match="multiple of 16"):
        key_stream(KEYS[0], 8)


def test_an_error_in_a_thread_is_not_lost() -> None:
    def work(start: int, _: int) -> None:
        if start:
            raise RuntimeError("second segment")

    with pytest.raises(RuntimeError, match="second segment"):
        over_segments(work, CHUNK_BYTES, 4, 2)


def test_a_masked_vector_of_zeros_looks_random() -> None:
    words = np.zeros(2**16, "<u4")
    apply_masks(words, KEYS[:1], KEYS[1:2])
    counts = np.bincount(words.view(np.uint8), minlength=256)
    # Chi-squared with 255 degrees of freedom: mean 255, standard deviation 22.6.
    assert abs(((counts - 1024) ** 2 / 1024).sum() - 255) < 6 * 22.6
