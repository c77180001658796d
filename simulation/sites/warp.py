"""Smooth random maps of space: what makes one patient's anatomy differ from the next one's.

Coordinates are arrays ``[3, ...]`` in mm with the axes first.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Points = NDArray[np.float32]

LATTICE_STEP = 4  # displacements vary over centimetres: every fourth pixel is enough, the rest is interpolated


@dataclass(frozen=True)
class RandomField:
    """A smooth random function of space: a uniform cubic B-spline with normal coefficients.

    Attributes:
        coefficients: ``[channels, k, k, k]``.
        width: Distance of the control points, mm.
        half: The field is defined on the cube of side ``2 * half`` around the origin and constant outside of it.
    """

    coefficients: NDArray[np.float32]
    width: float
    half: float

    @classmethod
    def draw(cls, rng: np.random.Generator, *, spread: float, width: float, half: float, channels: int = 1) -> Self:
        """A field whose coefficients have the standard deviation ``spread``."""
        count = int(2 * half / width) + 4
        return cls(rng.normal(0, spread, (channels, count, count, count)).astype(np.float32), width, half)

    def __call__(self, points: Points) -> NDArray[np.float32]:
        """The value at each point, ``[channels, ...]``."""
        places = (points + np.float32(self.half)) / np.float32(self.width) + np.float32(1.5)
        return np.stack(
            [
                ndimage.map_coordinates(channel, places, order=3, mode="nearest", prefilter=False, output=np.float32)
                for channel in self.coefficients
            ]
        )

    def on_slices(self, points: Points) -> NDArray[np.float32]:
        """The same for regular slices ``[3, n, height, width]``, computed on a coarser lattice."""
        rows, columns = points.shape[2:]
        row_at, column_at = _lattice(rows), _lattice(columns)
        coarse = self(points[:, :, row_at][:, :, :, column_at])
        return _refine(_refine(coarse, row_at, rows, axis=2), column_at, columns, axis=3)


def _lattice(count: int) -> NDArray[np.intp]:
    return np.unique(np.minimum(np.arange(0, count + LATTICE_STEP, LATTICE_STEP), count - 1))


def _refine(values: NDArray[np.float32], places: NDArray[np.intp], count: int, *, axis: int) -> NDArray[np.float32]:
    """Linear interpolation along ``axis`` from the indices ``places`` to 0..count-1."""
    target = np.arange(count)
    low = np.clip(np.searchsorted(places, target, side="right") - 1, 0, max(len(places) - 2, 0))
    high = np.minimum(low + 1, len(places) - 1)
    span = np.maximum(places[high] - places[low], 1)
    shape = [1] * values.ndim
    shape[axis] = count
    weight = ((target - places[low]) / span).astype(np.float32).reshape(shape)
    start, end = np.take(values, low, axis), np.take(values, high, axis)
    between: NDArray[np.float32] = start + (end - start) * weight
    return between


def rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation by three angles (rad) in the planes xy, xz and yz, one after the other."""
    matrix = np.eye(3)
    for angle, (first, second) in zip(angles, ((0, 1), (0, 2), (1, 2)), strict=True):
        plane = np.eye(3)
        plane[first, first] = plane[second, second] = np.cos(angle)
        plane[first, second], plane[second, first] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ plane
    return matrix


def transform(matrix: NDArray[np.float64], points: Points) -> Points:
    """``matrix @ point`` for every point, in float32 and always summed in the same order."""
    x, y, z = points
    rows = [np.float32(a) * x + np.float32(b) * y + np.float32(c) * z for a, b, c in matrix]
    return np.stack(rows)


@dataclass(frozen=True)
class Move:
    """How a patient lies in the scanner: a small rotation and shift. The identity at the first visit."""

    matrix: NDArray[np.float64]
    shift: NDArray[np.float64]

    @classmethod
    def none(cls) -> Self:
        """No move."""
        return cls(np.eye(3), np.zeros(3))

    @classmethod
    def draw(cls, rng: np.random.Generator, *, degrees: float = 2.0, millimetres: float = 3.0) -> Self:
        """A random move with these standard deviations."""
        return cls(rotation(np.deg2rad(rng.normal(0, degrees, 3))), rng.normal(0, millimetres, 3))

    def __call__(self, points: Points) -> Points:
        """Scanner coordinates to the patient's own coordinates."""
        return transform(self.matrix, points) + self.shift.astype(np.float32)[:, None, None, None]


@dataclass(frozen=True)
class Warp:
    """A patient's coordinates to those of the template: an affine map and displacements on two scales.

    The displacements' gradients stay well below 1, so the map is invertible: nothing folds.
    """

    matrix: NDArray[np.float64]
    fields: tuple[RandomField, ...]
    mirrored: bool

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        *,
        half: float,
        coarse: tuple[float, float],
        fine: tuple[float, float],
        scale: float,
        degrees: float,
        may_mirror: bool,
    ) -> Self:
        """A random warp.

        Args:
            rng: Source of randomness.
            half: Half the side of the deformed cube, mm.
            coarse: Standard deviation of the coefficients and distance of the control points of the first scale, mm.
            fine: The same of the second scale.
            scale: Largest relative change of size along one axis.
            degrees: Standard deviation of the tilts.
            may_mirror: Whether half of all patients are mirrored left to right (the head, not the abdomen).
        """
        sizes = (1 + rng.uniform(-scale, scale, 3)) * (1 + rng.uniform(-scale / 2, scale / 2))
        matrix = rotation(np.deg2rad(rng.normal(0, degrees, 3))) @ np.diag(sizes)
        fields = tuple(
            RandomField.draw(rng, spread=spread, width=width, half=half, channels=3) for spread, width in (coarse, fine)
        )
        return cls(matrix, fields, may_mirror and bool(rng.random() < 0.5))

    def __call__(self, points: Points) -> Points:
        """Template coordinates of regular slices ``[3, n, height, width]``."""
        moved = transform(self.matrix, points)
        for field in self.fields:
            moved += field.on_slices(points)
        if self.mirrored:
            moved[0] *= -1
        return moved


def slice_points(pixels: int, fov: float, heights: NDArray[np.float64]) -> Points:
    """Pixel centres of axial slices in DICOM patient coordinates (PS3.3 C.7.6.2.1.1: +x left, +y back, +z head).

    Args:
        pixels: Rows and columns.
        fov: Side of the image, mm, centred on the z axis.
        heights: z of each slice, mm.

    Returns:
        ``[3, len(heights), pixels, pixels]``; rows run from front to back, columns from right to left of the patient.
    """
    across = ((np.arange(pixels) - (pixels - 1) / 2) * fov / pixels).astype(np.float32)
    shape = (len(heights), pixels, pixels)
    return np.stack(
        [
            np.broadcast_to(across[None, None, :], shape),
            np.broadcast_to(across[None, :, None], shape),
            np.broadcast_to(heights.astype(np.float32)[:, None, None], shape),
        ]
    )


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, ...], sigma: tuple[float, ...], spread: float
) -> NDArray[np.float32]:
    """White noise filtered by a Gaussian of ``sigma`` pixels along each axis, with standard deviation ``spread``."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma, mode="wrap")
    return noise * np.float32(spread / (noise.std() + 1e-8))
