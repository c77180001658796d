"""Where the pixels of a slice lie in the patient (PS3.3 C.7.6.2), and whether slices make a volume."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.deid.codec import Dataset
from client.deid.engine import text_of
from client.deid.streams import UnclearError

_POSITION, _ORIENTATION, _SPACING, _FRAMES = 0x00200032, 0x00200037, 0x00280030, 0x00280008
_IMAGE_TYPE, _FRAME_OF_REFERENCE, _MODALITY = 0x00080008, 0x00200052, 0x00080060
# What these name was computed across slices or is no slice: its place in the patient is not that of its pixels.
_FLAT = re.compile(
    r"LOCALI[SZ]ER|SCOUT|TOPOGRAM|\bMIP\b|MINIP|MAX_IP|MIN_IP|PROJECTION|VOLREN|RENDER|\b3D\b|VRT|SURVEY"
)

FEWEST = 12
"""Slices of a volume in which a face can be looked for."""
LEAST_EXTENT = 70.0
"""mm that they must span: less of a head cannot be placed with certainty."""
_MOST_APART = 8.0  # mm from slice to slice
_UNEVEN = 0.1  # of the distance between slices
_SAME = 0.01  # mm; two images at one place, as echoes and repetitions are

MULTI_FRAME = "a head in one file of many frames, whose face is not looked for here"
NO_PLACE = "a head, and its header does not say where in the patient its pixels lie"
SCOUT = "a head, and a localizer or a projection, from which a face cannot be taken out"
OTHER_KIND = "it shows a face and is no CT or MR, from which alone faces are taken out"
PLANES = "a head whose series has slices in several planes or of several sizes"
TOO_FEW = "a head whose series has too few slices to find the face; the series has to be whole"
UNEVEN = "a head whose series has slices missing or at uneven distances"


@dataclass(frozen=True)
class Slice:
    """One image in the patient.

    Attributes:
        position: Centre of the first pixel, mm (0020,0032).
        along_row: Unit vector along a row, towards higher columns (first triplet of 0020,0037).
        along_column: Unit vector along a column, towards higher rows (second triplet).
        spacing: mm from row to row, and from column to column (0028,0030).
        shape: Rows and columns.
        frame_of_reference: The UID of the space that the position is in.
    """

    position: tuple[float, float, float]
    along_row: tuple[float, float, float]
    along_column: tuple[float, float, float]
    spacing: tuple[float, float]
    shape: tuple[int, int]
    frame_of_reference: str

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector across the slice."""
        normal: NDArray[np.float64] = np.cross(np.asarray(self.along_row), np.asarray(self.along_column))
        return normal

    def points(self) -> NDArray[np.float64]:
        """Coordinates of all pixel centres, mm, ``[rows, columns, 3]``."""
        rows, columns = (np.arange(size, dtype=np.float64)[:, None] for size in self.shape)
        down = rows * self.spacing[0] * np.asarray(self.along_column)
        across = columns * self.spacing[1] * np.asarray(self.along_row)
        points: NDArray[np.float64] = np.asarray(self.position) + down[:, None] + across[None]
        return points

    def side(self, plane: tuple[float, float, float, float]) -> NDArray[np.float64]:
        """Of all pixel centres ``a*x + b*y + c*z + d``, ``[rows, columns]``: above 0 on one side of a plane."""
        *normal, offset = plane
        start = float(np.dot(normal, self.position)) + offset
        down = np.arange(self.shape[0]) * (self.spacing[0] * float(np.dot(normal, self.along_column)))
        across = np.arange(self.shape[1]) * (self.spacing[1] * float(np.dot(normal, self.along_row)))
        values: NDArray[np.float64] = np.add.outer(start + down, across)
        return values


def slice_of(dataset: Dataset, *, big: bool = False) -> Slice:
    """The place of an image of one frame.

    Raises:
        UnclearError: It says none, contradicts itself, or is of a kind whose place is not that of its pixels.
    """
    if text_of(dataset, _MODALITY) not in {"CT", "MR"}:
        raise UnclearError(OTHER_KIND)
    if (text_of(dataset, _FRAMES) or "1") != "1":
        raise UnclearError(MULTI_FRAME)
    if _FLAT.search(text_of(dataset, _IMAGE_TYPE).upper()):
        raise UnclearError(SCOUT)
    position, orientation, spacing = (
        _numbers(dataset, tag, count) for tag, count in ((_POSITION, 3), (_ORIENTATION, 6), (_SPACING, 2))
    )
    rows, columns = (_short(dataset, tag, big=big) for tag in (0x00280010, 0x00280011))
    across, down = orientation[:3], orientation[3:]
    unit = np.allclose([np.dot(across, across), np.dot(down, down)], 1, atol=1e-2)
    if not unit or abs(np.dot(across, down)) > 1e-2 or min(spacing) <= 0 or not rows or not columns:
        raise UnclearError(NO_PLACE)
    return Slice(
        _three(position), _three(across), _three(down), (spacing[0], spacing[1]), (rows, columns),
        text_of(dataset, _FRAME_OF_REFERENCE),
    )  # fmt: skip


def ordered(slices: Iterable[tuple[str, Slice]]) -> list[tuple[str, Slice]]:
    """The slices of one series along their normal, one for each place; they make a volume.

    Steps need not be at right angles to the slices, as they are not where a gantry was tilted.

    Args:
        slices: Each with a name; of several at one place the first stays.

    Raises:
        UnclearError: They make none.
    """
    given = list(slices)
    if not given:
        raise UnclearError(TOO_FEW)
    first = given[0][1]
    if any(not _alike(first, one) for _, one in given):
        raise UnclearError(PLANES)
    placed = sorted(given, key=lambda one: float(np.dot(first.normal, one[1].position)))
    kept: list[tuple[str, Slice]] = []
    for name, one in placed:
        if not kept or _apart(kept[-1][1], one) > _SAME:
            kept.append((name, one))
    if len(kept) < FEWEST:
        raise UnclearError(TOO_FEW)
    steps = np.diff([one.position for _, one in kept], axis=0)
    across = steps @ first.normal
    step = np.median(steps, axis=0)
    distance = float(step @ first.normal)
    if distance <= _SAME or distance > _MOST_APART or np.abs(steps - step).max() > max(_UNEVEN * distance, 0.05):
        raise UnclearError(UNEVEN)
    if across.sum() + distance < LEAST_EXTENT:
        raise UnclearError(TOO_FEW)
    return kept


def grid(slices: Sequence[tuple[str, Slice]]) -> NDArray[np.float64]:
    """The matrix ``[4, 4]`` from slice, row and column, counted from 0, to coordinates in mm, of ordered slices."""
    first, last = slices[0][1], slices[-1][1]
    matrix = np.eye(4)
    matrix[:3, 0] = (np.asarray(last.position) - first.position) / (len(slices) - 1)
    matrix[:3, 1] = np.asarray(first.along_column) * first.spacing[0]
    matrix[:3, 2] = np.asarray(first.along_row) * first.spacing[1]
    matrix[:3, 3] = first.position
    return matrix


def _alike(first: Slice, other: Slice) -> bool:
    return (
        first.shape == other.shape
        and first.frame_of_reference == other.frame_of_reference
        and np.allclose(first.spacing, other.spacing, rtol=1e-3)
        and np.allclose(first.along_row, other.along_row, atol=2e-3)
        and np.allclose(first.along_column, other.along_column, atol=2e-3)
    )


def _apart(first: Slice, other: Slice) -> float:
    return float(np.linalg.norm(np.subtract(first.position, other.position)))


def _numbers(dataset: Dataset, tag: int, count: int) -> list[float]:
    try:
        found = [float(one) for one in text_of(dataset, tag).split("\\")]
    except ValueError:
        raise UnclearError(NO_PLACE) from None
    if len(found) != count or not np.isfinite(found).all():
        raise UnclearError(NO_PLACE)
    return found


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    x, y, z = values
    return (x, y, z)


def _short(dataset: Dataset, tag: int, *, big: bool) -> int:
    value = dataset.get(tag, ("", b""))[1]
    return int.from_bytes(value, "big" if big else "little") if isinstance(value, bytes) and len(value) == 2 else 0
