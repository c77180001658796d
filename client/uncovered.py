"""Rounds that were trained without differential privacy, by the audit log: no epsilon covers what they told."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from compliance.log import Action, Outcome

PRIVACY: Final = "privacy"
"""What the log calls the mode under which a round begins."""
_COVERED: Final = ("patient", "distributed")


@dataclass
class Uncovered:
    """Counts, entry by entry, the rounds of a log that were trained without differential privacy, repeats among them.

    A round that failed is none of them, since nothing of it left this hospital; one of which the log has only the
    beginning is. Where an entry does not say its mode, as older ones do not, a charge after it says that it was paid.

    Attributes:
        count: How many up to the last entry.
    """

    count: int = field(default=0, init=False)
    _begun: dict[tuple[object, ...], bool] = field(default_factory=dict, init=False)

    def add(self, row: Mapping[str, Any]) -> None:
        """Take the next entry."""
        detail = row.get("detail") or {}
        key = (row.get("run"), row.get("round"), detail.get("task"))
        match (row.get("action"), row.get("outcome")):
            case (Action.TRAIN, Outcome.STARTED):
                self._begun[key] = detail.get(PRIVACY) not in _COVERED
                self.count += self._begun[key]
            case (Action.PRIVACY_CHARGE, Outcome.OK) | (Action.TRAIN, Outcome.FAILED):
                self.count -= self._begun.pop(key, False)
            case (Action.TRAIN, Outcome.OK):
                self._begun.pop(key, None)


def uncovered(rows: Iterable[Mapping[str, Any]]) -> int:
    """How many rounds in a whole log :class:`Uncovered` counts."""
    found = Uncovered()
    for row in rows:
        found.add(row)
    return found.count
