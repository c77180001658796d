"""Pictures show what the array holds: no stretch of the grey scale, no lossy codec, no colour on the background."""

import io

import numpy as np
import pytest
from PIL import Image

from shared.imaging.pictures import CLASS_COLOURS, grayscale, overlay, signed
from simulation.pictures import class_picture, intensity_picture


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_intensities_from_0_to_1_become_grey_levels_and_the_rest_is_clipped() -> None:
    image = np.array([[-1.0, 0.0, 0.5], [1.0, 2.0, np.nan]], np.float32)
    assert pixels(grayscale(image)).tolist() == [[0, 0, 128], [255, 255, 0]]


def test_a_coarse_input_is_enlarged_by_repeating_its_pixels() -> None:
    image = np.array([[0.0, 1.0]], np.float32)
    assert pixels(grayscale(image, size=(2, 4))).tolist() == [[0, 0, 255, 255]] * 2


def test_a_volume_is_no_picture() -> None:
    with pytest.raises(ValueError, match="plane"):
        grayscale(np.zeros((2, 3, 4), np.float32))


def test_classes_are_coloured_and_the_background_keeps_its_grey() -> None:
    image = np.full((1, 3), 0.4, np.float32)
    shown = pixels(overlay(image, np.array([[0, 1, 2]])))
    assert shown[0, 0].tolist() == [102, 102, 102]
    assert shown[0, 1, 2] > shown[0, 1, 0], "class 1 is blue"
    assert shown[0, 2, 0] > shown[0, 2, 2], "class 2 is orange"


@pytest.mark.parametrize("labels", [np.array([[len(CLASS_COLOURS)]]), np.array([[-1]]), np.zeros((1, 2), int)])
def test_labels_without_a_colour_or_of_another_shape_are_refused(labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="labels"):
        overlay(np.zeros((1, 1), np.float32), labels)


def test_a_row_goes_from_input_over_classical_and_ours_to_truth() -> None:
    image = np.zeros((4, 4), np.float32)
    row = intensity_picture(
        "H1",
        "a slice",
        inputs=(image[::2, ::2], {"psnr": 20.0}),
        classical=[("median", image, {"psnr": 25.0})],
        ours=("federated", image, {"psnr": 30.0}),
        truth=image,
    )
    assert [panel.role for panel in row.panels] == ["input", "classical", "ours", "truth"]
    assert {pixels(panel.png).shape for panel in row.panels} == {(4, 4)}, "all panels are of one size"


def test_a_row_of_classes_shows_the_bare_slice_first() -> None:
    image, labels = np.full((2, 2), 0.5, np.float32), np.ones((2, 2), np.uint8)
    row = class_picture("H1", "a slice", image=image, classical=[], ours=("federated", labels, {}), truth=labels)
    assert pixels(row.panels[0].png).ndim == 2
    assert pixels(row.panels[-1].png).shape == (2, 2, 3)


def test_a_difference_is_blue_below_orange_above_and_black_where_there_is_none() -> None:
    pixels = np.asarray(Image.open(io.BytesIO(signed(np.array([[-0.2, 0.0, 0.1, 9.0]]), 0.2))))
    (below, none, half, above) = pixels[0].astype(int)
    assert below[2] > below[0]
    assert above[0] > above[2]
    np.testing.assert_array_equal(none, 0)
    np.testing.assert_allclose(half, above / 2, atol=1)
    with pytest.raises(ValueError, match="window above 0"):
        signed(np.zeros((2, 2)), 0.0)
