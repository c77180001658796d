"""Files that are either whole or absent, and that say plainly when the disk will not take them."""

import contextlib
import errno
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import rfc8785

from shared.errors import FedwardError, OutputError, RecordError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LOOK = 0.05  # seconds between two looks at a lock


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` met while writing ``path`` into an :class:`OutputError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            hint = "free some space or choose another folder, then run the same command again"
        elif error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            hint = "choose a folder that you may write to"
        else:
            hint = "check the folder and run the same command again"
        raise OutputError(f"cannot write {path}: {error.strerror or error}", hint=hint) from error


def sync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` durable (POSIX: the directory entry needs its own fsync)."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def private_folder(folder: Path) -> None:
    """Make ``folder`` where it is missing, and what is missing above it, for their owner alone (0700).

    A folder that is there keeps its mode: who made it knows whom it is for.

    Raises:
        OutputError: It cannot be made.
    """
    with output_errors(folder):
        for missing in reversed([one for one in (folder, *folder.parents) if not one.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)


@contextlib.contextmanager
def atomic_file(path: Path, *, mode: int = 0o644, durable: bool = False, replace: bool = True) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` that takes its place only when the block ends without an error.

    Args:
        path: The file to write; its folder is made where missing.
        mode: Permission bits of the finished file.
        durable: Also fsync the file and its folder, so that it survives a power cut.
        replace: Whether it takes the place of a file that is there by then; otherwise that one stays.

    Raises:
        OutputError: The disk is full, or the folder may not be written.
    """
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                yield stream
                stream.flush()
                if durable:
                    os.fsync(stream.fileno())
            temporary.chmod(mode)
            if replace:
                temporary.replace(path)
            else:
                with contextlib.suppress(FileExistsError):
                    path.hardlink_to(temporary)
                temporary.unlink()
            if durable:
                sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def locked(
    path: Path,
    otherwise: str,
    *,
    hint: str = "wait for it, or stop it, and try again",
    error: type[FedwardError] = RecordError,
    patience: float = 0.0,
) -> IO[bytes]:
    """The lock at ``path``, taken; to close it gives it back, and so does the end of the process.

    Args:
        path: Made with mode 0600 where missing; nothing is written to it.
        otherwise: What it means when another process has it.
        hint: What to do then.
        error: What is raised then.
        patience: Seconds for which another process may have it: :func:`held` has it for an instant.

    Raises:
        FedwardError: ``error``, since another process has it.
        OutputError: The file cannot be made.
    """
    with output_errors(path):
        stream = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b", buffering=0)
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < end:
                time.sleep(_LOOK)
                continue
            stream.close()
            raise error(f"{otherwise}: it holds {path}", hint=hint) from None
        return stream


def held(path: Path) -> bool:
    """Whether a process has the lock at ``path`` (see :func:`locked`); False where there is no such file.

    Who looks has the lock for an instant, together with others that look.

    Raises:
        OutputError: The file cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror}", hint="ask as the user whose it is") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def write_bytes(path: Path, data: bytes, *, mode: int = 0o644, durable: bool = False, replace: bool = True) -> None:
    """Write ``data`` to ``path``, whole or not at all (see :func:`atomic_file`)."""
    with atomic_file(path, mode=mode, durable=durable, replace=replace) as stream:
        stream.write(data)


def write_json(path: Path, value: object, *, mode: int = 0o644, durable: bool = False) -> None:
    """Write ``value`` as indented UTF-8 JSON for people, whole or not at all (see :func:`atomic_file`)."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode(), mode=mode, durable=durable)


def canonical_json(value: object) -> bytes:
    """``value`` in the one byte form of RFC 8785 (JSON Canonicalization Scheme), fit for hashing and signing."""
    return rfc8785.dumps(value)  # type: ignore[arg-type]  # the library's own recursive type is private
