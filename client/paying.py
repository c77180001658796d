"""Paying for a round: the record says that it will be charged, the ledger charges it, the record says how far it came.

The audit log therefore knows every head of the ledger on whose strength anything was trained. A ledger that lacks the
newest of them was cut off, or is an older copy that was put back, and is refused (:func:`known`).
"""

from collections.abc import Callable, Mapping
from typing import Final

from client.charge import Charge, Receipt
from client.ledger import MOST_CHARGES, Ledger
from client.ledger_file import Acknowledged, read_book
from client.session import Session
from compliance.log import Action, Outcome, Scalar
from shared.errors import PolicyError, RecordError
from shared.header import Header

ROWS, HEAD = "ledger_rows", "ledger_head"
ACTS: Final = (Action.PRIVACY_CHARGE, Action.PRIVACY_BUDGET)
"""What the audit log records with the ledger's head after it."""


def pay(session: Session, header: Header, price: Callable[[int | None], Charge]) -> Receipt:
    """Charge a round to the node's ledger and to its record, in the order in which a crash leaves nothing unpaid.

    Args:
        session: The open node.
        header: What the round belongs to.
        price: The charge, for the public constant that divides noisy sums; None where the node has none yet.

    Raises:
        PolicyError: A real hospital has set no budget.
        BudgetError: The budget does not cover the round.
        RecordError: Ledger or log cannot be written, was altered, or lacks what was acknowledged.
    """
    node, log = session.node, session.log
    acknowledged = None if node.virtual else known(log.newest(*ACTS))
    if not node.virtual and read_book(node.ledger(), acknowledged, data_set=node.site).budget is None:
        raise PolicyError(
            "this hospital has set no privacy budget",
            hint="set one first: fedward node budget set NODE --epsilon E --patients N --who NAME --why R",
        )
    with Ledger(node.ledger(header.run), data_set=node.site, acknowledged=acknowledged) as ledger:
        charge = price(_constant(ledger, header))
        detail: dict[str, Scalar] = {
            "unit": "patient",
            "federation": charge.federation,
            "mode": charge.mode,
            "steps": charge.steps,
            "noise_multiplier": charge.noise_multiplier,
            "sample_rate": charge.sample_rate,
            "patients": charge.patients,
        }
        log.append(session.entry(Action.PRIVACY_CHARGE, Outcome.STARTED, header, detail))
        receipt = ledger.reserve(charge, most=None if node.virtual else MOST_CHARGES)
        done = {**detail, **told(ledger.acknowledged)}
        log.append(session.entry(Action.PRIVACY_CHARGE, Outcome.OK, header, done))
    return receipt


def require_no_budget(session: Session) -> None:
    """Refuse training without differential privacy where there is a budget: no epsilon bounds what it tells.

    Raises:
        PolicyError: This is a real hospital with a privacy budget.
        RecordError: Its ledger was altered, or lacks what was acknowledged.
    """
    node = session.node
    acknowledged = None if node.virtual else known(session.log.newest(*ACTS))
    if node.virtual or read_book(node.ledger(), acknowledged, data_set=node.site).budget is None:
        return
    raise PolicyError(
        "this hospital has a privacy budget, and the charter asks for training without differential privacy",
        hint="no epsilon bounds what such a model tells of a patient; ask for a charter with privacy.mode 'patient'",
    )


def known(detail: Mapping[str, Scalar] | None) -> Acknowledged | None:
    """How far the ledger had come when the audit log recorded ``detail``.

    Raises:
        RecordError: The log says so in a form that it never had.
    """
    if detail is None or HEAD not in detail:
        return None
    rows, head = detail.get(ROWS), detail[HEAD]
    if not (isinstance(rows, int) and rows > 0 and isinstance(head, str)):
        raise RecordError("the audit log does not say how far the privacy ledger had come", hint="restore the log")
    return Acknowledged(rows, head)


def told(acknowledged: Acknowledged) -> dict[str, Scalar]:
    """How the audit log says it; the inverse of :func:`known`."""
    return {ROWS: acknowledged.rows, HEAD: acknowledged.head}


def _constant(ledger: Ledger, header: Header) -> int | None:
    """The public constant: that of the budget; without one that of the first charge of the task in this ledger."""
    if ledger.budget is not None:
        return ledger.budget.patients
    return next((charge.patients for charge in ledger.charges if charge.task == header.task), None)
