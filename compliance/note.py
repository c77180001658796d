"""Signing notes: the log key of a member, and what it signs.

One Ed25519 key signs a member's own checkpoints (https://c2sp.org/signed-note, type 0x01) and cosigns those of others
(https://c2sp.org/tlog-cosignature, type 0x04). The two cannot be taken for each other: what is cosigned begins with
``cosignature/v1``, and a checkpoint with an origin, which is never that.
"""

import base64
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compliance.verify import COSIGNATURE, ED25519, Key, NotVerifiedError, cosigned
from shared.errors import PolicyError, UsageError
from shared.files import private_folder, write_bytes

LOG_KEY: Final = "log.key"
"""The file of the log key in a folder ``keys/``."""
KEY_BYTES: Final = 32
_PRIVATE: Final = 0o600


@dataclass(frozen=True)
class Signer:
    """The log key of a member under its origin.

    Attributes:
        name: The origin of its log; it cosigns under this name too.
        key: Its private key (RFC 8032).
    """

    name: str
    key: Ed25519PrivateKey

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return self.key.public_key().public_bytes_raw()

    @property
    def log_key(self) -> Key:
        """What others check the checkpoints of this log with."""
        return Key(self.name, ED25519, self.public)

    @property
    def witness_key(self) -> Key:
        """What others check the cosignatures of this member with."""
        return Key(self.name, COSIGNATURE, self.public)

    def sign(self, text: str) -> str:
        """The signature line of this log under ``text``. It is the same whenever it is made (RFC 8032)."""
        return signature_line(self.log_key, self.key.sign(text.encode()))

    def cosign(self, text: str, moment: datetime) -> str:
        """The cosignature line of this witness under the checkpoint ``text``, of ``moment`` (in whole seconds)."""
        seconds = int(moment.astimezone(UTC).timestamp())
        return signature_line(self.witness_key, seconds.to_bytes(8) + self.key.sign(cosigned(text, seconds)))


def signature_line(key: Key, signature: bytes) -> str:
    """One line under a note, with its line feed."""
    return f"\u2014 {key.name} {base64.b64encode(key.id + signature).decode()}\n"


def write_note(text: str, *lines: str) -> bytes:
    """The note of ``text`` with these signature lines; of two under one key the later stays."""
    if not text.endswith("\n"):
        raise ValueError("the text of a note ends with a line feed")
    newest: dict[tuple[str, bytes], str] = {}
    for line in lines:
        _, name, coded = line.split(" ")
        newest[name, base64.b64decode(coded)[:4]] = line
    return (text + "\n" + "".join(newest.values())).encode()


def lines_of(raw: bytes) -> tuple[str, ...]:
    """The signature lines of a note, each with its line feed."""
    return tuple(f"{line}\n" for line in raw.decode().rpartition("\n\n")[2].splitlines())


def make_log_key(path: Path) -> None:
    """Make a log key (64 hexadecimal digits, 0600) where there is none; one that is there is never replaced.

    Of several that make it at once one wins; which, each finds out with :func:`read_log_key`.

    Raises:
        OutputError: It cannot be written.
    """
    if not path.exists():
        private_folder(path.parent)
        write_bytes(path, secrets.token_hex(KEY_BYTES).encode(), mode=_PRIVATE, durable=True, replace=False)


def read_log_key(path: Path) -> Ed25519PrivateKey:
    """The log key in ``path``; the same file form as the other keys of a node.

    Raises:
        UsageError: It is missing or damaged.
        PolicyError: Others than its owner may read it (45 CFR 164.312(a)(1), access control).
    """
    try:
        mode, raw = path.stat().st_mode, bytes.fromhex(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise UsageError(f"the key {path} cannot be read", hint="restore it from a copy") from error
    if mode & 0o077:
        raise PolicyError(f"others may read the key {path}", hint=f"run: chmod 600 {path}")
    if len(raw) != KEY_BYTES:
        raise UsageError(f"the key {path} is damaged", hint="restore it from a copy")
    return Ed25519PrivateKey.from_private_bytes(raw)


def parse_key(text: str, kind: int) -> Key:
    """A verifier key that a person typed, of a log (:data:`ED25519`) or of a witness (:data:`COSIGNATURE`).

    Raises:
        UsageError: It is none, or of the other kind.
    """
    try:
        found = Key.parse(text)
    except NotVerifiedError as error:
        raise UsageError(str(error), hint="copy it whole from 'fedward audit keys' of that member") from error
    if found.kind != kind:
        what = "a log" if kind == ED25519 else "a witness"
        raise UsageError(
            f"the key of {found.name} is not that of {what}", hint="'fedward audit keys' prints both kinds"
        )
    return found
