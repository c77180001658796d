"""Logs, keys and an oracle for the tests of the record."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compliance.checkpoint import Signed
from compliance.log import Action, AuditLog, Entry, Outcome
from compliance.note import Signer
from compliance.trail import Trail
from compliance.verify import Frontier, leaf_hash


def signer(site: str = "H1") -> Signer:
    seed = hashlib.sha256(site.encode()).digest()
    return Signer(f"fedward/{site}/{seed.hex()[:16]}", Ed25519PrivateKey.from_private_bytes(seed))


def fill(folder: Path, count: int, what: str = "x") -> Path:
    """``count`` more entries in the log of ``folder``."""
    path = folder / "log.jsonl"
    with AuditLog(path, site="H1", subject_key=bytes(32)) as log:
        log.append_many([Entry(Action.INGEST, Outcome.OK, detail={"what": what, "n": n}) for n in range(count)])
    return path


def trail_of(folder: Path, *sizes: int, site: str = "H1") -> Trail:
    """A log with checkpoints at ``sizes``."""
    trail, there = Trail(folder, signer(site)), 0
    for size in sizes:
        fill(folder, size - there)
        there = size
        assert trail.checkpoint().size == size
    return trail


class Twofaced:
    """A log that signs whatever it likes: two histories that part after ``common`` leaves."""

    def __init__(self, site: str = "H2", common: int = 0) -> None:
        self.signer, self.common = signer(site), common

    def leaves(self, size: int, branch: str) -> list[bytes]:
        return [leaf_hash(f"{n}{'' if n < self.common else branch}".encode()) for n in range(size)]

    def head(self, size: int, branch: str = "a") -> bytes:
        tree = Frontier()
        for leaf in self.leaves(size, branch):
            tree.add(leaf)
        return Signed.make(self.signer, size, tree.root()).raw

    def proof(self, old: int, size: int, branch: str = "a") -> tuple[bytes, ...]:
        return naive_consistency(old, self.leaves(size, branch)) if old else ()


# The definitions of RFC 6962, section 2.1, word by word: slow, and shares no line with what it checks.


def naive_root(leaves: Sequence[bytes]) -> bytes:
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = power_below(len(leaves))
    return hashlib.sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_inclusion(index: int, leaves: Sequence[bytes]) -> tuple[bytes, ...]:
    if len(leaves) == 1:
        return ()
    k = power_below(len(leaves))
    if index < k:
        return (*naive_inclusion(index, leaves[:k]), naive_root(leaves[k:]))
    return (*naive_inclusion(index - k, leaves[k:]), naive_root(leaves[:k]))


def naive_consistency(old: int, leaves: Sequence[bytes], *, whole: bool = True) -> tuple[bytes, ...]:
    if old == len(leaves):
        return () if whole else (naive_root(leaves),)
    k = power_below(len(leaves))
    if old <= k:
        return (*naive_consistency(old, leaves[:k], whole=whole), naive_root(leaves[k:]))
    return (*naive_consistency(old - k, leaves[k:], whole=False), naive_root(leaves[:k]))


def power_below(count: int) -> int:
    return max(1 << n for n in range(count.bit_length()) if 1 << n < count)


def flips(raw: bytes, step: int = 1) -> Iterator[bytes]:
    """``raw`` with one byte changed, at each place in turn."""
    for place in range(0, len(raw), step):
        changed = bytearray(raw)
        changed[place] ^= 1 + place % 255
        yield bytes(changed)
