"""Expert determinations (45 CFR 164.514(b)(1)): JSON that names one profile by its digest, signed by the expert.

The signature is Ed25519 (RFC 8032) over a domain separator and the canonical JSON (RFC 8785) of all other fields, the
expert's public key among them. It shows that the holder of that key determined exactly this. That the key is the
expert's, the hospital learns from the expert: its digest stands in the report, and a profile may name whose it accepts.
"""

import hashlib
import os
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import PolicyError, UsageError
from shared.faults import first_fault
from shared.files import canonical_json, output_errors, write_json

DOMAIN = b"fedward expert determination 1\0"
_HINT = "it is JSON with expert, scope, profile_sha256 and expires (YYYY-MM-DD), signed with 'fedward node expert sign'"


@dataclass(frozen=True)
class Determination:
    """An expert's determination that the risk is very small (45 CFR 164.514(b)(1)), bound to one profile.

    Attributes:
        expert: Who determined it.
        scope: Which data and recipients it covers.
        profile_sha256: The profile that it was made for.
        expires: The last day on which it holds.
        public_key: The expert's Ed25519 key, 64 hexadecimal digits.
    """

    expert: str
    scope: str
    profile_sha256: str
    expires: date
    public_key: str

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the expert's key, 64 hexadecimal digits: what is compared with the expert."""
        return hashlib.sha256(bytes.fromhex(self.public_key)).hexdigest()

    def expired(self, today: date | None = None) -> bool:
        """Whether its last day is over; today's date (UTC) counts where none is given."""
        return self.expires < (today or datetime.now(UTC).date())

    def signed_bytes(self) -> bytes:
        """What the signature is over."""
        facts = {"expert": self.expert, "scope": self.scope, "profile_sha256": self.profile_sha256}
        return DOMAIN + canonical_json({**facts, "expires": self.expires.isoformat(), "public_key": self.public_key})


class _Draft(BaseModel):
    """A determination as an expert writes it."""

    model_config = ConfigDict(extra="forbid")

    expert: Annotated[str, Field(min_length=1)]
    scope: Annotated[str, Field(min_length=1)]
    profile_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    expires: date


_Raw = TypeVar("_Raw", bound=_Draft)


class _Signed(_Draft):
    """A determination as a hospital gets it."""

    public_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


def read_determination(path: Path) -> Determination:
    """Read an expert determination and check its signature.

    Raises:
        UsageError: It cannot be read, or is none.
        PolicyError: Its signature is not that of the key that it names.
    """
    raw = _read(_Signed, path)
    found = Determination(raw.expert, raw.scope, raw.profile_sha256, raw.expires, raw.public_key)
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(raw.public_key))
        key.verify(bytes.fromhex(raw.signature), found.signed_bytes())
    except (InvalidSignature, ValueError) as error:
        raise PolicyError(
            f"the signature of {path} does not fit what it says", hint="ask the expert for the file again"
        ) from error
    return found


def make_key(path: Path) -> str:
    """Make an expert's key (PEM, mode 0600) and return its fingerprint; an existing file is never replaced.

    Raises:
        UsageError: The file is there already.
        OutputError: It cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with output_errors(path):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError as error:
            raise UsageError(f"{path} is there already", hint="choose another name; a key is never replaced") from error
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(pem)
    return hashlib.sha256(key.public_key().public_bytes_raw()).hexdigest()


def sign(draft: Path, key: Path, out: Path, *, overwrite: bool = False) -> Determination:
    """Sign a draft with an expert's key.

    Raises:
        UsageError: The draft or the key cannot be read, or is none, or the result would replace a file unasked.
        PolicyError: Others may read the key.
        OutputError: The result cannot be written.
    """
    if out.exists() and (not overwrite or any(out.samefile(one) for one in (draft, key) if one.exists())):
        raise UsageError(f"{out} is there already", hint="choose another name for OUT, or give --overwrite")
    raw, private = _read(_Draft, draft), _private_key(key)
    public = private.public_key().public_bytes_raw().hex()
    made = Determination(raw.expert, raw.scope, raw.profile_sha256, raw.expires, public)
    signature = private.sign(made.signed_bytes()).hex()
    write_json(out, {**raw.model_dump(mode="json"), "public_key": public, "signature": signature})
    return made


def _private_key(path: Path) -> Ed25519PrivateKey:
    try:
        with path.open("rb") as stream:
            mode, content = os.fstat(stream.fileno()).st_mode, stream.read(4096)
    except OSError as error:
        raise UsageError(f"cannot read the key {path}: {error.strerror}", hint="name the expert's key") from error
    if mode & 0o077:
        raise PolicyError(f"others may read the key {path}", hint=f"run chmod 600 {path}, and ask who read it")
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} is no private key", hint="make one with 'fedward node expert key'") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path} is no Ed25519 key", hint="make one with 'fedward node expert key'")
    return key


def _read(kind: type[_Raw], path: Path) -> _Raw:
    try:
        return kind.model_validate_json(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="name the expert's file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no expert determination: it is not UTF-8", hint=_HINT) from error
    except ValidationError as error:
        raise UsageError(f"{path} is no expert determination: {first_fault(error)}", hint=_HINT) from error
