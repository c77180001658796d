"""What a person says of a data set, and what of it changes the images that are made."""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from client.importing.degraded import Degradation
from client.importing.grid import LARGEST_STEP
from client.importing.labels import BRAINWEB, LITS, NAMES, LabelMap
from shared.errors import UsageError
from shared.files import canonical_json

LAYOUTS: Final[Mapping[str, str]] = {"lits": "CT", "nifti": "", "brainweb": "MR", "dicom": "", "png": ""}
"""Every layout that is understood, and its modality where it has one."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,23}")
_CODE: Final = re.compile(r"[A-Z0-9_][A-Z0-9_ ]{0,15}")  # value representation CS, PS3.5 table 6.2-1
_OWN: Final[Mapping[str, Mapping[str, str]]] = {"lits": LITS, "brainweb": BRAINWEB}
_BODY_PART: Final = {"MR": "HEAD", "CT": "ABDOMEN"}  # of MR the careful one: heads have faces
_SYNONYMS: Final[Mapping[str, Mapping[str, str]]] = {
    "MR": {
        "cerebrospinal fluid": "csf",
        "white matter": "white-matter",
        **{f"{grey}{dash}matter": "grey-matter" for grey in ("grey", "gray") for dash in (" ", "-")},
    },
    "CT": {"tumor": "tumour", "neoplasm": "tumour"},
}


def labels_of(layout: str, modality: str) -> LabelMap:
    """The labels that a layout is known to have; of others the names of the classes, and their numbers."""
    named = {name: name for name in NAMES[modality]} | dict(_SYNONYMS[modality])
    numbered = {str(number): name for name, number in NAMES[modality].items()}
    own = _OWN.get(layout, numbered if layout in {"nifti", "png"} else {})
    return LabelMap(modality, {**own, **named})


@dataclass(frozen=True)
class Settings:
    """How a data set is read.

    Attributes:
        layout: A name of :data:`LAYOUTS`.
        dataset: Its short name; Patient IDs of files that name nobody begin with it.
        modality: ``MR`` or ``CT``; of a folder of DICOM each study says its own.
        labels: What its labels become; of a folder of DICOM by modality.
        degradation: How a noisy series is made where there is none.
        form: ``sform`` or ``qform``: which counts where a NIfTI file's two disagree; empty to refuse such a file.
        window: Of PNG of CT, the Hounsfield units of black and of the brightest value.
        spacing: Of PNG, mm between pixels and between slices.
        body_part: Body Part Examined; empty for that of the modality.
    """

    layout: str
    dataset: str
    modality: str
    labels: Mapping[str, LabelMap]
    degradation: Degradation = field(default_factory=lambda: Degradation(0))
    form: str = ""
    window: tuple[float, float] | None = None
    spacing: tuple[float, float] = (1.0, 1.0)
    body_part: str = ""

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise UsageError(f"'{self.layout}' is no layout", hint=f"choose one of {', '.join(LAYOUTS)}")
        if not _NAME.fullmatch(self.dataset):
            raise UsageError(
                f"'{self.dataset}' is no name of a data set", hint="use 1 to 24 letters, digits, dots and dashes"
            )
        if self.form not in {"", "sform", "qform"}:
            raise UsageError(f"'{self.form}' is no affine of NIfTI", hint="choose sform or qform")
        if self.layout == "png" and self.modality == "CT" and self.window is None:
            raise UsageError("a PNG does not tell its Hounsfield units", hint="say those of black and white with --hu")
        if self.window is not None and not -math.inf < self.window[0] < self.window[1] < math.inf:
            raise UsageError("--hu needs a lower and a higher value", hint="for example --hu -160 240")
        if not all(0 < step <= LARGEST_STEP for step in self.spacing):
            raise UsageError(
                f"--spacing needs two lengths above 0, of at most {LARGEST_STEP:g} mm",
                hint="for example --spacing 0.7 5",
            )
        if self.layout != "png" and (self.window is not None or self.spacing != (1.0, 1.0)):
            raise UsageError(
                f"--hu and --spacing are for PNG: files of the layout {self.layout} tell their own",
                hint="leave them out",
            )
        if not math.isfinite(self.degradation.level):
            raise UsageError(f"--noise {self.degradation.level} is no level of noise", hint="for example --noise 0.06")
        if self.body_part and not _CODE.fullmatch(self.body_part):
            raise UsageError(
                f"'{self.body_part}' is no Body Part Examined", hint="up to 16 capitals, digits, blanks and underscores"
            )
        if self.layout != "dicom" and self.modality not in NAMES:
            raise UsageError("what the images are is not known", hint="say it with --modality MR or --modality CT")

    def part(self, modality: str) -> str:
        """Body Part Examined."""
        return self.body_part or _BODY_PART[modality]

    @property
    def facts(self) -> dict[str, object]:
        """All that changes the images, as plain values."""
        return {
            "layout": self.layout,
            "dataset": self.dataset,
            "modality": self.modality,
            "labels": {name: dict(one.classes) for name, one in self.labels.items()},
            "seed": self.degradation.seed,
            "noise": self.degradation.level,
            "affine": self.form,
            "hu": list(self.window) if self.window else None,
            "spacing": list(self.spacing),
            "body_part": self.body_part,
        }

    @property
    def digest(self) -> str:
        """SHA-256 of :attr:`facts` in canonical form (RFC 8785)."""
        return hashlib.sha256(canonical_json(self.facts)).hexdigest()
