"""Certificates that the authority never gave: an attacker's own, or those of one that was fooled or is old."""

import datetime as dt
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


@dataclass(frozen=True)
class Pair:
    """A certificate with its key, and the certificates that go with it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...] = ()

    def save(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Write both as PEM; the paths of the certificates and of the key."""
        folder.mkdir(parents=True, exist_ok=True)
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        pem = serialization.Encoding.PEM
        certificate.write_bytes(b"".join(one.public_bytes(pem) for one in (self.certificate, *self.chain)))
        key.write_bytes(
            self.key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        )
        key.chmod(0o600)
        return certificate, key


def load(certificate: Path, key: Path) -> Pair:
    """What lies in two PEM files."""
    first, *others = x509.load_pem_x509_certificates(certificate.read_bytes())
    return Pair(first, load_key(key), tuple(others))


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A key of NIST's curves."""
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def issue(
    name: str,
    issuer: Pair | None = None,
    *,
    key: ec.EllipticCurvePrivateKey | None = None,
    like: x509.Certificate | None = None,
    authority: bool = False,
    usages: Sequence[x509.ObjectIdentifier] = (CLIENT,),
    days: tuple[float, float] = (-1, 30),
) -> Pair:
    """A certificate for ``name``, self-signed without ``issuer``; ``like`` copies names and extensions of another."""
    key = key or new_key()
    subject = like.subject if like else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + dt.timedelta(days=days[0]))
        .not_valid_after(now + dt.timedelta(days=days[1]))
    )
    signer = issuer.key if issuer else key
    for extension, critical in _extensions(key, signer, like, usages, authority=authority):
        builder = builder.add_extension(extension, critical)
    chain = (issuer.certificate, *issuer.chain) if issuer else ()
    return Pair(builder.sign(signer, hashes.SHA384()), key, chain)


def _extensions(
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    like: x509.Certificate | None,
    usages: Sequence[x509.ObjectIdentifier],
    *,
    authority: bool,
) -> list[tuple[x509.ExtensionType, bool]]:
    identifiers: list[tuple[x509.ExtensionType, bool]] = [
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
    ]
    if like:
        skip = (x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier)
        return identifiers + [(one.value, one.critical) for one in like.extensions if not isinstance(one.value, skip)]
    rows = [*identifiers, (x509.BasicConstraints(ca=authority, path_length=None), True)]
    if authority:
        return [*rows, (_key_usage(authority=True), True)]
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    rows += [(_key_usage(authority=False), True), (x509.SubjectAlternativeName(names), False)]
    return [*rows, (x509.ExtendedKeyUsage(list(usages)), False)] if usages else rows


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def client_context(authority: Path | None, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """How a client greets the gate; without an ``authority`` it asks not who answers, as an attacker may."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authority:
        context.load_verify_locations(authority)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate and key:
        context.load_cert_chain(certificate, key)
    return context


def server_context(certificate: Path, key: Path, authority: Path | None = None) -> ssl.SSLContext:
    """How somebody who passes for the gate greets a hospital."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate, key)
    if authority:
        context.load_verify_locations(authority)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
