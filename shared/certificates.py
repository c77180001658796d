"""The certificates of a federation's links (X.509, RFC 5280): one authority, its gate, and one for each hospital.

Keys are on P-384, signatures are ECDSA with SHA-384 (FIPS 186-5). The authority signs end entities alone (a path length
of 0). A hospital's key is also the one that Flower authenticates its node with, so that the gate can hold one against
the other. Nothing here draws up or reads ASN.1 by hand: that is ``cryptography.x509``.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.errors import PolicyError, ProtocolError, UsageError
from shared.link_keys import PrivateKey, PublicKey, on_p384, public_der

AUTHORITY_DAYS: Final = 3652
LINK_DAYS: Final = 730
EARLY: Final = timedelta(hours=1)
"""A certificate holds from so long before it was made: clocks differ."""
MAX_FILE: Final = 65536  # bytes; a certificate has fewer than 2000
_ORGANIZATION: Final = "fedward"
_USAGES: Final = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def digest(certificate: x509.Certificate) -> str:
    """The SHA-256 of a certificate's DER, 64 hexadecimal digits."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def pem(*certificates: x509.Certificate) -> bytes:
    """Certificates as PEM, one behind the other."""
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def read(path: Path, *, count: int) -> tuple[x509.Certificate, ...]:
    """The certificates in ``path``; there must be ``count``.

    Raises:
        UsageError: The file cannot be read, or does not hold so many certificates.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_FILE + 1)
        found = tuple(x509.load_pem_x509_certificates(raw)) if len(raw) <= MAX_FILE else ()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="name a certificate (PEM)") from error
    except ValueError:
        found = ()
    if len(found) != count:
        raise UsageError(f"{path} does not hold {count} certificate{'s' * (count > 1)} (PEM)", hint="ask for it again")
    return found


@dataclass(frozen=True)
class Authority:
    """Who signs the certificates of one federation's links.

    Attributes:
        certificate: Its own.
        key: The key of that certificate.

    Raises:
        UsageError: The certificate is not that of the key.
    """

    certificate: x509.Certificate
    key: PrivateKey

    def __post_init__(self) -> None:
        """Refuse a certificate of another key."""
        public = self.certificate.public_key()
        if not isinstance(public, PublicKey) or public_der(public) != public_der(self.key.public_key()):
            raise UsageError("the authority's certificate is not that of its key", hint="restore both from one copy")

    @classmethod
    def make(cls, key: PrivateKey, name: str, *, now: datetime | None = None) -> "Authority":
        """An authority that signs end entities and nothing else, for ten years.

        Args:
            key: Its key.
            name: The coordinator's name, at most 64 characters (RFC 5280, appendix A.1, ub-common-name).
            now: The time from which the years count; the clock's where None.
        """
        subject = _name("authority", name)
        draft = _draft(subject, key.public_key(), _moment(now), _moment(now) + timedelta(days=AUTHORITY_DAYS))
        made = (
            draft.issuer_name(subject)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage("key_cert_sign", "crl_sign"), critical=True)
            .sign(key, hashes.SHA384())
        )
        return cls(made, key)

    def server(
        self, public: PublicKey, name: str, hosts: Sequence[str], *, now: datetime | None = None
    ) -> x509.Certificate:
        """A server's certificate for two years.

        Args:
            public: The server's key.
            name: The coordinator's name.
            hosts: Names and IP addresses that hospitals reach it under; each stands in it as what it is.
            now: As in :meth:`make`.

        Raises:
            PolicyError: The authority's own time is over.
        """
        names = x509.SubjectAlternativeName([_alternative(host) for host in hosts])
        return self._issue(_name("gate", name), public, names, ExtendedKeyUsageOID.SERVER_AUTH, _moment(now))

    def client(self, public: PublicKey, site: str, *, now: datetime | None = None) -> x509.Certificate:
        """A hospital's certificate for two years; its common name is the site.

        Raises:
            PolicyError: The authority's own time is over.
        """
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"urn:fedward:site:{site}")])
        return self._issue(_name("hospital", site), public, names, ExtendedKeyUsageOID.CLIENT_AUTH, _moment(now))

    def _issue(
        self,
        subject: x509.Name,
        public: PublicKey,
        names: x509.SubjectAlternativeName,
        usage: x509.ObjectIdentifier,
        moment: datetime,
    ) -> x509.Certificate:
        end = self.certificate.not_valid_after_utc
        if moment >= end:
            raise PolicyError(
                f"the authority's certificate expired on {end:%Y-%m-%d}",
                hint="make a new coordinator with 'fedward server init', and agree on a new charter",
            )
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        return (
            _draft(subject, public, moment, min(end, moment + timedelta(days=LINK_DAYS)))
            .issuer_name(self.certificate.subject)
            .add_extension(names, critical=False)
            .add_extension(issuer, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage("digital_signature"), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .sign(self.key, hashes.SHA384())
        )


def site_of(certificate: x509.Certificate) -> str:
    """The common name; empty where there is not exactly one."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if len(found) == 1 else ""


def hosts_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The names and IP addresses that a server's certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return (
        *names.get_values_for_type(x509.DNSName),
        *(str(one) for one in names.get_values_for_type(x509.IPAddress)),
    )


def check_authority(certificate: x509.Certificate, *, now: datetime | None = None) -> None:
    """Refuse what cannot be a federation's authority.

    Raises:
        ProtocolError: It is not self-signed on P-384, may sign further authorities, or its time is over or not begun.
    """
    _check_dates(certificate, "the authority's certificate", now)
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        certificate.verify_directly_issued_by(certificate)
        sound = (
            constraints.ca
            and constraints.path_length == 0
            and usage.key_cert_sign
            and on_p384(certificate.public_key())
        )
    except (x509.ExtensionNotFound, InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        sound = False
    if not sound:
        raise ProtocolError(
            "the authority's certificate is none that 'fedward server init' makes", hint="ask the coordinator for it"
        )


def check_client(certificate: x509.Certificate, authority: x509.Certificate, *, now: datetime | None = None) -> None:
    """Refuse a certificate with which no hospital would get through the gate of ``authority``.

    Raises:
        ProtocolError: The authority did not issue it, it is not for a client, or its time is over or not begun.
    """
    _check_issued(certificate, authority, "the certificate", now)
    try:
        _policy(authority, now).build_client_verifier().verify(certificate, [])
    except verification.VerificationError as error:
        raise _unfit("the certificate", "a hospital") from error


def check_server(
    certificate: x509.Certificate, authority: x509.Certificate, host: str, *, now: datetime | None = None
) -> None:
    """Refuse a certificate under which no hospital would take ``host`` for the coordinator of ``authority``.

    Raises:
        ProtocolError: The authority did not issue it, it is not for that host, or its time is over or not begun.
    """
    _check_issued(certificate, authority, "the gate's certificate", now)
    try:
        _policy(authority, now).build_server_verifier(_alternative(host)).verify(certificate, [])
    except verification.VerificationError as error:
        raise _unfit("the gate's certificate", host) from error


def _policy(authority: x509.Certificate, now: datetime | None) -> verification.PolicyBuilder:
    return verification.PolicyBuilder().store(verification.Store([authority])).time(_moment(now)).max_chain_depth(0)


def _unfit(what: str, whom: str) -> ProtocolError:
    return ProtocolError(f"{what} is not one for {whom}", hint="ask the coordinator to issue it anew")


def _check_issued(certificate: x509.Certificate, authority: x509.Certificate, what: str, now: datetime | None) -> None:
    check_authority(authority, now=now)
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ProtocolError(
            f"{what} was not issued by the authority {digest(authority)[:16]}...",
            hint="take the one that 'fedward server approve' wrote for this federation",
        ) from error
    _check_dates(certificate, what, now)


def _check_dates(certificate: x509.Certificate, what: str, now: datetime | None) -> None:
    moment = _moment(now)
    if moment > certificate.not_valid_after_utc:
        raise ProtocolError(
            f"{what} expired on {certificate.not_valid_after_utc:%Y-%m-%d}",
            hint="check this machine's clock; ask the coordinator to issue it anew",
        )
    if moment < certificate.not_valid_before_utc:
        raise ProtocolError(
            f"{what} holds from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on",
            hint="check this machine's clock",
        )


def _draft(subject: x509.Name, public: PublicKey, begin: datetime, end: datetime) -> x509.CertificateBuilder:
    """What every certificate has but its issuer, with the identifier of its key (RFC 5280, section 4.2.1.2)."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - EARLY)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _moment(now: datetime | None) -> datetime:
    return (now or datetime.now(UTC)).astimezone(UTC)


def _name(unit: str, common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANIZATION),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _usage(*names: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in names for name in _USAGES})


def _alternative(host: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
