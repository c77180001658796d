"""Who vouches for a log key: the identity key of a hospital, or the authority of the coordinator.

The charter that a hospital pinned names both (a member's Ed25519 identity; the SHA-256 of the authority's certificate).
An *endorsement* is canonical JSON (RFC 8785) that says which log key is whose, signed under one of these. So a witness
needs nothing but its charter to know whose checkpoint it cosigns. One whose time is over is renewed for the same key.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from compliance.verify import COSIGNATURE, ED25519, Key
from shared.certificates import digest
from shared.charter import Charter
from shared.errors import ProtocolError, UsageError
from shared.faults import words_of
from shared.files import canonical_json, write_json
from shared.identity import forgeable
from shared.link_keys import on_p384

DOMAIN: Final = b"fedward log key endorsement 1\0"
FILE: Final = "endorsement.json"
"""Its name in an ``audit/`` folder."""
MAX_FILE: Final = 8192  # bytes
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
_DIGITS: Final = 16
_AGAIN: Final = "ask its owner for it again, and compare the fingerprint by telephone"
_Voucher = Ed25519PublicKey | ec.EllipticCurvePublicKey


def site_origin(site: str, identity: bytes) -> str:
    """The name of a hospital's log: its site, and 64 bits of the SHA-256 of its raw identity key."""
    return f"fedward/{site}/{hashlib.sha256(identity).hexdigest()[:_DIGITS]}"


def coordinator_origin(name: str, authority: str) -> str:
    """The name of a coordinator's log: its name, and 64 bits of the SHA-256 (hexadecimal) of its authority."""
    return f"fedward/{name}/{authority[:_DIGITS]}"


@dataclass(frozen=True)
class Endorsement:
    """That ``log_key`` signs for the log ``origin``.

    Attributes:
        origin: Of the log.
        log_key: Its Ed25519 public key, 32 bytes.
        created: When it was signed; of two for one origin the later holds.
        until: When it ends to hold, or None.
        signature: Under the identity key (Ed25519), or under the authority's (ECDSA on P-384 with SHA-384, DER).
    """

    origin: str
    log_key: bytes
    created: datetime
    until: datetime | None
    signature: bytes

    @classmethod
    def make(
        cls,
        origin: str,
        log_key: bytes,
        voucher: Ed25519PrivateKey | ec.EllipticCurvePrivateKey,
        *,
        until: datetime | None = None,
        now: datetime | None = None,
    ) -> "Endorsement":
        """Vouch for a log key.

        Raises:
            UsageError: Anybody could sign under it.
        """
        if forgeable(log_key):
            raise UsageError("anybody could sign under that log key", hint="make another one")
        draft = cls(origin, log_key, (now or datetime.now(UTC)).replace(microsecond=0), until, b"")
        message = draft.signed_bytes()
        if isinstance(voucher, Ed25519PrivateKey):
            signature = voucher.sign(message)
        else:
            signature = voucher.sign(message, ec.ECDSA(hashes.SHA384()))
        return cls(origin, log_key, draft.created, until, signature)

    @property
    def keys(self) -> tuple[Key, Key]:
        """The key of the log, and that of its owner as a witness; to be believed after a check only."""
        return Key(self.origin, ED25519, self.log_key), Key(self.origin, COSIGNATURE, self.log_key)

    def _facts(self) -> dict[str, object]:
        facts: dict[str, object] = {"v": 1, "origin": self.origin, "log_key": self.log_key.hex()}
        facts["created"] = self.created.astimezone(UTC).strftime(_TIME)
        if self.until is not None:
            facts["until"] = self.until.astimezone(UTC).strftime(_TIME)
        return facts

    def signed_bytes(self) -> bytes:
        """What is signed: the domain and the canonical JSON of everything but the signature."""
        return DOMAIN + canonical_json(self._facts())

    def as_json(self) -> dict[str, object]:
        """The form in files and messages."""
        return self._facts() | {"signature": self.signature.hex()}

    def save(self, path: Path) -> None:
        """Write it, durably.

        Raises:
            OutputError: The disk does not take it.
        """
        write_json(path, self.as_json(), durable=True)

    @classmethod
    def parse(cls, raw: bytes | str, where: str = "the endorsement") -> "Endorsement":
        """The endorsement that ``raw`` is; its signature is not checked.

        Raises:
            ProtocolError: It is none.
        """
        try:
            form = _Form.model_validate_json(raw)
            moments = [None if text is None else _moment(text) for text in (form.created, form.until)]
        except ValidationError as error:
            fault = words_of(error.errors(include_url=False, include_input=False)[0])
            raise ProtocolError(f"{where} is no endorsement of a log key: {fault}", hint=_AGAIN) from error
        except ValueError as error:
            raise ProtocolError(
                f"{where} is no endorsement of a log key: there is no such time", hint=_AGAIN
            ) from error
        created, until = moments
        assert created is not None  # noqa: S101  # the form has it
        return cls(form.origin, bytes.fromhex(form.log_key), created, until, bytes.fromhex(form.signature))

    @classmethod
    def load(cls, path: Path) -> "Endorsement":
        """The endorsement in a file; its signature is not checked.

        Raises:
            UsageError: The file cannot be read.
            ProtocolError: It is none.
        """
        try:
            with path.open("rb") as stream:
                raw = stream.read(MAX_FILE + 1)
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}", hint="name the folder of its log") from error
        return cls.parse(raw[:MAX_FILE], str(path))

    def check(self, origin: str, voucher: _Voucher, *, now: datetime | None = None) -> None:
        """Refuse it unless it is one of ``origin``, signed by ``voucher``, whose time is not over.

        Raises:
            ProtocolError: It is not.
        """
        if self.origin != origin or forgeable(self.log_key):
            raise ProtocolError(f"the endorsement is one of {self.origin}, not of {origin}", hint=_AGAIN)
        if self.until is not None and (now or datetime.now(UTC)) >= self.until:
            raise ProtocolError(
                f"the log key of {origin} was endorsed until {self.until:%Y-%m-%d}", hint="ask its owner to renew it"
            )
        try:
            if isinstance(voucher, Ed25519PublicKey):
                voucher.verify(self.signature, self.signed_bytes())
            else:
                voucher.verify(self.signature, self.signed_bytes(), ec.ECDSA(hashes.SHA384()))
        except (InvalidSignature, ValueError) as error:
            raise ProtocolError(f"the endorsement of {origin} is not signed by whom it names", hint=_AGAIN) from error


@dataclass(frozen=True)
class Vouched:
    """The log keys that a charter's parties vouched for.

    Attributes:
        logs: The key of each log, by origin: whom a witness of the federation knows.
        sites: The witness keys of the hospitals: who counts in a quorum.
        coordinator: The coordinator's witness key, where it endorsed one. It counts in no quorum.
    """

    logs: dict[str, Key]
    sites: tuple[Key, ...]
    coordinator: Key | None = None


def origins(charter: Charter) -> dict[str, str]:
    """The origin of each party's log, and its name in ``charter``."""
    found = {site_origin(one.name, bytes.fromhex(one.identity)): one.name for one in charter.members if one.identity}
    if (plan := charter.coordinator) is not None:
        found[coordinator_origin(plan.name, plan.authority)] = plan.name
    return found


def vouched(
    charter: Charter,
    endorsements: Iterable[Endorsement],
    authority: x509.Certificate | None = None,
    *,
    strict: bool = True,
    now: datetime | None = None,
) -> Vouched:
    """The log keys of the parties of ``charter``, from what they endorsed.

    Args:
        charter: The one that this member pinned.
        endorsements: As they came. One of a stranger is left out.
        authority: The coordinator's certificate, needed where its endorsement is among them.
        strict: Whether one that does not hold is refused. Where it is not, it is left out: one whose time is over, or
            that a new charter does not bear out, must not take the others with it, and its owner brings a new one.
        now: The time; the clock's where None.

    Raises:
        ProtocolError: ``strict``, and an endorsement does not hold or ``authority`` is not the charter's.
    """
    identities = {one.name: bytes.fromhex(one.identity) for one in charter.members if one.identity}
    above = next((origin for origin, name in origins(charter).items() if name not in identities), "")
    return vouched_by(
        identities, endorsements, above, lambda: _authority_key(charter, authority), strict=strict, now=now
    )


def vouched_by(
    identities: Mapping[str, bytes],
    endorsements: Iterable[Endorsement],
    above: str = "",
    authority: Callable[[], ec.EllipticCurvePublicKey] | None = None,
    *,
    strict: bool = True,
    now: datetime | None = None,
) -> Vouched:
    """As :func:`vouched`, where the parties are named one by one.

    Args:
        identities: Raw identity keys by site.
        endorsements: As they came.
        above: The origin of the coordinator's log; empty where there is none.
        authority: The key that vouches for that.
        strict: As there.
        now: The time; the clock's where None.

    Raises:
        ProtocolError: ``strict``, and an endorsement does not hold.
    """
    members = {site_origin(name, identity): identity for name, identity in identities.items()}
    found: dict[str, Endorsement] = {}
    for one in sorted(endorsements, key=lambda each: each.created):
        try:
            if (identity := members.get(one.origin)) is not None:
                voucher: _Voucher = Ed25519PublicKey.from_public_bytes(identity)
            elif above and one.origin == above and authority is not None:
                voucher = authority()
            else:
                continue
            one.check(one.origin, voucher, now=now)
        except ProtocolError:
            if strict:
                raise
            continue
        found[one.origin] = one
    keys = {origin: one.keys for origin, one in found.items()}
    return Vouched(
        {origin: log for origin, (log, _) in keys.items()},
        tuple(witness for origin, (_, witness) in keys.items() if origin in members),
        next((witness for origin, (_, witness) in keys.items() if origin not in members), None),
    )


def _authority_key(charter: Charter, authority: x509.Certificate | None) -> ec.EllipticCurvePublicKey:
    if authority is None or charter.coordinator is None or digest(authority) != charter.coordinator.authority:
        raise ProtocolError("the certificate of the coordinator's authority is not the charter's", hint=_AGAIN)
    key = authority.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not on_p384(key):
        raise ProtocolError("the key of the coordinator's authority is not on P-384", hint=_AGAIN)
    return key


def _moment(text: str) -> datetime:
    return datetime.strptime(text, _TIME).replace(tzinfo=UTC)


_Time = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    v: Literal[1]
    origin: Annotated[str, Field(pattern=r"^fedward/[A-Za-z0-9][A-Za-z0-9._-]{0,63}/[0-9a-f]{16}$")]
    log_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created: _Time
    until: _Time | None = None
    signature: Annotated[str, Field(pattern=r"^([0-9a-f]{2}){8,256}$")]
