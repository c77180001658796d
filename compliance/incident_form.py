"""What a line of an incident's file says, and the strict reading of it."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from compliance.clocks import Breach, Duty, Law, Risk, Role, duties
from shared.errors import RecordError
from shared.files import canonical_json
from shared.parsing import parse_json

GENESIS: Final = "0" * 64
WORDS: Final = ("happened", "occurred", "data", "records", "consequences", "measures", "protect", "contact")
"""What a notice is made of (GDPR Art. 33(3); 45 CFR 164.404(c)(1); PIPL Art. 57); each a text, the newest counts."""

_Text = Annotated[str, Field(min_length=1, max_length=4000)]
_Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=0, le=10_000_000_000)]


class Event(BaseModel):
    """One line: what became known or was done, by whom and when."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    v: Literal[1]
    seq: _Count
    prev: _Digest
    time: AwareDatetime
    who: Annotated[str, Field(min_length=1, max_length=300)]
    kind: Literal["open", "update", "notice", "close"]
    aware: AwareDatetime | None = None
    discovered: AwareDatetime | None = None
    role: Role | None = None
    laws: list[Law] | None = None
    risk: Risk | None = None
    words: dict[str, _Text] = Field(default_factory=dict)
    affected: dict[_Name, _Count | None] = Field(default_factory=dict)
    digests: dict[_Name, list[_Digest]] = Field(default_factory=dict)
    residents: dict[_Name, _Count] = Field(default_factory=dict)
    duty: str | None = None
    act: Literal["drafted", "sent", "not due"] | None = None
    at: AwareDatetime | None = None
    why: _Text | None = None


@dataclass(frozen=True)
class Settled:
    """A duty that a person has done, or decided not to be one.

    Attributes:
        duty: Its id.
        act: ``sent`` or ``not due``.
        at: When.
        why: The person's reason; empty for what was sent.
    """

    duty: str
    act: str
    at: datetime
    why: str = ""


@dataclass(frozen=True)
class Incident:
    """One breach, as its file has it.

    Attributes:
        id: Its name.
        breach: What the clocks need.
        words: What is known, by name (:data:`WORDS`).
        settled: What was done about each duty.
        closed: When it was closed; None while it is open.
        events: Lines of its file.
        head: SHA-256 of the last of them.
        heads: SHA-256 of each.
    """

    id: str
    breach: Breach
    words: Mapping[str, str] = field(default_factory=dict)
    settled: Mapping[str, Settled] = field(default_factory=dict)
    closed: datetime | None = None
    events: int = 0
    heads: tuple[str, ...] = ()

    @property
    def head(self) -> str:
        """SHA-256 of the last line."""
        return self.heads[-1] if self.heads else GENESIS

    @property
    def duties(self) -> tuple[Duty, ...]:
        """Everybody who may have to be told."""
        return duties(self.breach)

    def pending(self) -> tuple[Duty, ...]:
        """Duties that nobody has done or decided not to be any, the earliest first."""
        return tuple(
            sorted(
                (one for one in self.duties if one.id not in self.settled),
                key=lambda one: (one.due is not None, one.due or datetime.min.replace(tzinfo=UTC)),
            )
        )

    def overdue(self, now: datetime) -> tuple[Duty, ...]:
        """Pending duties whose time is over; one that was done late is not pending, and says so in its record."""
        return tuple(one for one in self.pending() if one.overdue(now))


def line_of(event: Event) -> bytes:
    """The line of an event: canonical JSON (RFC 8785) with its line end; what was not said is left out."""
    return canonical_json(event.model_dump(mode="json", exclude_none=True, exclude_defaults=True) | {"v": 1}) + b"\n"


def read_incident(path: Path) -> Incident:
    """The incident in a file.

    Raises:
        RecordError: It cannot be read, or a line was changed, removed or moved.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise RecordError(f"cannot read the incident {path}: {error.strerror}", hint="check the file") from error
    events: list[Event] = []
    heads: list[str] = []
    for number, line in enumerate(lines):
        try:
            event = Event.model_validate_json(line)
            sound = canonical_json(parse_json(line)) + b"\n" == line
        except (ValidationError, ValueError):
            sound = False
        if not sound or event.seq != number or event.prev != (heads[-1] if heads else GENESIS):
            raise RecordError(
                f"the incident {path} does not verify at line {number + 1}",
                hint="keep the file as evidence and restore it from a copy that verifies",
            )
        events.append(event)
        heads.append(hashlib.sha256(line).hexdigest())
    if not events or events[0].kind != "open" or events[0].aware is None:
        raise RecordError(f"{path} is no incident", hint="restore it from a copy that verifies")
    return _told(path.stem, events, tuple(heads))


def _told(name: str, events: list[Event], heads: tuple[str, ...]) -> Incident:
    """What the events come to; of what is said twice the newest counts."""
    values: dict[str, Any] = {"role": Role.CONTROLLER, "laws": frozenset(Law), "risk": None}
    words: dict[str, str] = {}
    residents: dict[str, int] = {}
    settled: dict[str, Settled] = {}
    closed: datetime | None = None
    for event in events:
        given = {"aware": event.aware, "discovered": event.discovered, "role": event.role, "risk": event.risk}
        values |= {key: value for key, value in given.items() if value is not None}
        if event.laws is not None:
            values["laws"] = frozenset(event.laws)
        words |= event.words
        residents |= event.residents
        if event.duty and event.act in {"sent", "not due"}:
            settled[event.duty] = Settled(event.duty, event.act, event.at or event.time, event.why or "")
        closed = event.time if event.kind == "close" else closed if event.kind == "notice" else None
    # A breach is discovered on the first day on which it is known (45 CFR 164.404(a)(2)): awareness is the latest.
    values["discovered"] = min(values.get("discovered", values["aware"]), values["aware"])
    breach = Breach(affected=_affected(events), residents=residents, **values)
    return Incident(name, breach, words, settled, closed, len(events), heads)


def _affected(events: Iterable[Event]) -> dict[str, int | None]:
    """Affected people by site: the newest number, or all pseudonyms that were ever named, whichever is more."""
    numbers: dict[str, int | None] = {}
    people: dict[str, set[str]] = {}
    for event in events:
        numbers |= event.affected
        for site, digests in event.digests.items():
            people.setdefault(site, set()).update(digests)
    for site, named in people.items():
        numbers[site] = max(numbers.get(site) or 0, len(named))
    return numbers
