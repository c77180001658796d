"""The cohort: what was de-identified, indexed by patient, split by patient, and cached as tensors.

A study takes part when it holds a pair of series of the same slices, one acquired with less effort (the input) and one
with more (the reference). Effort is read from the acquisition itself, since descriptions do not survive
de-identification: NumberOfAverages (0018,0083) for MR, Exposure (0018,1152) in mAs for CT. An MR series of another
contrast beside them is registered onto the input. Labels come from DICOM SEG objects that refer to slices of the study
(PS3.3 A.51).

Training reads the cached tensors and never DICOM; a patient is in training or held out, with all studies, for ever.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import safetensors.numpy
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError

from client.cohort_images import let_go, sweep
from client.cohort_index import PatientEntry, StudyEntry
from client.cohort_scale import scaled
from client.cohort_second import Second, taken
from client.cohort_series import CONTRAST, EFFORT, Instance, longest, pair_of, second_of
from client.registration import Kind
from client.splits import Split as Split  # noqa: PLC0414  # where most look for it
from client.splits import assigned, gone, left
from compliance.log import Action, AuditLog, Entry, Outcome
from shared.errors import DataError
from shared.files import write_bytes, write_json
from shared.imaging.images import CLASSES, PatientImages, StudyImages
from shared.parsing import parse_json

SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
HEADER_TAGS = [
    *("SOPClassUID", "SOPInstanceUID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("Modality", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"),
    *("SegmentationType", "ImageType"),
    *EFFORT.values(),
    *CONTRAST,
]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Cohort:
    """An index of patients and their cached tensors in ``folder``.

    Attributes:
        folder: Where ``index.json`` and ``images/`` lie.
        entries: The patients, ordered by pseudonym.
        left_out: Why studies were not taken, with how many of each.
        no_labels: How many segmentations of studies that were taken tell probabilities or shares of pixels
            (FRACTIONAL): those are no labels, and were not used.
    """

    folder: Path
    entries: tuple[PatientEntry, ...]
    left_out: Mapping[str, int]
    no_labels: int = 0

    @property
    def no_second(self) -> Mapping[str, int]:
        """Why series of another contrast were not taken, with how many studies of each; the studies were."""
        return Counter(study.no_second for entry in self.entries for study in entry.studies if study.no_second)

    @classmethod
    def open(cls, folder: Path) -> "Cohort":
        """Read the index of a cohort that :func:`build_cohort` wrote.

        Raises:
            DataError: There is no index, or it cannot be read.
        """
        try:
            raw = parse_json((folder / "index.json").read_bytes())
            entries = tuple(PatientEntry.of(row) for row in raw["patients"])
            return cls(folder, entries, dict(raw["left_out"]), int(raw.get("no_labels", 0)))
        except FileNotFoundError:
            raise DataError(f"{folder} holds no cohort", hint="fill it with 'fedward node ingest'") from None
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"the cohort index in {folder} is damaged",
                hint="restore it from a copy: a new index may hold out other patients than those held out before",
            ) from error

    def patients(self, split: Split) -> tuple[str, ...]:
        """The pseudonyms of one side of the split, in order."""
        return tuple(entry.key for entry in self.entries if entry.split is split)

    def load(self, key: str) -> PatientImages:
        """The images of patient ``key`` from the cache.

        Raises:
            DataError: A cached file is gone or damaged.
        """
        entry = next(entry for entry in self.entries if entry.key == key)
        return PatientImages(key, tuple(self._study(study) for study in entry.studies))

    def load_split(self, split: Split) -> tuple[PatientImages, ...]:
        """All patients of one side of the split."""
        return tuple(self.load(key) for key in self.patients(split))

    def _study(self, entry: StudyEntry) -> StudyImages:
        path = self.folder / "images" / entry.file
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read the cached images {path}", hint="build the cohort again") from error
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise DataError(f"the cached images {path} were changed since", hint="build the cohort again")
        arrays = safetensors.numpy.load(data)
        noisy = arrays["noisy"]
        return StudyImages(
            entry.modality,
            noisy,
            arrays.get("reference", noisy[:0]),
            arrays.get("label"),
            entry.spacing,
            arrays.get("second"),
        )


def build_cohort(
    released: Path,
    folder: Path,
    *,
    log: AuditLog,
    holdout: float = 0.25,
    on_progress: Progress | None = None,
    barred: Callable[[str], bool] = lambda _: False,
    unpaired: bool = False,
    registration: Kind = "rigid",
) -> Cohort:
    """Index the de-identified files below ``released`` and cache their images in ``folder``.

    A study that was cached before from the same instances is not read again. A patient who was held out stays held out.

    Args:
        released: De-identified DICOM files, at any depth.
        folder: Where the index and the cache are written.
        log: The hospital's audit log.
        holdout: Share of patients kept for evaluation, at least one of three or more.
        on_progress: Called with the studies done and the studies in all.
        barred: Whether somebody (by pseudonym) must not be taken in, since he was erased.
        unpaired: Take in studies without a reference series too, for tasks that need none. What was taken in stays
            while its files are the same.
        registration: How second contrasts are laid onto the first; what was cached with the other kind is read again.

    Raises:
        DataError: No study has a pair of series that can be used; the message says why.
    """
    known = _known(folder)
    sweep(folder, _files(known))
    with log.act(Entry(Action.COHORT_BUILD, Outcome.STARTED)) as detail:
        studies = {key: found for key, found in _scan(released).items() if not barred(key[0])}
        kept: dict[str, list[StudyEntry]] = defaultdict(list)
        left_out: dict[str, int] = defaultdict(int)
        no_labels = 0
        for number, ((patient, study), instances) in enumerate(sorted(studies.items()), start=1):
            outcome = _cache_study(folder, study, instances, known, unpaired=unpaired, kind=registration)
            if isinstance(outcome, str):
                left_out[outcome] += 1
            else:
                kept[patient].append(outcome)
                no_labels += sum(_fractional(one) for one in instances)
            if on_progress:
                on_progress(number, len(studies))
        if not kept:
            reasons = "; ".join(f"{reason} ({count})" for reason, count in sorted(left_out.items()))
            raise DataError(
                f"no study below {released} can be used: {reasons or 'there are no DICOM images'}",
                hint="a study needs two series of the same slices that differ in averages (MR) or exposure (CT), or "
                "'fedward node ingest --unpaired'",
            )
        before = gone(folder) | {entry.key: entry.split for entry in known}
        splits = assigned(sorted(kept), before, holdout)
        entries = tuple(PatientEntry(key, splits[key], tuple(kept[key])) for key in sorted(kept))
        cohort = Cohort(folder, entries, dict(left_out), no_labels)
        let_go(folder, _files(known) - _files(entries))
        write_json(folder / "index.json", _index(cohort) | {"gone": left(before, kept)}, durable=True)
        detail.update(_counts(cohort))
    return cohort


# --- index ------------------------------------------------------------------------------------------------------------


def _counts(cohort: Cohort) -> dict[str, int]:
    """What the audit log says of it."""
    counts = {
        "patients": len(cohort.entries),
        "held_out": len(cohort.patients(Split.HELD_OUT)),
        "studies": sum(len(entry.studies) for entry in cohort.entries),
        "left_out": sum(cohort.left_out.values()),
    }
    counts |= {"segmentations_no_labels": cohort.no_labels} if cohort.no_labels else {}
    return counts | ({"no_second": sum(cohort.no_second.values())} if cohort.no_second else {})


def _index(cohort: Cohort) -> dict[str, object]:
    rows = [entry.row() for entry in cohort.entries]
    more: dict[str, object] = {"no_labels": cohort.no_labels} if cohort.no_labels else {}
    more |= {"no_second": dict(cohort.no_second)} if cohort.no_second else {}
    return {"version": 1, "patients": rows, "left_out": dict(cohort.left_out)} | more


def _known(folder: Path) -> tuple[PatientEntry, ...]:
    return Cohort.open(folder).entries if (folder / "index.json").exists() else ()


def _files(entries: Iterable[PatientEntry]) -> set[str]:
    return {study.file for entry in entries for study in entry.studies}


# --- reading DICOM ----------------------------------------------------------------------------------------------------


def _scan(released: Path) -> dict[tuple[str, str], list[Instance]]:
    """Headers of all files, grouped by patient and study."""
    studies: dict[tuple[str, str], list[Instance]] = defaultdict(list)
    for path in sorted(released.rglob("*.dcm")):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(HEADER_TAGS))
            studies[str(header.PatientID), str(header.StudyInstanceUID)].append(Instance(path, header))
        except (InvalidDicomError, AttributeError, OSError, EOFError) as error:
            raise DataError(f"{path} is not a released DICOM file", hint="de-identify it again") from error
    return studies


def _cache_study(
    folder: Path,
    study: str,
    instances: Sequence[Instance],
    known: Iterable[PatientEntry],
    *,
    unpaired: bool,
    kind: Kind,
) -> StudyEntry | str:
    """The index entry of a study, cached anew unless it was before; or the reason why it cannot be used."""
    source = hashlib.sha256("|".join(sorted(str(one.header.SOPInstanceUID) for one in instances)).encode()).hexdigest()
    pair = pair_of(instances)
    low, high = (longest(instances), []) if isinstance(pair, str) else pair
    beside = second_of(instances, low, high)
    # Another name for other instances: who trains meanwhile by the index as it was still finds what that one names.
    parts = [study, source, *([kind] if beside else [])]
    name = hashlib.sha256("|".join(parts).encode()).hexdigest()[:24] + ".safetensors"
    path = folder / "images" / name
    for entry in known:
        for cached in entry.studies:
            if cached.source == source and cached.file == name and _sha256(path) == cached.sha256:
                return cached
    if isinstance(pair, str) and not (unpaired and low):
        return pair
    modality = str(low[0].header.Modality)
    values = _pixels(low)
    noisy, reference = scaled(modality, values, _pixels(high) if high else values[:0])
    arrays: dict[str, NDArray[np.generic]] = {"noisy": noisy}
    if high:
        arrays["reference"] = reference
    label = _label(instances, high or low)
    if label is not None:
        arrays["label"] = label
    second = taken(low, values, beside, _pixels(beside), kind) if beside else Second()
    if second.images is not None:
        arrays["second"] = second.images
    data = safetensors.numpy.save(arrays)
    write_bytes(path, data)
    rows, columns = (float(value) for value in low[0].header.PixelSpacing)
    return StudyEntry(
        name,
        modality,
        len(noisy),
        noisy.shape[1],
        noisy.shape[2],
        (rows, columns),
        label is not None,
        source,
        hashlib.sha256(data).hexdigest(),
        paired=bool(high),
        second="" if second.images is None else kind,
        no_second=second.why_not,
    )


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _pixels(ordered: Sequence[Instance]) -> NDArray[np.float32]:
    """Stored values through the modality's rescale (PS3.3 C.11.1), float32 ``[n, rows, columns]``."""
    slices = []
    for one in ordered:
        image = pydicom.dcmread(one.path)
        slope, intercept = float(image.get("RescaleSlope", 1)), float(image.get("RescaleIntercept", 0))
        slices.append(image.pixel_array.astype(np.float32) * np.float32(slope) + np.float32(intercept))
    return np.stack(slices)


def _fractional(one: Instance) -> bool:
    """Whether it is a segmentation of probabilities or of shares of pixels (PS3.3 C.8.20.2.3)."""
    return str(one.header.get("SegmentationType", "")) == "FRACTIONAL"


def _label(instances: Sequence[Instance], ordered: Sequence[Instance]) -> NDArray[np.uint8] | None:
    """The classes of the slices in ``ordered`` from a SEG object that refers to them, or None.

    A segment becomes the class of its coded type (:data:`shared.imaging.images.CLASSES`); other segments are left out.
    A fractional segmentation is no label: it tells how likely or how much, and not which class.
    """
    uids = [str(one.header.SOPInstanceUID) for one in ordered]
    known = CLASSES[str(ordered[0].header.Modality)]
    for one in instances:
        if str(one.header.SOPClassUID) != SEGMENTATION_STORAGE or _fractional(one):
            continue
        segmentation = highdicom.seg.segread(one.path)
        if not {str(source[2]) for source in segmentation.get_source_image_uids()} >= set(uids):
            continue
        classes = np.zeros(max(segmentation.segment_numbers) + 1, np.uint8)
        for number in segmentation.segment_numbers:
            kind = segmentation.get_segment_description(number).segmented_property_type
            classes[number] = known.get((str(kind.scheme_designator), str(kind.value)), 0)
        if classes.any():
            pixels = segmentation.get_pixels_by_source_instance(
                source_sop_instance_uids=uids, combine_segments=True, relabel=False
            )
            return classes[np.asarray(pixels, np.intp)]
    return None
