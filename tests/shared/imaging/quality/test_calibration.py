"""Calibration against figures worked out by hand."""

import numpy as np
import pytest

from shared.imaging.quality.calibration import BINS, calibration_sums, expected_calibration_error, reliability


def given(*pixels: tuple[float, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Two classes; for each pixel the probability of class 1, the true class, and how often it is there."""
    sure = np.concatenate([np.full(count, share, np.float32) for share, _, count in pixels])
    truth = np.concatenate([np.full(count, label, np.uint8) for _, label, count in pixels])
    return np.stack([1 - sure, sure])[None, :, None], truth[None, None]


def test_a_network_that_is_nine_tenths_sure_and_half_right_is_off_by_four_tenths() -> None:
    sums = calibration_sums(*given((0.9, 1, 50), (0.9, 0, 50)))
    assert expected_calibration_error(sums.values) == pytest.approx(0.4, abs=1e-6)
    (one,) = [found for found in reliability(sums.values) if found]
    assert (one.pixels, one.accuracy) == (100, 0.5)
    assert one.confidence == pytest.approx(0.9)


def test_a_network_that_is_right_as_often_as_it_is_sure_is_calibrated() -> None:
    sums = calibration_sums(*given((0.75, 1, 75), (0.75, 0, 25), (0.95, 1, 95), (0.95, 0, 5)))
    assert expected_calibration_error(sums.values) == pytest.approx(0, abs=1e-6)


def test_bins_weigh_as_much_as_they_have_pixels_and_sums_add_up() -> None:
    first, second = given((0.9, 1, 30), (0.9, 0, 10)), given((0.6, 1, 10))
    both = calibration_sums(*first) + calibration_sums(*second)
    assert expected_calibration_error(both.values) == pytest.approx((40 * 0.15 + 10 * 0.4) / 50, abs=1e-6)


def test_background_that_both_agree_on_does_not_count() -> None:
    probabilities, truth = given((0.01, 0, 1000), (0.9, 1, 10))
    assert expected_calibration_error(calibration_sums(probabilities, truth).values) == pytest.approx(0.1, abs=1e-6)
    nothing = calibration_sums(*given((0.01, 0, 10)))
    assert expected_calibration_error(nothing.values) == 0.0


def test_every_probability_has_its_bin_and_the_last_holds_one() -> None:
    sums = calibration_sums(*given((1.0, 1, 3), (14 / 15, 1, 2)))
    filled = [index for index, one in enumerate(reliability(sums.values)) if one]
    assert filled in ([13, 14], [14])  # 14/15 itself is a float32 on one side of the edge or the other
    assert len(reliability(sums.values)) == BINS
    assert reliability({}) == ()
