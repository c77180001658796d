"""What ``fedward node check`` says of the witnesses of this hospital's audit log (45 CFR 164.312(c)(1), integrity)."""

from datetime import UTC, datetime, timedelta
from typing import Final

from client.preflight import Answer, Look, Verdict, check
from client.witnessing import needed_here, require_witnessed, vouched_here
from compliance.standing import Standing, standing
from compliance.trail import LOG
from shared.console import plural
from shared.errors import RecordError

LATE: Final = timedelta(days=1)
"""After which a log that goes on and that too few have seen is worth a word."""
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
    found = None
    if (audit / LOG).exists():
        found = standing(audit, lambda given: vouched_here(node, given), needed_here(node, look.policy.record))
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
    behind = found.checked.entries > (found.witnessed or 0)
    if behind and (found.when is None or now - found.when > LATE):
        return Verdict.WARN, f"{said}; none was witnessed within a day", _ASK
    return said


def _said(found: Standing | None) -> str:
    if found is None or found.checked.published is None:
        return "no checkpoint yet; 'fedward node start' publishes and shows them"
    size, names = plural(found.checked.published, "entry", "entries"), found.cosigned
    said = f"the newest checkpoint, of {size}, is "
    if names:
        said += f"cosigned by {plural(len(names), 'other hospital')} ({', '.join(names)})"
    else:
        said += "not cosigned yet"
    if found.when is None:
        return f"{said}; {found.needed} are needed, and no checkpoint has as many"
    if found.witnessed == found.checked.published:
        return f"{said}, {found.needed} of them, as many as are needed, by {found.when:%Y-%m-%d %H:%M} UTC"
    older = plural(found.witnessed or 0, "entry", "entries")
    return (
        f"{said}; the {found.needed} that are needed had cosigned the one of {older} by {found.when:%Y-%m-%d %H:%M} UTC"
    )
