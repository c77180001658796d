"""Figures of merit against values worked out by hand and against the library that defines them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from shared.errors import DataError
from shared.imaging.metrics import Sums, confusion, confusion_sums, image_sums, overlap, psnr, summarise
from tests.shared.imaging.phantoms import study


def test_a_constant_error_of_a_tenth_is_twenty_decibels() -> None:
    truth = np.full((1, 16, 16), 0.5, np.float32)
    figures = summarise("denoise", image_sums(truth + np.float32(0.1), truth))
    assert figures["mse"] == pytest.approx(0.01)
    assert figures["psnr"] == pytest.approx(20.0, abs=1e-4)


def test_psnr_and_ssim_are_those_of_scikit_image_per_slice_then_averaged() -> None:
    images = study(48, 40, slices=3)
    pairs = list(zip(images.noisy, images.reference, strict=True))
    figures = summarise("denoise", image_sums(images.noisy, images.reference))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    assert figures["ssim"] == pytest.approx(np.mean([structural_similarity(p, t, **options) for p, t in pairs]))
    assert figures["psnr"] == pytest.approx(
        np.mean([peak_signal_noise_ratio(t.astype(np.float64), p.astype(np.float64), data_range=1.0) for p, t in pairs])
    )


def test_predictions_are_clipped_to_the_grey_scale_before_they_are_judged() -> None:
    truth = np.ones((1, 16, 16), np.float32)
    assert summarise("denoise", image_sums(truth * 3, truth))["mse"] == 0.0


def test_a_perfect_slice_counts_a_hundred_decibels_and_not_infinity() -> None:
    assert psnr(np.zeros((4, 4), np.float32), np.zeros((4, 4), np.float32)) == 100.0


def test_overlap_of_a_matrix_worked_out_by_hand() -> None:
    # Truth in rows: class 0 has 6 pixels, class 1 has 3, class 2 has 1 and is never found.
    matrix = np.array([[5, 1, 0], [1, 2, 0], [1, 0, 0]])
    figures = overlap(matrix)
    assert figures["miou"] == pytest.approx((5 / 8 + 2 / 4 + 0) / 3)
    assert figures["miou_foreground"] == pytest.approx((2 / 4 + 0) / 2)
    assert figures["dice"] == pytest.approx((4 / 6 + 0) / 2)
    assert figures["accuracy"] == pytest.approx(0.7)


def test_a_class_that_nobody_has_or_names_does_not_count() -> None:
    assert overlap(np.diag([4, 3, 0, 0])) == {"miou": 1.0, "miou_foreground": 1.0, "dice": 1.0, "accuracy": 1.0}


def test_truth_is_in_the_rows_of_the_confusion_matrix() -> None:
    truth, found = np.array([[[0, 1, 1]]]), np.array([[[0, 2, 1]]])
    np.testing.assert_array_equal(confusion(found, truth, 3), [[1, 0, 0], [0, 1, 1], [0, 0, 0]])
    assert confusion_sums(found, truth, 3).values["c12"] == 1.0


@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(1, 5))
def test_sums_over_parts_are_the_sum_over_all(seed: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    found, truth = rng.integers(0, 4, size=(2, 6, 5, 5))
    parts = confusion_sums(found[:cut], truth[:cut], 4) + confusion_sums(found[cut:], truth[cut:], 4)
    assert summarise("segment", parts) == summarise("segment", confusion_sums(found, truth, 4))


def test_nothing_is_the_zero_of_the_addition() -> None:
    sums = Sums({"slices": 2.0, "mse": 0.5})
    assert (Sums.zero() + sums).values == sums.values == (sums + Sums.zero()).values


def test_figures_of_nothing_are_an_error() -> None:
    with pytest.raises(DataError, match="no slice was scored for the task denoise"):
        summarise("denoise", Sums.zero())


def test_arrays_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        image_sums(np.zeros((1, 16, 16), np.float32), np.zeros((2, 16, 16), np.float32))
    with pytest.raises(ValueError, match=r"outside 0\.\.3"):
        confusion(np.array([4]), np.array([0]), 4)
