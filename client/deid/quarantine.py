"""The quarantine: a record per file that waits for a person, by path and digest; the file itself stays where it is.

``REPORTS/quarantine/`` (0700) holds one JSON file (0600) per quarantined input: why it is held, where it lies, its
SHA-256, boxes that somebody proposed, and what a person decided. A decision is never overwritten.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from client.deid.pixels import HELD_FOR_A_PERSON
from client.deid.profile import Profile
from client.deid.tables import quarantined
from client.deid.triage import LIFTABLE
from shared.errors import DataError, UsageError
from shared.files import output_errors, write_json

FOLDER = "quarantine"
_ID = re.compile(r"[0-9a-f]{32}")

# Families of classes that are held only because their pixels may carry text: a person can see whether they do.
_PICTURES = tuple(f"1.2.840.10008.5.1.4.1.1.{family}" for family in ("1", "3", "6", "7", "12", "13", "20", "77"))


class Decision(StrEnum):
    """What a person made of a held file."""

    PENDING = "pending"
    CLEARED = "cleared"
    REFUSED = "refused"


@dataclass(frozen=True)
class Held:
    """One quarantined input.

    Attributes:
        id: 32 hexadecimal digits, from path and content.
        source: The input folder.
        input: The file, relative to it.
        reason: Why it is held.
        sha256: Of the file as it was then.
        profile_sha256: The profile that it was held under.
        boxes: Proposed boxes: frame, top, left, bottom, right, in pixels, half-open.
        decision: What a person decided.
        reviewer: Who; empty while nobody has.
        decided: When (UTC, ISO 8601); likewise.
        blanked: The boxes that the reviewer had blanked, likewise; the frame is -1 where a box is on every frame.
    """

    id: str
    source: str
    input: str
    reason: str
    sha256: str
    profile_sha256: str
    boxes: tuple[tuple[int, int, int, int, int], ...] = ()
    decision: Decision = Decision.PENDING
    reviewer: str = ""
    decided: str = ""
    blanked: tuple[tuple[int, int, int, int, int], ...] = ()

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return Path(self.source) / self.input

    @property
    def liftable(self) -> bool:
        """Whether a person may lift the reason: what may stand in the pixels, never identifiers or malformed files."""
        return may_be_lifted(self.reason)


def may_be_lifted(reason: str) -> bool:
    """Whether looking at the picture answers ``reason``."""
    classes = {why for uid, why in quarantined().items() if uid in _PICTURES}
    return reason in LIFTABLE | HELD_FOR_A_PERSON or reason in classes


class Quarantine:
    """The records in one reports folder.

    Raises:
        OutputError: A record cannot be written.
    """

    def __init__(self, reports: Path) -> None:
        self._folder = reports / FOLDER

    def hold(
        self,
        source: Path,
        path: str,
        reason: str,
        profile: Profile,
        boxes: tuple[tuple[int, int, int, int, int], ...] = (),
    ) -> None:
        """Record that a file is held; a record with a decision stays as it is."""
        try:
            digest = sha256_of(source / path)
        except OSError:
            return  # it is gone: nobody could look at it
        name = hashlib.sha256(digest.encode() + b"\0" + os.fsencode(path)).hexdigest()[:32]
        held = Held(name, str(source.resolve()), path, reason, digest, profile.sha256, boxes)
        if (self._folder / f"{name}.json").exists() and self.get(name).decision is not Decision.PENDING:
            return
        self._write(held)

    def get(self, name: str) -> Held:
        """The record ``name``.

        Raises:
            UsageError: That is no name of a record.
            DataError: There is none, or it is damaged.
        """
        if not _ID.fullmatch(name):
            raise UsageError("that is not the name of a held file", hint="choose one of the list")
        path = self._folder / f"{name}.json"
        try:
            row = json.loads(path.read_bytes())
            boxes, blanked = _boxes(row.pop("boxes")), _boxes(row.pop("blanked", ()))
            return Held(**(row | {"boxes": boxes, "blanked": blanked, "decision": Decision(row["decision"])}))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"there is no readable record {path.name}", hint="de-identify the folder again") from error

    def all(self) -> Iterator[Held]:
        """Every record, by input path."""
        names = [path.stem for path in self._folder.glob("*.json")] if self._folder.is_dir() else []
        yield from sorted((self.get(name) for name in names), key=lambda held: held.input)

    def decide(self, held: Held, decision: Decision, reviewer: str) -> Held:
        """Record what a person decided."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        decided = replace(held, decision=decision, reviewer=reviewer, decided=now)
        self._write(decided)
        return decided

    def _write(self, held: Held) -> None:
        with output_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._folder.chmod(0o700)
        row = asdict(held) | {"input": held.input.encode("utf-8", "surrogateescape").decode("utf-8", "replace")}
        write_json(self._folder / f"{held.id}.json", row, mode=0o600)


def _boxes(rows: Iterable[Iterable[int]]) -> tuple[tuple[int, int, int, int, int], ...]:
    return tuple((int(f), int(t), int(le), int(b), int(r)) for f, t, le, b, r in rows)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
