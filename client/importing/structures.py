"""Regions of an RT Structure Set as masks (PS3.3 C.8.8.5 and C.8.8.6).

A contour is drawn on the slice that it lies on, in that slice's own pixels: a pixel is inside if its centre is.
Contours of one region on one slice are counted even-odd, which gives holes both as CLOSEDPLANAR_XOR and where a program
writes a hole as one contour in another; one that goes in and out through a keyhole comes out the same.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from client.deid.known import UNREADABLE
from client.enhance.slices import UnusableError
from client.importing.grid import Grid
from client.importing.labels import BACKGROUND, NAMES, LabelMap

BETWEEN: Final = 0.1
"""Of the distance of two slices: as far from a slice may a contour lie that is drawn on it."""
_CLOSED: Final = {"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"}
_MOST_POINTS: Final = 1_000_000


@dataclass(frozen=True)
class Region:
    """A region of interest: its name, and its contours as (type, points ``[n, 3]`` in LPS, mm)."""

    name: str
    frame: str
    contours: tuple[tuple[str, NDArray[np.float64]], ...]


def regions(structures: Dataset) -> list[Region]:
    """The regions of a structure set, in order of their numbers.

    Raises:
        UnusableError: It cannot be understood.
    """
    try:
        contours: dict[int, list[tuple[str, NDArray[np.float64]]]] = defaultdict(list)
        for item in structures.get("ROIContourSequence") or []:
            for one in item.get("ContourSequence") or []:
                data = np.asarray(one.ContourData, float)
                if data.size % 3 or data.size > 3 * _MOST_POINTS or not np.isfinite(data).all():
                    raise UnusableError("a contour of its structures is no list of points")
                contours[int(item.ReferencedROINumber)].append((str(one.ContourGeometricType), data.reshape(-1, 3)))
        return [
            Region(
                str(item.get("ROIName", "")).strip(),
                str(item.get("ReferencedFrameOfReferenceUID", "") or ""),
                tuple(contours[int(item.ROINumber)]),
            )
            for item in sorted(structures.StructureSetROISequence, key=lambda one: int(one.ROINumber))
        ]
    except UNREADABLE as error:
        raise UnusableError("its structure set cannot be understood") from error


def drawn(found: list[Region], grid: Grid, frame: str, labels: LabelMap) -> tuple[NDArray[np.uint8], dict[str, str]]:
    """The class of each pixel by the regions of a structure set; where two overlap, the higher class.

    Args:
        found: All regions.
        grid: Where the images lie.
        frame: Their Frame of Reference UID.
        labels: What each region is, by its name.

    Returns:
        ``[n, rows, columns]``, and what each name became.

    Raises:
        UnusableError: A name is not spoken for, a region is of another frame of reference, or a contour cannot be
            drawn.
    """
    became = labels.require(one.name for one in found)
    made = np.zeros(grid.shape, np.uint8)
    for one in found:
        kind = became[one.name]
        if kind == BACKGROUND:
            continue
        if one.frame and frame and one.frame != frame:
            raise UnusableError(f"the region {one.name} is of another frame of reference than the images")
        np.maximum(made, mask(one, grid).astype(np.uint8) * np.uint8(NAMES[labels.modality][kind]), out=made)
    return made, became


def mask(region: Region, grid: Grid) -> NDArray[np.bool_]:
    """The pixels whose centres lie in a region.

    Raises:
        UnusableError: A contour is open, not in the plane of a slice, between two slices, or outside all of them.
    """
    from skimage.draw import polygon  # noqa: PLC0415  # a second that few need

    inside: NDArray[Any] = np.zeros(grid.shape, np.bool_)
    for kind, points in region.contours:
        if kind not in _CLOSED or len(points) < 3:
            raise UnusableError(f"the region {region.name} has a contour that encloses nothing ({kind or 'no type'})")
        places = grid.to_pixels(points)
        number = round(float(places[:, 0].mean()))
        if np.abs(places[:, 0] - number).max() > BETWEEN:
            raise UnusableError(f"the region {region.name} has a contour that lies on no slice of the images")
        if not 0 <= number < grid.shape[0]:
            raise UnusableError(f"the region {region.name} has a contour outside the images")
        rows, columns = polygon(places[:, 1], places[:, 2], grid.shape[1:])
        inside[number, rows, columns] ^= True
    return inside
