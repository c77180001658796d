"""Folders of DICOM: studies with MR or CT series whose labels are segmentations or structure sets.

Values and places are taken over and the rest of the header is left behind, but for the Patient ID, by which a patient
is the same as in every other ingest, and what little :data:`CARRIED` names.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import highdicom
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage, SegmentationStorage

from client.deid.known import UNREADABLE
from client.deid.pixels.decide import HEAD, SUSPECT_WORDS
from client.enhance.slices import ENHANCED, SINGLE, UnusableError, bounded
from client.importing.content import Content, contained
from client.importing.labels import BACKGROUND, NAMES, LabelMap
from client.importing.series import Series, headers_of
from client.importing.settings import Settings
from client.importing.structures import drawn, regions
from client.importing.volume_cases import rounded
from client.importing.walk import Found
from client.sources.intake import Problem
from shared.imaging.images import CLASSES

CARRIED: Final = (
    *("PatientSex", "PatientAge", "StudyDate", "Manufacturer", "ManufacturerModelName", "MagneticFieldStrength"),
    *("BurnedInAnnotation", "ConversionType", "RecognizableVisualFeatures", "BodyPartExamined"),
)
"""Attributes that go along, for groups and scanners, and so that de-identification looks where it must."""
_LABELS: Final = {str(SegmentationStorage), str(RTStructureSetStorage)}
_DESCRIPTIONS: Final = ("SeriesDescription", "StudyDescription", "ProtocolName", "BodyPartExamined")


@dataclass(frozen=True)
class DicomCase:
    """One study.

    Attributes:
        patient: Patient ID, as the files have it.
        root: The source folder.
        images: Files of single-frame MR and CT images.
        labels: Files of segmentations and structure sets.
        settings: Of the import.
    """

    patient: str
    root: Path
    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    settings: Settings

    @property
    def name(self) -> str:
        """See :class:`client.importing.content.Case`."""
        return str(self.images[0].parent.relative_to(self.root))

    @property
    def files(self) -> tuple[Path, ...]:
        """See :class:`client.importing.content.Case`."""
        return (*self.images, *self.labels)

    def read(self) -> Content:
        """See :class:`client.importing.content.Case`."""
        for path in self.files:
            contained(path, self.root)
        try:
            return self._content()
        except UNREADABLE as error:  # pydicom reads a number when it is asked for, wherever that is
            raise UnusableError("a value of its headers cannot be understood") from error

    def _content(self) -> Content:
        series = [Series.of(uid, members) for uid, members in sorted(headers_of(self.images).items())]
        if len(self.labels) > 1:
            raise UnusableError(f"{len(self.labels)} segmentations or structure sets: keep the one that counts")
        label = _label_of(self.labels[0]) if self.labels else None
        noisy, reference = _chosen(series, label)
        classes: NDArray[np.uint8] | None = None
        became: dict[str, str] = {}
        if label is not None:
            classes, became = _classes(label, self.labels[0], reference, self.settings.labels[reference.modality])
        values = reference.values()
        notes = (*rounded(reference.modality, values), f"one of {len(series)} series")
        given = noisy.values() if noisy else None
        facts = _facts(reference.headers[0], self.settings)
        return Content(reference.modality, values, given, classes, reference.grid, became, facts, notes)


def _facts(header: Dataset, settings: Settings) -> dict[str, Any]:
    facts = {name: value for name in CARRIED if (value := _carried(header, name)) not in (None, "")}
    words = " ".join(str(header.get(name, "")) for name in _DESCRIPTIONS).lower()
    if settings.body_part or not str(facts.get("BodyPartExamined", "")).strip():
        facts["BodyPartExamined"] = settings.part(SINGLE[str(header.SOPClassUID)])
    if not settings.body_part and HEAD.search(words):
        facts["BodyPartExamined"] = "HEAD"
    if SUSPECT_WORDS.search(words) or int(header.BitsAllocated) == 8:
        facts["ConversionType"] = "DI"  # what it says of itself stays behind: its pixels are searched for text
    return facts


def _carried(header: Dataset, name: str) -> Any:
    """The value of an attribute; None where there is none that could be written again."""
    try:
        value = header.get(name)
        setattr(Dataset(), name, value)
    except UNREADABLE:
        return None
    return value


def _label_of(path: Path) -> Dataset:
    try:
        kind = str(pydicom.dcmread(path, stop_before_pixels=True).SOPClassUID)
        found = highdicom.seg.segread(path) if kind == SegmentationStorage else pydicom.dcmread(path)
    except (*UNREADABLE, RuntimeError) as error:
        raise UnusableError(f"{path.name}: it cannot be read as a segmentation or structure set") from error
    if str(found.get("SegmentationType", "")) == "FRACTIONAL":
        raise UnusableError(
            f"{path.name}: it tells probabilities or shares (FRACTIONAL), no classes: make a binary segmentation of it"
        )
    return found


def _chosen(series: Sequence[Series], label: Dataset | None) -> tuple[Series | None, Series]:
    """The noisy and the reference series: those of the same slices, of which the label speaks where there is one."""
    if not series:
        raise UnusableError("it has no images but localizers")
    named = _named(label)
    spoken = [one for one in series if named & {one.uid, *one.uids}] if named else []
    if label is not None and not spoken:
        frame = str(label.get("FrameOfReferenceUID", "") or "")
        spoken = [one for one in series if one.frame == frame]
    if label is not None and not spoken:
        raise UnusableError("its labels speak of images that are not there")
    first = (spoken or series)[0]
    group = [one for one in series if one.alike(first)]
    if label is None and len(group) < len(series):
        raise UnusableError("its series show different slices, and no label says which count")
    ranked = sorted(((one.effort, one) for one in group if one.effort is not None), key=lambda item: item[0])
    if len(ranked) > 1 and ranked[0][0] != ranked[-1][0]:
        return ranked[0][1], ranked[-1][1]
    if len(group) > 1 and label is None:
        raise UnusableError("its series of the same slices do not differ in averages (MR) or exposure (CT)")
    return None, first


def _named(label: Dataset | None) -> set[str]:
    """UIDs of the series and instances that a segmentation or a structure set speaks of."""
    found: set[str] = set()
    for item in (label.get("ReferencedSeriesSequence") or []) if label is not None else []:
        found.add(str(item.get("SeriesInstanceUID", "")))
    for frame in (label.get("ReferencedFrameOfReferenceSequence") or []) if label is not None else []:
        for study in frame.get("RTReferencedStudySequence") or []:
            found |= {str(one.get("SeriesInstanceUID", "")) for one in study.get("RTReferencedSeriesSequence") or []}
    return found - {""}


def _classes(
    label: Dataset, path: Path, reference: Series, labels: LabelMap
) -> tuple[NDArray[np.uint8], dict[str, str]]:
    if str(label.SOPClassUID) == RTStructureSetStorage:
        return drawn(regions(label), reference.grid, reference.frame, labels)
    try:
        return _segments(label, reference, labels)
    except (*UNREADABLE, RuntimeError) as error:
        raise UnusableError(f"{path.name}: its segments do not lie on the slices of the images") from error


def _segments(label: Any, reference: Series, labels: LabelMap) -> tuple[NDArray[np.uint8], dict[str, str]]:
    """The class of each pixel by coded type, else by the segment's label; where two overlap, the higher class."""
    coded = CLASSES[labels.modality]
    names = {number: name for name, number in NAMES[labels.modality].items()}
    became: dict[str, str] = {}
    numbers: dict[int, int] = {}
    unknown: list[str] = []
    for number in label.segment_numbers:
        told = label.get_segment_description(number)
        kind = told.segmented_property_type
        code = coded.get((str(kind.scheme_designator), str(kind.value)))
        own = labels.class_of(str(told.segment_label))
        found = own if own is not None else code  # what the user says comes first
        if found is None:
            unknown.append(str(told.segment_label))
            continue
        became[str(told.segment_label)], numbers[int(number)] = names[found], found
    labels.require(unknown)
    made = np.zeros(reference.grid.shape, np.uint8)
    wanted = [number for number, kind in numbers.items() if names[kind] != BACKGROUND]
    for number in wanted:
        part = label.get_pixels_by_source_instance(
            source_sop_instance_uids=reference.uids, segment_numbers=[number], assert_missing_frames_are_empty=True
        )[..., 0]
        np.maximum(made, (np.asarray(part) >= 0.5) * np.uint8(numbers[number]), out=made)
    return made, became


def studies(root: Path, settings: Settings, paths: Sequence[Path]) -> Iterator[Found]:
    """The studies below ``root``."""
    images: dict[str, list[Path]] = defaultdict(list)
    labels: dict[str, list[Path]] = defaultdict(list)
    patients: dict[str, set[str]] = defaultdict(set)
    seen: dict[str, Path] = {}
    for path in paths:
        shown = str(path.relative_to(root))
        try:
            header = pydicom.dcmread(bounded(contained(path, root)), stop_before_pixels=True)
            kind, study, uid = str(header.SOPClassUID), str(header.StudyInstanceUID), str(header.SOPInstanceUID)
        except UnusableError as error:
            yield Problem(shown, str(error))
            continue
        except UNREADABLE:
            yield Problem(shown, "it cannot be read as DICOM")
            continue
        if uid in seen:
            yield Problem(shown, f"the same instance as {seen[uid].relative_to(root)}")
        elif kind in ENHANCED:
            yield Problem(shown, "many frames in one file are not read: make single ones of it")
        elif kind in SINGLE or kind in _LABELS:
            seen[uid] = path
            (images if kind in SINGLE else labels)[study].append(path)
            patients[study].add(str(header.get("PatientID", "") or "").strip())
        else:
            yield Problem(shown, "it is neither an MR or CT image nor a segmentation or structure set")
    for study in sorted(patients):
        everything = images[study] + labels[study]
        shown = str(everything[0].relative_to(root))
        if not images[study]:
            yield Problem(shown, "labels without images")
        elif len(patients[study]) > 1 or "" in patients[study]:
            yield Problem(shown, "its files name no patient, or more than one")
        else:
            yield DicomCase(patients[study].pop(), root, tuple(images[study]), tuple(labels[study]), settings)
