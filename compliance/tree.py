"""The Merkle tree over a log (RFC 6962 and RFC 9162, section 2.1), stored as tiles of hashes.

A leaf is the hash of a log line without its line end; its index is the entry's ``seq``. The tiles lie as in
https://c2sp.org/tlog-tiles: ``LEVEL/x001/x234/067`` holds 256 hashes, ``....p/WIDTH`` the begun one at the right edge.
They only save work: whoever uses them checks what comes out against a signed head, and makes them anew from the log
where it does not fit (:mod:`compliance.trail`).
"""

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from compliance.verify import EMPTY_ROOT, node_hash
from shared.errors import RecordError
from shared.files import atomic_file, output_errors, sync_folder

HEIGHT: Final = 8
WIDTH: Final = 1 << HEIGHT
HASH: Final = 32  # bytes
_CACHED: Final = 64  # tiles


class DamagedTileError(RecordError):
    """A tile is missing, torn or altered: the tree is to be made anew from the log."""


def tile_path(level: int, number: int, width: int = WIDTH) -> Path:
    """Where a tile lies below the folder of tiles (tlog-tiles)."""
    digits = f"{number:03d}"
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[place : place + 3] for place in range(0, len(digits), 3)]
    name = Path(str(level), *(f"x{group}" for group in groups[:-1]), groups[-1])
    return name if width == WIDTH else name.with_name(f"{name.name}.p") / str(width)


class Tree:
    """The tree of one size over the tiles in ``folder``.

    Args:
        folder: Where the tiles lie; made when the first is written.
        size: Leaves that are in it.
    """

    def __init__(self, folder: Path, size: int = 0) -> None:
        self._folder, self.size = folder, size
        self._cache: dict[tuple[int, int], bytes] = {}

    def clear(self) -> None:
        """Forget and delete every tile.

        Raises:
            RecordError: They cannot be deleted.
        """
        self._cache.clear()
        self.size = 0
        try:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self._folder)
        except OSError as error:
            raise RecordError(f"cannot delete {self._folder}: {error.strerror}", hint="check the folder") from error

    def forget(self) -> None:
        """Read every tile from the disk again; what :meth:`root` then reads is what :meth:`extend` goes on from."""
        self._cache.clear()

    def extend(self, leaves: Iterable[bytes]) -> int:
        """Append leaf hashes, write the tiles that this makes, durably, and return the new size. O(len(leaves)).

        Raises:
            DamagedTileError: What the right edge is made of cannot be read.
            OutputError: A tile cannot be written; the tree is then as before.
        """
        edges = self._edges()
        size, touched = self.size, set()
        for leaf in leaves:
            level, carry = 0, leaf
            while True:
                if level == len(edges):
                    edges.append(bytearray())
                edges[level] += carry
                if len(edges[level]) < WIDTH * HASH:
                    break
                done = bytes(edges[level])
                touched.add(self._write(tile_path(level, size >> HEIGHT * (level + 1)), done))
                edges[level].clear()
                carry, level = _head(done), level + 1
            size += 1
        if size != self.size:
            for level, edge in enumerate(edges):
                if edge:
                    number, width = size >> HEIGHT * (level + 1), len(edge) // HASH
                    touched.add(self._write(tile_path(level, number, width), bytes(edge)))
            with output_errors(self._folder):
                for folder in touched:
                    sync_folder(folder)
        self.size = size
        # The next head is computed from these very bytes: what stands on the disk may be altered meanwhile.
        numbers = (size >> HEIGHT * (level + 1) for level in range(len(edges)))
        self._cache = {(level, number): bytes(edges[level]) for level, number in enumerate(numbers) if edges[level]}
        return size

    def root(self, size: int) -> bytes:
        """The tree head at ``size``, at most that of this tree.

        Raises:
            DamagedTileError: A tile is missing or torn.
        """
        self._require(size)
        return self._span(0, size) if size else EMPTY_ROOT

    def leaf(self, index: int) -> bytes:
        """The hash of a leaf.

        Raises:
            DamagedTileError: Its tile is missing or torn.
        """
        self._require(index + 1)
        return self._node(0, index)

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """The audit path of leaf ``index`` in the tree of ``size`` (RFC 9162, section 2.1.3.1).

        Raises:
            DamagedTileError: A tile is missing or torn.
        """
        self._require(size)
        if not 0 <= index < size:
            raise ValueError(f"there is no leaf {index} in a tree of {size}")
        path: list[bytes] = []
        low, high = 0, size
        while high - low > 1:
            middle = low + _split(high - low)
            if index < middle:
                path.append(self._span(middle, high))
                high = middle
            else:
                path.append(self._span(low, middle))
                low = middle
        return tuple(reversed(path))

    def consistency(self, old: int, size: int) -> tuple[bytes, ...]:
        """The proof that the tree of ``size`` goes on from that of ``old`` (RFC 9162, section 2.1.4.1).

        Empty where ``old`` is 0 or ``size``.

        Raises:
            DamagedTileError: A tile is missing or torn.
        """
        self._require(size)
        if not 0 <= old <= size:
            raise ValueError(f"there is no proof from {old} to {size}")
        if old in {0, size}:
            return ()
        path: list[bytes] = []
        low, high, whole = 0, size, True
        while old < high:
            middle = low + _split(high - low)
            if old <= middle:
                path.append(self._span(middle, high))
                high = middle
            else:
                path.append(self._span(low, middle))
                low, whole = middle, False
        if not whole:
            path.append(self._span(low, high))
        return tuple(reversed(path))

    def _require(self, size: int) -> None:
        if not 0 <= size <= self.size:
            raise ValueError(f"the tree has {self.size} leaves, not {size}")

    def _span(self, low: int, high: int) -> bytes:
        """MTH(D[low:high]), where ``low`` is where a subtree of that many leaves may begin."""
        count = high - low
        if count & (count - 1) == 0:
            return self._node(count.bit_length() - 1, low // count)
        middle = low + _split(count)
        return node_hash(self._span(low, middle), self._span(middle, high))

    def _node(self, height: int, index: int) -> bytes:
        """The head of the complete subtree number ``index`` of 2**height leaves."""
        level, above = divmod(height, HEIGHT)
        first = index << above
        number, place = divmod(first, WIDTH)
        tile = self._tile(level, number)
        return _head(tile[place * HASH : (place + (1 << above)) * HASH])

    def _tile(self, level: int, number: int) -> bytes:
        """As many hashes of a tile as this tree has."""
        if (found := self._cache.get((level, number))) is None:
            width = min((self.size >> HEIGHT * level) - number * WIDTH, WIDTH)
            found = self._read(level, number, width)
            if len(self._cache) >= _CACHED:
                self._cache.pop(next(iter(self._cache)))
            self._cache[level, number] = found
        return found

    def _read(self, level: int, number: int, width: int) -> bytes:
        for wide in dict.fromkeys((width, WIDTH)):  # the begun tile may be gone once the full one is there
            path = self._folder / tile_path(level, number, wide)
            try:
                raw = path.read_bytes()
            except OSError:
                continue
            if len(raw) == wide * HASH:
                return raw[: width * HASH]
        where = tile_path(level, number, width)
        raise DamagedTileError(f"the tile {where} is missing or torn", hint="it is made anew from the log")

    def _edges(self) -> list[bytearray]:
        """The begun tile of each level, without those that are full."""
        edges, level = [], 0
        while self.size >> HEIGHT * level:
            width = (self.size >> HEIGHT * level) % WIDTH
            edges.append(bytearray(self._tile(level, self.size >> HEIGHT * (level + 1)) if width else b""))
            level += 1
        return edges

    def _write(self, name: Path, hashes: bytes) -> Path:
        """Write a tile whole; the caller makes its folder durable, once for all that it writes there."""
        path = self._folder / name
        with atomic_file(path, mode=0o600) as stream:
            stream.write(hashes)
            stream.flush()
            os.fsync(stream.fileno())
        if name.suffix == "" and (begun := path.with_name(f"{path.name}.p")).exists():
            shutil.rmtree(begun, ignore_errors=True)  # tlog-tiles allows it once the full tile is there
        return path.parent


def _split(count: int) -> int:
    """The largest power of two below ``count``."""
    return 1 << (count - 1).bit_length() - 1


def _head(hashes: bytes) -> bytes:
    """The head of a subtree whose leaves are these hashes."""
    row = [hashes[place : place + HASH] for place in range(0, len(hashes), HASH)]
    while len(row) > 1:
        row = [node_hash(row[place], row[place + 1]) for place in range(0, len(row), 2)]
    return row[0]
