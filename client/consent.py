"""What a hospital knows of each patient's consent and rights, and the one rule that decides who takes part.

A patient's own decision always comes before the default basis of the data set: whoever was asked and answered is
judged by the answer alone. So nobody takes part whose consent was withdrawn or refused, has expired, has not begun or
is for another purpose, whatever else the hospital may rest on (GDPR Art. 6, 7(3), 9(2); PIPL Art. 13, 15, 16, 29). A
restriction (Art. 18), an objection (Art. 21), a rectification under way (Art. 16) and an erasure (Art. 17) stop the
processing beside any decision.

Days are UTC. A first and a last day are both inclusive: what ends on 31 May covers all of that day.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from client.basis import CONSENT, Basis, DefaultBasis

ALL: Final = "*"
"""The purpose of a decision about every purpose; only a withdrawal or a refusal may be one."""


class Choice(StrEnum):
    """What a patient decided."""

    GIVEN = "given"
    WITHDRAWN = "withdrawn"
    REFUSED = "refused"


class Hold(StrEnum):
    """What stops the processing of a patient's data whatever he decided."""

    ERASING = "erasing"
    OBJECTED = "objected"
    RECTIFYING = "rectifying"
    RESTRICTED = "restricted"


@dataclass(frozen=True)
class Decision:
    """A patient's decision on one purpose.

    Attributes:
        choice: What was decided.
        since: When it was taken; a consent holds from that day on.
        until: Last day of a consent; None where it has no end.
        basis: The basis that a consent gives.
        source: Where the hospital has it from: ``csv``, ``fhir`` or ``command``.
    """

    choice: Choice
    since: date
    until: date | None = None
    basis: Basis = CONSENT
    source: str = "command"

    def refuses(self, day: date) -> str:
        """Why it does not allow processing on ``day``; empty where it does."""
        if self.choice is not Choice.GIVEN:
            return self.choice.value
        if day < self.since:
            return "consent not begun"
        return "consent expired" if self.until is not None and day > self.until else ""

    def gives_way(self, other: "Decision") -> bool:
        """Whether ``other`` on the same purpose takes its place: the later one, and on one day the stricter one.

        Of two consents of one day the one that ends earlier is the stricter.
        """
        if other.since != self.since:
            return other.since > self.since
        if other.choice is not self.choice:
            return self.choice is Choice.GIVEN
        if other.until != self.until:
            return (other.until or date.max) < (self.until or date.max)
        return other != self


@dataclass(frozen=True)
class Patient:
    """What is recorded of one patient.

    Attributes:
        decisions: By purpose; :data:`ALL` for one about every purpose that no newer one is about.
        holds: What stops the processing.
    """

    decisions: Mapping[str, Decision] = field(default_factory=lambda: MappingProxyType({}))
    holds: frozenset[Hold] = frozenset()

    def decided(self, purpose: str, decision: Decision) -> "Patient":
        """With one more decision; itself where a newer or stricter one is known."""
        general, known = self.decisions.get(ALL), dict(self.decisions)
        if general is not None and purpose != ALL and decision.since <= general.since:
            return self  # on one day a no to everything comes before what is said of one purpose
        before = known.get(purpose)
        if before is not None and not before.gives_way(decision):
            return self
        if purpose == ALL:
            known = {name: one for name, one in known.items() if one.since > decision.since}
        return replace(self, decisions=MappingProxyType({**known, purpose: decision}))

    @property
    def empty(self) -> bool:
        """Whether nothing is recorded."""
        return not self.decisions and not self.holds

    def state(self, purpose: str) -> str:
        """In a word: a hold, else what was decided on ``purpose``, else nothing."""
        if self.holds:
            return min(self.holds).value
        found = self.decisions.get(purpose, self.decisions.get(ALL))
        return found.choice.value if found else ""


@dataclass(frozen=True)
class Register:
    """Everything that a hospital has recorded.

    Attributes:
        serial: Number of changes so far; no two states of a hospital's register are alike.
        default: The basis of whoever has no decision of his own.
        patients: By pseudonym.
        erased: Days of erasures, by the keyed digests of those who are not to be taken in again.
        stopped: Runs in which this hospital takes no further part since somebody was erased.
    """

    serial: int = 0
    default: DefaultBasis | None = None
    patients: Mapping[str, Patient] = field(default_factory=lambda: MappingProxyType({}))
    erased: Mapping[str, date] = field(default_factory=lambda: MappingProxyType({}))
    stopped: frozenset[str] = frozenset()

    def why_not(self, patient: str, purpose: str, day: date, *, virtual: bool = False) -> str:
        """Why a patient does not take part in processing for ``purpose`` on ``day``; empty where he does.

        Args:
            patient: A pseudonym.
            purpose: The charter's, word for word.
            day: UTC.
            virtual: Whether the hospital is one of a simulation: whoever has no record takes part there.
        """
        record = self.patients.get(patient)
        if record is not None and record.holds:
            return min(record.holds).value
        if record is not None and record.decisions:
            found = record.decisions.get(purpose, record.decisions.get(ALL))
            return "consent for another purpose" if found is None else found.refuses(day)
        if self.default is not None:
            return self.default.refuses(purpose, day)
        return "" if virtual else "no basis"

    def of(self, patient: str) -> Patient:
        """What is recorded of a patient."""
        return self.patients.get(patient, Patient())

    def put(self, patient: str, record: Patient) -> "Register":
        """With another record of a patient; an empty one is none."""
        return self.put_all({patient: record})

    def put_all(self, records: Mapping[str, Patient]) -> "Register":
        """With other records of some patients."""
        changed = {**self.patients, **records}
        return replace(self, patients=MappingProxyType({key: one for key, one in changed.items() if not one.empty}))

    def decided(self, decisions: Iterable[tuple[str, str, Decision]]) -> "Register":
        """With decisions (pseudonym, purpose, decision); equal to itself where they say nothing new."""
        changed: dict[str, Patient] = {}
        for patient, purpose, decision in decisions:
            changed[patient] = changed.get(patient, self.of(patient)).decided(purpose, decision)
        return self.put_all(changed)

    def hold(self, patient: str, hold: Hold, *, on: bool) -> "Register":
        """With a hold set, or lifted."""
        record = self.of(patient)
        return self.put(patient, replace(record, holds=record.holds | {hold} if on else record.holds - {hold}))

    def changed(self, other: "Register") -> tuple[str, ...]:
        """The patients of whom ``other`` says something else."""
        keys = self.patients.keys() | other.patients.keys()
        return tuple(sorted(key for key in keys if self.of(key) != other.of(key)))
