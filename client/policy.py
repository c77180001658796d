"""What this hospital allows.

The settings of training and privacy are never read from a message: only the pinned charter has them, so a request can
name a task and a round of it, and nothing else.
"""

from dataclasses import dataclass

from shared.charter import Charter
from shared.errors import CharterError
from shared.header import Header


@dataclass(frozen=True)
class Decision:
    """Whether a request is done, and why not."""

    allowed: bool
    reason: str = ""


def decide(header: Header, charter: Charter, *, purpose: str, patients: int, training: bool) -> Decision:
    """Hold a request against the pinned charter and this hospital's own terms.

    Args:
        header: What is asked for.
        charter: The charter that this hospital pinned.
        purpose: Why data is processed here; it must be the charter's (GDPR Art. 5(1)(b), purpose limitation).
        patients: Training patients here that the task can use.
        training: True for a round of training, False for an evaluation.
    """
    if header.federation != charter.id or header.charter != charter.sha256:
        return Decision(False, "the request follows another charter than the one pinned here")
    if charter.purpose != purpose:
        return Decision(False, "the charter's purpose is not the one that data is processed for here")
    try:
        plan = charter.task(header.task)
    except CharterError:
        return Decision(False, "the charter has no such task")
    if not int(training) <= header.round <= plan.rounds:
        return Decision(False, f"the charter has {plan.rounds} round{'s' * (plan.rounds != 1)} of this task")
    if patients < charter.min_patients:
        return Decision(False, "too few patients here for this task")
    return Decision(True)
