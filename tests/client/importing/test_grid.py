"""Every voxel stays where it was, whatever way a volume lies; what DICOM cannot tell is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from client.enhance.slices import UnusableError
from client.importing.content import Content
from client.importing.grid import stack
from client.importing.write import REFERENCE, Naming, _image
from tests.client.importing.made import AXIAL

LPS = np.diag([-1.0, -1, 1, 1])


@st.composite
def placed(draw: st.DrawFn) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """A size, and an affine at right angles: any rotation, any flips, any order of the axes, any spacing."""
    shape = draw(st.tuples(*[st.integers(1, 5)] * 3))
    turn = Rotation.from_rotvec(draw(arrays(float, 3, elements=st.floats(-3, 3)))).as_matrix()
    steps = draw(arrays(float, 3, elements=st.floats(0.3, 8.0)))
    signs = draw(arrays(float, 3, elements=st.sampled_from([-1.0, 1.0])))
    affine = np.eye(4)
    affine[:3, :3] = turn[:, draw(st.permutations(range(3)))] * steps * signs
    affine[:3, 3] = draw(arrays(float, 3, elements=st.floats(-900, 900)))
    return shape, affine


@settings(max_examples=40, deadline=None)
@given(placed())
def test_each_voxel_of_the_dicom_lies_where_it_lay(one: tuple[tuple[int, int, int], NDArray[np.float64]]) -> None:
    """By the headers that are written (PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1), not by our own matrix."""
    shape, affine = one
    values = np.arange(np.prod(shape)).reshape(shape)
    turned, grid = stack(values, affine)
    content = Content("CT", turned.astype(np.float32), None, None, grid)
    indices = np.stack(np.unravel_index(turned, shape), axis=-1)
    truth = indices @ affine[:3, :3].T + affine[:3, 3]
    truth = truth * [-1, -1, 1]
    for number in range(len(turned)):
        header = _image(content, Naming("P", "0"), REFERENCE, number)
        across, down = np.split(np.array(header.ImageOrientationPatient, float), 2)
        between_rows, between_columns = map(float, header.PixelSpacing)
        rows, columns = np.mgrid[: header.Rows, : header.Columns]
        place = np.array(header.ImagePositionPatient, float)
        place = place + columns[..., None] * between_columns * across + rows[..., None] * between_rows * down
        assert np.abs(place - truth[number]).max() < 1e-4


def test_an_axial_volume_is_shown_as_radiologists_see_it() -> None:
    values = np.zeros((6, 8, 4))
    values[0, 0, 0] = 1  # first voxel: x = +40 in RAS, the right side of the patient; y = -30: behind; z: lowest
    turned, grid = stack(values, AXIAL)
    assert turned.shape == (4, 8, 6)
    # The patient's right is on the left of the picture, his back at the bottom.
    assert turned[0, 7, 0] == 1
    assert grid.orientation == [1, 0, 0, 0, 1, 0]
    assert grid.spacing == pytest.approx((5, 0.8, 0.8))


@pytest.mark.parametrize(
    ("thick", "way"), [(0, [0, 1, 0, 0, 0, -1]), (1, [1, 0, 0, 0, 0, -1]), (2, [1, 0, 0, 0, 1, 0])]
)
def test_slices_are_taken_along_the_thick_axis(thick: int, way: list[float]) -> None:
    steps = np.ones(4)
    steps[thick] = 4
    turned, grid = stack(np.zeros((3, 4, 5)), np.diag(steps) @ np.eye(4))
    assert len(turned) == (3, 4, 5)[thick]
    assert grid.orientation == way
    normal = np.cross(way[:3], way[3:])
    assert normal @ (grid.position(1) - grid.position(0)) > 0


def sheared() -> NDArray[np.float64]:
    made = np.eye(4)
    made[0, 2] = 0.2
    return made


@pytest.mark.parametrize(
    ("affine", "reason"),
    [
        (np.zeros((4, 4)), "places voxels"),
        (np.diag([1, 0, 1, 1.0]), "cannot be inverted"),
        (np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "cannot be inverted"),
        (np.diag([1, np.nan, 1, 1.0]), "places voxels"),
        (np.diag([1e-9, 1, 1, 1.0]), "cannot be inverted"),
        (sheared(), "right angles"),
    ],
)
def test_what_dicom_cannot_tell_is_refused(affine: NDArray[np.float64], reason: str) -> None:
    with pytest.raises(UnusableError, match=reason):
        stack(np.zeros((3, 4, 5)), affine)
