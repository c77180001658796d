"""The rows of a cohort's index: which patient is on which side of the split, and what is cached of whom."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from client.splits import Split
from shared.imaging.images import StudyImages


@dataclass(frozen=True)
class StudyEntry:
    """One cached study: its file below ``images/``, that file's hash, what it holds, and what it was made from.

    What follows the hash is left out of the index where it has its default.

    Attributes:
        paired: Whether it has a reference series.
        second: How a second contrast was registered onto it, ``rigid`` or ``affine``; empty where it has none.
        no_second: Why a series of another contrast that is there was not taken.
    """

    file: str
    modality: str
    slices: int
    height: int
    width: int
    spacing: tuple[float, float]
    labelled: bool
    source: str
    sha256: str
    paired: bool = True
    second: str = ""
    no_second: str = ""

    def row(self) -> dict[str, object]:
        """As the index has it."""
        known = {one.name: getattr(self, one.name) for one in fields(self)}
        return {one.name: known[one.name] for one in fields(self) if known[one.name] != one.default}

    def blank(self) -> StudyImages:
        """The study as a task judges it: of its kind and size, without any pixels (they take no memory either)."""
        shape = (self.slices, self.height, self.width)
        empty = np.broadcast_to(np.float32(0), shape)
        label = np.broadcast_to(np.uint8(0), shape) if self.labelled else None
        reference, second = empty if self.paired else empty[:0], empty if self.second else None
        return StudyImages(self.modality, empty, reference, label, self.spacing, second)


@dataclass(frozen=True)
class PatientEntry:
    """One patient of the index, by pseudonym."""

    key: str
    split: Split
    studies: tuple[StudyEntry, ...]

    @classmethod
    def of(cls, row: Mapping[str, object]) -> "PatientEntry":
        """A patient's row of the index.

        Raises:
            ValueError, KeyError, TypeError: The row is damaged.
        """
        studies = row["studies"]
        if not isinstance(studies, list):
            raise TypeError("studies is no list")
        rows = [StudyEntry(**{**study, "spacing": tuple(study["spacing"])}) for study in studies]
        return cls(str(row["key"]), Split(str(row["split"])), tuple(rows))

    def row(self) -> dict[str, object]:
        """As the index has it."""
        return {"key": self.key, "split": self.split.value, "studies": [study.row() for study in self.studies]}
