"""What this hospital allows: the charter that it pinned, and its own policy beside it (:mod:`client.policy_file`).

The settings of training and privacy are never read from a message: only the pinned charter has them, so a request can
name a task and a round of it, and nothing else. A reason is sent to the coordinator; none tells of patients.
"""

from client.node import Node
from client.policy_file import FILE, YES, Decision, HospitalPolicy, policy_of
from shared.charter import Charter
from shared.errors import CharterError, PolicyError
from shared.header import Header

__all__ = ["Decision", "HospitalPolicy", "affordable", "allows_run", "decide", "policy_of", "require_allowed"]


def decide(
    header: Header,
    charter: Charter,
    policy: HospitalPolicy,
    *,
    purpose: str,
    training: bool,
    patients: int | None = None,
) -> Decision:
    """Hold a request against the pinned charter and this hospital's own terms.

    Args:
        header: What is asked for.
        charter: The charter that this hospital pinned.
        policy: What this hospital allows.
        purpose: Why data is processed here; it must be the charter's (GDPR Art. 5(1)(b), purpose limitation).
        training: True for a round of training, False for an evaluation.
        patients: Training patients here that the task can use; None where nobody has looked yet.
    """
    if header.federation != charter.id or header.charter != charter.sha256:
        return Decision(False, "the request follows another charter than the one pinned here")
    if charter.purpose != purpose:
        return Decision(False, "the charter's purpose is not the one that data is processed for here")
    if not (own := policy.check(charter)).allowed:
        return own
    try:
        plan = charter.task(header.task)
    except CharterError:
        return Decision(False, "the charter has no such task")
    if not int(training) <= header.round <= plan.rounds:
        return Decision(False, f"the charter has {plan.rounds} round{'s' * (plan.rounds != 1)} of this task")
    # In the same words for both numbers: which of the two it was would tell more of how many there are.
    if patients is not None and patients < max(charter.min_patients, policy.min_patients):
        return Decision(False, "too few patients here for this task")
    return YES


def affordable(node: Node, charter: Charter, policy: HospitalPolicy) -> Decision:
    """Hold what a whole charter would cost, as ``fedward node budget plan`` has it, against ``max_epsilon``.

    Takes 0.1 to 0.5 s, and torch, where the policy has that limit; nothing where it has none.

    Raises:
        RecordError: The privacy ledger cannot be read or was altered.
    """
    if policy.max_epsilon is None:
        return YES
    from client.budget import alone, delta_for  # noqa: PLC0415  # scipy: half a second, that steps of masks do without

    if charter.privacy.mode == "off" or alone(charter, delta_for(node, charter)) > policy.max_epsilon:
        return Decision(False, "this hospital's policy allows less epsilon than the charter would cost")
    return YES


def allows_run(node: Node, charter: Charter) -> Decision:
    """Whether this hospital takes part in runs of ``charter`` at all: asked at join, at check and for every run.

    Raises:
        PolicyError: The policy cannot be read; nothing is allowed then.
        RecordError: The privacy ledger cannot be read or was altered.
    """
    policy = policy_of(node)
    if charter.purpose != node.purpose:
        return Decision(False, "the charter's purpose is not the one that data is processed for here")
    own = policy.check(charter)
    return affordable(node, charter, policy) if own.allowed else own


def require_allowed(node: Node, charter: Charter) -> None:
    """As :func:`allows_run`, for people: refuse what the policy does not allow.

    Raises:
        PolicyError: It does not allow the charter, or cannot be read.
        RecordError: The privacy ledger cannot be read or was altered.
    """
    decision = allows_run(node, charter)
    if not decision.allowed:
        raise PolicyError(decision.reason, hint=f"see {node.folder / FILE}, or take no part in this charter")
