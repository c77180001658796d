"""Keyed pseudonyms: the same under one site key, different under another, not to be recomputed without it.

Every pseudonym is an HMAC-SHA256 (RFC 2104, FIPS 198-1) under the site key, over a purpose and a value, so that no
pseudonym of one purpose says anything about one of another (GDPR Art. 4(5); PS3.15 E.3 leaves the method open).
A plain hash would do neither: patient numbers and names are few enough to try them all.
"""

import base64
import functools
import hmac
import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from shared.errors import PolicyError, UsageError
from shared.files import output_errors

KEY_BYTES = 32
LONGEST_SHIFT = 1461  # days: four years, so that neither the year nor the weekday of a date is left to guess from
_HEX = re.compile(rb"[0-9a-fA-F]{%d}" % (2 * KEY_BYTES))
_VERSION_8, _VARIANT = 8 << 76, 2 << 62
_UUID_MASK = ~((0xF << 76) | (0x3 << 62))


@dataclass(frozen=True)
class SiteKey:
    """The secret from which a site's pseudonyms are made.

    Attributes:
        secret: 32 random bytes; whoever holds them can link pseudonyms back by trying values.
    """

    secret: bytes = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a key file: 32 bytes, as 64 hexadecimal digits or as they are, readable by its owner alone.

        Raises:
            UsageError: There is no such file, or it does not hold a key.
            PolicyError: Others may read the file.
        """
        try:
            with path.open("rb") as stream:
                mode = os.fstat(stream.fileno()).st_mode
                content = stream.read(4 * KEY_BYTES)
        except OSError as error:
            raise UsageError(
                f"cannot read the site key {path}: {error.strerror}",
                hint="name the site's key with --key, or its node with --node",
            ) from error
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise PolicyError(f"others may read the site key {path}", hint=f"run chmod 600 {path}, and ask who read it")
        if len(content) == KEY_BYTES:
            return cls(content)
        if not _HEX.fullmatch(content.strip()):
            raise UsageError(f"{path} is not a site key", hint="a key file holds 64 hexadecimal digits, nothing else")
        return cls(bytes.fromhex(content.decode("ascii")))

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make a new key and write it to ``path`` with mode 0600; an existing file is never replaced.

        Raises:
            UsageError: The file is there already.
            OutputError: It cannot be written.
        """
        secret = secrets.token_bytes(KEY_BYTES)
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except FileExistsError as error:
                raise UsageError(
                    f"{path} is there already", hint="a site key is never overwritten; name another"
                ) from error
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(secret.hex().encode() + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
        return cls(secret)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell keys apart and say nothing about them."""
        return self.derive("fingerprint")[:8].hex()

    def derive(self, purpose: str, value: bytes = b"") -> bytes:
        """32 bytes that stand for ``value`` under ``purpose``."""
        # The length in front keeps (purpose, value) pairs apart that would join to the same bytes.
        label = purpose.encode()
        return hmac.digest(self.secret, len(label).to_bytes(2, "big") + label + value, "sha256")


class Pseudonyms:
    """What a site calls its patients, instances and days outside.

    Args:
        key: The site's key.
    """

    def __init__(self, key: SiteKey) -> None:
        self._key = key
        self.uid = functools.lru_cache(maxsize=65536)(self._uid)
        self.patient = functools.lru_cache(maxsize=4096)(self._patient)
        self.shift = functools.lru_cache(maxsize=4096)(self._shift)

    def _uid(self, value: str) -> str:
        """The UID that stands for ``value``: ``2.25.`` and a version 8 UUID (PS3.5 B.2, RFC 9562 5.8)."""
        number = int.from_bytes(self._key.derive("uid", value.encode())[:16], "big")
        return f"2.25.{number & _UUID_MASK | _VERSION_8 | _VARIANT}"

    def _patient(self, identity: str) -> str:
        """A name of 18 characters, fit for a Patient ID, a Person Name and a folder; 80 bits of the HMAC."""
        digest = self._key.derive("patient", identity.encode())
        return "FW" + base64.b32encode(digest[:10]).decode()

    def _shift(self, identity: str) -> int:
        """By how many whole days the dates of this patient move: -1 to -1461, never 0."""
        number = int.from_bytes(self._key.derive("date-shift", identity.encode())[:16], "big")
        return -1 - number % LONGEST_SHIFT
