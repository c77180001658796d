import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulation.sites.mri import draw_head
from simulation.sites.torso import draw_torso
from simulation.sites.warp import Move, RandomField, Warp, rotation, slice_points

seeds = st.integers(0, 2**32 - 1)


def draw(kind: str, seed: int) -> tuple[Warp, float]:
    rng = np.random.default_rng(seed)
    return (draw_head(rng, ageing=0.5).warp, 100.0) if kind == "head" else (draw_torso(rng).warp, 180.0)


@pytest.mark.parametrize("kind", ["head", "torso"])
@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_no_anatomy_folds_over_itself(kind: str, seed: int) -> None:
    warp, reach = draw(kind, seed)
    axis = np.linspace(-reach, reach, 19)
    base = np.stack(np.meshgrid(axis, axis, axis, indexing="ij")).astype(np.float32)
    step = 1.0
    columns = []
    for direction in np.eye(3, dtype=np.float32)[:, :, None, None, None]:
        ends = []
        for sign in (-1, 1):
            points = base + sign * step * direction
            mapped = np.tensordot(warp.matrix, points, 1) + sum(field(points) for field in warp.fields)
            ends.append(mapped)
        columns.append((ends[1] - ends[0]) / (2 * step))
    jacobian = np.moveaxis(np.stack(columns, 1), (0, 1), (-2, -1))
    assert np.linalg.det(jacobian).min() > 0.1


@settings(max_examples=10, deadline=None)
@given(seed=seeds, pixels=st.integers(9, 40))
def test_the_lattice_agrees_with_the_field_itself(seed: int, pixels: int) -> None:
    field = RandomField.draw(np.random.default_rng(seed), spread=1.0, width=40.0, half=60.0)
    points = slice_points(pixels, 2.0 * pixels, np.array([-3.0, 12.0]))
    assert np.abs(field.on_slices(points) - field(points)).max() < 0.05


@given(seed=seeds)
def test_a_move_keeps_all_distances(seed: int) -> None:
    rng = np.random.default_rng(seed)
    move = Move.draw(rng)
    points = rng.normal(0, 50, (3, 2, 1, 1)).astype(np.float32)
    before, after = (np.linalg.norm(p[:, 0] - p[:, 1]) for p in (points, move(points)))
    assert after == pytest.approx(before, rel=1e-4)


@given(st.tuples(*[st.floats(-3, 3)] * 3))
def test_rotations_are_rotations(angles: tuple[float, float, float]) -> None:
    matrix = rotation(np.array(angles))
    assert matrix @ matrix.T == pytest.approx(np.eye(3), abs=1e-9)
    assert np.linalg.det(matrix) == pytest.approx(1)


def test_slices_lie_as_dicom_says() -> None:
    points = slice_points(4, 8.0, np.array([10.0, 16.0]))
    assert points.shape == (3, 2, 4, 4)
    assert points[:, 1, 0, 3].tolist() == [3.0, -3.0, 16.0]  # last column, first row: left of the patient, front
