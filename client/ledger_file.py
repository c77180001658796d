"""The file of the privacy ledger: chained lines, read whole, appended durably, held by one process at a time.

Each line is a JSON object in the canonical form of RFC 8785 with the SHA-256 of the line before it (``prev``) and that
of itself without this entry (``check``). The first says whose ledger it is (``open``); then come budgets and charges.

A last line without its line end was never acknowledged, so nothing was trained on it: it is cut off. Any other line
that was changed, removed, put elsewhere or doubled breaks the chain. What no chain shows is that whole lines at the end
are gone: for that the audit log knows how far the ledger had come (:class:`Acknowledged`).
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

from client.charge import Budget, Charge
from client.ledger_rows import UNIT, VERSION, BudgetChange, change_of, charge_of, kind_of
from shared.errors import RecordError, UsageError
from shared.files import canonical_json, sync_folder
from shared.parsing import parse_json

GENESIS: Final = "0" * 64
LONGEST_LINE: Final = 8192
"""Bytes of a line, and more: texts of 300 characters of four bytes, and names."""
_BEGINS: Final = b'{"check":"'
_GUARDED: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""No link is followed, and what is no file keeps nobody waiting, so that it can be looked at first."""


@dataclass(frozen=True)
class Acknowledged:
    """How far the ledger had come when something was done on the strength of it, as another record has it.

    Attributes:
        rows: Its lines at that time.
        head: SHA-256 of the last of them, 64 hexadecimal digits.
    """

    rows: int
    head: str


@dataclass(frozen=True)
class Book:
    """What stands in a ledger.

    Attributes:
        changes: All budgets in the order in which they were set; the last one counts.
        charges: All charges in their order.
        heads: SHA-256 of each line.
        data_set: What it is about, by its first line; None where there is none.
    """

    changes: tuple[BudgetChange, ...] = ()
    charges: tuple[Charge, ...] = ()
    heads: tuple[str, ...] = ()
    data_set: str | None = None

    @property
    def budget(self) -> Budget | None:
        """The budget that counts, or None where none was ever set."""
        return self.changes[-1].budget if self.changes else None

    @property
    def rows(self) -> int:
        """Number of lines."""
        return len(self.heads)

    @property
    def head(self) -> str:
        """SHA-256 of the last line, 64 hexadecimal digits; zeros where there is none."""
        return self.heads[-1] if self.heads else GENESIS

    def line(self, kind: str, values: Mapping[str, object]) -> bytes:
        """The line that would come next."""
        time = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        row = {"v": VERSION, "seq": self.rows, "kind": kind, "time": time, "prev": self.head, **values}
        return canonical_json({**row, "check": _check(row)}) + b"\n"

    def after(self, line: bytes) -> "Book":
        """The ledger with one more line.

        Raises:
            ValueError: The line does not continue this ledger, or is no line of one.
            UsageError: Its figures are none of a budget or a charge.
        """
        row: dict[str, Any] = parse_json(line)
        check = row.pop("check")
        if canonical_json({**row, "check": check}) + b"\n" != line or check != _check(row):
            raise ValueError("the line is not as it was written")
        if (row["v"], row["seq"], row["prev"]) != (VERSION, self.rows, self.head):
            raise ValueError("the line does not continue the one before it")
        heads = (*self.heads, hashlib.sha256(line).hexdigest())
        match kind_of(row):
            case "open" if not self.heads:
                return replace(self, heads=heads, data_set=row["data_set"])
            case "budget" if self.heads:
                return replace(self, heads=heads, changes=(*self.changes, change_of(row)))
            case "charge" if self.heads:
                return replace(self, heads=heads, charges=(*self.charges, charge_of(row)))
        raise ValueError("the line is of no kind that may stand there")


def read_book(path: Path, acknowledged: Acknowledged | None = None, *, data_set: str | None = None) -> Book:
    """What stands in the ledger at ``path``, without its lock and without a change to it.

    Args:
        path: The file; one that is missing is an empty ledger.
        acknowledged: What it must have.
        data_set: What it must be about; None where anything will do.

    Raises:
        RecordError: It cannot be read, is no file of the owner's alone, a line was altered, it lacks what was
            acknowledged, or it is about something else.
    """
    try:
        with os.fdopen(_opened(path, os.O_RDONLY), "rb") as file:
            data = file.read()
    except FileNotFoundError:
        data = b""
    except OSError as error:
        raise RecordError(
            f"cannot read the privacy ledger {path}: {error.strerror}", hint="check the file; no link is followed"
        ) from error
    return _book(path, data, acknowledged, data_set)


def _opened(path: Path, flags: int) -> int:
    """A descriptor of a file that is nobody's but its owner's; nothing was read from it or written to it.

    Raises:
        OSError: It cannot be opened, or is a link.
        RecordError: It is no regular file, or others may read or write it.
    """
    descriptor = os.open(path, flags | _GUARDED, 0o600)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) and not mode & 0o077:
        return descriptor
    os.close(descriptor)
    if stat.S_ISREG(mode):
        raise RecordError(f"others may read or write the privacy ledger {path}", hint=f"run: chmod 600 {path}")
    raise RecordError(f"the privacy ledger {path} is no regular file", hint="move away what is there")


class LedgerFile:
    """The ledger's file under its lock.

    Args:
        path: Made with mode 0600 where missing, unless something of it was acknowledged.
        data_set: What the ledger is about; stands in the first line of a new one, and must stand in that of another.
            None takes any, and calls a new one ``cohort``.
        acknowledged: What the file must have.

    Raises:
        RecordError: Another process holds it, the disk refuses, it is no file of the owner's alone, a line was altered,
            it lacks what was acknowledged, or it is about something else.
    """

    def __init__(self, path: Path, *, data_set: str | None, acknowledged: Acknowledged | None) -> None:
        self.path, self._data_set = path, data_set
        if acknowledged is not None and not os.path.lexists(path):
            raise _cut_off(path, Book(), acknowledged)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = _opened(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            self._file: IO[bytes] = os.fdopen(descriptor, "a+b", buffering=0)
            sync_folder(path.parent)
        except OSError as error:
            raise RecordError(
                f"cannot open the privacy ledger {path}: {error.strerror}",
                hint="check the folder; no link is followed, and nothing is trained without a charge",
            ) from error
        try:
            self._lock()
            self.book = self._read(acknowledged)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Give the lock back; by name, since a child that was forked meanwhile holds the file as well."""
        if not self._file.closed:
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._file.close()

    def append(self, kind: str, values: Mapping[str, object]) -> None:
        """Add a line; it is on disk when this returns, and :attr:`book` has it.

        Raises:
            RecordError: It cannot be made durable; nothing may be done on the strength of it.
        """
        if self._file.closed:
            raise RecordError(f"the privacy ledger {self.path} is closed", hint="open it again")
        book, lines = self.book, b""
        if not book.rows:
            lines = book.line("open", {"unit": UNIT, "data_set": self._data_set or "cohort"})
            book = book.after(lines)
        line = book.line(kind, values)
        book = book.after(line)
        self._write(lines + line)
        self.book = book

    def _write(self, lines: bytes) -> None:
        size = os.fstat(self._file.fileno()).st_size
        try:
            _require_whole(self._file.write(lines), len(lines))
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file.fileno(), size)
            self.close()  # what the disk holds now is for the next one who opens it to find out
            raise RecordError(
                f"cannot write the privacy ledger {self.path}: {error.strerror}",
                hint="free some space; nothing was trained that is not charged",
            ) from error

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecordError(
                f"{self.path} is held by another process", hint="wait for it to end, and try again"
            ) from None

    def _read(self, acknowledged: Acknowledged | None) -> Book:
        try:
            self._file.seek(0)
            data = self._file.read()
            book = _book(self.path, data, acknowledged, self._data_set)
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                os.ftruncate(self._file.fileno(), whole)
                os.fsync(self._file.fileno())
        except OSError as error:
            raise RecordError(
                f"cannot read the privacy ledger {self.path}: {error.strerror}", hint="check the disk"
            ) from error
        return book


def _book(path: Path, data: bytes, acknowledged: Acknowledged | None, data_set: str | None) -> Book:
    book, whole = Book(), data.rfind(b"\n") + 1
    for number, line in enumerate(data[:whole].split(b"\n")[:-1], start=1):
        try:
            book = book.after(line + b"\n")
        except (ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
            raise RecordError(
                f"{path}: line {number} was changed, or a line is missing, doubled or moved there",
                hint="put the file aside and put back the newest copy, or none and use 'fedward node budget rebuild'",
            ) from error
    if acknowledged is not None and (
        book.rows < acknowledged.rows or book.heads[acknowledged.rows - 1] != acknowledged.head
    ):
        raise _cut_off(path, book, acknowledged)
    if not _may_be_torn(data[whole:], book):
        raise RecordError(
            f"{path} ends with something that was never the beginning of a line",
            hint="keep the file as evidence; put back the newest copy, or none and use 'fedward node budget rebuild'",
        )
    if data_set is not None and book.data_set not in {None, data_set}:
        raise RecordError(
            f"{path} is the ledger of {book.data_set!r}, not of {data_set!r}",
            hint="put back the ledger of this node, or none and use 'fedward node budget rebuild'",
        )
    return book


def _may_be_torn(tail: bytes, book: Book) -> bool:
    """Whether what follows the last line end may be a line of this ledger that a crash cut short, its end at least."""
    check = len(_BEGINS) + 64
    begun = _BEGINS.startswith(tail[:check]) or re.fullmatch(re.escape(_BEGINS) + rb"[0-9a-f]{0,64}", tail[:check])
    if len(tail) > LONGEST_LINE or not begun:
        return False
    try:
        json.JSONDecoder().raw_decode(tail.decode(errors="ignore"))
    except (ValueError, RecursionError):
        return True
    try:
        book.after(tail + b"\n")
    except (ValueError, KeyError, TypeError, UsageError):
        return False  # a whole line that does not belong here, or more than one
    return True


def _cut_off(path: Path, book: Book, acknowledged: Acknowledged) -> RecordError:
    if not book.rows:
        what = "is gone"
    elif book.rows < acknowledged.rows:
        what = "was cut off or an older copy was put back"
    else:
        what = "is another ledger"
    return RecordError(
        f"{path} {what}: it has {book.rows} lines and lacks line {acknowledged.rows}, which the audit log knows",
        hint="put back the newest copy, or have it charged again from the log with 'fedward node budget rebuild'",
    )


def _require_whole(written: int | None, size: int) -> None:
    """Raise for a write that took a part only, as on a disk that fills up it does without an error."""
    if written != size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _check(row: Mapping[str, object]) -> str:
    return hashlib.sha256(canonical_json(row)).hexdigest()
