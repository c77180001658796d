"""The record of breaches: one file an incident, both clocks, and what was done about each duty.

``incidents/INC-DATE-XXXX.jsonl`` (0600) of a node or a coordinator: lines that are chained by hash and only ever
appended. Each is named in the audit log by its number and hash before it is written, so that a file that was cut, put
back or deleted is found out. The audit log gets no word of what happened, and no name: texts stay in the file, and of
pseudonyms only keyed digests are kept. Nothing is ever sent from here (GDPR Art. 33(5); 45 CFR 164.414(b), 164.530(j)).
"""

import hashlib
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from compliance.clocks import Duty, Law, Role
from compliance.incident_form import GENESIS, WORDS, Event, Incident, line_of, read_incident
from compliance.log import Action, AuditLog, Entry, Outcome, Scalar, entries
from compliance.party import Kind, Party
from shared.errors import RecordError, UsageError
from shared.faults import first_fault
from shared.files import locked, output_errors, private_folder, write_bytes

PRIVATE: Final = 0o600
AHEAD: Final = timedelta(minutes=5)
"""So far a time that somebody gives may be ahead of this clock."""
PATIENCE: Final = 10.0
"""Seconds to wait for another process that writes an incident."""
_ACTS: Final = (Action.INCIDENT_OPEN, Action.INCIDENT_UPDATE, Action.INCIDENT_NOTICE)


@dataclass(frozen=True)
class Incidents:
    """The incidents of one party.

    Attributes:
        party: Whose.
    """

    party: Party

    def all(self) -> tuple[Incident, ...]:
        """Every incident, the oldest first, compared with what the audit log knows of it.

        Raises:
            RecordError: A file was altered, lacks what the audit log acknowledged or has what the log never named, or
                the log does not verify.
        """
        known, named = self._acknowledged()
        found = {path.stem: read_incident(path) for path in sorted(self.party.incidents.glob("INC-*.jsonl"))}
        for name, (number, head) in known.items():
            one = found.get(name)
            if one is None or one.events <= number or one.heads[number] != head:
                raise RecordError(
                    f"the incident {name} lacks what the audit log knows of it",
                    hint="it was cut off, put back or deleted; restore it from a copy, and keep what is there",
                )
        for name, one in found.items():
            if any((name, number, head) not in named for number, head in enumerate(one.heads)):
                raise RecordError(
                    f"the audit log never named what stands in the incident {name}",
                    hint="the file was put there by other means; keep it as evidence outside of incidents/",
                )
        return tuple(found.values())

    def get(self, name: str) -> Incident:
        """The incident ``name``.

        Raises:
            UsageError: There is none.
            RecordError: As :meth:`all`.
        """
        for one in self.all():
            if one.id == name:
                return one
        raise UsageError(f"there is no incident {name}", hint="'fedward compliance incident list' names them")

    def open(self, *, who: str, aware: datetime, discovered: datetime | None = None, **facts: Any) -> Incident:
        """Begin an incident; both clocks start.

        Args:
            who: The person who opens it.
            aware: When the party became aware (GDPR Art. 33).
            discovered: When it was discovered, or would have been by reasonable diligence (45 CFR 164.404(a)(2));
                ``aware`` where None, and at the latest: who is aware has discovered.
            facts: Further entries of an :class:`compliance.incident_form.Event`.

        Raises:
            UsageError: A time lies ahead, or an entry is none.
            RecordError: It cannot be recorded; nothing was written.
            OutputError: It cannot be written.
        """
        for moment in (aware, discovered):
            _require_past(moment)
        role = Role.PROCESSOR if self.party.kind is Kind.COORDINATOR else Role.CONTROLLER
        given = {"aware": aware, "discovered": discovered or aware, "role": role, "laws": sorted(Law)} | facts
        with self._alone():
            name = f"INC-{datetime.now(UTC):%Y%m%d}-{secrets.token_hex(3)}"
            return self._append(name, Action.INCIDENT_OPEN, (), kind="open", who=who, **given)

    def update(self, name: str, *, who: str, close: bool = False, **facts: Any) -> Incident:
        """Say more of an incident, or close it.

        Raises:
            UsageError: There is none, an entry is none, or nothing is said.
            RecordError: It cannot be recorded, or does not verify.
            OutputError: It cannot be written.
        """
        given = {key: value for key, value in facts.items() if value not in (None, {}, [])}
        if not given and not close:
            raise UsageError("nothing is said", hint="give at least one option beside --who")
        for key in ("aware", "discovered"):
            _require_past(given.get(key))
        with self._alone():
            one = self.get(name)
            kind = "close" if close else "update"
            return self._append(name, Action.INCIDENT_UPDATE, one.heads, kind=kind, who=who, **given)

    def note(self, name: str, duty: str, act: str, *, who: str, at: datetime | None = None, why: str = "") -> Incident:
        """Record that a notice was drafted or sent, or that a person decided that none is due.

        Args:
            name: The incident.
            duty: Id of the duty.
            act: ``drafted``, ``sent`` or ``not due``.
            who: The person.
            at: When it was sent; now where None.
            why: The reason why none is due.

        Raises:
            UsageError: There is no such incident or duty, the time lies ahead, or a reason is missing.
            RecordError: It cannot be recorded, or does not verify.
            OutputError: It cannot be written.
        """
        _require_past(at)
        if act == "not due" and not why.strip():
            raise UsageError("a duty is not set aside without a reason", hint="say why, in words for the authority")
        with self._alone():
            one = self.get(name)
            _ = duty_of(one, duty)
            if at is not None and at < min(one.breach.aware, one.breach.discovered):
                raise UsageError(f"{at.isoformat()} is before the breach was known", hint="give the time of the notice")
            given: dict[str, Any] = {"duty": duty, "act": act, "at": at, "why": why or None}
            return self._append(name, Action.INCIDENT_NOTICE, one.heads, kind="notice", who=who, **given)

    def digests(self, path: Path) -> list[str]:
        """Keyed digests of the pseudonyms in a file, one a line; the pseudonyms are not kept.

        Raises:
            UsageError: The party knows no pseudonyms, or the file cannot be read or is empty.
        """
        if not self.party.knows_pseudonyms:
            raise UsageError(
                f"{self.party.name} knows no pseudonyms of patients", hint="give the number, such as --affected H1=12"
            )
        try:
            names = {line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()}
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read {path}", hint="give a text file with one pseudonym a line") from error
        if not names:
            raise UsageError(f"{path} names nobody", hint="give a text file with one pseudonym a line")
        with self.party.open_log() as log:
            return sorted(log.digest(name) for name in names)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        private_folder(self.party.incidents)
        with locked(self.party.incidents / ".lock", "another process writes an incident", patience=PATIENCE):
            yield

    def _append(self, name: str, action: Action, heads: tuple[str, ...], **values: Any) -> Incident:
        """Name the line in the audit log, then write it: the file is replaced as a whole, and is durable."""
        path = self.party.incidents / f"{name}.jsonl"
        prev = heads[-1] if heads else GENESIS
        try:
            event = Event(v=1, seq=len(heads), prev=prev, time=datetime.now(UTC), **values)
        except ValidationError as error:
            raise UsageError(f"an incident's {first_fault(error)}", hint="see --help for what may be said") from error
        if unknown := sorted(set(event.words) - set(WORDS)):
            raise UsageError(f"an incident has no '{unknown[0]}'", hint=f"it has {', '.join(WORDS)}")
        line = line_of(event)
        with output_errors(path):
            before = path.read_bytes() if heads else b""
        detail: dict[str, Scalar] = {
            "incident": name,
            "event": len(heads),
            "event_sha256": hashlib.sha256(line).hexdigest(),
        }
        with self.party.open_log() as log, _recorded(log, action, detail, event):
            write_bytes(path, before + line, mode=PRIVATE, durable=True)
        return read_incident(path)

    def _acknowledged(self) -> tuple[Mapping[str, tuple[int, str]], set[tuple[str, int, str]]]:
        """Number and hash of the newest line of each incident that the log says was written; and of all it named."""
        known: dict[str, tuple[int, str]] = {}
        named: set[tuple[str, int, str]] = set()
        for path in self.party.logs[:1]:
            for row in entries(path) if path.exists() else ():
                if row.get("action") in _ACTS:
                    detail = row["detail"]
                    one = (int(detail["event"]), detail["event_sha256"])
                    named.add((detail["incident"], *one))
                    if row.get("outcome") == Outcome.OK:
                        known[detail["incident"]] = one
        return known, named


@contextmanager
def _recorded(log: AuditLog, action: Action, detail: Mapping[str, Scalar], event: Event) -> Iterator[None]:
    facts = dict(detail) | ({"duty": event.duty or "", "act": event.act or ""} if event.kind == "notice" else {})
    with log.act(Entry(action, Outcome.STARTED, detail=facts)):
        yield


def duty_of(incident: Incident, name: str) -> Duty:
    """The duty ``name`` of an incident.

    Raises:
        UsageError: It has none of that name.
    """
    for one in incident.duties:
        if one.id == name:
            return one
    known = ", ".join(one.id for one in incident.duties)
    raise UsageError(f"{incident.id} has no duty '{name}'", hint=f"its duties are {known}")


def moment(text: str) -> datetime:
    """A time with its zone (RFC 3339), such as ``2026-03-01T09:30:00+01:00``.

    Raises:
        UsageError: It is none, or says no zone.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"'{text}' is no time", hint="write it as 2026-03-01T09:30:00+01:00") from error
    if found.tzinfo is None:
        raise UsageError(f"'{text}' says no time zone", hint="end it with Z for UTC, or with +01:00 and the like")
    try:
        _ = found.astimezone(UTC)
    except OverflowError as error:
        raise UsageError(f"'{text}' is no time of this world", hint="look at the year") from error
    return found


def _require_past(given: datetime | None) -> None:
    if given is not None and given > datetime.now(UTC) + AHEAD:
        raise UsageError(f"{given.isoformat()} lies ahead", hint="give a time that was, with its zone")
