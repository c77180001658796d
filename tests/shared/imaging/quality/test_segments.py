"""Outlines and volumes against values worked out by hand, and against every pair of outline pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist

from shared.imaging.quality.segments import hausdorff_95, volumes

masks = arrays.arrays(bool, (9, 11))


def square(top: int, left: int, edge: int = 6) -> np.ndarray:
    mask = np.zeros((30, 30), bool)
    mask[top : top + edge, left : left + edge] = True
    return mask


@pytest.mark.parametrize(("spacing", "expected"), [((1.0, 1.0), 3.0), ((1.0, 0.5), 1.5), ((2.0, 1.0), 3.0)])
def test_a_square_that_was_moved_to_the_right_is_as_far_off_as_it_was_moved(
    spacing: tuple[float, float], expected: float
) -> None:
    assert hausdorff_95(square(5, 5), square(5, 8), spacing) == pytest.approx(expected)


def test_one_stray_pixel_among_many_is_not_the_distance() -> None:
    truth = square(4, 4, 12)
    stray = truth.copy()
    stray[29, 29] = True
    assert hausdorff_95(stray, truth, (1.0, 1.0)) == 0.0


def test_a_class_that_one_of_both_lacks_is_off_by_the_diagonal() -> None:
    nothing = np.zeros((30, 40), bool)
    one = nothing.copy()
    one[3, 3] = True
    assert hausdorff_95(nothing, one, (1.0, 1.0)) == hausdorff_95(one, nothing, (1.0, 1.0)) == 50.0
    assert hausdorff_95(nothing, nothing, (1.0, 1.0)) is None


@given(masks, masks, st.sampled_from([(1.0, 1.0), (0.7, 1.9)]))
def test_it_is_the_percentile_over_all_pairs_of_outline_pixels(
    left: np.ndarray, right: np.ndarray, spacing: tuple[float, float]
) -> None:
    if not left.any() or not right.any():
        return
    ours, theirs = (np.argwhere(mask & ~binary_erosion(mask)) * spacing for mask in (left, right))
    pairs = cdist(ours, theirs)
    expected = max(np.percentile(pairs.min(axis=1), 95), np.percentile(pairs.min(axis=0), 95))
    assert hausdorff_95(left, right, spacing) == pytest.approx(expected)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        hausdorff_95(np.zeros((3, 3), bool), np.zeros((3, 4), bool), (1.0, 1.0))


def test_a_thousand_cubic_millimetres_are_a_millilitre() -> None:
    classes = np.zeros((2, 10, 10), np.uint8)
    classes[0, :2, :5] = 1
    classes[1] = 2
    np.testing.assert_allclose(volumes(classes, 4, 1.5 * 2.0 * 5.0), [1.35, 0.15, 1.5, 0.0])
