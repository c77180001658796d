"""The audit log: append, make durable, then act.

One file of lines, each a JSON object in the canonical form of RFC 8785. Every entry carries the SHA-256 of the
line before it (``prev``), so an entry that is changed, dropped, swapped or inserted breaks the chain at that place.
An entry is on disk (``fsync``) before :meth:`AuditLog.append` returns; where that fails, :class:`RecordError` is raised
and the caller must not act (45 CFR 164.312(b), audit controls; 164.312(c)(1), integrity).

Several processes of one site may write one log: each takes a lock for as long as it appends, and first reads what the
others have appended meanwhile. So an ingest that runs for hours does not keep the hospital from training.

What the chain shows: nothing *inside* the file was altered without recomputing everything after it. What it does not
show: that the tail was not cut off, or the whole file rewritten by someone who can write it.
"""

import contextlib
import fcntl
import hashlib
import hmac
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Self

from compliance.lines import cut_torn_line, settled, write_all
from compliance.verify import GENESIS, NotVerifiedError, read_entry
from shared.errors import RecordError
from shared.files import canonical_json, sync_folder

VERSION = 1

Scalar = str | int | float | bool | None


class Action(StrEnum):
    """Everything that is ever recorded; a new kind of act gets a new name here."""

    LOG_REPAIR = "log.repair"
    MEMBER_REQUEST = "member.request"
    CHARTER_PIN = "charter.pin"
    LINK_CERTIFICATE = "link.certificate"
    INGEST = "ingest"
    DATA_IMPORT = "data.import"
    DEIDENTIFY = "deidentify"
    REVIEW = "review"
    COHORT_BUILD = "cohort.build"
    TRAIN = "train"
    PRIVACY_BUDGET = "privacy.budget"
    PRIVACY_CHARGE = "privacy.charge"
    EVALUATE = "evaluate"
    MESSAGE_IN = "message.in"
    MESSAGE_OUT = "message.out"
    SECURE_AGGREGATION = "secure.aggregation"
    MODEL_WRITE = "model.write"
    RUN_START = "run.start"
    RUN_END = "run.end"
    ROUND = "round"
    REFUSAL = "refusal"
    WITNESS = "witness"
    LEGAL_HOLD = "legal.hold"
    INCIDENT_OPEN = "incident.open"
    INCIDENT_UPDATE = "incident.update"
    INCIDENT_NOTICE = "incident.notice"
    BASIS_SET = "basis.set"
    CONSENT_IMPORT = "consent.import"
    CONSENT_WITHDRAW = "consent.withdraw"
    RIGHTS_REPORT = "rights.report"
    RIGHTS_RESTRICT = "rights.restrict"
    RIGHTS_RECTIFY = "rights.rectify"
    RIGHTS_ERASE = "rights.erase"
    DATASET_MANIFEST = "dataset.manifest"
    STATEMENT = "statement"
    MODEL_RELEASE = "model.release"
    ENHANCE = "enhance"
    PERSONALISE = "personalise"


class Outcome(StrEnum):
    """``started`` is written before the act, ``ok``, ``failed`` or ``refused`` after it."""

    STARTED = "started"
    OK = "ok"
    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True)
class Entry:
    """One act to be recorded.

    Attributes:
        action: What is done.
        outcome: Whether it is about to be done, was done, failed or was refused.
        run: The federation run that it belongs to, or empty.
        round: The round of that run, or None.
        subject: What it is done to: a kind (``patient``, ``batch``, ``model``) and a digest made by
            :meth:`AuditLog.digest`. Never a name, a pseudonym or a path.
        detail: Facts about the act: counts, digests, reasons; flat, no identifiers.
    """

    action: Action
    outcome: Outcome
    run: str = ""
    round: int | None = None
    subject: tuple[str, str] | None = None
    detail: Mapping[str, Scalar] | None = None


@dataclass(frozen=True)
class Verified:
    """What a walk over a log found.

    Attributes:
        entries: How many.
        head: The hash of the last one.
        torn: Bytes behind it of an entry that was never finished, so that nothing was done under it: its writer was
            killed. The next one who writes cuts them off, and records that.
    """

    entries: int
    head: str
    torn: int = 0


class AuditLog:
    """A writer of one audit log file; other processes may be writing it too.

    Args:
        path: The log file; made with mode 0600 where missing.
        site: Who writes it, as it stands in every entry.
        actor: The account or program that acts.
        purpose: Why data is processed here (GDPR Art. 5(1)(b)).
        subject_key: Key of the HMAC that turns a patient into a digest; destroying it unlinks the log from people.

    Raises:
        RecordError: The disk refuses, or the chain does not verify.
    """

    def __init__(self, path: Path, *, site: str, actor: str = "fedward", purpose: str = "", subject_key: bytes) -> None:
        self._path, self._site, self._actor, self._purpose, self._key = path, site, actor, purpose, subject_key
        with _record_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._file: IO[bytes] = os.fdopen(descriptor, "a+b", buffering=0)
        self._newest: dict[tuple[str, str], tuple[int, Mapping[str, Scalar]]] = {}
        self._next, self._head, self._size = 0, GENESIS, 0
        try:
            with self._alone():
                sync_folder(path.parent)
        except BaseException:
            self._file.close()
            raise

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock, knowing all that stands in the log.

        Raises:
            RecordError: It was cut off, put aside or altered since this process read it, or the disk refuses.
        """
        with _record_errors(self._path):
            fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            self._catch_up()
            yield
        finally:
            if not self._file.closed:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _catch_up(self) -> None:
        with _record_errors(self._path):
            found, there = os.fstat(self._file.fileno()), self._path.stat()
            if (found.st_ino, found.st_dev) != (there.st_ino, there.st_dev) or found.st_size < self._size:
                raise RecordError(
                    f"{self._path} was cut off or another file was put in its place",
                    hint="keep both as evidence and restore the log from a copy that verifies",
                )
            if found.st_size == self._size:
                return
            torn = cut_torn_line(self._file, self._size)
            for row, head, size in _rows(self._path, (self._next, self._head, self._size)):
                self._note(row)
                self._head, self._next, self._size = head, self._next + 1, self._size + size
        if torn:
            self._write([Entry(Action.LOG_REPAIR, Outcome.OK, detail={"bytes_cut": torn})])

    def append(self, entry: Entry) -> str:
        """Record ``entry`` and return its hash once it is on disk."""
        return self.append_many([entry])

    def append_many(self, entries: Sequence[Entry]) -> str:
        """Record ``entries`` with one fsync and return the hash of the last."""
        with self._alone():
            return self._write(entries)

    def _write(self, entries: Sequence[Entry]) -> str:
        rows: list[dict[str, object]] = []
        lines, head, number = [], self._head, self._next
        for entry in entries:
            rows.append(self._row(entry, number, head))
            line = canonical_json(rows[-1]) + b"\n"
            head, number = hashlib.sha256(line).hexdigest(), number + 1
            lines.append(line)
        data = b"".join(lines)
        try:
            write_all(self._file, data)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), self._size)
            raise RecordError(
                f"cannot write the audit log {self._path}: {error.strerror}",
                hint="free some space; nothing was done that is not recorded",
            ) from error
        self._head, self._next, self._size = head, number, self._size + len(data)
        for row in rows:
            self._note(row)
        return head

    def newest(self, *actions: Action, outcome: Outcome = Outcome.OK) -> Mapping[str, Scalar] | None:
        """The detail of the newest entry of any of ``actions`` with ``outcome``, or None where there is none.

        It is remembered from the walk over the log at its opening; only what was appended since is read.

        Raises:
            RecordError: The log does not go on from what was read.
        """
        with self._alone():
            pass
        found = [self._newest[key] for action in actions if (key := (action.value, outcome.value)) in self._newest]
        return max(found, key=lambda one: one[0])[1] if found else None

    def _note(self, row: Mapping[str, Any]) -> None:
        key = (str(row.get("action")), str(row.get("outcome")))
        self._newest[key] = (row["seq"], row.get("detail") or {})

    def _row(self, entry: Entry, number: int, head: str) -> dict[str, object]:
        subject = {"kind": entry.subject[0], "digest": entry.subject[1]} if entry.subject else None
        return {
            "v": VERSION,
            "seq": number,
            "time": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "site": self._site,
            "actor": {"type": "software", "id": self._actor},
            "action": entry.action.value,
            "outcome": entry.outcome.value,
            "purpose": self._purpose,
            "run": entry.run,
            "round": entry.round,
            "subject": subject,
            "detail": dict(entry.detail or {}),
            "prev": head,
        }

    def digest(self, value: str) -> str:
        """The keyed digest under which ``value`` (a pseudonym, a path) may stand in an entry."""
        return hmac.new(self._key, value.encode(), hashlib.sha256).hexdigest()

    @contextlib.contextmanager
    def act(self, entry: Entry) -> Iterator[dict[str, Scalar]]:
        """Record that ``entry`` starts, run the block, and record how it ended.

        The block may add facts to the dictionary that it is given; they stand in the closing entry. An error in the
        block is recorded as ``failed`` with its type (never its text, which may hold identifiers) and goes on upwards.
        """
        self.append(entry)
        detail: dict[str, Scalar] = dict(entry.detail or {})
        try:
            yield detail
        except BaseException as error:
            with contextlib.suppress(RecordError):
                self.append(_ended(entry, Outcome.FAILED, detail | {"error": type(error).__name__}))
            raise
        self.append(_ended(entry, Outcome.OK, detail))

    @property
    def head(self) -> str:
        """The SHA-256 of the last line, 64 hexadecimal digits."""
        return self._head

    def __len__(self) -> int:
        return self._next

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def verify(path: Path) -> Verified:
    """Walk a log from its first line to its last and check form, order and chain.

    Raises:
        RecordError: The first line that is not canonical, out of order or not chained to the one before it.
    """
    head, count = GENESIS, 0
    stop, torn = settled(path)
    for _, head, _ in _rows(path, stop=stop):  # noqa: B007  # the last one is what counts
        count += 1
    return Verified(count, head, torn)


def newest(path: Path, *actions: Action, outcome: Outcome = Outcome.OK) -> Mapping[str, Scalar] | None:
    """As :meth:`AuditLog.newest`, of a log that somebody else may be writing; a missing one has no entry.

    Raises:
        RecordError: It does not verify.
    """
    found: Mapping[str, Scalar] | None = None
    for row in entries(path) if path.exists() else ():
        if row.get("action") in actions and row.get("outcome") == outcome:
            found = row.get("detail") or {}
    return found


def entries(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a log in their order, as they stand there.

    Raises:
        RecordError: At the first line that does not verify.
    """
    for row, _, _ in _rows(path, stop=settled(path)[0]):
        yield row


def _rows(
    path: Path, start: tuple[int, str, int] = (0, GENESIS, 0), stop: int | None = None
) -> Iterator[tuple[dict[str, Any], str, int]]:
    """The entries of a log from ``start`` (number, hash and place of what comes before), each with its hash and size.

    ``stop`` is a size of the log: what stands behind it is not read.

    Raises:
        RecordError: At the first that is not canonical, out of order or not chained to the one before it.
    """
    count, head, place = start
    try:
        with path.open("rb") as stream:
            stream.seek(place)
            while (stop is None or place < stop) and (line := stream.readline()):
                try:
                    row = read_entry(line, count, head)
                except NotVerifiedError as error:
                    raise RecordError(
                        f"{path} {error}",
                        hint="keep the file as evidence and restore the log from a copy that verifies",
                    ) from error
                head, count, place = hashlib.sha256(line).hexdigest(), count + 1, place + len(line)
                yield row, head, len(line)
    except OSError as error:
        raise RecordError(f"cannot read the audit log {path}: {error.strerror}", hint="check the path") from error


def _ended(entry: Entry, outcome: Outcome, detail: dict[str, Scalar]) -> Entry:
    return Entry(entry.action, outcome, entry.run, entry.round, entry.subject, detail)


@contextlib.contextmanager
def _record_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RecordError(
            f"cannot open the audit log {path}: {error.strerror}",
            hint="check the folder, its permissions and the disk",
        ) from error
