"""The source of the privacy noise: unpredictable, never shared, and normal."""

import math
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from client.training import key_stream, secure_noise
from client.training.key_stream import KeyStream
from client.training.secure_noise import SecureNoise, SeededNoiseForTests

ROOT = Path(secure_noise.__file__).parents[2]


def test_the_key_stream_is_aes_256_in_counter_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """NIST SP 800-38A, F.5.5: the output block of the first counter is plaintext xor ciphertext."""
    secrets = {
        32: bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"),
        16: bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"),
    }
    monkeypatch.setattr(key_stream.os, "urandom", secrets.__getitem__)
    block = bytes.fromhex("0bdf7df1591716335e9a8b15c860c502")
    expected = [int.from_bytes(block[start : start + 8], "little") >> 11 for start in (0, 8)]
    assert KeyStream().integers(2).tolist() == expected


def test_the_stream_goes_on_and_two_streams_differ() -> None:
    one, other = KeyStream(), KeyStream()
    first = one.integers(100)
    assert not np.array_equal(first, one.integers(100))
    assert not np.array_equal(first, other.integers(100))
    assert first.max() < 2**53


def test_a_forked_process_does_not_repeat_its_parent() -> None:
    stream = KeyStream()
    stream.integers(1)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, stream.integers(4).tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 32) != stream.integers(4).tobytes()
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("bits", [0, 1])
def test_radii_are_as_fine_near_zero_as_far_out(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 53 bits that are all zero the others still decide: the radius does not fall onto a few values."""
    radii = set()
    for fine in range(1, 400):
        noise = SecureNoise()
        monkeypatch.setattr(
            noise, "_stream", SimpleNamespace(integers=lambda n, f=fine: np.array([0, 0, 2 * f + bits], np.uint64))
        )
        radii.add(float(np.abs(noise.normal(2)).max()))
    assert len(radii) == 399
    assert (min(radii) > 8.5) if bits else (max(radii) < 1e-7), "far out below, near zero above the half"


@pytest.mark.parametrize("count", [1, 2, 7, secure_noise._BLOCK + 1])
def test_any_number_of_normals_can_be_drawn(count: int) -> None:
    drawn = SecureNoise().normal(count)
    assert drawn.shape == (count,)
    assert np.isfinite(drawn).all()


def test_the_numbers_are_standard_normal_and_independent() -> None:
    count = 300_000
    drawn = SecureNoise().normal(count)
    # Each bound fails by chance less than once in a million runs.
    assert stats.kstest(drawn, "norm").pvalue > 1e-6
    assert abs(drawn.std() - 1) < 5 / math.sqrt(2 * count)
    assert abs(stats.kurtosis(drawn)) < 5 * math.sqrt(24 / count)
    half = len(drawn) // 2
    assert abs(np.corrcoef(drawn[:half] ** 2, drawn[half:] ** 2)[0, 1]) < 5 / math.sqrt(half)
    assert (np.abs(drawn) > 4).sum() == pytest.approx(count * 2 * stats.norm.sf(4), abs=25)


def test_the_smallest_uniform_gives_the_largest_number_and_no_infinity(monkeypatch: pytest.MonkeyPatch) -> None:
    zeros_but_for_the_half = np.array([0, 0, 1], np.uint64)
    monkeypatch.setattr(KeyStream, "integers", lambda _, count: np.repeat(zeros_but_for_the_half, count // 3))
    assert SecureNoise().normal(1)[0] == pytest.approx(math.sqrt(2 * 107 * math.log(2)))


def test_seeded_noise_repeats_itself_and_says_that_it_protects_nobody() -> None:
    assert np.array_equal(SeededNoiseForTests(1).normal(5), SeededNoiseForTests(1).normal(5))
    assert "TESTS ONLY" in SeededNoiseForTests.kind
    assert SeededNoiseForTests.kind != SecureNoise.kind


def test_no_code_of_the_product_reaches_the_seeded_noise() -> None:
    """No charter, command or message can switch it on, because no module but its own knows its name."""
    rooms = ["shared", "client", "server", "compliance", "simulation"]
    files = [file for room in rooms for file in (ROOT / room).rglob("*.*") if file.suffix in {".py", ".toml"}]
    knowing = {file.name for file in files if "SeededNoise" in file.read_text(encoding="utf-8")}
    assert knowing == {"secure_noise.py"}
