"""The physics: noise of magnitudes, and k-space."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.imaging.degrade import add_fbp_noise, add_rician_noise, kspace_downsample, zero_fill
from tests.shared.imaging.phantoms import band_limited


def centroid(image: np.ndarray) -> tuple[float, float]:
    """Centre of mass in fractions of the field of view, pixel centres at (i + 1/2) / n."""
    height, width = image.shape
    rows, columns = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    return float((image.sum(1) * rows).sum() / image.sum()), float((image.sum(0) * columns).sum() / image.sum())


@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 32), (36, 44), (30, 42)])
def test_zero_filling_inverts_truncation_of_a_band_limited_image(height: int, width: int) -> None:
    image = band_limited(height, width)
    small = kspace_downsample(image, 2)
    assert small.shape == (1, height // 2, width // 2)
    np.testing.assert_allclose(zero_fill(small, 2), image, atol=1e-5)


def test_truncation_loses_what_is_above_the_window() -> None:
    y = np.arange(32)[:, None] / 32
    fine = np.broadcast_to(0.5 + 0.1 * np.cos(2 * np.pi * 12 * y), (32, 32))[None].astype(np.float32)
    np.testing.assert_allclose(kspace_downsample(fine, 2), 0.5, atol=1e-5)


def test_a_coarse_pixel_lies_at_the_centre_of_those_it_replaces() -> None:
    y, x = np.mgrid[0:64, 0:64]
    blob = np.exp(-((y - 20.3) ** 2 + (x - 41.7) ** 2) / (2 * 5.0**2))[None].astype(np.float32)
    small = kspace_downsample(blob, 2)
    assert centroid(small[0]) == pytest.approx(centroid(blob[0]), abs=1e-4)
    assert centroid(zero_fill(small, 2)[0]) == pytest.approx(centroid(blob[0]), abs=1e-4)


def test_a_factor_of_four_works_too() -> None:
    image = band_limited(64, 64)
    np.testing.assert_allclose(zero_fill(kspace_downsample(image, 4), 4), image, atol=1e-5)


def test_truncation_noise_depends_on_the_content_alone() -> None:
    first, second = band_limited(32, 32, seed=1), band_limited(32, 32, seed=2)
    once, again = (kspace_downsample(first, 2, sigma=0.01) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    noise = [kspace_downsample(image, 2, sigma=0.01) - kspace_downsample(image, 2) for image in (first, second)]
    assert noise[0].std() == pytest.approx(0.01, rel=0.2)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.2


@given(sigma=st.floats(0.01, 0.2), seed=st.integers(0, 2**32 - 1))
def test_air_under_rician_noise_has_the_mean_of_a_rayleigh_distribution(sigma: float, seed: int) -> None:
    air = add_rician_noise(np.zeros((1, 64, 64), np.float32), sigma, np.random.default_rng(seed))
    assert float(air.mean()) == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=0.06)


def test_the_second_moment_of_a_magnitude_is_shifted_by_twice_the_variance() -> None:
    flat = np.full((1, 256, 256), 0.3, np.float32)
    noisy = add_rician_noise(flat, 0.1, np.random.default_rng(0))
    assert float((noisy.astype(np.float64) ** 2).mean()) == pytest.approx(0.3**2 + 2 * 0.1**2, rel=0.01)


@pytest.mark.parametrize("shape", [(64, 64), (96, 50), (33, 71)])
def test_back_projection_noise_has_its_sigma_no_bias_and_a_spectrum_that_rises(shape: tuple[int, int]) -> None:
    images = np.full((40, *shape), 37.0, np.float32)
    noise = add_fbp_noise(images, 25.0, np.random.default_rng(1)) - images
    assert noise.std() == pytest.approx(25.0, rel=0.02)
    assert abs(noise.mean(axis=(1, 2))).max() < 1e-3  # no power at frequency 0
    power = (np.abs(np.fft.fft2(noise)) ** 2).mean(axis=0)
    radius = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None])
    low, middle, high = (power[(radius > a) & (radius < b)].mean() for a, b in ((0, 0.04), (0.1, 0.2), (0.45, 0.6)))
    assert middle > 3 * low
    assert middle > 100 * high
