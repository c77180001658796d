"""Whose images are looked at: the test patients of a node who may take part today, and what stayed in their headers."""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError

from client.cohort import Cohort, Split
from client.eligible import eligible, reasons
from client.lineage import TRAIN, Lineage
from client.node import Node
from compliance.log import Action, AuditLog
from compliance.log import Outcome as Mark
from shared.errors import DataError, PolicyError, UsageError
from shared.imaging.images import StudyImages
from shared.imaging.tasks import Task

UNKNOWN: Final = "not in the headers"
_TAGS: Final = [
    *("SOPInstanceUID", "Modality", "Manufacturer", "ManufacturerModelName", "MagneticFieldStrength"),
    *("ConvolutionKernel", "PatientSex", "PatientAge", "ImagePositionPatient", "ImageOrientationPatient"),
    "SeriesInstanceUID",
]
_IMAGES: Final = ("MR", "CT")


@dataclass(frozen=True)
class Facts:
    """What the de-identified headers of a study still say; :data:`UNKNOWN` where the profile kept nothing.

    Attributes:
        scanner: Manufacturer, model, and field strength (MR) or kernel (CT).
        sex: Patient's Sex (0010,0040).
        age: Band of ten years of Patient's Age (0010,1010), 90 and older together.
        slice_distance: Distance of neighbouring slices along their normal, mm; None where it is not one.
    """

    scanner: str = UNKNOWN
    sex: str = UNKNOWN
    age: str = UNKNOWN
    slice_distance: float | None = None


@dataclass(frozen=True)
class Site:
    """A hospital's node, and who of its cohort is looked at.

    Attributes:
        node: The node.
        cohort: Its cohort.
        patients: Pseudonyms of those who are looked at.
        left_out: Why others of the same side are not, with how many of each.
        trained: Whether this hospital trained any model.
    """

    node: Node
    cohort: Cohort
    patients: tuple[str, ...]
    left_out: Mapping[str, int]
    trained: bool

    @property
    def name(self) -> str:
        """The hospital's name."""
        return self.node.site


def node_of(path: Path) -> Node:
    """The node that a folder is, or whose cohort it is.

    Raises:
        UsageError: It is neither.
        PolicyError: It is a cohort without its node.
    """
    if (path / "node.json").exists():
        return Node.open(path)
    if (path / "index.json").exists():
        if (path.resolve().parent / "node.json").exists():
            return Node.open(path.resolve().parent)
        raise PolicyError(
            f"{path} is a cohort without its node: nothing says who of it agreed, and nothing would record the reading",
            hint="name the node's folder",
        )
    if not path.exists():
        raise UsageError(f"there is no folder {path}", hint="name a node's folder, or the cohort in it")
    raise UsageError(
        f"{path} is neither a node nor the cohort in one",
        hint="DICOM goes into a cohort first: fedward node init, then fedward node ingest",
    )


def site_of(node: Node, log: AuditLog, task: Task, *, everybody: bool) -> Site:
    """Decide who is looked at, by the index and the register alone: no image is read.

    Args:
        node: The node.
        log: Its audit log, open.
        task: What is evaluated.
        everybody: Training patients too, where this hospital has trained on none of them.

    Raises:
        UsageError: ``everybody``, and this hospital has trained on its patients.
        RecordError: The register, the lineage or the log does not hold.
        DataError: There is no cohort.
    """
    cohort, lineage = node.cohort, Lineage(node)
    lineage.check()
    trained = log.newest(Action.TRAIN, Action.PERSONALISE, outcome=Mark.STARTED) is not None or any(
        part.kind == TRAIN for part in lineage.parts()
    )
    if everybody and trained:
        raise UsageError(
            f"{node.site} has trained on its patients, so only its test patients say how good a model is",
            hint="leave out --all",
        )
    sides = (Split.TRAIN, Split.HELD_OUT) if everybody else (Split.HELD_OUT,)
    listed = [entry for entry in cohort.entries if entry.split in sides]
    fit = [entry.key for entry in listed if any(one.modality in task.modalities for one in entry.studies)]
    left_out = Counter(reasons(fit, node, log=log))
    if len(fit) < len(listed):
        left_out[f"no {' or '.join(sorted(task.modalities))} study"] = len(listed) - len(fit)
    return Site(node, cohort, eligible(fit, node, log=log), dict(left_out), trained)


def studies_of(site: Site, patient: str, task: Task) -> Iterator[tuple[StudyImages, Facts]]:
    """The studies of one patient that the task can use, with what their headers say.

    Raises:
        DataError: A cached file is gone or damaged.
    """
    entry = next(one for one in site.cohort.entries if one.key == patient)
    facts = _facts(site.node.folder / "released" / patient)
    for listed, study in zip(entry.studies, site.cohort.load(patient).studies, strict=True):
        if task.eligible(study) and task.judged(study):
            yield study, facts.get(listed.source, Facts())


def require_anybody(sites: Sequence[Site]) -> None:
    """See that there is somebody to look at.

    Raises:
        DataError: There is nobody; the message says why.
    """
    if any(site.patients for site in sites):
        return
    why = sum((Counter(site.left_out) for site in sites), Counter[str]())
    said = "; ".join(f"{reason} ({count})" for reason, count in sorted(why.items())) or "no patient is held out"
    raise DataError(
        f"there is nobody to evaluate on: {said}",
        hint="see 'fedward node basis set' and 'fedward node consent' (docs/consent.md)",
    )


# --- headers ----------------------------------------------------------------------------------------------------------


def _facts(folder: Path) -> dict[str, Facts]:
    """Facts by what the cohort's index calls ``source``: the digest of a study's instances."""
    found = {}
    for study in sorted(folder.iterdir()) if folder.is_dir() else ():
        headers = []
        for path in sorted(study.rglob("*.dcm")) if study.is_dir() else ():
            with contextlib.suppress(InvalidDicomError, OSError, EOFError):
                headers.append(pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS)))
        uids = sorted(str(one.get("SOPInstanceUID", "")) for one in headers)
        source = hashlib.sha256("|".join(uids).encode()).hexdigest()
        if images := [one for one in headers if one.get("Modality") in _IMAGES]:
            first = images[0]
            found[source] = Facts(
                _scanner(first), _sex(first), age_band(str(first.get("PatientAge") or "")), _distance(images)
            )
    return found


def _scanner(header: pydicom.Dataset) -> str:
    parts = [str(header.get(name) or "").strip() for name in ("Manufacturer", "ManufacturerModelName")]
    if (field := header.get("MagneticFieldStrength")) not in (None, ""):
        parts.append(f"{float(field):g} T")
    kernel = header.get("ConvolutionKernel")
    if kernel not in (None, ""):
        parts.append("kernel " + (str(kernel) if isinstance(kernel, str) else "/".join(map(str, kernel))))
    return " ".join(part for part in parts if part) or UNKNOWN


def _sex(header: pydicom.Dataset) -> str:
    return {"F": "female", "M": "male", "O": "other"}.get(str(header.get("PatientSex") or ""), UNKNOWN)


def age_band(age: str) -> str:
    """The band of ten years of an age string (PS3.5 section 6.2, AS), such as ``045Y``; :data:`UNKNOWN` for others."""
    if len(age) != 4 or not age[:3].isdigit() or age[3] not in "DWMY":
        return UNKNOWN
    years = int(int(age[:3]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[age[3]])
    low = years // 10 * 10
    return "90 and older" if low >= 90 else f"{low} to {low + 9}"


def _distance(headers: Iterable[pydicom.Dataset]) -> float | None:
    """The distance of neighbouring slices of the longest series; None where they are not evenly apart."""
    series: dict[str, list[float]] = {}
    for one in headers:
        if one.get("ImagePositionPatient") and one.get("ImageOrientationPatient"):
            orientation = np.asarray(one.ImageOrientationPatient, float)
            normal = np.cross(orientation[:3], orientation[3:])
            place = float(normal @ np.asarray(one.ImagePositionPatient, float))
            series.setdefault(str(one.get("SeriesInstanceUID")), []).append(place)
    gaps = np.diff(sorted(sorted(series.values(), key=len)[-1])) if series else np.empty(0)
    if not len(gaps) or gaps.min() <= 0 or np.ptp(gaps) > 0.1 * gaps.mean():
        return None
    return float(gaps.mean())
