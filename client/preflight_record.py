"""What ``fedward node check`` says of the witnesses of this hospital's audit log (45 CFR 164.312(c)(1), integrity)."""

from datetime import UTC, datetime, timedelta
from typing import Final

from client.preflight import Answer, Look, Verdict, check
from client.witnessing import require_witnessed, vouched_here
from compliance.standing import Standing, standing
from compliance.trail import LOG
from shared.console import plural
from shared.errors import RecordError

LATE: Final = timedelta(days=1)
"""After which a log that goes on and that nobody has seen is worth a word."""
_ASK: Final = (
    "let the node run and the coordinator's port of the audit exchange be reached, or ask by file: "
    "'fedward audit witness export'"
)
_DECIDE: Final = "decide with 'fedward audit witness resolve' once it is known what happened; the evidence is kept"


@check("witnesses", needs=("charter", "record", "policy"))
def _witnesses(look: Look) -> Answer:
    node = look.node
    if node.virtual:
        return "a virtual hospital has none"
    audit = node.folder / "audit"
    found = standing(audit, lambda given: vouched_here(node, given)) if (audit / LOG).exists() else None
    if found is not None and found.split:
        raise RecordError(f"{found.split[0]} showed two histories of its log", hint=_DECIDE)
    said, now = _said(found), datetime.now(UTC)
    if look.policy.record is not None:
        try:
            require_witnessed(node, now=now)
        except RecordError as error:
            return Verdict.WARN, f"{said}: {error.message}, so that a round would be refused", _ASK
    if found is None or found.checked.published is None:
        return said
    behind = found.checked.entries > (found.checked.witnessed or 0)
    if behind and (found.seen is None or now - found.seen > LATE):
        return Verdict.WARN, f"{said}; nobody has cosigned one within a day", _ASK
    return said


def _said(found: Standing | None) -> str:
    if found is None or found.checked.published is None:
        return "no checkpoint yet; 'fedward node start' publishes and shows them"
    size, names = plural(found.checked.published, "entry", "entries"), found.cosigned
    if found.when is not None:
        return (
            f"the newest checkpoint, of {size}, is cosigned by {plural(len(names), 'other hospital')} "
            f"({', '.join(names)}), "
            f"last on {found.when:%Y-%m-%d %H:%M} UTC"
        )
    if found.seen is None:
        return f"no other hospital has cosigned a checkpoint; the newest has {size}"
    return (
        f"the newest checkpoint, of {size}, is not cosigned yet; the one of "
        f"{plural(found.checked.witnessed or 0, 'entry', 'entries')} was, last on {found.seen:%Y-%m-%d %H:%M} UTC"
    )
