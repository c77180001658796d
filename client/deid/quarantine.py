"""The quarantine: a record per file that waits for a person, by path and digest.

``REPORTS/quarantine/`` (0700) holds one JSON file (0600) per quarantined input: why it is held, where it lies, its
SHA-256, boxes that somebody proposed, and what a person decided. A decision is never overwritten.

A file in a folder of the hospital stays where it is. One that was fetched for an ingest has no other place: it is
moved onto the node's shelf, ``SHELF/<id>/<name>`` (0700, 0600), after its record is written, and deleted once it is
decided on.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Self

from client.deid.pixels import HELD_FOR_A_PERSON
from client.deid.profile import Profile
from client.deid.pseudonyms import SiteKey
from client.deid.streams import FrameBox
from client.deid.tables import quarantined
from client.deid.triage import LIFTABLE
from shared.errors import DataError, PolicyError, UsageError
from shared.files import output_errors, sync_folder, write_bytes
from shared.parsing import parse_json

FOLDER = "quarantine"
PRIVATE_FOLDER, PRIVATE = 0o700, 0o600
_ID = re.compile(r"[0-9a-f]{32}")
_PLAIN = re.compile(r"[0-9A-Za-z][0-9A-Za-z_.-]*")  # names that we give: one folder deep
_ANEW = "move it away, and de-identify the folder again"

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
        kept: Whether the file is the node's own copy, which goes when it is decided on.
        key: The fingerprint of the site key that it was held under; empty where nobody noted it.
        looked: How many of its frames the reviewer was shown.
    """

    id: str
    source: str
    input: str
    reason: str
    sha256: str
    profile_sha256: str
    boxes: tuple[FrameBox, ...] = ()
    decision: Decision = Decision.PENDING
    reviewer: str = ""
    decided: str = ""
    blanked: tuple[FrameBox, ...] = ()
    kept: bool = False
    key: str = ""
    looked: int = 0

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return Path(self.source) / self.input

    @property
    def liftable(self) -> bool:
        """Whether a person may lift the reason: what may stand in the pixels, never identifiers or malformed files."""
        return may_be_lifted(self.reason)

    def digest(self) -> str:
        """The SHA-256 of what lies there now; a link on the shelf is not followed, since nothing of ours is one.

        Raises:
            OSError: It cannot be read, or is no regular file.
        """
        if not self.kept:
            return sha256_of(self.path)
        folder = os.open(self.source, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with os.fdopen(os.open(self.input, flags, dir_fd=folder), "rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        finally:
            os.close(folder)


@dataclass(frozen=True)
class Decided:
    """What people decided, as far as it concerns one profile.

    Attributes:
        cleared: What was cleared under it, by input path: a clearance is for one path, content and profile.
        alike: Every clearance of the same contents, whatever the path and the profile, by SHA-256.
        refused: The SHA-256 of every content that was refused, which holds whatever the path and the profile.
    """

    cleared: Mapping[str, tuple[Held, ...]] = field(default_factory=dict)
    alike: Mapping[str, tuple[Held, ...]] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()

    @classmethod
    def of(cls, records: Iterable[Held], profile: Profile) -> "Decided":
        """Sort the records by what they mean for a profile."""
        decided = tuple(records)
        cleared: dict[str, tuple[Held, ...]] = defaultdict(tuple)
        alike: dict[str, tuple[Held, ...]] = defaultdict(tuple)
        for held in decided:
            if held.decision is Decision.CLEARED:
                alike[held.sha256] += (held,)
                if held.profile_sha256 == profile.sha256:
                    cleared[held.input] += (held,)
        return cls(
            dict(cleared), dict(alike), frozenset(one.sha256 for one in decided if one.decision is Decision.REFUSED)
        )

    def about(self, paths: Iterable[str]) -> "Decided":
        """The part of it that a worker needs for some files."""
        cleared = {path: self.cleared[path] for path in paths if path in self.cleared}
        contents = {held.sha256 for found in cleared.values() for held in found}
        return Decided(cleared, {one: self.alike[one] for one in contents}, self.refused)


def may_be_lifted(reason: str) -> bool:
    """Whether looking at the picture answers ``reason``."""
    classes = {why for uid, why in quarantined().items() if uid in _PICTURES}
    return reason in LIFTABLE | HELD_FOR_A_PERSON or reason in classes


class Quarantine:
    """The records in one reports folder.

    Args:
        reports: The reports folder.
        shelf: Where held files of an ingest are kept; None where there are none.
        moves: Whether what is held from now on is moved onto the shelf, as files of an ingest are. A hospital's own
            file stays where it is.

    Raises:
        OutputError: A record cannot be written.
        PolicyError: Others may enter the shelf.
    """

    def __init__(self, reports: Path, shelf: Path | None = None, *, moves: bool = False) -> None:
        self._folder, self._moves = reports / FOLDER, moves
        self._shelf = shelf.parent.resolve() / shelf.name if shelf else None
        self._decided: dict[str, Decided] = {}
        self._key = ""

    def under(self, key: SiteKey) -> Self:
        """Note with every file that is held from now on which key it is held under."""
        self._key = key.fingerprint
        return self

    def hold(
        self,
        source: Path,
        path: str,
        reason: str,
        profile: Profile,
        boxes: tuple[FrameBox, ...] = (),
    ) -> None:
        """Record that a file is held, and move it onto the shelf if that is asked for; a decision stays as it is."""
        try:
            digest = sha256_of(source / path)
        except OSError:
            return  # it is gone: nobody could look at it
        name = self._place(digest, path, reason, profile)
        if name is None:
            return
        held = Held(name, str(source.resolve()), path, reason, digest, profile.sha256, boxes, key=self._key)
        if self._shelf is None or not self._moves:
            self._write(held)
            return
        # The record comes first: a file on the shelf is always named by one, whenever the power fails.
        held = replace(held, source=str(self._shelf / name), kept=True)
        self._write(held)
        self._move(source / path, held)

    def _place(self, digest: str, path: str, reason: str, profile: Profile) -> str | None:
        """The name of the record to write; None where a person has decided on exactly this already."""
        first = _name(digest, path)
        for name in (first, _name(digest, path, profile.sha256, reason)):
            before = self._known(name)
            if before is None or before.decision is Decision.PENDING:
                return name
            if (before.reason, before.profile_sha256) == (reason, profile.sha256):
                return None
        return None

    def _known(self, name: str) -> Held | None:
        try:
            return self.get(name)
        except DataError:
            return None

    def get(self, name: str) -> Held:
        """The record ``name``.

        Raises:
            UsageError: That is no name of a record, or its file lies in a node that was not named.
            DataError: There is none, or it is damaged.
        """
        if not _ID.fullmatch(name):
            raise UsageError("that is not the name of a held file", hint="choose one of the list")
        path = self._folder / f"{name}.json"
        try:
            row = parse_json(path.read_bytes())
            boxes, blanked = _boxes(row.pop("boxes")), _boxes(row.pop("blanked", ()))
            about = {"id": name, "boxes": boxes, "blanked": blanked, "decision": Decision(row["decision"])}
            held = Held(**(row | about))
            sound = not held.kept or _PLAIN.fullmatch(held.input) is not None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"there is no readable record {path}", hint=_ANEW) from error
        if not sound:
            raise DataError(f"the record {path} leads out of the node", hint=_ANEW)
        if not held.kept:
            return held
        if self._shelf is None:
            raise UsageError("the files that are held here lie in a node", hint="name it: --node NODE")
        # Where a file of ours lies follows from its name: a node may be moved, and no record can point elsewhere.
        return replace(held, source=str(self._shelf / name))

    def all(self) -> Iterator[Held]:
        """Every record, by input path."""
        names = [path.stem for path in self._folder.glob("*.json")] if self._folder.is_dir() else []
        yield from sorted((self.get(name) for name in names), key=lambda held: held.input)

    def decided(self, profile: Profile) -> Decided:
        """What people decided, as far as it concerns a profile."""
        if profile.sha256 not in self._decided:
            self._decided[profile.sha256] = Decided.of(self.all(), profile)
        return self._decided[profile.sha256]

    @contextlib.contextmanager
    def claim(self, name: str) -> Iterator[Held]:
        """The record ``name``, for one who decides on it: whoever else wants to waits until the block ends.

        Raises:
            UsageError: As :meth:`get`.
            DataError: As :meth:`get`.
        """
        self.get(name)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield self.get(name)
        finally:
            os.close(folder)

    def decide(self, held: Held, decision: Decision, reviewer: str) -> Held:
        """Record what a person decided, and delete the node's own copy of the file."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        decided = replace(held, decision=decision, reviewer=reviewer, decided=now)
        self._write(decided)
        self._decided.clear()
        self._discard(decided)
        return decided

    # --- the shelf ------------------------------------------------------------------------------------------------

    def waiting(self) -> list[Held]:
        """The records of files on the shelf that nobody has decided on."""
        return [held for held in self.all() if held.kept and held.decision is Decision.PENDING]

    def sweep(self) -> list[str]:
        """Delete what was decided on and is still there since something broke off.

        Returns:
            The names of what lies on the shelf without a readable record.
        """
        if self._shelf is None or not self._shelf.exists():
            return []
        self._check_shelf(self._shelf)
        strays = []
        for path in sorted(self._shelf.iterdir()):
            held = self._known(path.name) if _ID.fullmatch(path.name) else None
            if held is None or not held.kept:
                strays.append(path.name)
            elif held.decision is not Decision.PENDING:
                self._discard(held)
        return strays

    def _move(self, file: Path, held: Held) -> None:
        place = Path(held.source)
        with output_errors(place):
            place.parent.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
            self._check_shelf(place.parent)
            if place.is_symlink():
                place.unlink()
            place.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
            file.chmod(PRIVATE)
            file.replace(place / held.input)
            sync_folder(place)

    def _discard(self, held: Held) -> None:
        if not held.kept:
            return  # the hospital's own file
        place = Path(held.source)
        with output_errors(place):
            if place.is_symlink():
                place.unlink()
            elif place.exists():
                shutil.rmtree(place)

    def _check_shelf(self, shelf: Path) -> None:
        mode = shelf.lstat().st_mode
        if mode & 0o077 or not stat.S_ISDIR(mode):
            raise PolicyError(f"others may enter {shelf}", hint=f"run: chmod 700 {shelf}")

    def _write(self, held: Held) -> None:
        with output_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
            self._folder.chmod(PRIVATE_FOLDER)
        # ASCII: a name that is not UTF-8 comes back as the bytes that it was.
        text = json.dumps(asdict(held), indent=1, ensure_ascii=True) + "\n"
        write_bytes(self._folder / f"{held.id}.json", text.encode(), mode=PRIVATE, durable=held.kept)


def _name(*parts: str) -> str:
    return hashlib.sha256(b"\0".join(map(os.fsencode, parts))).hexdigest()[:32]


def _boxes(rows: Iterable[Iterable[int]]) -> tuple[FrameBox, ...]:
    return tuple((int(f), int(t), int(le), int(b), int(r)) for f, t, le, b, r in rows)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file.

    Raises:
        OSError: It cannot be read, or is no regular file.
    """
    # O_NONBLOCK: a named pipe would otherwise wait for a writer for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        return hashlib.file_digest(stream, "sha256").hexdigest()
