"""A privacy ledger that was lost, charged again from the audit log, which knows whatever was trained on."""

from collections.abc import Mapping
from typing import Any, Final

from client.charge import Budget, Charge
from client.ledger import Ledger
from client.ledger_file import Book
from client.ledger_rows import require_reason
from client.node import Node
from client.paying import ACTS, known, told
from compliance.log import Action, Entry, Outcome, Scalar, entries
from shared.errors import RecordError, UsageError

_REBUILT: Final = "rebuilt"


def rebuild(node: Node, *, who: str, why: str) -> int:
    """Add to the ledger what the audit log has acknowledged and the ledger lacks; gives the number of lines added.

    Training begins when the log has the charge, so that whatever was trained on stands there. The ledger may be an
    older copy, or be gone. Lines that were charged and never acknowledged are lost with it; nothing rested on them.

    Args:
        node: A real hospital's node.
        who: Who has it done, 1 to 300 visible characters.
        why: For what reason.

    Raises:
        PolicyError: The node is a virtual hospital.
        UsageError: Nobody does it, or for no reason.
        RecordError: The ledger is held by another process; it or the log was altered or cannot be written; it is none
            that the log knows; or the log does not say what was charged.
    """
    node.require_real()
    require_reason(who, why)
    with node.open_log() as log, Ledger(node.ledger(), data_set=node.site) as ledger:
        rows = [
            row
            for row in entries(node.folder / "audit" / "log.jsonl")
            if row["action"] in ACTS and row["outcome"] == Outcome.OK
        ]
        missing = [row for row in rows[_known_of(ledger.book, rows) :] if _REBUILT not in row["detail"]]
        lost = [_charge(row) if row["action"] == Action.PRIVACY_CHARGE else _budget(row) for row in missing]
        if not lost:
            return 0
        detail: dict[str, Scalar] = {_REBUILT: len(lost), "who": who, "why": why}
        with log.act(Entry(Action.PRIVACY_BUDGET, Outcome.STARTED, detail=detail)) as done:
            for one in lost:
                if isinstance(one, Charge):
                    ledger.restore(one)
                else:
                    budget, by, reason = one
                    ledger.set_budget(budget, who=by, why=reason)
            done.update(told(ledger.acknowledged))
    return len(lost)


def _known_of(book: Book, rows: list[dict[str, Any]]) -> int:
    """How many of the log's ``rows`` the ledger has: up to the newest of them whose head is one of its own.

    When that one was acknowledged, the ledger had everything before it.

    Raises:
        RecordError: The ledger has lines, and the log knows none of them.
    """
    for number in range(len(rows), 0, -1):
        found = known(rows[number - 1]["detail"])
        if found is not None and found.rows <= book.rows and book.heads[found.rows - 1] == found.head:
            return number
    if book.rows and rows:
        raise RecordError(
            "the audit log knows no line of this privacy ledger",
            hint="put the file aside and try again: all that the log knows is charged in a new one",
        )
    return 0


def _charge(row: Mapping[str, Any]) -> Charge:
    detail = row["detail"]
    try:
        return Charge(
            run=str(row["run"]),
            federation=str(detail["federation"]),
            task=str(detail["task"]),
            round=int(row["round"]),
            mode=detail["mode"],
            noise_multiplier=float(detail["noise_multiplier"]),
            sample_rate=float(detail["sample_rate"]),
            steps=int(detail["steps"]),
            patients=int(detail["patients"]),
        )
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise _unsaid(row) from error


def _budget(row: Mapping[str, Any]) -> tuple[Budget, str, str]:
    detail = row["detail"]
    try:
        budget = Budget(float(detail["epsilon"]), float(detail["delta"]), int(detail["patients"]))
        return budget, str(detail["who"]), str(detail["why"])
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise _unsaid(row) from error


def _unsaid(row: Mapping[str, Any]) -> RecordError:
    return RecordError(
        f"entry {row['seq']} of the audit log does not say what was charged or set", hint="put back a copy instead"
    )
