"""What there is to do: the images below a folder that a model is for, by study and by what is scaled together."""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from client.deid.known import UNREADABLE
from client.enhance.model import Model
from client.enhance.slices import (
    ENHANCED,
    MOST_PIXELS,
    NO_MAGNITUDE,
    SINGLE,
    UnusableError,
    bounded,
    frame_count,
    group_of,
)
from client.registration import Kind

_UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")  # leading zeros are not allowed (PS3.5 9.1), and are met
_PIXELS = ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit")
TOO_LARGE = "more pixels than are worked on at once"


class Status(StrEnum):
    """What became of a file."""

    WRITTEN = "written"
    THERE = "there"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True)
class Record:
    """A line of the report.

    Attributes:
        path: Below the input folder.
        status: What became of it.
        reason: Why it was skipped or failed, without any value of its header.
        result: Below the output folder.
    """

    path: str
    status: Status
    reason: str = ""
    result: str = ""


@dataclass(frozen=True)
class Image:
    """A file that the model is for.

    Attributes:
        path: Where it is.
        name: Below the input folder.
        uid, study, series: SOP, Study and Series Instance UID.
        sop_class: SOP Class UID.
        place: What orders the slices of a series: position along the normal, then instance number.
        frames, rows, columns: Its size.
    """

    path: Path
    name: str
    uid: str
    study: str
    series: str
    sop_class: str
    place: tuple[float, float]
    frames: int
    rows: int
    columns: int

    @property
    def pixels(self) -> int:
        """Of all frames."""
        return self.frames * self.rows * self.columns


@dataclass(frozen=True)
class Stack:
    """The images that are scaled together: those of a series of one size, or one multi-frame file.

    Attributes:
        images: In slice order.
        modality: ``MR`` or ``CT``.
        second: The series of another contrast beside it, in slice order; empty for models that see one.
        kind: How that one is registered.
    """

    images: tuple[Image, ...]
    modality: str
    second: tuple[Image, ...] = ()
    kind: Kind = "rigid"

    @property
    def pixels(self) -> int:
        """Of all images."""
        return sum(one.pixels for one in self.images)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over which instances are in it, and how those of the second contrast were brought to them."""
        parts = sorted(one.uid for one in self.images)
        if self.second:
            parts += [self.kind, *sorted(one.uid for one in self.second)]
        return hashlib.sha256("|".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Found:
    """What lies in the input.

    Attributes:
        studies: Stacks by Study Instance UID, in order.
        records: Of files that are not worked on, each with the reason.
    """

    studies: dict[str, list[Stack]]
    records: list[Record]

    @property
    def images(self) -> int:
        """How many files are worked on."""
        return sum(len(stack.images) for stacks in self.studies.values() for stack in stacks)


def find(source: Path, model: Model) -> Found:
    """Look at every file below ``source``, or at the one that it is."""
    records: list[Record] = []
    groups: dict[tuple[str, str, str, int, int], list[Image]] = defaultdict(list)
    seen: set[str] = set()
    for path, name in walk(source, records):
        outcome = look(path, name, model)
        if isinstance(outcome, Record):
            records.append(outcome)
        elif outcome.uid in seen:
            records.append(Record(name, Status.SKIPPED, "another file is the same instance"))
        else:
            seen.add(outcome.uid)
            alone = outcome.uid if outcome.sop_class in ENHANCED else ""
            groups[outcome.study, outcome.series, alone, outcome.rows, outcome.columns].append(outcome)
    studies: dict[str, list[Stack]] = defaultdict(list)
    for _, images in sorted(groups.items()):
        modality = (SINGLE | ENHANCED)[images[0].sop_class]
        ordered = sorted(images, key=lambda one: (one.place, one.uid))
        studies[images[0].study] += _parts(Stack(tuple(ordered), modality), model, records)
    return Found({study: stacks for study, stacks in studies.items() if stacks}, records)


def apart(modality: str, model: Model) -> bool:
    """Whether the result of a slice is the same whatever else is in its series.

    CT has one scale for all (:func:`client.cohort_scale.window`); and the model must see one slice at a time.
    """
    return modality == "CT" and not model.segments and not model.neighbours


def _parts(stack: Stack, model: Model, records: list[Record]) -> Iterator[Stack]:
    """The stack; a large one slice by slice where slices do not depend on each other; nothing where it is too large."""
    if apart(stack.modality, model):
        yield from (Stack((one,), stack.modality) for one in stack.images)
    elif stack.pixels <= MOST_PIXELS:
        yield stack
    else:
        records += (Record(one.name, Status.FAILED, f"its series has {TOO_LARGE}") for one in stack.images)


def walk(source: Path, records: list[Record]) -> Iterator[tuple[Path, str]]:
    """Every file in order; what cannot be read, and links to folders, are told in ``records``."""
    if not source.is_dir():
        yield source, source.name
        return

    def failed(error: OSError) -> None:
        records.append(Record(os.path.relpath(error.filename, source), Status.FAILED, "the folder cannot be read"))

    for folder, folders, files in os.walk(source, onerror=failed):
        folders.sort()
        for name in folders:
            if (Path(folder) / name).is_symlink():
                reason = "a link to a folder is not followed"
                records.append(Record(os.path.relpath(Path(folder) / name, source), Status.SKIPPED, reason))
        for name in sorted(files):
            path = Path(folder) / name
            yield path, os.path.relpath(path, source)


def look(path: Path, name: str, model: Model) -> Image | Record:
    """The image, or why the model cannot be applied to this file."""
    try:
        if not path.is_file():
            return Record(name, Status.SKIPPED, "it is no plain file")
        header = pydicom.dcmread(bounded(path), stop_before_pixels=True)
        kind = str(header.get("SOPClassUID", ""))
        if kind not in SINGLE | ENHANCED:
            return Record(name, Status.SKIPPED, "it is neither an MR nor a CT image")
        if any(keyword not in header for keyword in _PIXELS):
            return Record(name, Status.FAILED, "its pixels are not described")
        skipped, failed = passed_over(header, model), fault(header)
        if skipped:
            return Record(name, Status.SKIPPED, skipped)
        if failed:
            return Record(name, Status.FAILED, failed)
        found = Image(
            path,
            name,
            uid=str(header.SOPInstanceUID),
            study=str(header.StudyInstanceUID),
            series=str(header.SeriesInstanceUID),
            sop_class=kind,
            place=_place(header),
            frames=frame_count(header),
            rows=int(header.Rows),
            columns=int(header.Columns),
        )
    except InvalidDicomError:
        return Record(name, Status.SKIPPED, "it is no DICOM file")
    except UnusableError as error:
        return Record(name, Status.FAILED, str(error))
    except UNREADABLE:
        return Record(name, Status.FAILED, "it cannot be read as DICOM")
    if found.pixels > MOST_PIXELS:
        return Record(name, Status.FAILED, f"it has {TOO_LARGE}")
    return found


def passed_over(header: Dataset, model: Model) -> str:
    """Why the model is not for this sound image; empty where it is."""
    modality = (SINGLE | ENHANCED)[str(header.SOPClassUID)]
    if modality not in model.task.modalities:
        return f"the model is not for {modality}"
    kinds = {str(one).upper() for one in header.get("ImageType") or []}
    if "LOCALIZER" in kinds:
        return "it is a localizer"
    component = str(header.get("ComplexImageComponent", "")).upper()
    if modality == "MR" and (component in NO_MAGNITUDE or kinds & {"P", "R", "I", *NO_MAGNITUDE}):
        return "it is no magnitude image"
    if int(header.get("SamplesPerPixel", 1)) != 1 or str(header.get("PhotometricInterpretation")) != "MONOCHROME2":
        return "it is not in shades of grey with 0 for black"
    transformation = group_of(header, 0, "PixelValueTransformationSequence") or header
    if modality == "CT" and str(transformation.get("RescaleType", "HU") or "HU") != "HU":
        return "its values are no Hounsfield units"
    if "ModalityLUTSequence" in header:
        return "its values are told by a table"
    return ""


def fault(header: Dataset) -> str:
    """Why this image cannot be worked on though the model is for it; empty where it can."""
    allocated, stored = int(header.BitsAllocated), int(header.BitsStored)
    if allocated not in {8, 16} or not 0 < stored <= allocated:
        return "its pixels are neither of 8 nor of 16 bits"
    if int(header.HighBit) != stored - 1:
        return "its bits are stored in an unusual place"
    if min(int(header.Rows), int(header.Columns), frame_count(header)) < 1:
        return "its pixels are not described"
    for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if not _UID.fullmatch(str(header.get(name, ""))):
            return "its UIDs are none"
    return ""


def _place(header: Dataset) -> tuple[float, float]:
    """Distance along the slice normal in mm (PS3.3 C.7.6.2.1.1) where it is told, and the instance number."""
    along = 0.0
    if header.get("ImagePositionPatient") and header.get("ImageOrientationPatient"):
        orientation = np.asarray(header.ImageOrientationPatient, float)
        normal = np.cross(orientation[:3], orientation[3:])
        along = float(normal @ np.asarray(header.ImagePositionPatient, float))
    return round(along, 4), float(header.get("InstanceNumber") or 0)
