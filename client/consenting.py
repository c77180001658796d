"""What a hospital does to its register of bases and consents; each act is recorded before it is done."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from client.basis import DefaultBasis
from client.consent import ALL, Choice, Decision, Register
from client.consent_file import Row
from client.eligible import today
from client.forgetting import forget_answers
from client.ledger_rows import require_reason
from client.node import Node
from client.records import change, pseudonym_of, read_register
from compliance.log import Action
from shared.files import canonical_json

__all__ = ["Imported", "import_consents", "set_basis", "withdraw"]


@dataclass(frozen=True)
class Imported:
    """What an import came to.

    Attributes:
        rows: Decisions in the file.
        patients: Patients in it.
        changed: Of whom something new is recorded.
        choices: How many decisions of each kind the file has.
        stopped: Patients whose consent was withdrawn or refused by it.
    """

    rows: int
    patients: int
    changed: int
    choices: dict[str, int]
    stopped: int


def set_basis(node: Node, default: DefaultBasis | None) -> Register:
    """Make ``default`` the basis of whoever has no decision of his own; None takes it away.

    Raises:
        UsageError: Nobody decided it, or for no reason.
        RecordError: The record cannot be written.
    """
    if default is not None:
        require_reason(default.who, default.why)
        if not (default.act.strip() and default.act.isprintable() and len(default.act) <= 300):
            require_reason(default.act, default.why)
    detail = {"basis": str(default.basis) if default else "", "until": _day(default.until if default else None)}
    with node.open_log() as log:
        _, after = change(
            node, log, Action.BASIS_SET, lambda register: replace(register, default=default), detail=detail
        )
    return after


def import_consents(node: Node, rows: Sequence[Row], *, file: Path, dry: bool = False) -> Imported:
    """Take decisions into the register, under this hospital's pseudonyms; what is known already changes nothing.

    The log gets two entries whatever the number of patients, since others see how long it is: with keyed digests of the
    file's name and of all that it decided, and the register's digests. Who decided what stands in the register.

    Args:
        node: The hospital's node.
        rows: The decisions; their Patient IDs are not kept.
        file: Where they are from.
        dry: Only say what would be.

    Raises:
        RecordError: The record cannot be written.
    """
    names = {row.patient_id: "" for row in rows}
    for one in names:
        names[one] = pseudonym_of(node, one)
    decisions = [(names[row.patient_id], row.purpose, row.decision) for row in rows]
    choices = dict(sorted(Counter(row.decision.choice.value for row in rows).items()))
    with node.open_log() as log:
        if dry:
            before, _ = read_register(node, log)
            after = before.decided(decisions)
        else:
            before, after = change(
                node,
                log,
                Action.CONSENT_IMPORT,
                lambda register: register.decided(decisions),
                detail={"file": log.digest(file.name), "decisions": log.digest(_said(decisions))},
            )
    stopped = _stopped(before, after)
    if stopped and not dry:
        forget_answers(node)
    return Imported(len(rows), len(names), len(before.changed(after)), choices, len(stopped))


def withdraw(
    node: Node, patient: str, *, purpose: str = ALL, refused: bool = False, day: date | None = None
) -> tuple[Register, Register]:
    """Record that a patient withdraws his consent, or refuses; it counts from the next round on.

    Args:
        node: The hospital's node.
        patient: His pseudonym.
        purpose: For which purpose; all of them where it is left out.
        refused: Whether he never consented.
        day: When he said so, UTC; None for today.

    Raises:
        RecordError: The record cannot be written.
    """
    choice = Choice.REFUSED if refused else Choice.WITHDRAWN
    said = day or today()

    def decide(register: Register) -> Register:
        # On the day of the newest decision at least: a no by a person is never older than what it takes back.
        newest = max([said, *(one.since for one in register.of(patient).decisions.values())])
        return register.decided([(patient, purpose, Decision(choice, newest))])

    with node.open_log() as log:
        both = change(
            node,
            log,
            Action.CONSENT_WITHDRAW,
            decide,
            subject=patient,
            detail={"choice": choice.value, "every_purpose": purpose == ALL},
        )
    forget_answers(node)
    return both


def _said(decisions: Sequence[tuple[str, str, Decision]]) -> str:
    """All that a file decided, in one order and form."""
    rows = [
        [patient, purpose, one.choice.value, _day(one.since), _day(one.until), str(one.basis)]
        for patient, purpose, one in decisions
    ]
    return canonical_json(sorted(rows)).decode()


def _stopped(before: Register, after: Register) -> list[str]:
    """Whose decision on some purpose became a no."""

    def noes(register: Register, key: str) -> set[str]:
        decisions = register.of(key).decisions.items()
        return {purpose for purpose, one in decisions if one.choice is not Choice.GIVEN}

    return [key for key in before.changed(after) if noes(after, key) - noes(before, key)]


def _day(value: date | None) -> str:
    return value.isoformat() if value else ""
