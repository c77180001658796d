"""A hospital's Ed25519 identity (RFC 8032): its fingerprint, and its request to become a member of a federation.

The private key is made at the hospital and stays there. A request carries the public key and a signature under it,
which shows that whoever wrote the request holds the key. It does not show who that is: for this the coordinator
compares the fingerprint with the hospital by telephone, before the key goes into a charter. The signature also covers
the public key of the hospital's connection, so that what was read out vouches for that key too.
"""

import hashlib
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from shared.errors import ProtocolError, UsageError
from shared.faults import words_of
from shared.files import canonical_json, write_json
from shared.link_keys import public_key

DOMAIN: Final = b"fedward membership request 2\0"
MAX_REQUEST: Final = 8192  # bytes of a file; a real one has fewer than 2000
PURPOSE_LENGTH: Final = (3, 200)  # characters, as in a charter
_FORM: Final = "%Y-%m-%dT%H:%M:%SZ"
_DIGITS: Final = 32
_AGAIN: Final = "ask the hospital to write it again with 'fedward node request'"

# The encodings of the points of small order on the curve (y and its sign bit). Under such a key one fixed signature
# holds for many messages, so that anybody could sign as this hospital; RFC 8032 verifiers do not refuse them.
_SMALL_ORDER: Final = frozenset(
    stem + bytes([last | sign])
    for stem, last in (
        (bytes(31), 0x00),
        (b"\x01" + bytes(30), 0x00),
        (b"\xec" + b"\xff" * 30, 0x7F),
        (b"\xed" + b"\xff" * 30, 0x7F),
        (b"\xee" + b"\xff" * 30, 0x7F),
        (bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc"), 0x05),
        (bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03"), 0x7A),
    )
    for sign in (0x00, 0x80)
)


def forgeable(public: bytes) -> bool:
    """Whether anybody could sign under this public key, since it is a point of small order."""
    return public in _SMALL_ORDER


def grouped(digits: str) -> str:
    """Hexadecimal digits in groups of four, to be read aloud."""
    return " ".join(digits[place : place + 4] for place in range(0, len(digits), 4))


def fingerprint(public: bytes) -> str:
    """The first 128 bits of the SHA-256 of a raw public key, as eight groups of four hexadecimal digits.

    128 bits suffice: who wants to pass for a hospital needs another key with that hospital's fingerprint, a second
    preimage, and would have to make about 2^128 keys. The 2^64 of a collision give two keys with one fingerprint that
    both belong to the one who made them, and a charter names only one.
    """
    return grouped(hashlib.sha256(public).hexdigest()[:_DIGITS])


def same_fingerprint(heard: str, public: bytes) -> bool:
    """Whether ``heard``, as somebody typed it, is the fingerprint of ``public``; case, spaces, dashes, colons are free.

    Raises:
        UsageError: It is not a whole fingerprint.
    """
    digits = re.sub(r"[\s:-]", "", heard).lower()
    if not re.fullmatch(rf"[0-9a-f]{{{_DIGITS}}}", digits):
        raise UsageError(
            "a fingerprint has 8 groups of 4 hexadecimal digits",
            hint="give all of them, without the name before them: 'fedward node fingerprint NODE' prints them at the "
            "hospital",
        )
    return digits == fingerprint(public).replace(" ", "")


@dataclass(frozen=True)
class Request:
    """A hospital's request to be a member, signed by itself.

    Attributes:
        site: Its name in the federation: that of its node.
        public_key: Its Ed25519 public key, 32 bytes.
        purpose: Why it processes data (GDPR Art. 5(1)(b)); must be the charter's.
        link_key: The public key of its connection: DER SubjectPublicKeyInfo (RFC 5480), a point of P-384.
        created: When, in UTC, to the second. For people: a request does not expire.
        signature: Under the public key, over :meth:`signed_bytes`.
    """

    site: str
    public_key: bytes
    purpose: str
    link_key: bytes
    created: datetime
    signature: bytes = field(default=b"", repr=False)

    @classmethod
    def make(
        cls, key: Ed25519PrivateKey, *, site: str, purpose: str, link_key: bytes, now: datetime | None = None
    ) -> "Request":
        """A request signed with ``key``.

        Raises:
            UsageError: The purpose is not one that a charter can have, or ``link_key`` is no public key on P-384.
        """
        low, high = PURPOSE_LENGTH
        if not (low <= len(purpose) <= high and purpose.isprintable()):
            raise UsageError(
                f"a charter's purpose has {low} to {high} printable characters",
                hint="make the node anew, with the purpose that the federation agreed on",
            )
        try:
            public_key(link_key)
        except ValueError as error:
            raise UsageError(f"the key of the link {error}", hint="restore keys/link.key from a copy") from error
        when = (now or datetime.now(UTC)).astimezone(UTC).replace(microsecond=0)
        bare = cls(site, key.public_key().public_bytes_raw(), purpose, link_key, when)
        return replace(bare, signature=key.sign(bare.signed_bytes()))

    @property
    def fingerprint(self) -> str:
        """What is compared by telephone."""
        return fingerprint(self.public_key)

    def signed_bytes(self) -> bytes:
        """What the signature is over: a separator of domains and the canonical JSON (RFC 8785) of all other fields."""
        return DOMAIN + canonical_json(self._facts())

    def _facts(self) -> dict[str, str]:
        return {
            "site": self.site,
            "public_key": self.public_key.hex(),
            "purpose": self.purpose,
            "link_key": self.link_key.hex(),
            "created": self.created.strftime(_FORM),
        }

    def write(self, path: Path) -> None:
        """Write it as JSON for the coordinator; nothing in it is secret.

        Raises:
            OutputError: It cannot be written.
        """
        write_json(path, {**self._facts(), "signature": self.signature.hex()})

    @classmethod
    def read(cls, path: Path) -> "Request":
        """Read a request and check that the holder of its key wrote exactly this.

        Raises:
            UsageError: The file cannot be read or is no request.
            ProtocolError: The signature is not that of the key that it names, or anybody could sign under that key.
        """
        try:
            with path.open("rb") as stream:
                raw = stream.read(MAX_REQUEST + 1)
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}", hint="name the hospital's request") from error
        if len(raw) > MAX_REQUEST:
            raise UsageError(f"{path} is larger than {MAX_REQUEST} bytes, so it is no membership request", hint=_AGAIN)
        try:
            form = _Form.model_validate_json(raw)
            created = datetime.strptime(form.created, _FORM).replace(tzinfo=UTC)
        except ValidationError as error:
            raise UsageError(f"{path} is no membership request: {_fault(error)}", hint=_AGAIN) from error
        except ValueError as error:
            raise UsageError(f"{path} is no membership request: created: no such time", hint=_AGAIN) from error
        if not form.purpose.isprintable():
            raise UsageError(f"{path} is no membership request: purpose: has control characters", hint=_AGAIN)
        found = cls(
            site=form.site,
            public_key=bytes.fromhex(form.public_key),
            purpose=form.purpose,
            link_key=bytes.fromhex(form.link_key),
            created=created,
            signature=bytes.fromhex(form.signature),
        )
        found._check(path)
        return found

    def _check(self, path: Path) -> None:
        if forgeable(self.public_key):
            raise ProtocolError(
                f"{path}: anybody could sign under the key of this request", hint="do not admit it; ask who made it"
            )
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(self.signature, self.signed_bytes())
        except (InvalidSignature, ValueError) as error:
            raise ProtocolError(
                f"{path}: the signature does not fit: it was altered, or its author does not hold this key", hint=_AGAIN
            ) from error


def _sound_link_key(text: str) -> str:
    public_key(bytes.fromhex(text))
    return text


class _Form(BaseModel):
    """The file of a request."""

    model_config = ConfigDict(extra="forbid", strict=True)

    site: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    public_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    purpose: Annotated[str, Field(min_length=PURPOSE_LENGTH[0], max_length=PURPOSE_LENGTH[1])]
    link_key: Annotated[str, Field(pattern=r"^[0-9a-f]{240}$"), AfterValidator(_sound_link_key)]
    created: Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


def _fault(error: ValidationError) -> str:
    """What is wrong, in one line; of the file's own words only the names of fields that the form knows."""
    fault = error.errors(include_url=False, include_input=False)[0]
    place = str(fault["loc"][0]) if fault["loc"] else ""
    if fault["type"] == "extra_forbidden":
        return "it has a field that no request has"
    return f"{place}: {words_of(fault)}" if place in _Form.model_fields else words_of(fault)
