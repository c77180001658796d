"""The slices of a series on one coarse grid along the axes of the patient, whatever plane they were taken in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from client.deid.codec import Part10
from client.deid.engine import text_of
from client.deid.faces.geometry import Slice, grid
from client.deid.pixels.frames import Frames
from client.deid.pixels.redact import GREYS
from client.deid.streams import UnclearError

SPACING = 4.0
"""Edge of a voxel of the coarse grid, mm."""
_SOFT = (-200.0, 300.0)  # HU of a CT between which a head is looked at: air, fat, soft tissue, bone
_SLOPE, _INTERCEPT, _MODALITY = 0x00281053, 0x00281052, 0x00080060
_MOST_VOXELS = 6_000_000
NO_VALUES = "a head whose pixels cannot be read as grey values"
TOO_LARGE = "a head whose series spans more than a body"


@dataclass(frozen=True)
class Volume:
    """A series on a grid of 4 mm.

    Attributes:
        values: From 0 up, no unit, float32 ``[z, y, x]``.
        reach: Where the series has values, ``[z, y, x]``.
        affine: From indices z, y, x to coordinates x, y, z of the patient, mm, ``[4, 4]``.
    """

    values: NDArray[np.float32]
    reach: NDArray[np.bool_]
    affine: NDArray[np.float64]


def volume_of(slices: Sequence[tuple[str, Slice]], load: Callable[[str], Part10]) -> Volume:
    """Read a series.

    Args:
        slices: Its slices in order, with a name each (:func:`client.deid.faces.geometry.ordered`).
        load: Gives the file of a name.

    Raises:
        UnclearError: A file cannot be decoded.
    """
    matrix = grid(slices)
    steps = np.linalg.norm(matrix[:3, :3], axis=0)
    every, *fold = (max(1, int(SPACING // step)) for step in steps)
    stack = np.stack([_folded(_grey(load(name)), fold[0], fold[1]) for name, _ in slices[::every]])
    folded = matrix.copy()
    folded[:3, 3] += matrix[:3, 1] * (fold[0] - 1) / 2 + matrix[:3, 2] * (fold[1] - 1) / 2
    folded[:3, :3] *= [every, *fold]
    return _upright(_scaled(stack), folded)


def _upright(stack: NDArray[np.float32], matrix: NDArray[np.float64]) -> Volume:
    """A stack, whose indices the matrix leads to the patient, on a grid along the patient's axes."""
    ends = np.array(np.meshgrid(*((-0.5, size - 0.5) for size in stack.shape), indexing="ij")).reshape(3, -1)
    corners = (matrix[:3, :3] @ ends).T + matrix[:3, 3]
    low, high = corners.min(0), corners.max(0)
    x, y, z = (max(2, int(np.ceil((b - a) / SPACING))) for a, b in zip(low, high, strict=True))
    if x * y * z > _MOST_VOXELS:
        raise UnclearError(TOO_LARGE)
    affine = np.eye(4)
    affine[:3, :3] = SPACING * np.eye(3)[:, ::-1]  # indices come z, y, x
    affine[:3, 3] = low + SPACING / 2
    there = np.linalg.inv(matrix) @ affine
    values = ndimage.affine_transform(
        stack, there[:3, :3], there[:3, 3], output_shape=(z, y, x), order=1, mode="nearest", output=np.float32
    )
    places = np.stack(np.meshgrid(np.arange(z), np.arange(y), np.arange(x), indexing="ij"), -1)
    index = places @ there[:3, :3].T + there[:3, 3]
    reach = np.all((index >= -0.5) & (index <= np.array(stack.shape) - 0.5), axis=-1)
    return Volume(np.where(reach, values, 0).astype(np.float32), reach, affine)


def _grey(part10: Part10) -> NDArray[np.float32]:
    """The values of an image, of CT in HU cut to those of a head; darker is less."""
    frames = Frames(part10)
    if frames.photometric not in GREYS or frames.layout.samples != 1:
        raise UnclearError(NO_VALUES)
    try:
        slope, intercept = (
            float(text_of(part10.dataset, tag) or default) for tag, default in ((_SLOPE, "1"), (_INTERCEPT, "0"))
        )
    except ValueError:
        raise UnclearError(NO_VALUES) from None
    values: NDArray[np.float32] = frames.read(0).astype(np.float32) * np.float32(slope) + np.float32(intercept)
    if text_of(part10.dataset, _MODALITY) == "CT":
        return np.clip(values, *_SOFT) - np.float32(_SOFT[0])
    if frames.photometric == "MONOCHROME1":
        np.negative(values, out=values)
    return values


def _folded(image: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """Means over blocks of an image; what is left over at its far edges is dropped."""
    height, width = image.shape[0] // rows * rows, image.shape[1] // columns * columns
    blocks = image[:height, :width].reshape(height // rows, rows, width // columns, columns)
    return np.asarray(blocks.mean((1, 3)), np.float32)


def _scaled(stack: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values from 0 up to 255, without the few that outshine all others."""
    low, high = np.percentile(stack, (0.5, 99.5))
    if not np.isfinite([low, high]).all() or high <= low:
        raise UnclearError(NO_VALUES)
    return np.asarray((np.clip(stack, low, high) - low) * (255 / (high - low)), np.float32)
