"""Where voxels lie: any volume as a stack of slices with the place of each pixel in DICOM's patient coordinates.

NIfTI and MINC give a voxel's place in RAS (x grows to the patient's right, y to the front, z to the head; nifti1.h,
"3D image (volume) orientation and location in space"); DICOM gives it in LPS (PS3.3 C.7.6.2.1.1). Axes are only
permuted and turned round: no value is interpolated, and a volume that lies oblique in the patient stays so.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from client.enhance.slices import UnusableError

Vector = NDArray[np.float64]

TO_LPS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
SKEW: Final = 1e-4
"""The largest cosine between two axes at right angles: float32 affines of rotated volumes stay below 1e-6."""
THICK: Final = 1.2
"""How much farther apart than pixels the slices of a stack are, for its axis to be known as that of the slices."""
LARGEST_STEP: Final = 1e3  # mm
FARTHEST: Final = 1e5  # mm


@dataclass(frozen=True, eq=False)
class Grid:
    """The places of the pixels of a stack.

    Attributes:
        shape: Slices, rows and columns.
        matrix: 4 x 4, from (slice, row, column, 1), each from 0, to (x, y, z, 1) in LPS, mm.
    """

    shape: tuple[int, int, int]
    matrix: Vector

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Between slices, between rows and between columns, mm."""
        steps = np.linalg.norm(self.matrix[:3, :3], axis=0)
        return float(steps[0]), float(steps[1]), float(steps[2])

    @property
    def orientation(self) -> list[float]:
        """Image Orientation (Patient): the way along a row (with the columns), then along a column."""
        along_row, along_column = self.matrix[:3, 2], self.matrix[:3, 1]
        return [*(along_row / np.linalg.norm(along_row)), *(along_column / np.linalg.norm(along_column))]

    def position(self, number: int) -> Vector:
        """Image Position (Patient) of a slice: the centre of its first pixel."""
        return np.asarray(self.matrix[:3, 3] + number * self.matrix[:3, 0])

    def to_pixels(self, points: Vector) -> Vector:
        """(slice, row, column) of places in LPS, ``[n, 3]`` both."""
        inverse = np.linalg.inv(self.matrix)
        return np.asarray(points @ inverse[:3, :3].T + inverse[:3, 3])

    def apart(self, other: "Grid") -> float:
        """The farthest that a corner of the stack lies from where ``other`` has it, mm; infinite for other shapes."""
        if self.shape != other.shape:
            return float("inf")
        ends = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], float)
        corners = ends * [*(size - 1 for size in self.shape), 1]
        return float(np.abs(np.linalg.norm((corners @ (self.matrix - other.matrix).T)[:, :3], axis=1)).max())


def check_affine(affine: Vector) -> None:
    """Refuse what is no place of voxels that DICOM could tell.

    Raises:
        UnusableError: It is no 4 x 4 matrix of finite numbers, it cannot be inverted, or its axes are sheared.
    """
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or (affine[3] != [0, 0, 0, 1]).any():
        raise UnusableError("its affine is no matrix that places voxels")
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    if (steps < 1e-6).any() or (steps > LARGEST_STEP).any() or np.abs(affine[:3, 3]).max() > FARTHEST:
        raise UnusableError("its affine cannot be inverted, or its voxels are of no size that a patient has")
    unit = affine[:3, :3] / steps
    if abs(np.linalg.det(unit)) < 1e-3:
        raise UnusableError("its affine cannot be inverted: two axes are one")
    if np.abs(unit.T @ unit - np.eye(3)).max() > SKEW:
        raise UnusableError("its axes are not at right angles (a sheared affine); resample it first")


def stack(values: NDArray[Any], affine: Vector) -> tuple[NDArray[Any], Grid]:
    """A volume as slices, as a reader expects to see them: the patient's left on the right, front or head on top.

    The slices are taken along the axis whose voxels are at least 1.2 times as far apart as those of the other two;
    where there is none, along the axis that is nearest to the patient's long one.

    Args:
        values: ``[i, j, k]``.
        affine: 4 x 4, from (i, j, k, 1) to (x, y, z, 1) in RAS, mm.

    Returns:
        ``[slices, rows, columns]`` of the same values, and where they lie.

    Raises:
        UnusableError: See :func:`check_affine`.
    """
    import nibabel.orientations as turn  # noqa: PLC0415  # half a second that no other command needs

    affine = np.asarray(affine, float)
    check_affine(affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    nearest = turn.io_orientation(affine)[:, 0].astype(int)  # which of x, y, z each axis is nearest to
    order = np.argsort(spacing)
    thick = spacing[order[2]] >= THICK * spacing[order[1]]
    along = int(nearest[order[2]]) if thick else 2
    # Where slices, rows and columns go to, right-handed: axial S, P, L; coronal P, I, L; sagittal R, I, P.
    wanted = {2: "SPL", 1: "PIL", 0: "RIP"}[along]
    change = turn.ornt_transform(turn.io_orientation(affine), turn.axcodes2ornt(tuple(wanted)))
    turned = turn.apply_orientation(values, change)
    matrix = TO_LPS @ affine @ turn.inv_ornt_aff(change, values.shape)
    shape = (int(turned.shape[0]), int(turned.shape[1]), int(turned.shape[2]))
    return turned, Grid(shape, np.asarray(matrix, float))
