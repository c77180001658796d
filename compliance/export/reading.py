"""Entries of a log, chosen and held against its tree: what every form of an export begins with."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from compliance.log import Scalar, entries
from compliance.verify import GENESIS, leaf_hash
from shared.errors import RecordError, UsageError
from shared.files import canonical_json

MAX_CHECKPOINT: Final = 65536  # bytes; a signed note with a hundred cosignatures has less than half of it
_LATER: Final = "export it with the version of fedward that wrote it, or a later one"
# All that XML 1.0 (section 2.2) has no place for; FHIR strings forbid the control characters among them.
_FORBIDDEN: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(text: str) -> str:
    """``text`` in one line, each character that XML or FHIR forbids replaced by U+FFFD, and spaces made single."""
    return " ".join(_FORBIDDEN.sub("�", text).split())


def instant(text: str) -> datetime:
    """A point in time: ``2026-11-01`` (its first moment, UTC) or an ISO 8601 time with its zone.

    Raises:
        UsageError: It is neither.
    """
    try:
        if len(text) == len("2026-11-01"):
            return datetime.combine(date.fromisoformat(text), time(), UTC)
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise UsageError(f"'{text}' is no point in time", hint="write 2026-11-01 or 2026-11-01T08:00:00Z")
    return found.astimezone(UTC)


@dataclass(frozen=True)
class Selection:
    """Which entries are wanted; the empty one means all.

    Attributes:
        since: Not before this.
        until: Before this.
        actions: Of these acts, as they are named in the log; empty for all.
        runs: Of these runs; empty for all.
    """

    since: datetime | None = None
    until: datetime | None = None
    actions: frozenset[str] = frozenset()
    runs: frozenset[str] = frozenset()

    def takes(self, record: "Record") -> bool:
        """Whether ``record`` is wanted."""
        return (
            (self.since is None or record.time >= self.since)
            and (self.until is None or record.time < self.until)
            and (not self.actions or record.action in self.actions)
            and (not self.runs or record.run in self.runs)
        )

    def facts(self) -> dict[str, object]:
        """It as it is written down beside an export."""
        return {
            "since": self.since.isoformat() if self.since else None,
            "until": self.until.isoformat() if self.until else None,
            "actions": sorted(self.actions),
            "runs": sorted(self.runs),
        }


@dataclass(frozen=True)
class Record:
    """One entry of the log, as the forms need it.

    Attributes:
        row: It as it stands in the log.
        index: Its number, which is the index of its leaf.
        time: When it was written.
        actor: Kind and name of who acted.
        subject: Kind and digest of what it was done to, or None.
        detail: Facts, name by name.
    """

    row: Mapping[str, Any]
    index: int
    time: datetime
    site: str
    actor: tuple[str, str]
    action: str
    outcome: str
    purpose: str
    run: str
    round: int | None
    subject: tuple[str, str] | None
    detail: Mapping[str, Scalar]
    prev: str

    @cached_property
    def line(self) -> bytes:
        """Its bytes in the log without the line end: a log takes no line that is not canonical."""
        return canonical_json(self.row)

    @property
    def stamp(self) -> str:
        """When it was written, as an entry says it: UTC, microseconds, Z."""
        return self.time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")

    @cached_property
    def leaf(self) -> str:
        """The hash of its leaf, 64 hexadecimal digits."""
        return leaf_hash(self.line).hex()

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Record":
        """The record of one row.

        Raises:
            RecordError: The row lacks a field, or it is of another type: a later version wrote it.
        """
        try:
            when = datetime.fromisoformat(row["time"])
            subject = row["subject"]
            found = cls(
                row=row,
                index=int(row["seq"]),
                time=when,
                site=row["site"],
                actor=(row["actor"]["type"], row["actor"]["id"]),
                action=row["action"],
                outcome=row["outcome"],
                purpose=row["purpose"],
                run=row["run"],
                round=row["round"],
                subject=(subject["kind"], subject["digest"]) if subject else None,
                detail=row["detail"],
                prev=row["prev"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(f"entry {row.get('seq')} is not of a form that is known here", hint=_LATER) from error
        texts = (
            found.site,
            *found.actor,
            found.action,
            found.outcome,
            found.purpose,
            found.run,
            *(found.subject or ()),
        )
        sound = all(isinstance(one, str) for one in texts) and isinstance(found.detail, dict)
        if not sound or when.tzinfo is None or not isinstance(found.round, int | None):
            raise RecordError(f"entry {found.index} is not of a form that is known here", hint=_LATER)
        return found

    def facts(self) -> Iterator[tuple[str, str]]:
        """All that stands in it and has no place of its own in a form: run, round and details, as text."""
        if self.run:
            yield "run", self.run
        if self.round is not None:
            yield "round", str(self.round)
        for name, value in self.detail.items():
            yield f"detail.{name}", value if isinstance(value, str) else json.dumps(value)


@dataclass
class Reader:
    """The chosen records of a log; what it counts is right once they were all taken.

    Attributes:
        log: The log's file.
        selection: What is wanted.
        entries: Entries of the log.
        taken: Those of them that were wanted.
        head: The hash of the last entry, which the chain goes on from.
    """

    log: Path
    selection: Selection = field(default_factory=Selection)
    entries: int = 0
    taken: int = 0
    head: str = GENESIS

    def __iter__(self) -> Iterator[Record]:
        """Walk the log, verifying it.

        Raises:
            RecordError: It cannot be read, or does not verify; what was yielded before it did.
        """
        self.entries, self.taken, self.head = 0, 0, GENESIS
        record = None
        for row in entries(self.log):
            self.entries += 1
            record = Record.of(row)
            if self.selection.takes(record):
                self.taken += 1
                yield record
        if record:
            self.head = hashlib.sha256(record.line + b"\n").hexdigest()

    def summary(self, form: str) -> dict[str, object]:
        """What was exported of what, for the record beside it."""
        return {
            "v": 1,
            "format": form,
            "log": {"entries": self.entries, "head": self.head},
            "exported": self.taken,
            "left_out": self.entries - self.taken,
            "selection": self.selection.facts(),
            "checkpoint": checkpoint(self.log),
        }


def checkpoint(log: Path) -> str:
    """The newest checkpoint beside ``log`` (a C2SP signed note), as it is and unverified; empty where there is none.

    Raises:
        RecordError: It is there and cannot be read.
    """
    path = log.parent / "checkpoint"
    try:
        with path.open("rb") as stream:
            text = stream.read(MAX_CHECKPOINT + 1).decode()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise RecordError(f"cannot read the checkpoint {path}: {error.strerror}", hint="check the path") from error
    except ValueError:
        text = ""
    if not 0 < len(text) <= MAX_CHECKPOINT:
        raise RecordError(f"{path} is no checkpoint", hint="restore it from a copy, or put it aside")
    return text
