"""A gate as the coordinator's: TLS 1.3, certificates on both sides, and what is wrong with it on purpose."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from shared import certificates
from shared.certificates import Authority
from shared.link_keys import make_key
from tests.ports import free_port

HOST = "127.0.0.1"


def authority(name: str = "center", **given: datetime) -> Authority:
    return Authority.make(ec.generate_private_key(ec.SECP384R1()), name, **given)


class _Handler(BaseHTTPRequestHandler):
    status, ahead = 200, 0.0

    def do_GET(self) -> None:
        self.send_response_only(self.status if self.path == "/health" else 404)
        # What a clock that differs by so much would say.
        self.send_header("Date", format_datetime(datetime.now(UTC) + timedelta(seconds=self.ahead), usegmt=True))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A handshake that failed is what the test is about."""


@contextlib.contextmanager
def gate(
    folder: Path,
    signer: Authority,
    trusts: Authority | None = None,
    *,
    hosts: tuple[str, ...] = (HOST,),
    status: int = 200,
    ahead: float = 0.0,
    now: datetime | None = None,
) -> Iterator[str]:
    """Its address, as long as it answers; ``ahead`` is how many seconds its clock is ahead of ours."""
    folder.mkdir()
    key = make_key(folder / "gate.key")
    made = signer.server(key.public_key(), "center", hosts, now=now)
    (folder / "gate.pem").write_bytes(certificates.pem(made))
    (folder / "trusted.pem").write_bytes(certificates.pem((trusts or signer).certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(folder / "trusted.pem")
    context.load_cert_chain(folder / "gate.pem", folder / "gate.key")
    handler = type("Handler", (_Handler,), {"status": status, "ahead": ahead})
    server = _Quiet((HOST, 0), handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    with _serving(server) as address:
        yield address


@contextlib.contextmanager
def plain() -> Iterator[str]:
    """A service without TLS."""
    with _serving(_Quiet((HOST, 0), _Handler)) as address:
        yield address


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """Somebody who takes connections and says nothing."""
    with socket.create_server((HOST, 0)) as listener:
        yield "{}:{}".format(*listener.getsockname())


def nobody() -> str:
    """An address at which nobody listens."""
    return f"{HOST}:{free_port()}"


@contextlib.contextmanager
def proxy(to: str | None) -> Iterator[str]:
    """A proxy that brings every connection to ``to``, wherever it wants to go; None: it refuses them all."""

    class Proxy(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            if to is None:
                self.send_error(403)
                return
            self.send_response_only(200)
            self.end_headers()
            host, _, port = to.partition(":")
            with socket.create_connection((host, int(port))) as other:
                back = threading.Thread(target=_copy, args=(other, self.connection), daemon=True)
                back.start()
                _copy(self.connection, other)
                back.join()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with _serving(_Quiet((HOST, 0), Proxy)) as address:
        yield address


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def _serving(server: ThreadingHTTPServer) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield "{}:{}".format(*server.server_address)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
