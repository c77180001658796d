"""Rounds that were trained without differential privacy, by the audit log: no epsilon covers what they told."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from compliance.log import Action, Outcome

PRIVACY: Final = "privacy"
"""What the log calls the mode under which a round begins."""
_COVERED: Final = ("patient", "distributed")


def uncovered(rows: Iterable[Mapping[str, Any]]) -> int:
    """How many of the rounds in a log were trained without differential privacy, repeats among them.

    A round that failed is none of them, since nothing of it left this hospital; one of which the log has only the
    beginning is. Where an entry does not say its mode, as older ones do not, a charge after it says that it was paid.
    """
    count, begun = 0, dict[tuple[object, ...], bool]()
    for row in rows:
        detail = row.get("detail") or {}
        key = (row.get("run"), row.get("round"), detail.get("task"))
        match (row.get("action"), row.get("outcome")):
            case (Action.TRAIN, Outcome.STARTED):
                begun[key] = detail.get(PRIVACY) not in _COVERED
                count += begun[key]
            case (Action.PRIVACY_CHARGE, Outcome.OK) | (Action.TRAIN, Outcome.FAILED):
                count -= begun.pop(key, False)
            case (Action.TRAIN, Outcome.OK):
                begun.pop(key, None)
    return count
