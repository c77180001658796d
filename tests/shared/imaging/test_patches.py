"""Windows into images."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shared.imaging.patches import Window, draw_windows


@given(height=st.integers(1, 40), width=st.integers(1, 40), size=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
def test_windows_stay_inside_images_that_are_large_enough(height: int, width: int, size: int, seed: int) -> None:
    for window in draw_windows([(3, height, width)], 5, size, np.random.default_rng(seed)):
        assert 0 <= window.index < 3
        assert 0 <= window.top <= max(height - size, 0)
        assert 0 <= window.left <= max(width - size, 0)


def test_slices_are_drawn_alike_whichever_study_they_belong_to() -> None:
    windows = draw_windows([(1, 8, 8), (9, 8, 8)], 4000, 4, np.random.default_rng(0))
    assert abs(np.mean([window.stack == 0 for window in windows]) - 0.1) < 0.02


def test_the_eight_turns_are_the_symmetries_of_the_square() -> None:
    stack = np.arange(9).reshape(1, 3, 3)
    turned = {tuple(Window(0, 0, 0, 0, turn).cut([stack], 3).ravel()) for turn in range(8)}
    rotations = [np.rot90(base, k) for base in (stack[0], stack[0].T) for k in range(4)]
    assert turned == {tuple(rotation.ravel()) for rotation in rotations}


def test_a_finer_array_gives_the_same_window_finer() -> None:
    coarse = np.arange(36).reshape(1, 6, 6)
    fine = coarse.repeat(2, axis=1).repeat(2, axis=2)
    window = Window(0, 0, 2, 1, 6)
    np.testing.assert_array_equal(window.cut([fine], 3, 2)[::2, ::2], window.cut([coarse], 3))


def test_the_border_of_a_small_image_is_repeated() -> None:
    patch = Window(0, 0, 0, 0, 0).cut([np.array([[[1, 2, 3], [4, 5, 6]]])], 4)
    np.testing.assert_array_equal(patch, [[1, 2, 3, 3], [4, 5, 6, 6], [4, 5, 6, 6], [4, 5, 6, 6]])


def test_turns_can_be_restricted_to_the_mirror_image() -> None:
    windows = draw_windows([(1, 8, 8)], 50, 4, np.random.default_rng(0), turns=2)
    assert {window.turn for window in windows} == {0, 1}
