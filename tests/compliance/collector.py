"""A syslog collector over TLS, as RFC 5425 describes it, that can also behave badly."""

import contextlib
import re
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HEADER = re.compile(
    rb"<(?P<pri>\d{1,3})>1 (?P<time>\S+) (?P<host>\S+) fedward - (?P<id>\S+) "
    rb'\[meta sequenceId="(?P<sequence>\d+)"\] \xef\xbb\xbf(?P<xml><AuditMessage.*)',
    re.DOTALL,
)


@dataclass(frozen=True)
class Authority:
    """An authority of certificates in a folder: ``ca.pem``, and a pair of files for each name it vouches for."""

    folder: Path
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def ca(self) -> Path:
        path = self.folder / "ca.pem"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._certificate("authority", self.key.public_key(), authority=True))
        return path

    def pair(self, name: str) -> tuple[Path, Path]:
        assert self.ca
        key = ec.generate_private_key(ec.SECP256R1())
        certificate, secret = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(self._certificate(name, key.public_key(), authority=False))
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        secret.write_bytes(key.private_bytes(*form))
        secret.chmod(0o600)
        return certificate, secret

    def _certificate(self, name: str, key: ec.EllipticCurvePublicKey, *, authority: bool) -> bytes:
        now = datetime.now(UTC)
        names: list[x509.GeneralName] = [x509.DNSName(name)]
        with contextlib.suppress(ValueError):
            names = [x509.IPAddress(ip_address(name))]
        made = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")]))
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return made.public_bytes(serialization.Encoding.PEM)


@dataclass
class Collector:
    """Takes in messages; a context that listens on a free port of 127.0.0.1.

    Attributes:
        pair: Its certificate and key.
        clients: The authority of its clients' certificates, where it wants some.
        polite: Whether it closes with close_notify, or just closes the connection.
        cuts: For each of the first connections, after how many octets it is reset; None lets one through.
        deaf: Whether it reads nothing.
        newest: The newest TLS that it speaks.
        kept: Every message of a connection that ended well, whole or from one that was cut.
        connections: How many came.
    """

    pair: tuple[Path, Path]
    clients: Path | None = None
    polite: bool = True
    cuts: list[int | None] = field(default_factory=list)
    deaf: bool = False
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    kept: list[bytes] = field(default_factory=list)
    connections: int = 0
    versions: set[str | None] = field(default_factory=set)

    def __enter__(self) -> Self:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = self.newest
        context.load_cert_chain(*self.pair)
        if self.clients:
            context.load_verify_locations(self.clients)
            context.verify_mode = ssl.CERT_REQUIRED
        self._context, self._done = context, threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    def messages(self) -> Iterator[re.Match[bytes]]:
        for one in self.kept:
            found = HEADER.fullmatch(one)
            assert found, one[:200]
            yield found

    def sequence(self) -> list[int]:
        return [int(one["sequence"]) for one in self.messages()]

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._socket.accept()
            except OSError:
                return
            cut = self.cuts[self.connections] if self.connections < len(self.cuts) else None
            self.connections += 1
            plain.settimeout(20)
            with contextlib.suppress(OSError), plain:
                self._take(plain, cut)

    def _take(self, plain: socket.socket, cut: int | None) -> None:
        if self.deaf:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with self._context.wrap_socket(plain, server_side=True) as line:
            self.versions.add(line.version())
            if self.deaf:
                self._done.wait(20)
                return
            data = bytearray()
            while chunk := line.recv(1024):
                data += chunk
                if cut is not None and len(data) >= cut:
                    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break
            self._keep(data)
            if cut is None and self.polite:
                line.unwrap()

    def _keep(self, data: bytearray) -> None:
        """Split frames (RFC 5425, section 4.3); of a cut one nothing is kept."""
        while data:
            count, _, rest = bytes(data).partition(b" ")
            if not count.isdigit() or len(rest) < int(count):
                return
            self.kept.append(rest[: int(count)])
            data = bytearray(rest[int(count) :])
