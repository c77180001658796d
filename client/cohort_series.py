"""Which series of a study are taken into the cohort: a fast and a good one of the same slices, or one alone."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from pydicom.dataset import Dataset

EFFORT: Final = {"MR": "NumberOfAverages", "CT": "Exposure"}
_SLICE: Final = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")


@dataclass(frozen=True)
class Instance:
    """A released file and the part of its header that decides."""

    path: Path
    header: Dataset


def pair_of(instances: Sequence[Instance]) -> tuple[list[Instance], list[Instance]] | str:
    """The two series of the same slices with the least and the most effort, each in slice order."""
    series: dict[str, list[Instance]] = defaultdict(list)
    for one in instances:
        if str(one.header.get("Modality", "")) in EFFORT and "ImagePositionPatient" in one.header:
            series[str(one.header.SeriesInstanceUID)].append(one)
    if not series:
        return "no MR or CT series with slice positions"
    alike: dict[object, list[list[Instance]]] = defaultdict(list)
    for members in series.values():
        ordered = sorted(members, key=_position)
        alike[_geometry(ordered)].append(ordered)
    for group in alike.values():
        ranked = sorted((_effort(one), number) for number, one in enumerate(group) if _effort(one) is not None)
        if len(ranked) > 1 and ranked[0][0] != ranked[-1][0]:
            return group[ranked[0][1]], group[ranked[-1][1]]
    return "no two series of the same slices that differ in acquisition effort"


def longest(instances: Sequence[Instance]) -> list[Instance]:
    """The series with the most slices that make one stack of images, in slice order; empty where there is none."""
    series: dict[str, list[Instance]] = defaultdict(list)
    for one in instances:
        if str(one.header.get("Modality", "")) in EFFORT and all(one.header.get(name) for name in _SLICE):
            series[str(one.header.SeriesInstanceUID)].append(one)
    stacks = [members for _, members in sorted(series.items()) if len({_plane(one) for one in members}) == 1]
    most = max((len(members) for members in stacks), default=0)
    return sorted(next((members for members in stacks if len(members) == most), []), key=_position)


def _plane(one: Instance) -> object:
    """What all slices of one stack share."""
    header = one.header
    turned = tuple(round(float(value), 3) for value in header.ImageOrientationPatient)
    spacing = tuple(float(value) for value in header.PixelSpacing)
    return str(header.SOPClassUID), int(header.Rows), int(header.Columns), spacing, turned


def _position(one: Instance) -> float:
    """Distance along the slice normal (PS3.3 C.7.6.2.1.1), mm."""
    orientation = np.asarray(one.header.ImageOrientationPatient, float)
    return float(np.cross(orientation[:3], orientation[3:]) @ np.asarray(one.header.ImagePositionPatient, float))


def _geometry(ordered: Sequence[Instance]) -> object:
    first = ordered[0].header
    return (
        str(first.get("FrameOfReferenceUID", "")),
        str(first.Modality),
        int(first.Rows),
        int(first.Columns),
        tuple(round(_position(one), 2) for one in ordered),
    )


def _effort(ordered: Sequence[Instance]) -> float | None:
    header = ordered[0].header
    value = header.get(EFFORT[str(header.Modality)])
    return None if value in (None, "") else float(value)
