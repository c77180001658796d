"""The hospital's ledger of secure aggregation, on disk: what must not be done twice, and the secrets of one epoch.

Two files in a folder of its own:

- ``ledger.bin``: everything that is remembered, in the encoding of ``shared/secagg/encoding.py``, and its SHA-256.
  Each change replaces it whole, and names the SHA-256 of the one before.
- ``mark.bin``: the SHA-256 of the ledger and its newest epoch; written after it. A ledger that is neither the marked
  one nor the next after it is an older copy that someone has put back, and is refused. Whoever works on the ledger
  holds a lock on this file.

What this does not promise. A whole folder that is put back (a backup, a snapshot of the machine) is consistent and
cannot be told apart: leave the folder out of backups, and after a restore delete it; a ledger that is *lost* is safe,
since all its secrets are drawn anew. What is erased is unlinked, not overwritten: a journalling or copying file system,
the flash below it, a snapshot or a swap file may hold it for longer. Only an encrypted disk covers that.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from shared.errors import PolicyError, ProtocolError, RecordError
from shared.files import output_errors, sync_folder, write_bytes
from shared.secagg.encoding import Reader, encode
from shared.secagg.keys import KEY_BYTES, EpochState
from shared.secagg.ledger import Claim, Memory, MemoryLedger

FINGERPRINT_BYTES = 32
LEDGER, MARK = "ledger.bin", "mark.bin"
PRIVATE_FOLDER, PRIVATE = 0o700, 0o600
_SELF = "this hospital's own ledger"
_CHECK_BYTES = hashlib.sha256().digest_size
Item = TypeVar("Item")


@dataclass(frozen=True)
class _Mark:
    """How far the ledger has come: the SHA-256 of its content, and its newest epoch (-1 before any)."""

    check: bytes = bytes(_CHECK_BYTES)
    epoch: int = -1


@dataclass(frozen=True)
class _Content:
    """What stands in ``ledger.bin``: the SHA-256 of what stood there before, the charter, and what is remembered."""

    previous: bytes
    fingerprint: bytes
    memory: Memory

    @property
    def mark(self) -> _Mark:
        return _Mark(hashlib.sha256(_encoded(self)).digest(), self.memory.epoch)


class MaskLedger:
    """A :class:`~shared.secagg.ledger.Ledger` in files; any number of processes may use one folder, in turn.

    Nothing is kept between two calls. Each waits until it has the folder to itself, reads it, lets
    :class:`~shared.secagg.ledger.MemoryLedger` decide, and returns when the change is durable; a process that is
    killed leaves the ledger as it was before the call or as it is after it.

    Args:
        folder: For the ledger alone; made with mode 0700 where missing.
        fingerprint: :attr:`shared.secagg.federation.Federation.fingerprint`, 32 bytes. Under another one than that of
            the epoch in the ledger, that epoch is over, and only one with a higher number can begin.
        draw: Gives so many random bytes; the operating system's by default.

    Every method raises, beside what :class:`~shared.secagg.ledger.Ledger` says,

    - :class:`OutputError`: The disk is full or may not be written; nothing must leave.
    - :class:`PolicyError`: Others than its owner may read it (45 CFR 164.312(a)(1), access control), or it is an
      older copy.
    - :class:`RecordError`: It is damaged, or cannot be read.
    """

    def __init__(self, folder: Path, fingerprint: bytes, draw: Callable[[int], bytes] = os.urandom) -> None:
        if len(fingerprint) != FINGERPRINT_BYTES:
            raise ValueError(f"a fingerprint has {FINGERPRINT_BYTES} bytes, not {len(fingerprint)}")
        self._folder, self._fingerprint, self._draw = folder, fingerprint, draw
        self._ledger, self._mark = folder / LEDGER, folder / MARK

    def seed(self, epoch: int) -> bytes:
        """See :class:`~shared.secagg.ledger.Ledger`."""
        with self._opened() as ledger:
            return ledger.seed(epoch)

    def pin(self, epoch: int, state: EpochState) -> None:
        """See :class:`~shared.secagg.ledger.Ledger`."""
        with self._opened() as ledger:
            ledger.pin(epoch, state)

    def state(self, epoch: int) -> EpochState | None:
        """See :class:`~shared.secagg.ledger.Ledger`."""
        with self._opened() as ledger:
            return ledger.state(epoch)

    def claim(self, epoch: int, number: int, context: bytes, participants: tuple[int, ...]) -> None:
        """See :class:`~shared.secagg.ledger.Ledger`."""
        with self._opened() as ledger:
            ledger.claim(epoch, number, context, participants)

    def claimed(self, epoch: int, number: int) -> Claim | None:
        """See :class:`~shared.secagg.ledger.Ledger`."""
        with self._opened() as ledger:
            return ledger.claimed(epoch, number)

    def confirm(self, epoch: int, number: int, included: tuple[int, ...]) -> None:
        """See :class:`~shared.secagg.ledger.Ledger`."""
        with self._opened() as ledger:
            ledger.confirm(epoch, number, included)

    def unmask(self, epoch: int, number: int, included: tuple[int, ...]) -> None:
        """See :class:`~shared.secagg.ledger.Ledger`."""
        with self._opened() as ledger:
            ledger.unmask(epoch, number, included)

    def forget(self, epoch: int, number: int) -> None:
        """See :class:`~shared.secagg.ledger.Ledger`."""
        with self._opened() as ledger:
            ledger.forget(epoch, number)

    # --- reading and writing ------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _opened(self) -> Iterator[MemoryLedger]:
        """The rules over what the files hold; what they have changed is on disk when the block has ended."""
        with self._locked() as handle:
            mark = self._read_mark(handle)
            content = self._read()
            if content is not None:
                mark = self._marked(handle, mark, content)
            if content is None or content.fingerprint != self._fingerprint:
                memory = Memory(mark.epoch)  # its number is all that may be known of that epoch
            else:
                memory = content.memory
            ledger = MemoryLedger(self._draw, memory)
            yield ledger
            if ledger.memory is not memory:
                self._write(handle, _Content(mark.check, self._fingerprint, ledger.memory))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """The open file of the mark, for this process alone."""
        with output_errors(self._folder):
            if not self._folder.is_dir():
                self._folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
                sync_folder(self._folder.parent)
            _check_private(self._folder, self._folder.stat().st_mode, PRIVATE_FOLDER)
            handle = os.open(self._mark, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        try:
            with output_errors(self._folder):
                fcntl.flock(handle, fcntl.LOCK_EX)
                _check_private(self._mark, os.fstat(handle).st_mode, PRIVATE)
                for part in self._folder.glob(f".{LEDGER}.*.part"):  # of a process that was killed; it holds secrets
                    part.unlink()
            yield handle
        finally:
            # Closing would leave the lock with a child that was forked meanwhile and has inherited the handle.
            fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)

    def _read(self) -> _Content | None:
        try:
            with self._ledger.open("rb") as stream:
                _check_private(self._ledger, os.fstat(stream.fileno()).st_mode, PRIVATE)
                raw = stream.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(self._ledger, error) from error
        try:
            return _content(_unsealed(raw))
        except ProtocolError as error:
            raise self._damaged(self._ledger) from error

    def _read_mark(self, handle: int) -> _Mark:
        try:
            raw = os.pread(handle, os.fstat(handle).st_size, 0)
        except OSError as error:
            raise _unreadable(self._mark, error) from error
        try:
            # An empty one was made by a process that was killed, or is ours.
            return _mark(_unsealed(raw)) if raw else _Mark()
        except ProtocolError as error:
            raise self._damaged(self._mark) from error

    def _marked(self, handle: int, mark: _Mark, content: _Content) -> _Mark:
        """The mark of ``content``: that which was read, or a new one where a process ended between the two files."""
        found = content.mark
        if found == mark:
            return mark
        if content.previous != mark.check:
            newest = max(found.epoch, mark.epoch)
            raise PolicyError(
                f"{self._ledger} is not the ledger that {self._mark} marks: one of the two is an older copy",
                hint=f"delete {self._ledger}, keep {self._mark}, and ask the coordinator to begin an epoch "
                f"above {newest}; do not put copies back",
            )
        with output_errors(self._ledger):
            sync_folder(self._folder)
        self._write_mark(handle, found)
        return found

    def _write(self, handle: int, content: _Content) -> None:
        raw = _sealed(_encoded(content))
        write_bytes(self._ledger, raw, mode=PRIVATE, durable=True)
        self._write_mark(handle, content.mark)

    def _write_mark(self, handle: int, mark: _Mark) -> None:
        """Overwrite the mark in place: always of one length and within one sector, so it is the old or the new one.

        Its own entry in the folder is durable by the next change of the ledger; until then its absence is allowed.
        """
        raw = _sealed(encode("mask ledger mark", mark.check, mark.epoch))
        with output_errors(self._mark):
            if os.pwrite(handle, raw, 0) != len(raw):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle)

    def _damaged(self, path: Path) -> RecordError:
        what = f"delete {path}, keep {self._mark}," if path == self._ledger else f"delete {self._folder}"
        return RecordError(
            f"{path} is damaged, or was written by another release; no running epoch goes on from it",
            hint=f"{what} and ask the coordinator to begin a new epoch; do not put copies back",
        )


def _check_private(path: Path, mode: int, wanted: int) -> None:
    if mode & 0o077:
        raise PolicyError(f"others may read {path}, which holds keys", hint=f"run: chmod {wanted:o} {path}")


def _unreadable(path: Path, error: OSError) -> RecordError:
    return RecordError(f"cannot read {path}: {error.strerror}", hint="check the disk, and try again")


# --- the content of the files -----------------------------------------------------------------------------------------


def _sealed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


def _unsealed(raw: bytes) -> bytes:
    """The body of a file.

    Raises:
        ProtocolError: Its SHA-256 is another one.
    """
    body = raw[:-_CHECK_BYTES]
    if _sealed(body) != raw:
        raise ProtocolError("the file does not have the SHA-256 that stands at its end")
    return body


def _encoded(content: _Content) -> bytes:
    memory = content.memory
    claims = [
        encode("claim", number, claim.context, claim.participants, _maybe(claim.included), int(claim.revealed))
        for number, claim in memory.claims.items()
    ]
    secrets = (_maybe(memory.seed), _maybe(memory.state))
    return encode("mask ledger", content.previous, content.fingerprint, memory.epoch, *secrets, memory.newest, claims)


def _content(body: bytes) -> _Content:
    reader = Reader(body, "mask ledger", party=_SELF)
    previous, fingerprint, epoch = reader.data(_CHECK_BYTES), reader.data(FINGERPRINT_BYTES), reader.integer()
    seeds = reader.many(lambda one: one.data(KEY_BYTES), 1)
    states = reader.many(Reader.data, 1)
    newest, claims = reader.integer(), dict(_claim(one) for one in reader.many(Reader.data))
    reader.end()
    memory = Memory(epoch, seeds[0] if seeds else None, states[0] if states else None, claims, newest)
    return _Content(previous, fingerprint, memory)


def _claim(body: bytes) -> tuple[int, Claim]:
    reader = Reader(body, "claim", party=_SELF)
    number, context, participants = reader.integer(), reader.data(), reader.many(Reader.integer)
    included, revealed = reader.many(lambda one: one.many(Reader.integer), 1), reader.integer(0, 1)
    reader.end()
    return number, Claim(context, participants, included[0] if included else None, bool(revealed))


def _mark(body: bytes) -> _Mark:
    reader = Reader(body, "mask ledger mark", party=_SELF)
    mark = _Mark(reader.data(_CHECK_BYTES), reader.integer())
    reader.end()
    return mark


def _maybe(value: Item | None) -> tuple[Item, ...]:
    return () if value is None else (value,)
