"""The one encoding of everything that secure aggregation signs, authenticates, hashes or derives a key from.

An encoding is ``b"fwsa"``, one byte of version, the domain (a text that names the structure) and its fields. Each item
is a tag and its content; the content has a fixed length or is preceded by it::

    u  unsigned integer   8 bytes, big-endian
    b  byte string        length (4 bytes, big-endian), content
    s  text               length (4 bytes, big-endian), content in UTF-8
    l  list               number of items (4 bytes, big-endian), items

Two different sequences of fields never have the same encoding, and no encoding of one domain is one of another:
a signature or a key of one step cannot stand in another (domain separation).
"""

import itertools
from collections.abc import Callable, Iterable
from typing import TypeAlias, TypeVar

from shared.errors import ProtocolError

MAGIC = b"fwsa"
VERSION = 1
MAX_BYTES = 64 * 2**20  # of one message; masked vectors stand outside the encoding
MAX_ITEMS = 2**16  # of one list
MAX_TEXT = 256  # bytes

Field: TypeAlias = "int | bytes | str | Iterable[Field]"
Item = TypeVar("Item")


def encode(domain: str, *fields: Field) -> bytes:
    """The encoding of ``fields`` in ``domain``.

    Raises:
        ValueError: An integer outside [0, 2^64), or a field that is too long.
    """
    return b"".join([MAGIC, bytes([VERSION]), _item(domain), *(_item(field) for field in fields)])


def _item(field: Field) -> bytes:
    match field:
        case bool():
            raise ValueError("a truth value has no encoding; say 0 or 1")
        case int():
            if not 0 <= field < 2**64:
                raise ValueError("an integer of an encoding is at least 0 and below 2^64")
            return b"u" + field.to_bytes(8, "big")
        case bytes():
            return b"b" + _length(len(field), MAX_BYTES) + field
        case str():
            text = field.encode()
            return b"s" + _length(len(text), MAX_TEXT) + text
        case _:
            items = [_item(one) for one in field]
            return b"l" + _length(len(items), MAX_ITEMS) + b"".join(items)


def _length(length: int, limit: int) -> bytes:
    if length > limit:
        raise ValueError(f"a field of an encoding is {length} long; at most {limit} are allowed")
    return length.to_bytes(4, "big")


def pieces(raw: bytes, length: int) -> list[bytes]:
    """``raw`` cut into pieces of ``length`` bytes; its own length is a multiple of that."""
    return [raw[place : place + length] for place in range(0, len(raw), length)]


class Reader:
    """Reads one encoding field by field, and refuses whatever :func:`encode` would not have written.

    Args:
        raw: The encoding, whole.
        domain: The domain that it must have.
        party: Who sent it, for the message of an error.

    Every method raises :class:`ProtocolError` where the next item is not what was asked for.
    """

    def __init__(self, raw: bytes, domain: str, *, party: str = "the other end") -> None:
        self._raw, self._place, self._domain, self._party = raw, 0, domain, party
        if len(raw) > MAX_BYTES:
            raise self.fault(f"it has {len(raw)} bytes, more than {MAX_BYTES}")
        if self._take(len(MAGIC)) != MAGIC or self._take(1) != bytes([VERSION]):
            raise self.fault(f"it is not an encoding of version {VERSION}")
        if self.text() != domain:
            raise self.fault("it is another kind of message")

    def fault(self, what: str) -> ProtocolError:
        """An error that names the sender and the kind of message."""
        return ProtocolError(
            f"the message '{self._domain}' of {self._party} cannot be read: {what}",
            hint="install the same release at both ends",
        )

    def integer(self, low: int = 0, high: int = 2**64 - 1) -> int:
        """The next field, an integer in [low, high]."""
        self._tag(b"u")
        value = int.from_bytes(self._take(8), "big")
        if not low <= value <= high:
            raise self.fault(f"{value} is not between {low} and {high}")
        return value

    def data(self, length: int | None = None) -> bytes:
        """The next field, a byte string, of ``length`` bytes where that is given."""
        self._tag(b"b")
        content = self._take(self._count(MAX_BYTES))
        if length is not None and len(content) != length:
            raise self.fault(f"a field has {len(content)} bytes instead of {length}")
        return content

    def text(self) -> str:
        """The next field, a text."""
        self._tag(b"s")
        try:
            return self._take(self._count(MAX_TEXT)).decode()
        except UnicodeDecodeError as error:
            raise self.fault("a text is not UTF-8") from error

    def many(self, read: Callable[["Reader"], Item], limit: int = MAX_ITEMS) -> tuple[Item, ...]:
        """The next field, a list of at most ``limit`` items, each read by ``read``."""
        self._tag(b"l")
        return tuple(read(self) for _ in range(self._count(limit)))

    def fields(self, read: Callable[["Reader"], Item], count: int) -> tuple[Item, ...]:
        """The next field, a list of exactly ``count`` items, each read by ``read``."""
        found = self.many(read, count)
        if len(found) != count:
            raise self.fault(f"a list has {len(found)} items instead of {count}")
        return found

    def indices(self, limit: int = 1000) -> tuple[int, ...]:
        """The next field, a list of member indices in strictly rising order, each from 1 to ``limit``."""
        found = self.many(lambda reader: reader.integer(1, limit), limit)
        if any(a >= b for a, b in itertools.pairwise(found)):
            raise self.fault("its member indices do not rise")
        return found

    def end(self) -> None:
        """Nothing may follow."""
        if self._place != len(self._raw):
            raise self.fault(f"{len(self._raw) - self._place} bytes follow its end")

    def _tag(self, tag: bytes) -> None:
        if self._take(1) != tag:
            raise self.fault("a field has another type")

    def _count(self, limit: int) -> int:
        count = int.from_bytes(self._take(4), "big")
        if count > limit:
            raise self.fault(f"a field of length {count} is longer than {limit}")
        return count

    def _take(self, count: int) -> bytes:
        content = self._raw[self._place : self._place + count]
        if len(content) != count:
            raise self.fault("it ends too early")
        self._place += count
        return bytes(content)
