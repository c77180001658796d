"""The checkpoints of one log: signed tree heads, published in an order that never contradicts itself.

Beside ``audit/log.jsonl`` lie ``tiles/`` (hashes; :mod:`compliance.tree`), ``checkpoints/SIZE`` (every checkpoint that
was published, with the cosignatures that it got) and ``checkpoint`` (a copy of the newest). Appending costs none of it.

A checkpoint is on disk before anybody gets it, and none is signed that does not go on from the last one. So a log that
was cut, rewritten or replaced by an older copy is refused here (45 CFR 164.312(c)(1), integrity). Where the whole
folder with its checkpoints was replaced by an older copy, nothing in it shows that: the witnesses know better.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

from compliance.checkpoint import Signed
from compliance.lines import line_before, nth_line, reading, seconds_to_read, settled
from compliance.note import Signer, lines_of, write_note
from compliance.tree import DamagedTileError, Tree
from compliance.verify import (
    GENESIS,
    Key,
    Note,
    NotVerifiedError,
    leaf_hash,
    read_entry,
    read_log,
    root_from_consistency,
    root_from_inclusion,
)
from shared.errors import RecordError, UsageError
from shared.files import locked, output_errors, write_bytes, write_json
from shared.parsing import parse_json

LOG: Final = "log.jsonl"
NEWEST: Final = "checkpoint"
PUBLISHED: Final = "checkpoints"
TILES: Final = "tiles"
_STATE: Final = "state.json"
_PATIENCE: Final = 60.0  # seconds for which another process may be publishing, beside those in which it reads
_BLOCK: Final = 1 << 16
_KEEP: Final = "keep the whole audit folder as evidence; restore the log from a copy that verifies"
_Proof = TypeVar("_Proof")


class Occasion(StrEnum):
    """When a checkpoint is published whatever was appended since, if anything was."""

    ROUND_START = "round start"
    ROUND_END = "round end"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True)
class Publishing:
    """How far a log may run ahead of its newest checkpoint: what is not published, no witness can vouch for."""

    entries: int = 256
    every: timedelta = timedelta(minutes=10)


class Trail:
    """The checkpoints of the log in one ``audit/`` folder.

    Args:
        folder: That folder.
        signer: The log key under the log's origin; or, to read only, the log's public key.
        publishing: When a checkpoint is due.

    Raises:
        UsageError: The key is not that of a log.
    """

    def __init__(self, folder: Path, signer: Signer | Key, publishing: Publishing = Publishing()) -> None:
        self.folder, self._publishing = folder, publishing
        self._signer = signer if isinstance(signer, Signer) else None
        self.key = signer.log_key if isinstance(signer, Signer) else signer
        self._tree = Tree(folder / TILES)
        self._place = 0  # bytes of the log that are in the tree
        self._last: tuple[int, datetime] | None = None

    @property
    def origin(self) -> str:
        """The name of the log."""
        return self.key.name

    def checkpoint(self) -> Signed:
        """Publish the log as it is now: read on, check, sign, store durably. The newest one again if nothing is new.

        Raises:
            RecordError: The log was cut, rewritten or is an older copy, or cannot be read.
            OutputError: The disk does not take it; nothing was published.
        """
        if self._signer is None:
            raise UsageError("only who has the log key publishes", hint="do it in the folder of the node")
        with self._alone():
            signed = self._greatest()
            if (size := self._catch_up(signed)) != (signed.size if signed else 0) or signed is None:
                signed = Signed.make(self._signer, size, self._tree.root(size))
                write_bytes(self._path(size), signed.raw, durable=True)
            self._copy(signed)  # also where one who was killed did not come to it
            self._last = size, datetime.now(UTC)
            return signed

    def due(self, entries: int, occasion: Occasion | None = None, *, now: datetime | None = None) -> bool:
        """Whether to publish: so many entries stand in the log, and ``occasion`` is at hand.

        Cheap: only at first is the newest checkpoint read, which may raise.
        """
        if self._last is None:
            newest = self.newest()
            self._last = (newest.size, self.published(newest.size)) if newest else (0, datetime.fromtimestamp(0, UTC))
        size, moment = self._last
        if entries <= size:
            return False
        late = (now or datetime.now(UTC)) - moment >= self._publishing.every
        return occasion is not None or late or entries - size >= self._publishing.entries

    def add_cosignature(self, size: int, line: str, witness: Key) -> Signed:
        """Put a witness's cosignature under the checkpoint of ``size``; the same one again changes nothing.

        Args:
            size: That of the checkpoint, as it was published here.
            line: The signature line, with its line feed.
            witness: The key that must have made it.

        Raises:
            RecordError: It does not hold, or there is no such checkpoint.
            OutputError: It cannot be stored.
        """
        with self._alone():
            signed = self.at(size)
            try:
                raw = write_note(signed.note.text, *lines_of(signed.raw), *line.splitlines(keepends=True))
                if len(line.splitlines()) != 1 or Note.parse(raw).of(witness) is None:
                    raise NotVerifiedError(f"it is not one of {witness.name}")
            except ValueError as error:
                raise RecordError(
                    f"the cosignature of {witness.name} under {size} entries does not hold: {error}",
                    hint="ask that witness again",
                ) from error
            found = Signed.read(raw, self.key)
            moment = self.published(size).timestamp()
            write_bytes(self._path(size), found.raw, durable=True)
            os.utime(self._path(size), (moment, moment))
            self._copy(found)
            return found

    def _copy(self, signed: Signed) -> None:
        """Make it the newest, unless a greater one is; nothing is written where it is already."""
        newest, copy = self.newest() or signed, self._copied()
        if signed.size >= newest.size and (copy is None or signed.raw != copy.raw):
            write_bytes(self.folder / NEWEST, signed.raw, durable=True)

    def _copied(self) -> Signed | None:
        path = self.folder / NEWEST
        return Signed.read(path.read_bytes(), self.key, str(path)) if path.exists() else None

    def sizes(self) -> list[int]:
        """The sizes at which checkpoints were published, ascending."""
        try:
            names = os.listdir(self.folder / PUBLISHED)  # noqa: PTH208  # thousands of names, of which no paths are made
        except FileNotFoundError:
            return []
        return sorted(int(name) for name in names if name.isdecimal())

    def at(self, size: int) -> Signed:
        """The checkpoint that was published at ``size``.

        Raises:
            RecordError: There is none, or it was altered.
        """
        path = self._path(size)
        try:
            signed = Signed.read(path.read_bytes(), self.key, str(path))
        except OSError as error:
            raise RecordError(
                f"there is no checkpoint of {size} entries here", hint="see 'audit checkpoints'"
            ) from error
        if signed.size != size:
            raise RecordError(f"{path} is a checkpoint of {signed.size} entries", hint=_KEEP)
        return signed

    def newest(self) -> Signed | None:
        """The checkpoint that was published last, or None where none was; no folder is listed for it.

        Raises:
            RecordError: It was altered.
        """
        copy = self._copied()
        if copy is not None and self._path(copy.size).exists():
            return self.at(copy.size)
        return copy or self._greatest()

    def _greatest(self) -> Signed | None:
        """The one of the greatest size, whatever the copy of the newest says: nothing is signed that contradicts it."""
        size, copy = max(self.sizes(), default=-1), self._copied()
        if copy is not None and copy.size > size:  # all is lost of checkpoints/ but this
            return copy
        return self.at(size) if size >= 0 else None

    def published(self, size: int) -> datetime:
        """When the checkpoint of ``size`` was published, by the clock of this machine; long ago where none was."""
        there = (path := self._path(size)).exists()
        return datetime.fromtimestamp(path.stat().st_mtime if there else 0, UTC)

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """The proof that entry ``index`` stands in the log as it was published at ``size``; checked before it is given.

        Raises:
            RecordError: There is no such checkpoint or entry, or the log is not the one that was published.
        """
        signed = self.at(size)
        if not 0 <= index < size:
            raise RecordError(f"there is no entry {index} in a log of {size}", hint="entries count from 0")

        def prove() -> tuple[bytes, ...]:
            proof = self._tree.inclusion(index, size)
            _same(root_from_inclusion(index, size, self._tree.leaf(index), proof), signed)
            return proof

        return self._proved(signed, prove)

    def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """The proof that the log as published at ``new`` goes on from its first ``old`` entries; checked before.

        Raises:
            RecordError: There is no such checkpoint, or the log is not the one that was published.
        """
        signed = self.at(new)
        if not 0 <= old <= new:
            raise RecordError(f"there is no proof from {old} to {new} entries", hint="the old size is the smaller one")

        def prove() -> tuple[bytes, ...]:
            proof = self._tree.consistency(old, new)
            if old > 0:
                _same(root_from_consistency(old, new, self._tree.root(old), proof), signed)
            return proof

        return self._proved(signed, prove)

    def line(self, index: int) -> bytes:
        """The line of entry ``index`` as it stands in the log, without its line end.

        Raises:
            RecordError: There is none.
        """
        return nth_line(self.folder / LOG, index)

    def require_leaf(self, index: int, line: bytes) -> None:
        """Refuse a line that is not the one that the tree has for entry ``index``.

        Raises:
            RecordError: It was altered since it was published.
        """
        if leaf_hash(line) != self._tree.leaf(index):
            raise RecordError(f"entry {index} of {self.folder / LOG} was altered since it was published", hint=_KEEP)

    def _proved(self, signed: Signed, prove: Callable[[], _Proof]) -> _Proof:
        with self._alone():
            self._load()
            try:
                return prove()
            except (DamagedTileError, NotVerifiedError, ValueError):  # a ValueError: the tree is too small
                newest = self._greatest() or signed
                self._rebuild(newest, newest.size)
            try:
                return prove()
            except (DamagedTileError, NotVerifiedError) as error:
                raise RecordError(
                    f"{self.folder / LOG} is not the log that was published at {signed.size} entries", hint=_KEEP
                ) from error

    def _catch_up(self, newest: Signed | None) -> int:
        """Bring the tree to the log's end and return the number of its entries; the lock is held.

        Raises:
            RecordError: The log does not go on from ``newest``.
        """
        stop = self._settled()
        try:
            found = self._known(newest, stop)
        except (DamagedTileError, NotVerifiedError, ValueError):
            found = None
        if found is None:
            return self._rebuild(newest)
        place, head = found
        self._read_on(place, head, stop)
        return self._tree.size

    def _known(self, newest: Signed | None, stop: int) -> tuple[int, str] | None:
        """Where in the log the tree ends, and the hash of that line, if log, tree and ``newest`` fit together there."""
        size, place = self._load(), self._place
        self._tree.forget()
        # What the tiles have beyond the last head, nothing vouches for: a process was killed before it published.
        if size != (newest.size if newest else 0) or place > stop:
            return None
        if newest is not None and self._tree.root(newest.size) != newest.root:
            return None
        if not size:
            return (0, GENESIS) if not place else None
        line = line_before(self.folder / LOG, place)
        if leaf_hash(line[:-1]) != self._tree.leaf(size - 1):
            return None
        return place, hashlib.sha256(line).hexdigest()

    def _rebuild(self, newest: Signed | None, limit: int | None = None) -> int:
        """Make the tiles anew from ``limit`` entries of the log, once it is shown that it goes on from ``newest``."""
        stop = self._settled()
        if newest is not None:
            self._require(newest, stop)
        self._tree.clear()
        self._read_on(0, GENESIS, stop, limit)
        return self._tree.size

    def _require(self, newest: Signed, stop: int) -> None:
        """Refuse a log that does not go on from ``newest``, and touch nothing: what lies there is evidence."""
        try:
            with reading(self.folder / LOG) as stream:
                found = read_log(stream, [newest.size], stop)
        except NotVerifiedError as error:
            raise RecordError(f"{self.folder / LOG} {error}", hint=_KEEP) from error
        if found.entries < newest.size:
            raise RecordError(
                f"{self.folder / LOG} has {found.entries} entries, {newest.size} were published: it was cut off "
                "or is an older copy",
                hint=_KEEP,
            )
        if found.roots[newest.size] != newest.root:
            raise RecordError(
                f"{self.folder / LOG} was rewritten: its first {newest.size} entries are not those published",
                hint=_KEEP,
            )

    def _read_on(self, place: int, head: str, stop: int, limit: int | None = None) -> None:
        def leaves() -> Iterator[bytes]:
            nonlocal place, head
            number = self._tree.size
            with reading(self.folder / LOG) as stream:
                stream.seek(place)
                while place < stop and number != limit:
                    line = stream.readline()
                    try:
                        read_entry(line, number, head)
                    except NotVerifiedError as error:
                        raise RecordError(f"{self.folder / LOG} {error}", hint=_KEEP) from error
                    place, number, head = place + len(line), number + 1, hashlib.sha256(line).hexdigest()
                    yield leaf_hash(line[:-1])

        before = self._tree.size
        if self._tree.extend(leaves()) != before or not before:
            self._place = place
            write_json(self.folder / TILES / _STATE, {"size": self._tree.size, "bytes": place}, durable=True)

    def _load(self) -> int:
        """How many leaves the tiles have, by their own account, which everything that is read from them tests."""
        try:
            raw = parse_json((self.folder / TILES / _STATE).read_bytes())
            size, place = raw["size"], raw["bytes"]
            sound = type(size) is int and type(place) is int and size >= 0 and place >= 0
        except (OSError, ValueError, KeyError, TypeError):
            sound = False
        if not sound:
            size = place = 0
        if size != self._tree.size:
            self._tree = Tree(self.folder / TILES, size)
        self._place = place
        return self._tree.size

    def _settled(self) -> int:
        """Bytes of whole entries in the log, all on disk: a writer holds the lock until its own are (``fsync``).

        One that was killed between its write and its fsync has left them to nobody, so they are made durable here,
        before a head over them is signed.
        """
        stop = settled(self.folder / LOG)[0]
        with reading(self.folder / LOG) as stream:
            os.fsync(stream.fileno())
        return stop

    def _path(self, size: int) -> Path:
        return self.folder / PUBLISHED / str(size)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with output_errors(self.folder / PUBLISHED):
            (self.folder / PUBLISHED).mkdir(parents=True, exist_ok=True, mode=0o700)
        patience = _PATIENCE + seconds_to_read(self.folder / LOG)  # a round that comes then is late, and not refused
        with locked(self.folder / "trail.lock", "another process is publishing this log", patience=patience):
            yield


def _same(root: bytes, signed: Signed) -> None:
    if root != signed.root:
        raise NotVerifiedError("the tree is not the one that was signed")
