"""Authorities and certificates, made when they are needed."""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

PEM = serialization.Encoding.PEM


@dataclass(frozen=True)
class Certified:
    """The files of one certificate and of its key."""

    certificate: Path
    key: Path


class Authority:
    """One that signs certificates for 127.0.0.1 and localhost, unless it is told otherwise."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = rsa.generate_private_key(65537, 2048)
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder(self._name, self._name, self._key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=9))
            .not_valid_after(now + datetime.timedelta(days=9))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.path = folder / f"{name}.ca.pem"
        self.path.write_bytes(made.public_bytes(PEM))

    def certify(self, name: str, *, hosts: Sequence[str] = ("127.0.0.1", "localhost"), days: int = 5) -> Certified:
        key = rsa.generate_private_key(65537, 2048)
        now = datetime.datetime.now(datetime.UTC)
        alternatives: list[x509.GeneralName] = []
        for host in hosts:
            is_address = host.replace(".", "").isdigit()
            alternatives.append(x509.IPAddress(ipaddress.ip_address(host)) if is_address else x509.DNSName(host))
        made = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=8))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        done = Certified(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        done.certificate.write_bytes(made.public_bytes(PEM))
        done.key.touch(mode=0o600)
        form = serialization.PrivateFormat.TraditionalOpenSSL
        done.key.write_bytes(key.private_bytes(PEM, form, serialization.NoEncryption()))
        return done
