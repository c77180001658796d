"""The layouts of NIfTI and MINC files: which file is whose image, noisy image and labels."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from client.enhance.slices import UnusableError
from client.importing.content import Case, Content, contained, sized
from client.importing.grid import Grid
from client.importing.settings import Settings
from client.importing.volumes import minc, nifti
from client.importing.walk import Found, patient_name
from client.sources.intake import Problem

Loader = Callable[[Path], tuple[NDArray[np.float32], Grid]]

APART: Final = 0.1
"""Of the smallest voxel side: as far may a corner of the labels lie from that of the image."""
_LITS = re.compile(r"(?P<role>volume|segmentation)-(?P<patient>\d{1,6})\.nii(\.gz)?", re.IGNORECASE)
_NIFTI = re.compile(r"(?P<patient>.+?)(_(?P<role>seg|noisy))?\.nii(\.gz)?", re.IGNORECASE)
_SIMULATED = re.compile(
    r"(?P<contrast>t1|t2|pd)_(?P<space>[a-z]+)_(?P<anatomy>[a-z0-9]+)_(?P<thickness>[\d.]+)mm_"
    r"pn(?P<noise>\d+)_rf(?P<field>\d+)\.mnc(\.gz)?",
    re.IGNORECASE,
)
_MODEL = re.compile(r"phantom_(?P<thickness>[\d.]+)mm_(?P<anatomy>[a-z0-9]+)_crisp\.mnc(\.gz)?", re.IGNORECASE)
_SUBJECT = re.compile(r"(?P<patient>subject\d+)_(?P<role>t1w_p4|crisp_v)\.mnc(\.gz)?", re.IGNORECASE)
_SEEN_AS = {"volume": "reference", "segmentation": "label", "seg": "label", "noisy": "noisy"} | {
    "t1w_p4": "reference",
    "crisp_v": "label",
}


@dataclass(frozen=True)
class VolumeCase:
    """The volumes of one study.

    Attributes:
        patient: Patient ID.
        root: The source folder.
        reference, noisy, label: Its files; None where there is none.
        load: Reads one of them.
        settings: Of the import.
        notes: What else there is to say of it.
    """

    patient: str
    root: Path
    reference: Path
    noisy: Path | None
    label: Path | None
    load: Loader
    settings: Settings
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """See :class:`client.importing.content.Case`."""
        return str(self.reference.relative_to(self.root))

    @property
    def files(self) -> tuple[Path, ...]:
        """See :class:`client.importing.content.Case`."""
        return tuple(one for one in (self.reference, self.noisy, self.label) if one is not None)

    def read(self) -> Content:
        """See :class:`client.importing.content.Case`."""
        reference, grid = self._part(self.reference)
        noisy = self._alike(self.noisy, grid) if self.noisy else None
        label: NDArray[np.uint8] | None = None
        became: dict[str, str] = {}
        if self.label:
            label, became = self.settings.labels[self.settings.modality].apply(self._alike(self.label, grid))
        notes = (*self.notes, *rounded(self.settings.modality, reference))
        facts = {"BodyPartExamined": self.settings.part(self.settings.modality)}
        return Content(self.settings.modality, reference, noisy, label, grid, became, facts, notes)

    def _part(self, path: Path) -> tuple[NDArray[np.float32], Grid]:
        try:
            return self.load(contained(path, self.root))
        except UnusableError as error:
            raise UnusableError(str(error) if path == self.reference else f"{path.name}: {error}") from error

    def _alike(self, path: Path, grid: Grid) -> NDArray[np.float32]:
        """A volume that must lie where the image lies."""
        values, own = self._part(path)
        if own.shape != grid.shape:
            raise UnusableError(f"{path.name} is {sized(own.shape)}, {self.reference.name} is {sized(grid.shape)}")
        apart = own.apart(grid)
        if apart > APART * min(grid.spacing):
            raise UnusableError(f"{path.name} lies elsewhere than {self.reference.name}: {apart:.3g} mm apart")
        return values


def rounded(modality: str, values: NDArray[np.float32]) -> tuple[str, ...]:
    """A note where the way to stored values loses something."""
    whole = all(bool((part == np.rint(part)).all()) for part in values)
    if modality == "CT":
        return () if whole else ("values rounded to whole Hounsfield units",)
    notes = () if whole and float(values.max()) <= 32767 else ("values scaled to 0 to 32767 and rounded",)
    return (*notes, "values below 0 made 0") if float(values.min()) < 0 else notes


def lits(root: Path, settings: Settings, paths: Sequence[Path]) -> Iterator[Found]:
    """``volume-N.nii`` and ``segmentation-N.nii``, compressed or not, in any folders below ``root``."""
    yield from _by_patient(root, settings, paths, _LITS, partial(nifti, form=settings.form))


def plain_nifti(root: Path, settings: Settings, paths: Sequence[Path]) -> Iterator[Found]:
    """``NAME.nii``, and where there are ``NAME_noisy.nii`` and ``NAME_seg.nii``, compressed or not."""
    yield from _by_patient(root, settings, paths, _NIFTI, partial(nifti, form=settings.form))


def brainweb(root: Path, settings: Settings, paths: Sequence[Path]) -> Iterator[Found]:
    """Simulated volumes by contrast, noise and field, with the discrete model; or subjects with theirs."""
    subjects = [path for path in paths if _SUBJECT.fullmatch(path.name)]
    yield from _by_patient(root, settings, subjects, _SUBJECT, minc)
    models = {
        (m["anatomy"].lower(), float(m["thickness"])): path for path in paths if (m := _MODEL.fullmatch(path.name))
    }
    series: dict[tuple[Any, ...], dict[int, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in paths:
        if found := _SIMULATED.fullmatch(path.name):
            what = (found["anatomy"].lower(), found["contrast"].lower(), found["space"].lower())
            grid = (float(found["thickness"]), int(found["field"]))
            series[what + grid][int(found["noise"])].append(path)
        elif not _SUBJECT.fullmatch(path.name) and not _MODEL.fullmatch(path.name):
            yield Problem(str(path.relative_to(root)), "its name is none of BrainWeb's")
    for key, levels in sorted(series.items()):
        twice = [path for same in levels.values() if len(same) > 1 for path in same]
        if twice:
            yield from (Problem(str(path.relative_to(root)), "another file has the same name") for path in twice)
            continue
        ordered = [levels[level][0] for level in sorted(levels)]
        case = VolumeCase(
            f"{settings.dataset}-{key[0]}",
            root,
            ordered[0],
            ordered[-1] if len(ordered) > 1 else None,
            models.get((key[0], key[3])),
            minc,
            settings,
            tuple(f"{path.name} is not used" for path in ordered[1:-1]),
        )
        yield case if case.label else replace(case, notes=(*case.notes, "no discrete model of its size is there"))


def _by_patient(
    root: Path, settings: Settings, paths: Sequence[Path], pattern: re.Pattern[str], load: Loader
) -> Iterator[Found]:
    patients: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in paths:
        found = pattern.fullmatch(path.name)
        if found is None:
            yield Problem(str(path.relative_to(root)), f"its name is none of the layout {settings.layout}")
            continue
        role = found["role"]
        patients[found["patient"]][_SEEN_AS[role.lower()] if role else "reference"].append(path)
    for patient, parts in sorted(patients.items()):
        yield from _case(root, settings, patient, parts, load)


def _case(root: Path, settings: Settings, patient: str, parts: dict[str, list[Path]], load: Loader) -> Iterator[Found]:
    named = patient_name(settings.dataset, patient)
    everything = [path for same in parts.values() for path in same]
    if named is None:
        reason = "its name cannot be a Patient ID: use up to 40 letters, digits, dots and dashes"
    elif any(len(same) > 1 for same in parts.values()):
        reason = "more than one file is this patient's: which one counts is not known"
    elif "reference" not in parts:
        reason = "its image is missing"
    else:
        one = {role: same[0] for role, same in parts.items()}
        case: Case = VolumeCase(named, root, one["reference"], one.get("noisy"), one.get("label"), load, settings)
        yield case
        return
    yield from (Problem(str(path.relative_to(root)), reason) for path in everything)
