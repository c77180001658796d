"""Heads to test with: the mean head, moved, stretched, warped and recoloured, in series of any plane.

What is brain, eye, nose and mouth is known in the mean head's coordinates (mm, +x left, +y back, +z
head) and goes along.
The brain is that of the ICBM 2009a atlas in the nilearn wheel, fitted to the mean head once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.uid import CTImageStorage, MRImageStorage
from scipy import ndimage
from scipy.spatial.transform import Rotation

from client.deid.faces.atlas import AIR, load_atlas
from tests.client.deid.files import image

Points = NDArray[np.float64]
_ICBM = np.array([[0.8738, 0.0653, -0.0094], [-0.067, 0.8893, 0.1362], [0.0127, -0.1104, 0.8008]])
_ICBM_SHIFT = np.array([4.24, -15.5, -2.38])
PLANES = {"axial": ((1, 0, 0), (0, 1, 0)), "sagittal": ((0, 1, 0), (0, 0, -1)), "coronal": ((1, 0, 0), (0, 0, -1))}


@lru_cache(maxsize=1)
def _brain() -> NDArray[np.bool_]:
    """The brain, [x, y, z] on the ICBM grid of 1 mm: its first voxel is -98, -134, -72; +x right, +y front."""
    import nibabel

    spec = find_spec("nilearn")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "datasets" / "data" / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    return ndimage.binary_fill_holes(np.asarray(nibabel.load(path).dataobj) > 5)


def brain(points: Points) -> NDArray[np.bool_]:
    """Which points of the mean head are brain."""
    there = (points - _ICBM_SHIFT) @ np.linalg.inv(_ICBM).T * [-1, -1, 1] + [98, 134, 72]
    return ndimage.map_coordinates(_brain().astype(np.uint8), np.moveaxis(there, -1, 0), order=0).astype(bool)


def tissue(points: Points) -> NDArray[np.float64]:
    """Grey level of the mean head, 0 to 255."""
    atlas = load_atlas()
    there = np.moveaxis((points - atlas.origin)[..., ::-1] / atlas.spacing, -1, 0)
    return ndimage.map_coordinates(atlas.values.astype(np.float64), there, order=1)


def features(points: Points) -> NDArray[np.bool_]:
    """Which points of the mean head are eye, nose or mouth."""
    x, y, z = np.moveaxis(points, -1, 0)
    eyes = np.hypot(np.hypot(np.abs(x) - 32, y + 76), z + 33) < 11.5
    nose = (np.abs(x) < 17) & (y < -98) & (z > -82) & (z < -28)
    mouth = (np.abs(x) < 27) & (y < -84) & (z > -108) & (z < -82)
    return eyes | ((nose | mouth) & (tissue(points) > AIR))


@dataclass(frozen=True)
class Head:
    """A patient: how the mean head became theirs. Turns in degrees about x, y, z, shift in mm."""

    turn: tuple[float, float, float] = (0, 0, 0)
    stretch: tuple[float, float, float] = (1, 1, 1)
    shift: tuple[float, float, float] = (0, 0, 0)
    warp: float = 0.0
    seed: int = 0

    def mean(self, points: Points) -> Points:
        """Points of the patient in the mean head."""
        turned = (points - np.asarray(self.shift)) @ Rotation.from_euler("xyz", self.turn, degrees=True).as_matrix()
        rng = np.random.default_rng(self.seed)
        found = turned / np.asarray(self.stretch)
        for axis in range(3):
            waves, phase = rng.normal(size=3) / 35, rng.uniform(0, 6)
            found[..., axis] += self.warp * np.sin(turned @ waves + phase)
        return found


Colour = Callable[[NDArray[np.float64], Points], NDArray[np.float64]]


def t1(grey: NDArray[np.float64], points: Points) -> NDArray[np.float64]:
    return grey * (1 + 0.003 * (points[..., 1] / 4)) * 3


def t2(grey: NDArray[np.float64], points: Points) -> NDArray[np.float64]:
    """Water bright, fat and what is dark in T1 dark."""
    return np.where(solid(points), np.clip(640 - 3.2 * np.abs(grey - 70), 40, None), 2.0)


def ct(grey: NDArray[np.float64], points: Points) -> NDArray[np.float64]:
    """HU: air outside and in the nose, soft tissue, and a shell of bone about the brain."""
    soft = np.where(grey > AIR, 30 + grey / 10, -950.0)
    apart = from_brain(points)
    return np.where(solid(points), np.where((apart > 2) & (apart < 9), 900.0, soft), -1000.0)


@lru_cache(maxsize=1)
def _maps() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """On the grid of the mean head, z, y, x: distance from the brain, mm; and the head, filled."""
    atlas = load_atlas()
    places = np.stack(np.meshgrid(*(np.arange(size) for size in atlas.values.shape), indexing="ij"), -1)
    inner = brain(places[..., ::-1] * atlas.spacing + atlas.origin)
    filled = ndimage.binary_fill_holes(ndimage.binary_closing(atlas.values > AIR, iterations=2))
    return np.float32(atlas.spacing) * ndimage.distance_transform_edt(~inner).astype(np.float32), filled.astype(
        np.float32
    )


def from_brain(points: Points) -> NDArray[np.float32]:
    return _sampled(_maps()[0], points)


def solid(points: Points) -> NDArray[np.bool_]:
    return _sampled(_maps()[1], points) > 0.5


def _sampled(values: NDArray[np.float32], points: Points) -> NDArray[np.float32]:
    atlas = load_atlas()
    there = np.moveaxis((points - atlas.origin)[..., ::-1] / atlas.spacing, -1, 0)
    return ndimage.map_coordinates(values, there, order=1, mode="nearest", output=np.float32)


@dataclass(frozen=True)
class Scan:
    """A series: its plane, its voxels (slices, rows, columns; mm), and where the middle of it lies."""

    plane: str = "axial"
    shape: tuple[int, int, int] = (60, 72, 72)
    voxel: tuple[float, float, float] = (3.5, 3.5, 3.5)
    middle: tuple[float, float, float] = (0, -14, -12)
    tilt: float = 0.0  # mm by which each slice lies further down its columns: a gantry that is tilted

    def geometry(self) -> tuple[Points, Points, Points, Points]:
        """Along rows, along columns, from slice to slice, mm and unit vectors but for the last; the first pixel."""
        row, column = (np.array(one, float) for one in PLANES[self.plane])
        step = np.cross(row, column) * self.voxel[0] + column * self.tilt
        half = [(size - 1) / 2 for size in self.shape]
        first = (
            np.array(self.middle) - half[0] * step - half[1] * self.voxel[1] * column - half[2] * self.voxel[2] * row
        )
        return row, column, step, first

    def points(self) -> Points:
        """Of all voxels, [slices, rows, columns, 3]."""
        row, column, step, first = self.geometry()
        k, r, c = (np.arange(size, dtype=float).reshape(-1, *(1,) * (3 - axis)) for axis, size in enumerate(self.shape))
        return first + k * step + r * self.voxel[1] * column + c * self.voxel[2] * row


@dataclass(frozen=True)
class Series:
    """Files of a head, and what is known of their voxels, [slices, rows, columns]."""

    files: list[pydicom.Dataset]
    features: NDArray[np.bool_]
    brain: NDArray[np.bool_]


def series(head: Head, scan: Scan, colour: Colour = t1, *, bits: int = 16, ct_like: bool = False) -> Series:
    """The files of one scan of a head."""
    points = scan.points()
    mean = head.mean(points)
    rng = np.random.default_rng(head.seed)
    values = colour(tissue(mean), mean) + rng.normal(0, 8, points.shape[:-1])
    if ct_like:
        stored = np.clip(values + 1024, 0, 4095)
    else:
        stored = np.clip(np.abs(values), 0, None) / (4.0 if bits == 8 else 1.0)
    stored = np.clip(stored, 0, 255 if bits == 8 else 4095).astype(np.uint8 if bits == 8 else np.uint16)
    row, column, step, first = scan.geometry()
    made = []
    for number, pixels in enumerate(stored):
        one = image(sop_class=CTImageStorage if ct_like else MRImageStorage, number=number + 1)
        one.Modality = "CT" if ct_like else "MR"
        one.BodyPartExamined = "HEAD"
        one.Rows, one.Columns = pixels.shape
        one.ImagePositionPatient = [f"{value:.4f}" for value in first + number * step]
        one.ImageOrientationPatient = [f"{value:g}" for value in (*row, *column)]
        one.PixelSpacing, one.SliceThickness = [scan.voxel[1], scan.voxel[2]], scan.voxel[0]
        if ct_like:
            one.RescaleIntercept, one.RescaleSlope = -1024, 1
        one.BitsAllocated = bits
        one.BitsStored, one.HighBit = (8, 7) if bits == 8 else (12, 11)
        one.PixelData = pixels.tobytes()
        made.append(one)
    solid_voxel = tissue(mean) > AIR if not ct_like else solid(mean)
    return Series(made, features(mean) & solid_voxel, brain(mean))
