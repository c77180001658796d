"""Certificates of a link: who may sign what, for how long, and that TLS itself agrees."""

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from shared.certificates import (
    AUTHORITY_DAYS,
    LINK_DAYS,
    Authority,
    check_authority,
    check_client,
    check_server,
    digest,
    hosts_of,
    pem,
    read,
    site_of,
)
from shared.errors import PolicyError, ProtocolError, UsageError

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HOSTS = ("fl.example.org", "localhost", "192.0.2.7", "2001:db8::7")
SITES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)


def key(number: int) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(number, ec.SECP384R1())


OURS = Authority.make(key(1), "imaging-1", now=NOW)
OTHERS = Authority.make(key(2), "imaging-1", now=NOW)
GATE = OURS.server(key(3).public_key(), "imaging-1", HOSTS, now=NOW)
HOSPITAL = OURS.client(key(4).public_key(), "St_Mary.x", now=NOW)


T = TypeVar("T", bound=x509.ExtensionType)


def extension(certificate: x509.Certificate, kind: type[T]) -> tuple[T, bool]:
    found = certificate.extensions.get_extension_for_class(kind)
    return found.value, found.critical


# --- what stands in them ----------------------------------------------------------------------------------------------


def test_the_authority_signs_end_entities_and_nothing_else() -> None:
    constraints, critical = extension(OURS.certificate, x509.BasicConstraints)
    assert (constraints.ca, constraints.path_length, critical) == (True, 0, True)
    usage, critical = extension(OURS.certificate, x509.KeyUsage)
    assert usage.key_cert_sign
    assert not usage.digital_signature
    assert critical
    check_authority(OURS.certificate, now=NOW)


@pytest.mark.parametrize(
    ("certificate", "purpose"), [(GATE, ExtendedKeyUsageOID.SERVER_AUTH), (HOSPITAL, ExtendedKeyUsageOID.CLIENT_AUTH)]
)
def test_an_end_entity_has_one_purpose_and_signs_no_certificate(
    certificate: x509.Certificate, purpose: x509.ObjectIdentifier
) -> None:
    constraints, critical = extension(certificate, x509.BasicConstraints)
    assert (constraints.ca, critical) == (False, True)
    usage, critical = extension(certificate, x509.KeyUsage)
    assert (usage.digital_signature, usage.key_cert_sign, usage.key_encipherment, critical) == (
        True,
        False,
        False,
        True,
    )
    assert list(extension(certificate, x509.ExtendedKeyUsage)[0]) == [purpose]
    assert certificate.issuer == OURS.certificate.subject
    assert isinstance(certificate.signature_hash_algorithm, hashes.SHA384)


@pytest.mark.parametrize("certificate", [OURS.certificate, GATE, HOSPITAL])
def test_each_has_the_identifiers_of_rfc_5280(certificate: x509.Certificate) -> None:
    own, critical = extension(certificate, x509.SubjectKeyIdentifier)
    assert own == x509.SubjectKeyIdentifier.from_public_key(certificate.public_key())
    assert not critical
    issuer, critical = extension(certificate, x509.AuthorityKeyIdentifier)
    assert issuer.key_identifier == x509.SubjectKeyIdentifier.from_public_key(key(1).public_key()).digest
    assert not critical


def test_a_gate_has_all_its_names_and_a_hospital_its_site() -> None:
    assert set(hosts_of(GATE)) == set(HOSTS)
    assert site_of(HOSPITAL) == "St_Mary.x"
    assert hosts_of(HOSPITAL) == ()
    assert hosts_of(OURS.certificate) == ()


@given(SITES)
def test_any_site_of_a_charter_gets_a_certificate(site: str) -> None:
    made = OURS.client(key(4).public_key(), site, now=NOW)
    assert site_of(made) == site
    check_client(made, OURS.certificate, now=NOW)


def test_two_certificates_never_have_one_serial_number() -> None:
    again = OURS.client(key(4).public_key(), "St_Mary.x", now=NOW)
    assert again.serial_number != HOSPITAL.serial_number
    assert digest(again) != digest(HOSPITAL)


def test_a_digest_is_the_sha256_of_the_der() -> None:
    der = HOSPITAL.public_bytes(serialization.Encoding.DER)
    hashed = hashes.Hash(hashes.SHA256())
    hashed.update(der)
    assert digest(HOSPITAL) == hashed.finalize().hex()


# --- what is refused --------------------------------------------------------------------------------------------------


@given(st.integers(-10, LINK_DAYS + 10), st.integers(0, 23))
def test_a_certificate_holds_for_two_years_and_from_an_hour_before(days: int, hours: int) -> None:
    now = NOW + timedelta(days=days, hours=hours)
    begin, end = NOW - timedelta(hours=1), NOW + timedelta(days=LINK_DAYS)
    if begin <= now <= end:
        check_client(HOSPITAL, OURS.certificate, now=now)
        check_server(GATE, OURS.certificate, HOSTS[0], now=now)
    else:
        with pytest.raises(ProtocolError, match=r"expired on|holds from") as caught:
            check_client(HOSPITAL, OURS.certificate, now=now)
        assert "clock" in caught.value.hint
        with pytest.raises(ProtocolError, match=r"expired on|holds from"):
            check_server(GATE, OURS.certificate, HOSTS[0], now=now)


def test_no_certificate_outlives_its_authority() -> None:
    late = NOW + timedelta(days=AUTHORITY_DAYS - 5)
    made = OURS.client(key(4).public_key(), "H1", now=late)
    assert made.not_valid_after_utc == OURS.certificate.not_valid_after_utc
    with pytest.raises(PolicyError, match="expired on"):
        OURS.client(key(4).public_key(), "H1", now=NOW + timedelta(days=AUTHORITY_DAYS))
    with pytest.raises(ProtocolError, match="the authority's certificate expired"):
        check_client(made, OURS.certificate, now=NOW + timedelta(days=AUTHORITY_DAYS + 1))


def test_another_authority_of_the_same_name_is_another_one() -> None:
    assert OTHERS.certificate.subject == OURS.certificate.subject
    with pytest.raises(ProtocolError, match="was not issued by the authority"):
        check_client(HOSPITAL, OTHERS.certificate, now=NOW)
    with pytest.raises(ProtocolError, match="was not issued by the authority"):
        check_server(GATE, OTHERS.certificate, HOSTS[0], now=NOW)


def test_a_gate_is_no_hospital_and_a_hospital_no_gate() -> None:
    with pytest.raises(ProtocolError, match="is not one for a hospital"):
        check_client(GATE, OURS.certificate, now=NOW)
    with pytest.raises(ProtocolError, match="is not one for localhost"):
        check_server(HOSPITAL, OURS.certificate, "localhost", now=NOW)
    with pytest.raises(ProtocolError, match="is not one for a hospital"):
        check_client(OURS.certificate, OURS.certificate, now=NOW)


def test_a_gate_is_taken_for_its_own_names_alone() -> None:
    for host in HOSTS:
        check_server(GATE, OURS.certificate, host, now=NOW)
    for host in ("example.org", "x.fl.example.org", "192.0.2.8", "2001:db8::8"):
        with pytest.raises(ProtocolError, match="is not one for"):
            check_server(GATE, OURS.certificate, host, now=NOW)


def test_a_hospital_cannot_sign_for_another() -> None:
    forged = x509.CertificateBuilder(
        issuer_name=HOSPITAL.subject,
        subject_name=HOSPITAL.subject,
        public_key=key(9).public_key(),
        serial_number=5,
        not_valid_before=NOW,
        not_valid_after=NOW + timedelta(days=1),
    ).sign(key(4), hashes.SHA384())
    with pytest.raises(ProtocolError, match="is none that 'fedward server init' makes"):
        check_client(forged, HOSPITAL, now=NOW)
    with pytest.raises(ProtocolError, match="was not issued by"):
        check_client(forged, OURS.certificate, now=NOW)


def longer(length: int | None) -> x509.Certificate:
    """A self-signed authority that may sign further ones."""
    return (
        x509.CertificateBuilder(
            issuer_name=OURS.certificate.subject,
            subject_name=OURS.certificate.subject,
            public_key=key(1).public_key(),
            serial_number=5,
            not_valid_before=NOW,
            not_valid_after=NOW + timedelta(days=1),
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=length), critical=True)
        .add_extension(extension(OURS.certificate, x509.KeyUsage)[0], critical=True)
        .sign(key(1), hashes.SHA384())
    )


@pytest.mark.parametrize("length", [None, 1])
def test_an_authority_that_may_make_others_is_none_of_ours(length: int | None) -> None:
    check_authority(longer(0), now=NOW)
    with pytest.raises(ProtocolError, match="is none that"):
        check_authority(longer(length), now=NOW)


def test_an_authority_needs_its_own_key() -> None:
    with pytest.raises(UsageError, match="not that of its key"):
        Authority(OURS.certificate, key(2))


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file_holds_as_many_certificates_as_it_must(tmp_path: Path) -> None:
    path = tmp_path / "x.pem"
    path.write_bytes(pem(HOSPITAL, OURS.certificate))
    assert read(path, count=2) == (HOSPITAL, OURS.certificate)
    for count, words in ((1, "does not hold 1 certificate "), (3, "does not hold 3 certificates ")):
        with pytest.raises(UsageError, match=words):
            read(path, count=count)


@pytest.mark.parametrize("content", [b"", b"\xff" * 10, b"-----BEGIN CERTIFICATE-----\nAAAA\n", b" " * 70_000, None])
def test_what_is_no_certificate_is_told_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read(path, count=1)
    assert str(path) in caught.value.message
    assert caught.value.hint


# --- TLS agrees -------------------------------------------------------------------------------------------------------

TODAY = Authority.make(key(1), "imaging-1")
STRANGER = Authority.make(key(2), "imaging-1")


def chain(folder: Path, certificate: x509.Certificate, number: int) -> tuple[Path, Path]:
    """A certificate and its key as files."""
    encoding = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / f"{number}.pem").write_bytes(pem(certificate))
    (folder / f"{number}.key").write_bytes(key(number).private_bytes(*encoding))
    return folder / f"{number}.pem", folder / f"{number}.key"


def context(
    purpose: ssl.Purpose, folder: Path, believed: Authority, certificate: x509.Certificate, number: int
) -> ssl.SSLContext:
    made = ssl.create_default_context(purpose, cadata=pem(believed.certificate).decode())
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    made.load_cert_chain(*chain(folder, certificate, number))
    return made


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> bytes:
    """What the client reads after the handshake; each end's own words of error are raised."""
    ours, theirs = socket.socketpair()
    failed: list[ssl.SSLError] = []

    def serve() -> None:
        try:
            with server.wrap_socket(ours, server_side=True) as link:
                link.sendall(b"welcome")
        except ssl.SSLError as error:
            failed.append(error)
            ours.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(theirs, server_hostname=host) as link:
            got = link.recv(16)
    finally:
        theirs.close()
        thread.join(10)
    if failed:
        raise failed[0]
    return got


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_tls_accepts_them_under_the_strict_rules_of_rfc_5280(tmp_path: Path, host: str) -> None:
    gate = TODAY.server(key(3).public_key(), "imaging-1", ["localhost", "127.0.0.1", "::1"])
    hospital = TODAY.client(key(4).public_key(), "H1")
    server = context(ssl.Purpose.CLIENT_AUTH, tmp_path, TODAY, gate, 3)
    client = context(ssl.Purpose.SERVER_AUTH, tmp_path, TODAY, hospital, 4)
    assert shake_hands(server, client, host) == b"welcome"


@pytest.mark.parametrize("stranger", ["hospital", "gate", "purpose", "host"])
def test_tls_refuses_strangers(tmp_path: Path, stranger: str) -> None:
    by_gate = STRANGER if stranger == "gate" else TODAY
    by_hospital = STRANGER if stranger == "hospital" else TODAY
    gate = by_gate.server(key(3).public_key(), "imaging-1", ["localhost"])
    hospital = by_hospital.client(key(4).public_key(), "H1")
    if stranger == "purpose":
        hospital = TODAY.server(key(4).public_key(), "H1", ["localhost"])
    server = context(ssl.Purpose.CLIENT_AUTH, tmp_path, TODAY, gate, 3)
    client = context(ssl.Purpose.SERVER_AUTH, tmp_path, TODAY, hospital, 4)
    with pytest.raises(ssl.SSLError):
        shake_hands(server, client, "fl.example.org" if stranger == "host" else "localhost")
