"""What a line of the privacy ledger says, and the strict reading of it: exact entries, exact types, nothing converted.

A chain of hashes shows that a line is as somebody wrote it. That no other program wrote it shows only its form.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Final

from client.charge import Budget, Charge
from shared.errors import UsageError

VERSION: Final = 1
UNIT: Final = "patient"
LONGEST_TEXT: Final = 300
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)
_CHARGE: Final = tuple(field.name for field in fields(Charge))


@dataclass(frozen=True)
class BudgetChange:
    """A budget with who set it, why and when (RFC 3339, UTC)."""

    budget: Budget
    who: str
    why: str
    time: str


def visible(text: str) -> bool:
    """Whether a text may stand in a line as who or why: 1 to 300 visible characters."""
    return bool(text.strip()) and text.isprintable() and len(text) <= LONGEST_TEXT


def require_reason(who: str, why: str) -> None:
    """See that somebody decides, for a reason, in words that a record can hold.

    Raises:
        UsageError: Nobody does, or for none, or at too great length.
    """
    for name, text in (("who", who), ("why", why)):
        if not visible(text):
            raise UsageError(
                f"--{name} must be 1 to {LONGEST_TEXT} visible characters", hint="say who decided, and why"
            )


def kind_of(row: Mapping[str, Any]) -> str:
    """The kind of a line whose entries are exactly those of its kind.

    Raises:
        ValueError: It is of no kind, or an entry is missing, unknown or of another type.
    """
    kind = row["kind"]
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError("the line is of no kind that may stand there")
    wanted = {**_EVERY, **_KINDS[kind]}
    if row.keys() != wanted.keys() or not all(sound(row[name]) for name, sound in wanted.items()):
        raise ValueError("the line has entries that no program writes")
    return kind


def change_of(row: Mapping[str, Any]) -> BudgetChange:
    """What a sound ``budget`` line says.

    Raises:
        UsageError: Its figures are none of a budget.
    """
    budget = Budget(float(row["epsilon"]), float(row["delta"]), row["patients"])
    return BudgetChange(budget, row["who"], row["why"], row["time"])


def charge_of(row: Mapping[str, Any]) -> Charge:
    """What a sound ``charge`` line says.

    Raises:
        UsageError: Its figures are none of a charge.
    """
    values = {name: row[name] for name in _CHARGE}
    # A float that is whole stands in canonical JSON without its point, and is read as an int.
    return Charge(**values | {name: float(row[name]) for name in ("noise_multiplier", "sample_rate")})


def budget_row(budget: Budget, who: str, why: str) -> dict[str, object]:
    """What a line says of a budget."""
    return {**asdict(budget), "who": who, "why": why}


def charge_row(charge: Charge) -> dict[str, object]:
    """What a line says of a charge."""
    return asdict(charge)


def _whole(value: object) -> bool:
    return type(value) is int  # and no bool, which is an int as well


def _number(value: object) -> bool:
    return type(value) in {int, float}


def _text(value: object) -> bool:
    return isinstance(value, str)


def _visible(value: object) -> bool:
    return isinstance(value, str) and visible(value)


def _time(value: object) -> bool:
    """Raises ValueError for a day or an hour that there is not."""
    return isinstance(value, str) and bool(_TIME.fullmatch(value)) and bool(datetime.fromisoformat(value))


_Sound = Callable[[object], bool]
_EVERY: Final[Mapping[str, _Sound]] = {"v": _whole, "seq": _whole, "kind": _text, "time": _time, "prev": _text}
_KINDS: Final[Mapping[str, Mapping[str, _Sound]]] = {
    "open": {"unit": lambda value: value == UNIT, "data_set": _text},
    "budget": {"epsilon": _number, "delta": _number, "patients": _whole, "who": _visible, "why": _visible},
    "charge": {
        "run": _text,
        "federation": _text,
        "task": _text,
        "round": _whole,
        "mode": _text,
        "noise_multiplier": _number,
        "sample_rate": _number,
        "steps": _whole,
        "patients": _whole,
    },
}
