"""How long a record is kept, and that nobody deletes it while somebody asks for it.

Documentation is kept for six years from its making or from when it last was in effect (45 CFR 164.316(b)(2)(i)). A
legal hold keeps it for as long as it stands. Holds are entries of the log itself, with who and why: to lift one unseen
is to alter the log.

fedward never deletes a record. This says whether a person may. It goes by the times in the log, which are those of the
machine's clock; and it keeps no disk alive.
"""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from compliance.log import Action, AuditLog, Entry, Outcome, entries
from shared.errors import RecordError, UsageError

YEARS: Final = 6
_LENGTH: Final = (3, 200)  # characters of who and why


@dataclass(frozen=True)
class Hold:
    """A legal hold on a record.

    Attributes:
        id: Eight hexadecimal digits.
        who: Who placed it: an office or a person of the site, never a patient.
        why: The matter, in words without identifiers.
        since: When it was placed.
    """

    id: str
    who: str
    why: str
    since: datetime


def place(log: AuditLog, *, who: str, why: str) -> str:
    """Place a hold, and return its id.

    Raises:
        UsageError: Who or why is no line of 3 to 200 characters.
        RecordError: It cannot be recorded, so that it does not stand.
    """
    _words(who=who, why=why)
    number = secrets.token_hex(4)
    log.append(Entry(Action.LEGAL_HOLD, Outcome.OK, detail={"hold": number, "state": "placed", "who": who, "why": why}))
    return number


def lift(log: AuditLog, path: Path, number: str, *, who: str, why: str) -> None:
    """Lift the hold ``number`` of the log at ``path``.

    Raises:
        UsageError: There is no such hold, or who or why is no line of 3 to 200 characters.
        RecordError: It cannot be recorded, so that the hold stands.
    """
    _words(who=who, why=why)
    if number not in {one.id for one in holds(path)}:
        raise UsageError(f"there is no hold {number}", hint="see 'fedward audit hold list'")
    log.append(Entry(Action.LEGAL_HOLD, Outcome.OK, detail={"hold": number, "state": "lifted", "who": who, "why": why}))


def holds(path: Path) -> tuple[Hold, ...]:
    """The holds that stand, in the order in which they were placed.

    Raises:
        RecordError: The log does not verify.
    """
    return _walk(path)[0]


def kept_until(path: Path) -> datetime | None:
    """When six years are over since the log's newest entry; None where it has none.

    Raises:
        RecordError: The log does not verify.
    """
    newest = _walk(path)[1]
    return None if newest is None else _years_after(newest)


def may_delete(path: Path, *, log: Path, now: datetime | None = None) -> tuple[bool, str]:
    """Whether a file of the record may be deleted, and why not.

    Args:
        path: The log, or what lies in its ``audit/`` folder: checkpoints, cosignatures and evidence are kept as long.
        log: The log of that folder, ``log.jsonl``.
        now: The time; the clock's where None.

    Returns:
        Whether, and in words why. A log that cannot be read or does not verify is not to be deleted.
    """
    moment = now or datetime.now(UTC)
    if not path.resolve().is_relative_to(log.parent.resolve()):
        return False, f"{path} is not in the folder of {log}"
    try:
        standing, newest = _walk(log)
    except RecordError as error:
        return False, error.message
    if standing:
        one = standing[0]
        return False, f"the hold {one.id} of {one.who} stands since {one.since:%Y-%m-%d}: {one.why}"
    if newest is not None and moment < (end := _years_after(newest)):
        return False, f"it is kept until {end:%Y-%m-%d}, {YEARS} years after its newest entry"
    return True, f"its newest entry is more than {YEARS} years old, and no hold stands"


def _walk(path: Path) -> tuple[tuple[Hold, ...], datetime | None]:
    standing: dict[str, Hold] = {}
    newest: datetime | None = None
    for row in entries(path):
        try:
            moment = datetime.fromisoformat(str(row["time"])).astimezone(UTC)
            newest = moment if newest is None else max(newest, moment)
            if row["action"] != Action.LEGAL_HOLD or row["outcome"] != Outcome.OK:
                continue
            detail = row["detail"]
            if detail["state"] == "lifted":
                standing.pop(detail["hold"], None)
            else:
                standing[detail["hold"]] = Hold(detail["hold"], detail["who"], detail["why"], moment)
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(
                f"{path} has an entry that cannot be understood: number {row.get('seq')}", hint="keep it, and ask"
            ) from error
    return tuple(standing.values()), newest


def _years_after(moment: datetime) -> datetime:
    try:
        return moment.replace(year=moment.year + YEARS)
    except ValueError:  # a 29 February that the later year does not have
        return moment.replace(year=moment.year + YEARS, month=3, day=1)


def _words(**values: str) -> None:
    for name, value in values.items():
        if not (_LENGTH[0] <= len(value) <= _LENGTH[1] and value.isprintable() and value.strip() == value):
            raise UsageError(f"--{name} has {_LENGTH[0]} to {_LENGTH[1]} characters in one line", hint="no identifiers")
