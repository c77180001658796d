"""Series of MR and CT images out of a folder, as stacks whose place is known, read for an import and not changed."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from client.cohort_series import EFFORT
from client.deid.known import UNREADABLE
from client.enhance.found import fault
from client.enhance.slices import NO_MAGNITUDE, SINGLE, UnusableError, frames, read
from client.importing.content import check_size
from client.importing.grid import Grid, check_affine

UNEVEN: Final = 0.02
"""Of the distance of two slices: as far may a slice lie from where an even stack has it."""
ALIKE: Final = 0.01
"""Of the smallest pixel side: as far apart may corners of two series of the same slices lie."""


@dataclass(frozen=True)
class Series:
    """The images of one series in slice order, headers read and pixels not.

    Attributes:
        uid: Series Instance UID.
        paths: Its files.
        headers: Of each file.
    """

    uid: str
    paths: tuple[Path, ...]
    headers: tuple[Dataset, ...]

    @classmethod
    def of(cls, uid: str, members: Sequence[tuple[Path, Dataset]]) -> "Series":
        """Put the files of a series in order.

        Raises:
            UnusableError: One cannot be understood, or is none that a stack could be made of.
        """
        for _, header in members:
            _require(header)
        try:
            ordered = sorted(members, key=lambda one: _along(one[1], members[0][1]))
        except UNREADABLE as error:
            raise UnusableError("its slices do not tell where they lie") from error
        return cls(uid, tuple(path for path, _ in ordered), tuple(header for _, header in ordered))

    @property
    def modality(self) -> str:
        """``MR`` or ``CT``."""
        return SINGLE[str(self.headers[0].SOPClassUID)]

    @property
    def frame(self) -> str:
        """Frame of Reference UID; empty where it is not told."""
        return str(self.headers[0].get("FrameOfReferenceUID", "") or "")

    @property
    def uids(self) -> list[str]:
        """SOP Instance UIDs in slice order."""
        return [str(one.SOPInstanceUID) for one in self.headers]

    @property
    def effort(self) -> float | None:
        """What the cohort ranks series by: averages or exposure; None where it is not told."""
        value = self.headers[0].get(EFFORT[self.modality])
        try:
            return None if value in (None, "") else float(value)
        except (TypeError, ValueError):
            return None

    @cached_property
    def grid(self) -> Grid:
        """Where its pixels lie.

        Raises:
            UnusableError: Slices are missing, twice there, of several sizes or ways to lie, or tilted.
        """
        first = self.headers[0]
        try:
            ways = np.array([one.ImageOrientationPatient for one in self.headers], float)
            sides = np.array([one.PixelSpacing for one in self.headers], float)
            places = np.array([one.ImagePositionPatient for one in self.headers], float)
            sizes = {(int(one.Rows), int(one.Columns)) for one in self.headers}
        except UNREADABLE as error:
            raise UnusableError("its slices do not tell where they lie") from error
        if len(sizes) > 1 or np.ptp(ways, axis=0).max() > 1e-4 or np.ptp(sides, axis=0).max() > 1e-4:
            raise UnusableError("its slices have several sizes or lie in several ways")
        if not (sides > 0).all():  # PS3.3 10.7.1.3; read as a mirror image it would change left and right
            raise UnusableError("its pixels are of no size above 0")
        count, (rows, columns) = len(self.headers), sizes.pop()
        check_size((count, rows, columns))
        matrix = np.eye(4)
        matrix[:3, 2], matrix[:3, 1] = ways[0, :3] * sides[0, 1], ways[0, 3:] * sides[0, 0]
        if count > 1:
            step = (places[-1] - places[0]) / (count - 1)
            even = places[0] + np.arange(count)[:, None] * step
            if np.abs(places - even).max() > UNEVEN * max(float(np.linalg.norm(step)), 1e-3):
                raise UnusableError("its slices are not evenly spaced: some are missing or twice there")
            matrix[:3, 0] = step
        else:
            matrix[:3, 0] = np.cross(ways[0, :3], ways[0, 3:]) * float(first.get("SliceThickness") or 1.0)
        matrix[:3, 3] = places[0]
        check_affine(matrix)
        return Grid((count, rows, columns), matrix)

    def alike(self, other: "Series") -> bool:
        """Whether both show the same slices."""
        if (self.modality, self.frame) != (other.modality, other.frame):
            return False
        return self.grid.apart(other.grid) <= ALIKE * min(self.grid.spacing)

    def values(self) -> NDArray[np.float32]:
        """Pixels through the modality's rescale, ``[n, rows, columns]``.

        Raises:
            UnusableError: A file cannot be decoded.
        """
        slices = []
        for path in self.paths:
            dataset = read(path)
            _require(dataset)
            slices.append(frames(dataset).values[0])
        return np.stack(slices)


def _require(header: Dataset) -> None:
    """Refuse an image that is no shade of grey in the unit of its modality."""
    if why := fault(header):
        raise UnusableError(why)
    modality = SINGLE[str(header.SOPClassUID)]
    kinds = {str(one).upper() for one in header.get("ImageType") or []}
    component = str(header.get("ComplexImageComponent", "")).upper()
    if modality == "MR" and (component in NO_MAGNITUDE or kinds & {"P", "R", "I", *NO_MAGNITUDE}):
        raise UnusableError("it is no magnitude image")
    if int(header.get("SamplesPerPixel", 1)) != 1 or str(header.get("PhotometricInterpretation")) != "MONOCHROME2":
        raise UnusableError("it is not in shades of grey with 0 for black")
    if modality == "CT" and str(header.get("RescaleType", "HU") or "HU") != "HU":
        raise UnusableError("its values are no Hounsfield units")
    if "ModalityLUTSequence" in header:
        raise UnusableError("its values are told by a table")


def _along(header: Dataset, first: Dataset) -> float:
    """Distance along the slice normal (PS3.3 C.7.6.2.1.1), mm."""
    way = np.asarray(first.ImageOrientationPatient, float)
    return float(np.cross(way[:3], way[3:]) @ np.asarray(header.ImagePositionPatient, float))


def headers_of(paths: Sequence[Path]) -> dict[str, list[tuple[Path, Dataset]]]:
    """Headers of the image files ``paths`` by Series Instance UID, localizers left out.

    Raises:
        UnusableError: One cannot be read.
    """
    found: dict[str, list[tuple[Path, Dataset]]] = defaultdict(list)
    for path in paths:
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            series = str(header.SeriesInstanceUID)
            kinds = {str(one).upper() for one in header.get("ImageType") or []}
        except UNREADABLE as error:
            raise UnusableError(f"{path.name}: it cannot be read as DICOM") from error
        if "LOCALIZER" not in kinds:
            found[series].append((path, header))
    return found
