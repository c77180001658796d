"""Pairs of PNG: ``clean/`` or ``image/``, and where there are ``noisy/`` and ``label/``, with the same names in each.

``NAME_12.png`` is slice 12 of the patient NAME; a name without a number is a patient of one slice. A PNG has no unit
and no place: MR keeps the values of the file, CT is told by ``--hu`` what black and the brightest value of its bits
stand for, and the distance of pixels and slices is what ``--spacing`` says.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from client.enhance.slices import UnusableError
from client.importing.content import LONGEST_SIDE, Content, contained, sized
from client.importing.grid import Grid
from client.importing.settings import Settings
from client.importing.walk import Found, patient_name
from client.sources.intake import Problem

_ROLES: Final[Mapping[str, str]] = {"clean": "reference", "image": "reference", "noisy": "noisy", "label": "label"}
_SLICE = re.compile(r"(?P<patient>.+?)[_-](?P<number>\d{1,6})\.png", re.IGNORECASE)
_GREY = {"L": 255, "I;16": 65535, "I": 65535, "1": 1}
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError, UnidentifiedImageError)


@dataclass(frozen=True)
class PictureCase:
    """The slices of one patient.

    Attributes:
        patient: Patient ID.
        root: The source folder.
        slices: In order, the files of each slice by role.
        settings: Of the import.
    """

    patient: str
    root: Path
    slices: tuple[Mapping[str, Path], ...]
    settings: Settings

    @property
    def name(self) -> str:
        """See :class:`client.importing.content.Case`."""
        return str(self.slices[0]["reference"].relative_to(self.root))

    @property
    def files(self) -> tuple[Path, ...]:
        """See :class:`client.importing.content.Case`."""
        return tuple(path for one in self.slices for _, path in sorted(one.items()))

    def read(self) -> Content:
        """See :class:`client.importing.content.Case`."""
        modality, roles = self.settings.modality, self.slices[0]
        parts = {role: self._stack(role) for role in roles}
        if "noisy" in parts and parts["noisy"][1] != parts["reference"][1]:
            raise UnusableError("its noisy and its clean pictures have different numbers of bits")
        images = {role: self._valued(*parts[role]) for role in ("reference", "noisy") if role in parts}
        label: NDArray[np.uint8] | None = None
        became: dict[str, str] = {}
        if "label" in parts:
            label, became = self.settings.labels[modality].apply(parts["label"][0])
        shape = images["reference"].shape
        pixel, between = self.settings.spacing
        matrix = np.array([[0, 0, pixel, 0], [0, pixel, 0, 0], [between, 0, 0, 0], [0, 0, 0, 1]], float)
        grid = Grid((shape[0], shape[1], shape[2]), matrix)
        top = parts["reference"][1]
        told = (
            f"0 to {top} as {self.settings.window[0]:g} to {self.settings.window[1]:g} HU"
            if self.settings.window
            else (f"values of 0 to {top} kept")
        )
        # A PNG may be a picture of a screen: with a Conversion Type its pixels are searched for text.
        facts = {"ConversionType": "DI", "BodyPartExamined": self.settings.part(modality)}
        noisy = images.get("noisy")
        return Content(modality, images["reference"], noisy, label, grid, became, facts, (told, "place not known"))

    def _stack(self, role: str) -> tuple[NDArray[np.float32], int]:
        """All slices of a role, and the largest value that their bits can hold."""
        read = [self._picture(one[role]) for one in self.slices]
        shapes = {one.shape for one, _ in read}
        if len(shapes) > 1:
            raise UnusableError(f"its {role} pictures have different sizes: {', '.join(map(sized, sorted(shapes)))}")
        tops = {top for _, top in read}
        if len(tops) > 1:
            raise UnusableError(f"its {role} pictures have different numbers of bits")
        return np.stack([one for one, _ in read]).astype(np.float32), tops.pop()

    def _picture(self, path: Path) -> tuple[NDArray[Any], int]:
        try:
            with Image.open(contained(path, self.root), formats=["PNG"]) as picture:
                if picture.mode not in _GREY:
                    raise UnusableError(
                        f"{path.name}: it is a picture in colours or with transparency ({picture.mode})"
                    )
                if max(picture.size) > LONGEST_SIDE:
                    raise UnusableError(f"{path.name}: it is larger than {LONGEST_SIDE} pixels a side")
                return np.asarray(picture), _GREY[picture.mode]
        except _BROKEN as error:
            raise UnusableError(f"{path.name}: it cannot be read as PNG") from error

    def _valued(self, values: NDArray[np.float32], top: int) -> NDArray[np.float32]:
        if self.settings.modality != "CT" or self.settings.window is None:
            return values
        low, high = self.settings.window
        return np.asarray(low + values * np.float32((high - low) / top), np.float32)


def pictures(root: Path, settings: Settings, paths: Sequence[Path]) -> Iterator[Found]:
    """The patients of ``root``: one for each name in ``clean/`` or ``image/``."""
    if (root / "clean").is_dir() and (root / "image").is_dir():
        yield Problem("image", "there is clean/ too: which of the two counts is not known")
        return
    roles: dict[str, dict[str, Path]] = defaultdict(dict)  # by name of file and role
    for path in paths:
        inside = path.relative_to(root)
        role = _ROLES.get(inside.parts[0]) if len(inside.parts) == 2 else None
        if role is None or path.suffix.lower() != ".png":
            yield Problem(str(inside), "it is no PNG in one of the folders clean, image, noisy and label")
        else:
            roles[path.name][role] = path
    wanted = {role for one in roles.values() for role in one} | {"reference"}
    patients: dict[str, list[tuple[int, Mapping[str, Path]]]] = defaultdict(list)
    for name, one in sorted(roles.items()):
        found = _SLICE.fullmatch(name)
        patient = found["patient"] if found else Path(name).stem
        patients[patient].append((int(found["number"]) if found else 0, one))
    for patient, slices in sorted(patients.items()):
        named = patient_name(settings.dataset, patient)
        shown = str(next(iter(slices[0][1].values())).relative_to(root))
        numbers = [number for number, _ in slices]
        if named is None:
            yield Problem(shown, "its name cannot be a Patient ID: use up to 40 letters, digits, dots and dashes")
        elif lacking := sorted({role for _, one in slices for role in wanted - set(one)}):
            yield Problem(shown, f"patient {patient}: pictures are missing in {', '.join(lacking)}")
        elif len(set(numbers)) < len(numbers):
            yield Problem(shown, f"patient {patient}: two pictures are the same slice")
        else:
            ordered = sorted(slices, key=lambda item: item[0])
            yield PictureCase(named, root, tuple(one for _, one in ordered), settings)
