"""Which studies are wanted, and what is looked at to decide."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from shared.errors import UsageError

COMPANIONS = frozenset({"SEG"})
"""Modalities that come along with the images of their study: labels without which a cohort has no targets."""

T = TypeVar("T")

_MODALITY = re.compile(r"[A-Z0-9_]{1,16}")


@dataclass(frozen=True)
class Facts:
    """What a selection looks at, of a study, a series or an instance; None where the source does not say.

    Attributes:
        modalities: Modality (0008,0060), or Modalities in Study (0008,0061) of a study.
        day: Study Date (0008,0020).
        descriptions: Study Description (0008,1030) and Series Description (0008,103E), as far as known.
        patient: Patient ID (0010,0020).
    """

    modalities: frozenset[str] | None = None
    day: date | None = None
    descriptions: tuple[str, ...] | None = None
    patient: str | None = None


@dataclass(frozen=True)
class Selection:
    """Which studies are wanted; everything that is left empty selects all.

    Attributes:
        modalities: Modality codes (PS3.3 C.7.3.1.1.1); segmentations of the selected images come along.
        first: The earliest study date.
        last: The latest study date.
        description: Wildcards ``*`` and ``?`` over the study's or the series' description, without regard to case.
        patients: Patient IDs.
    """

    modalities: frozenset[str] = frozenset()
    first: date | None = None
    last: date | None = None
    description: str = ""
    patients: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for code in self.modalities:
            if not _MODALITY.fullmatch(code):
                raise UsageError(f"'{code}' is no modality", hint="use codes such as MR, CT or PT")
        if self.first and self.last and self.first > self.last:
            raise UsageError(f"{self.first} is after {self.last}", hint="give the earlier date to --from")

    @classmethod
    def patients_from(cls, path: Path) -> frozenset[str]:
        """Patient IDs from a file with one a line; empty lines and those that begin with ``#`` are passed over.

        Raises:
            UsageError: The file cannot be read, or names nobody.
        """
        try:
            lines = path.read_text("utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot read the patient list {path}", hint="one Patient ID a line, UTF-8") from error
        found = frozenset(line.strip() for line in lines if line.strip() and not line.startswith("#"))
        if not found:
            raise UsageError(f"the patient list {path} names nobody", hint="one Patient ID a line")
        if any(set("*?\\") & set(one) for one in found):
            raise UsageError(f"the patient list {path} holds wildcards", hint="name each Patient ID in full")
        return found

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        parts = ({"*": ".*", "?": "."}.get(sign, re.escape(sign)) for sign in self.description.strip())
        return re.compile("".join(parts), re.IGNORECASE | re.DOTALL)

    def admits_study(self, facts: Facts) -> bool:
        """Whether nothing that is known of a study speaks against it; descriptions are looked at series by series."""
        if self.modalities and facts.modalities is not None and not facts.modalities & self.modalities:
            return False
        return self._admits_origin(facts)

    def choose(self, candidates: Iterable[tuple[T, Facts]]) -> list[T]:
        """Of the series or instances of one study those that are wanted, and what comes along with them."""
        chosen = [(one, facts) for one, facts in candidates if self.admits_part(facts)]
        if all(self._companion(facts) for _, facts in chosen):
            return []
        return [one for one, _ in chosen]

    def admits_part(self, facts: Facts) -> bool:
        """Whether nothing that is known of a series or an instance speaks against it."""
        if self._companion(facts):
            return self._admits_origin(facts)
        return self.admits_study(facts) and self._admits_description(facts)

    def admits_file(self, facts: Facts) -> bool:
        """As :meth:`admits_part`, for a file: a date that is asked for must be there."""
        return self.admits_part(facts) and not ((self.first or self.last) and facts.day is None)

    def _companion(self, facts: Facts) -> bool:
        return facts.modalities is not None and facts.modalities <= COMPANIONS - self.modalities

    def _admits_origin(self, facts: Facts) -> bool:
        if facts.day and ((self.first and facts.day < self.first) or (self.last and facts.day > self.last)):
            return False
        return not (self.patients and facts.patient is not None and facts.patient not in self.patients)

    def _admits_description(self, facts: Facts) -> bool:
        if not self.description or facts.descriptions is None:
            return True
        return any(self._pattern.fullmatch(one.strip()) for one in facts.descriptions)


@dataclass(frozen=True, order=True)
class Instance:
    """One instance by its UIDs; the class where the source told it."""

    series: str
    uid: str
    sop_class: str = field(default="", compare=False)
