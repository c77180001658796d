"""A lesion that was invented is found, one that was taken away is missed, and noise is neither."""

import numpy as np
import pytest

from shared.imaging.classical_superres import methods
from shared.imaging.degrade import add_rician_noise
from shared.imaging.lowres import low_resolution
from shared.imaging.quality.structures import LEAST_CONTRAST, SIZES, Truth, consistency
from tests.shared.imaging.phantoms import study

NOISE = 0.01


def lesion(shape: tuple[int, int], row: int, column: int, size: float, contrast: float) -> np.ndarray:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return (contrast * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * size**2))).astype(np.float32)


@pytest.fixture
def images() -> tuple[np.ndarray, np.ndarray]:
    """A reference with little noise, and the noisier input."""
    clean = np.float32(0.6) * study(96, 96, slices=1, seed=3).reference[0]
    reference = add_rician_noise(clean[None], NOISE, np.random.default_rng(1))[0]
    source = add_rician_noise(clean[None], 0.05, np.random.default_rng(2))[0]
    return np.clip(reference, 0, 1), np.clip(source, 0, 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("contrast", [0.3, -0.3])
def test_a_planted_lesion_is_the_one_spot_that_was_added(
    images: tuple[np.ndarray, np.ndarray], size: float, contrast: float
) -> None:
    reference, source = images
    output = np.clip(reference + lesion((96, 96), 50, 40, size, contrast), 0, 1)
    found = Truth.of(reference, source, noise=NOISE).compare(output)
    assert not found.lost
    (spot,) = found.added
    assert np.hypot(spot.row - 50, spot.column - 40) <= 2
    assert spot.size == size
    assert np.sign(spot.contrast) == np.sign(contrast)
    assert abs(spot.contrast) == pytest.approx(0.3, rel=0.35)


@pytest.mark.parametrize("size", SIZES)
def test_a_lesion_that_was_removed_is_the_one_spot_that_was_lost(
    images: tuple[np.ndarray, np.ndarray], size: float
) -> None:
    output, source = images
    spot = lesion((96, 96), 46, 52, size, -0.3)
    reference, source = np.clip(output + spot, 0, 1), np.clip(source + spot, 0, 1)
    found = Truth.of(reference, source, noise=NOISE).compare(output)
    assert not found.added
    (lost,) = found.lost
    assert np.hypot(lost.row - 46, lost.column - 52) <= 2


def test_what_the_input_shows_was_not_invented(images: tuple[np.ndarray, np.ndarray]) -> None:
    reference, source = images
    spot = lesion((96, 96), 50, 40, 2.5, 0.3)
    found = Truth.of(reference, np.clip(source + spot, 0, 1), noise=NOISE).compare(np.clip(reference + spot, 0, 1))
    assert not found.added


def test_noise_is_no_structure(images: tuple[np.ndarray, np.ndarray]) -> None:
    reference, source = images
    again = add_rician_noise(
        np.float32(0.6) * study(96, 96, slices=1, seed=3).reference, 2 * NOISE, np.random.default_rng(9)
    )[0]
    found = Truth.of(reference, source, noise=NOISE).compare(np.clip(again, 0, 1))
    assert (found.added, found.lost) == ((), ())


def test_a_spot_fainter_than_the_least_contrast_does_not_count(images: tuple[np.ndarray, np.ndarray]) -> None:
    reference, source = images
    output = reference + lesion((96, 96), 50, 40, 2.5, 0.5 * LEAST_CONTRAST)
    assert not Truth.of(reference, source, noise=NOISE).compare(output).added


def test_the_noisier_the_reference_the_more_a_spot_must_stand_out(images: tuple[np.ndarray, np.ndarray]) -> None:
    reference, source = images
    output = np.clip(reference + lesion((96, 96), 50, 40, 1.5, 0.3), 0, 1)
    assert Truth.of(reference, source, noise=0.01).compare(output).added
    assert not Truth.of(reference, source, noise=0.2).compare(output).added


def test_shapes_must_agree(images: tuple[np.ndarray, np.ndarray]) -> None:
    reference, source = images
    with pytest.raises(ValueError, match="differ in shape"):
        Truth.of(reference, source[:-1])
    with pytest.raises(ValueError, match="differ in shape"):
        Truth.of(reference, source).compare(reference[1:])


# --- what was measured ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (63, 65)])
def test_the_reference_is_as_consistent_as_itself_and_a_lesion_is_not(size: tuple[int, int]) -> None:
    images = study(*size, slices=1)
    truth, small = images.reference[0], low_resolution(images)[0]
    assert consistency(truth, truth, small) == 1.0
    altered = np.clip(truth + lesion(size, 32, 30, 3.0, 0.4), 0, 1)
    assert consistency(altered, truth, small) > 3


def test_what_the_low_resolution_scan_could_not_see_it_cannot_contradict() -> None:
    images = study(64, 64, slices=1)
    truth, small = images.reference[0], low_resolution(images)[0]
    board = 0.1 * (-1.0) ** np.add.outer(np.arange(64), np.arange(64)).astype(np.float32)
    assert consistency((truth + board).astype(np.float32), truth, small) == pytest.approx(1, abs=0.05)


def test_zero_filling_repeats_what_was_measured_and_bicubic_does_not() -> None:
    images = study(64, 64, slices=1)
    truth, small = images.reference[0], low_resolution(images)[0]
    filled, bicubic = (methods(2)[name](images)[0] for name in ("zero_fill", "bicubic"))
    assert consistency(filled, truth, small) < consistency(bicubic, truth, small)


def test_a_denoised_image_that_lost_a_lesion_contradicts_its_input() -> None:
    images = study(64, 64, slices=1, sigma=0.05)
    spot = lesion((64, 64), 30, 34, 3.0, -0.3)
    reference, source = np.clip(images.reference[0] + spot, 0, 1), np.clip(images.noisy[0] + spot, 0, 1)
    assert consistency(reference, reference, source) == 1.0
    assert consistency(images.reference[0], reference, source) > 1.3
    assert consistency(source, reference, source) == 0.0


def test_an_input_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="is none for an output"):
        consistency(np.zeros((8, 8), np.float32), np.zeros((8, 8), np.float32), np.zeros((3, 3), np.float32))


def test_a_reference_without_noise_has_the_least_residual_that_counts() -> None:
    plane = np.full((16, 16), 0.5, np.float32)
    assert consistency(plane, plane, plane) == 0.0
    assert consistency(plane + np.float32(0.01), plane, plane) == pytest.approx(10, rel=1e-4)
