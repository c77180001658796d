"""The one place where it is decided which patients of the cohort take part in a round.

Asked at the start of every round, before an image is read: who has a lawful basis for the purpose of the charter today
(UTC), by the register as it is now (GDPR Art. 6, 7(3), 9(2), 18, 21; PIPL Art. 13, 15, 29). So a withdrawal counts from
the next round on, also in a run under way. A real hospital that has recorded nothing has no basis, and nobody takes
part. What ingest quarantined or refused is not in the cohort at all.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

from client.node import Node
from client.records import marker, read_register, state_of
from compliance.log import AuditLog


def today() -> date:
    """The day by which bases and consents are judged: UTC."""
    return datetime.now(UTC).date()


def eligible(
    patients: Sequence[str],
    node: Node,
    *,
    purpose: str | None = None,
    day: date | None = None,
    log: AuditLog | Path | None = None,
) -> tuple[str, ...]:
    """Those of ``patients`` that may take part in a round of ``node``, in their order.

    Args:
        patients: Pseudonyms, as the cohort has them.
        node: The hospital's node.
        purpose: The charter's; None for the node's own, which is the same.
        day: Which day it is, UTC; None for today.
        log: The node's audit log, against which the register is held.

    Raises:
        PolicyError: Others may read the register.
        RecordError: The register is damaged, or not the one that the log knows.
    """
    return tuple(key for key, why in judged(patients, node, purpose=purpose, day=day, log=log) if not why)


def reasons(
    patients: Sequence[str], node: Node, *, purpose: str | None = None, log: AuditLog | Path | None = None
) -> Counter[str]:
    """Why patients do not take part, with how many of each; for the hospital alone."""
    return Counter(why for _, why in judged(patients, node, purpose=purpose, log=log) if why)


def judged(
    patients: Iterable[str],
    node: Node,
    *,
    purpose: str | None = None,
    day: date | None = None,
    log: AuditLog | Path | None = None,
) -> list[tuple[str, str]]:
    """Each patient with why he does not take part, or nothing where he does."""
    register, _ = read_register(node, log)
    when, what = day or today(), node.purpose if purpose is None else purpose
    found = [(key, register.why_not(key, what, when, virtual=node.virtual)) for key in patients]
    if not register.erased:
        return found
    mark = marker(node)
    return [(key, "erased" if mark(key) in register.erased else why) for key, why in found]


def moment(node: Node) -> tuple[int, ...]:
    """What changes whenever somebody else may be eligible: the register, or the day."""
    return (*state_of(node), today().toordinal())
