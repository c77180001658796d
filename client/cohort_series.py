"""Which series of a study are taken into the cohort: a fast and a good one of the same slices, or one alone; and one of
another contrast beside them.

What contrast an MR series has is read from its timing (PS3.3 C.8.3.1), since descriptions do not survive
de-identification.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from pydicom.dataset import Dataset

EFFORT: Final = {"MR": "NumberOfAverages", "CT": "Exposure"}
CONTRAST: Final = ("EchoTime", "RepetitionTime", "InversionTime")
"""What tells one contrast of MR from another, ms."""
FACTOR: Final = 1.5
"""Series are of another contrast where one of these times is so many times longer: scanners change times by a few
percent between scans of one protocol, and by factors between protocols."""
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
        for some in [*_of_one_contrast(group), group]:  # rather two of one contrast than others
            ranked = sorted((_effort(one), number) for number, one in enumerate(some) if _effort(one) is not None)
            if len(ranked) > 1 and ranked[0][0] != ranked[-1][0]:
                return some[ranked[0][1]], some[ranked[-1][1]]
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


def second_of(instances: Sequence[Instance], low: Sequence[Instance], high: Sequence[Instance]) -> list[Instance]:
    """The MR series of another contrast that is taken beside ``low`` and ``high``, in slice order; empty without one.

    Of several the one whose echo time differs most, then its inversion time, then its repetition time; of one contrast
    the one with the least effort, then with the most slices. Localisers, and images that were computed from others, are
    none.
    """
    if not low or str(low[0].header.Modality) != "MR":
        return []
    series: dict[str, list[Instance]] = defaultdict(list)
    for one in instances:
        if str(one.header.get("Modality", "")) == "MR" and all(one.header.get(name) for name in _SLICE):
            series[str(one.header.SeriesInstanceUID)].append(one)
    stacks = {uid: sorted(members, key=_position) for uid, members in series.items()}
    fit = [
        (tuple(-apart for apart in _apart(low, members)), _effort(members) or 0.0, -len(members), uid)
        for uid, members in stacks.items()
        if all(_other_contrast(one, members) for one in (low, high) if one) and _is_stack(members)
    ]
    return stacks[min(fit)[-1]] if fit else []


def _is_stack(ordered: Sequence[Instance]) -> bool:
    kinds = {str(one).upper() for one in ordered[0].header.get("ImageType") or []}
    places = {round(_position(one), 2) for one in ordered}
    return (
        len({_plane(one) for one in ordered}) == 1
        and len(places) == len(ordered) > 1
        and not kinds & {"LOCALIZER", "DERIVED"}
    )


def _of_one_contrast(group: Sequence[list[Instance]]) -> list[list[list[Instance]]]:
    """The series of a group by contrast; all of them together where that is not told."""
    alike: list[list[list[Instance]]] = []
    for one in group:
        near = next((some for some in alike if not _other_contrast(some[0], one)), None)
        if near is None:
            alike.append([one])
        else:
            near.append(one)
    return alike


def _other_contrast(one: Sequence[Instance], other: Sequence[Instance]) -> bool:
    """Whether two series tell that their contrasts differ."""
    return max(_apart(one, other)) > math.log(FACTOR)


def _apart(one: Sequence[Instance], other: Sequence[Instance]) -> tuple[float, float, float]:
    """By how much echo, inversion and repetition time differ, as logarithms of ratios; 0 where one is not told.

    No inversion differs from any inversion without end.
    """
    (echo, again, inverted), (echo2, again2, inverted2) = _times(one), _times(other)
    if not (echo and again and echo2 and again2):
        return 0.0, 0.0, 0.0
    inversion = math.inf if inverted or inverted2 else 0.0
    if inverted and inverted2:
        inversion = abs(math.log(inverted / inverted2))
    return abs(math.log(echo / echo2)), inversion, abs(math.log(again / again2))


def _times(ordered: Sequence[Instance]) -> tuple[float, float, float]:
    """Echo, repetition and inversion time, ms; 0 where it is not told."""
    header = ordered[0].header
    echo, again, inverted = (max(float(header.get(name) or 0.0), 0.0) for name in CONTRAST)
    return echo, again, inverted


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
