"""The file of a log as lines: what of it is whole, what is torn, and how a line gets onto the disk."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from shared.errors import RecordError

SPEED = 1_000_000
"""Bytes of a log that are read and checked a second, at least; it is some six times as many on a common machine."""
_BLOCK = 1 << 16  # bytes


def settled(path: Path) -> tuple[int, int]:
    """Bytes of whole entries in a log, and of a torn one behind them, at a moment when nobody is writing.

    Raises:
        RecordError: The log cannot be read.
    """
    try:
        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH)
            size = os.fstat(stream.fileno()).st_size
            whole = _last_end(stream, size)
            return whole, size - whole
    except OSError as error:
        raise RecordError(f"cannot read the audit log {path}: {error.strerror}", hint="check the path") from error


def write_all(stream: IO[bytes], data: bytes) -> None:
    """Write and fsync, or raise: a raw write on a filling disk may take only a part without an error."""
    if stream.write(data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(stream.fileno())


def cut_torn_line(stream: IO[bytes], start: int) -> int:
    """Cut a last line without an end, behind byte ``start``: its write never finished, so nothing was done under it.

    Returns:
        How many bytes were cut.
    """
    size = stream.seek(0, os.SEEK_END)
    whole = max(start, _last_end(stream, size, start))
    if whole < size:
        os.ftruncate(stream.fileno(), whole)
        os.fsync(stream.fileno())
    stream.seek(0, os.SEEK_END)
    return size - whole


def _last_end(stream: IO[bytes], place: int, floor: int = 0) -> int:
    """Where the last line that ends before ``place`` ends, looking back to ``floor``; 0 where none does."""
    while place > floor:
        start = max(floor, place - _BLOCK)
        stream.seek(start)
        if (found := stream.read(place - start).rfind(b"\n")) >= 0:
            return start + found + 1
        place = start
    return 0


@contextlib.contextmanager
def reading(path: Path) -> Iterator[IO[bytes]]:
    """The log opened to be read.

    Raises:
        RecordError: It cannot be read.
    """
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise RecordError(f"cannot read the audit log {path}: {error.strerror}", hint="check the folder") from error


def line_before(path: Path, place: int) -> bytes:
    """The line that ends at byte ``place``, with its line end.

    Raises:
        RecordError: It cannot be read.
    """
    with reading(path) as stream:
        start, tail = place, b""
        while start and b"\n" not in tail[:-1]:
            step = min(_BLOCK, start)
            start -= step
            stream.seek(start)
            tail = stream.read(step) + tail
    return tail[tail.rfind(b"\n", 0, -1) + 1 :]


def nth_line(path: Path, index: int) -> bytes:
    """The line of entry ``index``, without its line end.

    Raises:
        RecordError: There is none, or the log cannot be read.
    """
    with reading(path) as stream:
        for number, line in enumerate(stream):
            if number == index and line.endswith(b"\n"):
                return line[:-1]
    raise RecordError(f"there is no entry {index} in {path}", hint="entries count from 0")


def seconds_to_read(log: Path) -> float:
    """How long it may take, at most, to read and check all of a log.

    Whoever publishes a log does that once: where it was long before it had a checkpoint, or where its tiles were lost.
    """
    return log.stat().st_size / SPEED if log.exists() else 0.0
