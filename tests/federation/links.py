"""A coordinator's folder with members, its SuperLink as a process, and nodes that speak to it as they please.

What a node sends is made by Flower's own client; what no client would send is written to the socket by hand.
"""

import os
import socket
import ssl
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from server.authority import admit, authority_of, establish
from server.coordinator import Coordinator
from server.within import NOWHERE, transport
from shared.certificates import Authority, pem
from shared.identity import Request
from shared.link_keys import PrivateKey, make_key, public_der
from tests.federation import toy
from tests.ports import HOST, free_port

PATIENCE = 40.0


def until(true: Callable[[], object], seconds: float = PATIENCE, what: str = "it did not happen in time") -> None:
    """Wait until it is so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.05)


@dataclass(frozen=True)
class Credentials:
    """What a node shows at the gate: the files of a key and a certificate."""

    site: str
    key: PrivateKey
    key_file: Path
    certificate: Path

    def context(self, authority: Path, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(authority))
        context.maximum_version = version
        context.load_cert_chain(self.certificate, self.key_file)
        return context

    def headers(self, when: datetime | None = None) -> dict[str, str]:
        """Flower's three headers of a node."""
        stamp = (when or datetime.now(UTC)).isoformat()
        return {
            "flwr-public-key": b64encode(public_key_to_bytes(self.key.public_key())).decode(),
            "flwr-timestamp": stamp,
            "flwr-signature": b64encode(sign_message(self.key, stamp.encode())).decode(),
        }


@dataclass(frozen=True)
class Desk:
    """A coordinator with its authority, made for a test."""

    coordinator: Coordinator
    authority: Authority
    port: int
    safe: Path  # where the keys of the hospitals lie: never at the coordinator

    @classmethod
    def make(cls, folder: Path, *sites: str) -> "Desk":
        port = free_port()
        coordinator = establish(folder / "hub", address=f"localhost:{port}", name="hub", country="DE", also=[HOST])
        (folder / "safe").mkdir(exist_ok=True)
        desk = cls(coordinator, authority_of(coordinator), port, folder / "safe")
        for site in sites:
            desk.admit(site)
        return desk

    def admit(self, site: str, identity: Ed25519PrivateKey | None = None) -> Credentials:
        """Make a hospital of that name and admit it."""
        shown = self.credentials(site)
        link_key = public_der(shown.key.public_key())
        identity = identity or Ed25519PrivateKey.generate()
        admit(self.coordinator, Request.make(identity, site=site, purpose=toy.PURPOSE, link_key=link_key))
        return shown

    def credentials(self, site: str, authority: Authority | None = None, now: datetime | None = None) -> Credentials:
        """A key and a certificate for ``site``, which need not be a member."""
        name = f"{site}-{len(list(self.safe.iterdir()))}"
        key = make_key(self.safe / f"{name}.key")
        certificate = (authority or self.authority).client(key.public_key(), site, now=now)
        path = self.safe / f"{name}.pem"
        path.write_bytes(pem(certificate))
        return Credentials(site, key, self.safe / f"{name}.key", path)

    def within(self, **headers: str) -> httpx.Client:
        """A client of the inner listener; it shows no secret by itself."""
        return httpx.Client(base_url=NOWHERE, transport=transport(self.coordinator), headers=headers, timeout=2)

    @property
    def secret(self) -> dict[str, str]:
        return {"x-fedward-secret": self.coordinator.secret()}

    def healthy(self) -> bool:
        try:
            with self.within(**self.secret) as client:
                answer = client.get("/health")
        except (httpx.HTTPError, OSError):
            return False
        return answer.status_code == httpx.codes.OK

    def gate_log(self) -> str:
        path = self.coordinator.superlink_folder / "gate.log"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def start(self) -> "subprocess.Popen[bytes]":
        """The SuperLink as a process."""
        arguments = [
            *(sys.executable, "-P", "-m", "server.flower_link"),
            *(str(self.coordinator.folder), f"{HOST}:{self.port}"),
        ]
        return subprocess.Popen(arguments, env=dict(os.environ) | self.coordinator.environment())

    @contextmanager
    def served(self) -> Iterator["Desk"]:
        """The SuperLink while the block runs."""
        process = self.start()
        try:
            until(self.healthy, what="the SuperLink did not start")
            yield self
        finally:
            process.terminate()
            assert process.wait(15) == 0

    @contextmanager
    def connected(self, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
        """A connection to the gate."""
        with (
            socket.create_connection((HOST, self.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as line,
        ):
            yield line

    def speak(self, shown: Credentials, *raw: bytes) -> list[bytes]:
        """What the gate answers to each of these requests: on one connection, and on a new one where it ended that."""
        context = shown.context(self.coordinator.authority_path)
        answers = []
        with ExitStack() as stack:
            line: ssl.SSLSocket | None = None
            for one in raw:
                answer = asked(line, one) if line else b""
                if not answer:
                    line = stack.enter_context(self.connected(context))
                    answer = asked(line, one)
                answers.append(answer)
        return answers

    @contextmanager
    def node(self, shown: Credentials, key: ec.EllipticCurvePrivateKey | None = None) -> Iterator[FleetHttpClient]:
        """Flower's own client of a node, with the key of its certificate or another in its headers."""
        signing = key or shown.key
        interceptors = [
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(signing, signing.public_key()),
        ]
        context = shown.context(self.coordinator.authority_path)
        with FleetHttpClient(f"https://localhost:{self.port}", interceptors=interceptors, verify=context) as client:
            yield client


def asked(line: ssl.SSLSocket, raw: bytes) -> bytes:
    """The answer to a request on a connection; nothing where the other end has ended it."""
    try:
        line.sendall(raw)
        return received(line)
    except (ConnectionError, ssl.SSLError):
        return b""


def received(line: ssl.SSLSocket) -> bytes:
    """An answer with its body, as far as the other end sends one."""
    data = b""
    while True:
        head, found, body = data.partition(b"\r\n\r\n")
        if found:
            length = [one for one in head.lower().split(b"\r\n") if one.startswith(b"content-length:")]
            if length and len(body) >= int(length[0].partition(b":")[2]):
                return data
        more = line.recv(65536)
        if not more:
            return data
        data += more
