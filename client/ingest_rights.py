"""What patients' rights mean for an ingest: who was erased is not taken in again, and lineage knows what was."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from client.deid.codec import MalformedError
from client.forgetting import owner_of
from client.lineage import Lineage
from client.manifest import write_manifest
from client.node import Node
from client.records import read_register, tombstone
from client.rights import finish_erasures, rectified
from compliance.log import Action, AuditLog, Entry, Outcome, Scalar
from shared.files import output_errors

if TYPE_CHECKING:
    from client.cohort import Cohort
    from client.sources.fetching import Fetched


@dataclass(frozen=True)
class Doorkeeper:
    """Stands between what was fetched and what is de-identified.

    Attributes:
        node: The hospital's node.
        log: Its audit log.
        erased: Keyed digests of those who were erased.
    """

    node: Node
    log: AuditLog
    erased: frozenset[str]

    @classmethod
    def open(cls, node: Node, log: AuditLog) -> "Doorkeeper":
        """Finish erasures that broke off, then see who must stay out. The caller holds the lock of ingest.

        Raises:
            RecordError: The register is damaged, or not the one that the log knows.
        """
        finish_erasures(node, log)
        return cls(node, log, frozenset(read_register(node, log)[0].erased))

    def barred(self, patient: str) -> bool:
        """Whether a patient (by pseudonym) was erased."""
        return bool(self.erased) and tombstone(self.node, patient) in self.erased

    def admit(self, fetched: "Fetched", *, source: str, profile: str) -> None:
        """Delete the files of a study whose patient was erased before any of them is worked on; note the others.

        Raises:
            OutputError: A file cannot be deleted, or the note not be written.
        """
        noted, removed = set[str](), 0
        for path in sorted(path for path in fetched.intake.folder.rglob("*") if path.is_file()):
            if noted and not self.erased:
                break  # the files of a study are one patient's; only where somebody must stay out each is looked at
            try:
                patient = owner_of(path.read_bytes(), self.node)
            except MalformedError:
                continue  # it will be refused, or held for a person
            if self.barred(patient):
                with output_errors(path):
                    path.unlink()
                removed += 1
            elif patient not in noted:
                noted.add(patient)
                Lineage(self.node).take_in(patient, fetched.digest, source=source, profile=profile)
        if removed:
            facts: dict[str, Scalar] = {"reason": "erased", "files": removed}
            self.log.append(Entry(Action.REFUSAL, Outcome.REFUSED, subject=("study", fetched.digest), detail=facts))

    def close(self, cohort: "Cohort") -> None:
        """Once the cohort is built, let those take part again who were to be taken in anew, and write the manifest.

        Raises:
            RecordError: The record cannot be written.
        """
        rectified(self.node, self.log, [entry.key for entry in cohort.entries])
        write_manifest(self.node, self.log)
