"""Check a fedward audit log without fedward: this one file needs Python 3.11 and the package ``cryptography``.

    python verify.py log.jsonl checkpoint --log-key VKEY --witness VKEY --witness VKEY --quorum 2

It reads the log from its first line to its last (canonical JSON of RFC 8785, numbers without a gap, each line the
SHA-256 of the one before it), computes the Merkle tree head at the checkpoint's size (RFC 6962, section 2.1), and
checks the log's signature and the witnesses' cosignatures under the keys that you name. Get these keys from the
members themselves, not from whom you check.

Formats: https://c2sp.org/signed-note, https://c2sp.org/tlog-checkpoint, https://c2sp.org/tlog-cosignature.
"""

import argparse
import base64
import binascii
import hashlib
import json
import math
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import reduce
from pathlib import Path
from typing import IO, Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

GENESIS: Final = "0" * 64  # what the first entry has for the hash of the one before it
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
ED25519: Final = 0x01  # the signature type of a log's own key (signed-note)
COSIGNATURE: Final = 0x04  # that of a witness's key (tlog-cosignature)
MAX_NOTE: Final = 65536  # bytes
MAX_SIGNATURES: Final = 100
_SAFE: Final = 2**53 - 1  # the whole numbers that a JSON number holds exactly (RFC 8785, section 3.2.2.3)
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_NAME: Final = re.compile(r"[^\s+]{1,255}")
LIMITS: Final = (
    "It shows: no entry up to the checkpoint's size was altered, dropped, inserted or reordered since; and, for each "
    "cosignature, that the log went on from what that witness had seen of it.",
    "It does not show: that an entry is true; what was done without an entry; what stands behind the newest cosigned "
    "size; anything at all where the log and a quorum of its witnesses work together.",
)


class NotVerifiedError(ValueError):
    """What was given does not verify; the message says what and where. Every function here may raise it."""


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf: of an entry's line without its line end."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass
class Frontier:
    """The tree so far, as the heads of its complete subtrees from the largest to the smallest: 32 bytes each."""

    size: int = 0
    heads: list[bytes] = field(default_factory=list)

    def add(self, leaf: bytes) -> None:
        """Append a leaf's hash."""
        carry, left = self.size, leaf
        while carry & 1:
            left, carry = node_hash(self.heads.pop(), left), carry >> 1
        self.heads.append(left)
        self.size += 1

    def root(self) -> bytes:
        """The tree head."""
        return reduce(lambda right, left: node_hash(left, right), reversed(self.heads)) if self.heads else EMPTY_ROOT


def root_from_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes]) -> bytes:
    """The tree head that ``proof`` leads to from the leaf number ``index`` (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        raise NotVerifiedError(f"there is no entry {index} in a log of {size}")
    place, last, found = index, size - 1, leaf
    for one in proof:
        if len(one) != 32 or not last:
            raise NotVerifiedError("the inclusion proof has a wrong form")
        if place & 1 or place == last:
            found = node_hash(one, found)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            found = node_hash(found, one)
        place, last = place >> 1, last >> 1
    if last:
        raise NotVerifiedError("the inclusion proof is too short")
    return found


def root_from_consistency(old_size: int, size: int, old_root: bytes, proof: Sequence[bytes]) -> bytes:
    """The tree head at ``size`` that ``proof`` leads to from that at ``old_size`` (RFC 9162, section 2.1.4.2)."""
    if not 0 < old_size <= size:
        raise NotVerifiedError(f"there is no consistency proof from {old_size} to {size}")
    if old_size == size:
        if proof:
            raise NotVerifiedError("a consistency proof between equal sizes is empty")
        return old_root
    path = [old_root, *proof] if old_size & (old_size - 1) == 0 else list(proof)
    if not path or any(len(one) != 32 for one in path):
        raise NotVerifiedError("the consistency proof has a wrong form")
    place, last = old_size - 1, size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old = new = path[0]
    for one in path[1:]:
        if not last:
            raise NotVerifiedError("the consistency proof is too long")
        if place & 1 or place == last:
            old, new = node_hash(one, old), node_hash(one, new)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            new = node_hash(new, one)
        place, last = place >> 1, last >> 1
    if last or old != old_root:
        raise NotVerifiedError("the consistency proof does not lead through the old head")
    return new


@dataclass(frozen=True)
class Key:
    """A public key under its name: ``NAME+ID+BASE64`` (signed-note)."""

    name: str
    kind: int  # ED25519 for a log, COSIGNATURE for a witness
    public: bytes  # 32 (RFC 8032)

    @property
    def id(self) -> bytes:
        """The first four bytes of SHA-256(name, line feed, type, key)."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public).digest()[:4]

    @classmethod
    def parse(cls, text: str) -> "Key":
        """The key that ``text`` stands for."""
        name, _, rest = text.strip().partition("+")
        number, _, coded = rest.partition("+")
        raw = _base64(coded)
        if not _NAME.fullmatch(name) or len(raw) != 33 or raw[0] not in {ED25519, COSIGNATURE}:
            raise NotVerifiedError(f"'{text[:80]}' is no key: NAME+ID+BASE64 of an Ed25519 log or witness")
        found = cls(name, raw[0], raw[1:])
        if found.id.hex() != number:
            raise NotVerifiedError(f"the key of {name} does not have the ID {number[:16]}: it was altered")
        return found

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(bytes([self.kind]) + self.public).decode()}"


@dataclass(frozen=True)
class Note:
    """A signed note, taken apart; nothing is checked yet (signed-note)."""

    text: str  # what is signed, with its last line feed
    signatures: tuple[tuple[str, bytes, bytes], ...]  # name, key ID and signature

    @classmethod
    def parse(cls, raw: bytes) -> "Note":
        """The note that ``raw`` is."""
        try:
            whole = raw.decode()
        except UnicodeDecodeError:
            raise NotVerifiedError("the note is not UTF-8") from None
        if len(raw) > MAX_NOTE or any(one < " " and one != "\n" for one in whole):
            raise NotVerifiedError("the note is too long or has control characters")
        text, blank, tail = whole.rpartition("\n\n")
        lines = tail.split("\n")
        if not blank or lines.pop() or not 0 < len(lines) <= MAX_SIGNATURES:
            raise NotVerifiedError("the note has no signature lines behind an empty line")
        return cls(text + "\n", tuple(_signature(line) for line in lines))

    def of(self, key: Key) -> bytes | None:
        """The signature under ``key``, checked; None where it has none."""
        found: bytes | None = None
        for name, number, raw in self.signatures:
            if (name, number) != (key.name, key.id):
                continue
            signature, message = raw, self.text.encode()
            if key.kind == COSIGNATURE:
                signature, message = raw[8:], cosigned(self.text, int.from_bytes(raw[:8]))
            try:
                Ed25519PublicKey.from_public_bytes(key.public).verify(signature, message)
            except (InvalidSignature, ValueError):
                raise NotVerifiedError(f"the signature of {key.name} does not hold") from None
            found = found or raw
        return found


def cosigned(text: str, seconds: int) -> bytes:
    """What a witness signs (tlog-cosignature): the time, seconds since 1970 in UTC, and the checkpoint."""
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()


@dataclass(frozen=True)
class Checkpoint:
    """A log's tree head at one size (tlog-checkpoint)."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """The checkpoint that a note's text is; whether it is signed is another question."""
        lines = text.split("\n")
        if len(lines) < 4 or lines.pop() or not all(lines):
            raise NotVerifiedError("a checkpoint has an origin, a size and a head, a line each")
        origin, size, coded, *more = lines
        root = _base64(coded)
        if not _SIZE.fullmatch(size) or len(root) != 32:
            raise NotVerifiedError("the checkpoint's size or head has a wrong form")
        return cls(origin, int(size), root, tuple(more))

    def __str__(self) -> str:
        head = base64.b64encode(self.root).decode()
        return "".join(f"{line}\n" for line in (self.origin, self.size, head, *self.extensions))


def signed_checkpoint(note: Note, key: Key) -> Checkpoint:
    """The checkpoint in ``note``, which the log with ``key`` signed."""
    if key.kind != ED25519 or note.of(key) is None:
        raise NotVerifiedError(f"the checkpoint is not signed with the log key of {key.name}")
    found = Checkpoint.parse(note.text)
    if found.origin != key.name:
        raise NotVerifiedError(f"the checkpoint is one of {found.origin}, not of {key.name}")
    return found


def cosigners(note: Note, witnesses: Iterable[Key]) -> dict[str, int]:
    """Which of ``witnesses`` cosigned ``note``, and when (seconds since 1970, UTC); one key counts once."""
    origin = note.text.partition("\n")[0]
    found, counted = {}, set()
    for key in witnesses:
        if key.kind == COSIGNATURE and key.name != origin and key.public not in counted and (raw := note.of(key)):
            found[key.name] = int.from_bytes(raw[:8])
            counted.add(key.public)
    return found


def _signature(line: str) -> tuple[str, bytes, bytes]:
    parts = line.split(" ")
    if len(parts) != 3 or parts[0] != "\u2014" or not _NAME.fullmatch(parts[1]) or len(raw := _base64(parts[2])) < 5:
        raise NotVerifiedError("a signature line of the note has a wrong form")
    return parts[1], raw[:4], raw[4:]


def _base64(text: str) -> bytes:
    """Empty where it is none, or not in the one form that :func:`base64.b64encode` gives."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return raw if base64.b64encode(raw).decode() == text else b""


def _number(text: str) -> float:
    """A number, if ``text`` is the one form that ECMAScript writes it in (RFC 8785, section 3.2.2.3)."""
    if number_form(float(text)) != text:
        raise ValueError(text)
    return float(text)


def _whole(text: str) -> float:
    return int(text) if len(text) < 16 or abs(int(text)) <= _SAFE else _number(text)


def number_form(value: float) -> str:
    """``value`` as ECMAScript writes it."""
    if not math.isfinite(value):
        raise ValueError(str(value))
    if not value:
        return "0"
    sign, found, exponent = Decimal(repr(value)).normalize().as_tuple()
    digits, point = "".join(map(str, found)), len(found) + int(exponent)
    if len(digits) <= point <= 21:
        text = digits + "0" * (point - len(digits))
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        text = f"{digits[0]}{'.' * (len(digits) > 1)}{digits[1:]}e{point - 1:+d}"
    return "-" * sign + text


_READ: Final = json.JSONDecoder(parse_float=_number, parse_int=_whole, parse_constant=_number)
_WRITE: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _canonical(value: Any) -> str:
    if isinstance(value, dict):
        rows = sorted(value.items(), key=lambda row: row[0].encode("utf-16-be"))
        return "{" + ",".join(f"{_WRITE.encode(name)}:{_canonical(one)}" for name, one in rows) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_canonical, value)) + "]"
    return number_form(value) if isinstance(value, float) else _WRITE.encode(value)


def read_entry(line: bytes, number: int, head: str) -> dict[str, Any]:
    """The entry that ``line`` is, with its line end: number ``number``, behind the line whose SHA-256 is ``head``."""
    try:
        text = line.decode()
        row = _READ.decode(text)
        # Keys are ASCII and numbers whole in nearly every line: then the fast form is the canonical one.
        sound = text == _WRITE.encode(row) + "\n" or text == _canonical(row) + "\n"
    except (ValueError, RecursionError):
        sound = False
    if not sound or not isinstance(row, dict) or row.get("prev") != head or row.get("seq") != number:
        raise NotVerifiedError(f"does not verify at line {number + 1}")
    return row


def walk(stream: IO[bytes], stop: int | None = None) -> Iterator[tuple[dict[str, Any], bytes, str]]:
    """Each entry of a log with its line and the line's SHA-256, checked in order, up to the byte ``stop``.

    A last line without an end was never finished, so that nothing was done under it: it is not read.
    """
    head, place = GENESIS, 0
    for number, line in enumerate(stream):
        place += len(line)
        if not line.endswith(b"\n") or (stop is not None and place > stop):
            return
        row = read_entry(line, number, head)
        head = hashlib.sha256(line).hexdigest()
        yield row, line, head


@dataclass(frozen=True)
class Found:
    """What a walk over a log found: how many entries, the hash of the last one, and tree heads by size."""

    entries: int
    head: str
    roots: Mapping[int, bytes]


def read_log(stream: IO[bytes], sizes: Collection[int] = (), stop: int | None = None) -> Found:
    """Walk a log, check it, and compute the tree heads at ``sizes`` and at its end."""
    tree, head, roots = Frontier(), GENESIS, {0: EMPTY_ROOT}
    for _, line, head in walk(stream, stop):  # noqa: B007  # the last head is what counts
        tree.add(leaf_hash(line[:-1]))
        if tree.size in sizes:
            roots[tree.size] = tree.root()
    return Found(tree.size, head, roots | {tree.size: tree.root()})


def verify(log: Path, checkpoint: bytes, key: Key, witnesses: Sequence[Key], quorum: int) -> tuple[Found, list[str]]:
    """Check a whole log against a checkpoint, and that against its log's key and witnesses."""
    note = Note.parse(checkpoint)
    signed = signed_checkpoint(note, key)
    seen = cosigners(note, witnesses)
    if len(seen) < quorum:
        raise NotVerifiedError(f"{len(seen)} of the named witnesses cosigned the checkpoint, {quorum} are asked for")
    with log.open("rb") as stream:
        found = read_log(stream, [signed.size])
    if signed.size > found.entries:
        raise NotVerifiedError(f"the log has {found.entries} entries, {signed.size} were signed: its end is missing")
    if found.roots[signed.size] != signed.root:
        raise NotVerifiedError(f"the log is not the one that was signed at {signed.size} entries")
    return found, sorted(seen)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: 0 where all holds, 9 where something does not, 2 where a file cannot be read."""
    parser = argparse.ArgumentParser(prog="verify.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("log", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--log-key", required=True, metavar="VKEY")
    parser.add_argument("--witness", action="append", default=[], metavar="VKEY")
    parser.add_argument("--quorum", type=int, default=0, metavar="N")
    asked = parser.parse_args(arguments)
    try:
        key, *witnesses = (Key.parse(text) for text in (asked.log_key, *asked.witness))
        found, seen = verify(asked.log, asked.checkpoint.read_bytes(), key, witnesses, asked.quorum)
    except OSError as error:
        parser.error(f"cannot read {error.filename}: {error.strerror}")
    except NotVerifiedError as error:
        sys.stderr.write(f"not verified: {error}\n")
        return 9
    lines = (f"verified: {found.entries} entries, head {found.head}", f"cosigned by {', '.join(seen) or 'nobody'}")
    sys.stdout.write("".join(f"{line}\n" for line in (*lines, *LIMITS)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
