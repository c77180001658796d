"""The gate between the hospitals and Flower's SuperLink: what passes it, and for whom.

Flower serves the interface of its nodes and those that start runs and read results on one port, and asks nobody who
uses the latter who they are. The gate is a listener of its own before the same application. It speaks TLS 1.3 (RFC
8446) only, with certificates on both sides, lets through the exact paths of the list below, byte for byte as they came,
and holds the public key in Flower's header against that of the certificate: nobody acts for another, and what was
overheard elsewhere cannot be replayed. Everything here is free of Flower; what only Flower can judge is a callable.
"""

import asyncio
import hmac
import json
import os
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from uvicorn.protocols.http.h11_impl import H11Protocol

from shared.errors import UsageError

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]
Inspect = Callable[[bytes, bytes], "Objection | None"]

MAX_BODY: Final = 16 * 2**20  # bytes; Flower's chunks have 5 MiB
BODY_TIME: Final = 180.0  # seconds in which a body must be here
KEY_HEADER: Final = b"flwr-public-key"
SECRET_HEADER: Final = b"x-fedward-secret"
HEALTH: Final = b"/health"
FLEET: Final = b"/v1/fleet/"
_PEER: Final = "fedward_peer"

OUTSIDE: Final = frozenset({(b"GET", HEALTH)}) | {
    (b"POST", FLEET + name)
    for name in (
        *(b"activate-node", b"deactivate-node", b"send-node-heartbeat", b"get-run", b"get-fab"),
        *(b"pull-messages", b"push-messages", b"push-object", b"pull-object", b"confirm-message-received"),
    )
}
INSIDE: Final = frozenset({(b"GET", HEALTH)}) | {
    (b"POST", b"/v1/" + name)
    for name in (
        *(b"control/start-run", b"control/stop-run", b"control/list-runs"),
        *(b"control/register-node", b"control/unregister-node", b"control/list-nodes"),
        *(b"runtime/acquire-task", b"runtime/send-task-heartbeat"),
        *(b"runtime/pull-task-input", b"runtime/push-task-output", b"runtime/get-nodes"),
        *(b"runtime/push-messages", b"runtime/pull-messages", b"runtime/confirm-message-received"),
        *(b"runtime/push-object", b"runtime/pull-object"),
    )
}


@dataclass(frozen=True)
class Peer:
    """Who is at the other end of a connection, by its certificate.

    Attributes:
        key: Its public key, DER of the SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7).
        header: What Flower's header must say: base64 of the same key in PEM.
        until: When the certificate ends to be valid.
    """

    key: bytes
    header: bytes
    until: datetime

    @classmethod
    def of(cls, certificate: bytes) -> "Peer":
        """The peer with this certificate (DER), as TLS has verified it."""
        parsed = x509.load_der_x509_certificate(certificate)
        public = parsed.public_key()
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return cls(der, b64encode(pem), parsed.not_valid_after_utc)


class PeerProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1, which also tells the application whose certificate the connection has.

    h11 hands the target of a request on as it came; uvicorn's faster parser would take an address apart first.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Note the peer once for the connection."""
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        self.app_state = {**self.app_state, _PEER: Peer.of(certificate) if certificate else None}


@dataclass(frozen=True)
class Objection:
    """Why a node may not ask what it asks.

    Attributes:
        reason: In one sentence.
        code: Flower's number of such an error: what a node makes of it.
    """

    reason: str
    code: int


@dataclass(frozen=True)
class Refusal:
    """A request that was not let through.

    Attributes:
        reason: One of a few fixed sentences.
        status: The HTTP status that it was answered with; 0 where the connection ended before a request.
        path: Its target, at most 100 characters of printable ASCII.
        sender: Address and port of the other end; empty where it is not known.
        site: The member that its certificate is of; empty where it is none's.
    """

    reason: str
    status: int
    path: str = ""
    sender: str = ""
    site: str = ""


@dataclass
class RefusalLog:
    """Refusals as lines of JSON: at most one a second for each reason, with the number of those that it stands for.

    Attributes:
        write: Takes one line.
        clock: Seconds; for tests.
    """

    write: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    _last: dict[str, float] = field(default_factory=dict)
    _held: dict[str, tuple[Refusal, int]] = field(default_factory=dict)

    def __call__(self, refusal: Refusal) -> None:
        """Note one refusal."""
        count = self._held.pop(refusal.reason, (refusal, 0))[1] + 1
        self._held[refusal.reason] = refusal, count
        self.flush()

    def flush(self, *, everything: bool = False) -> None:
        """Write what was held back and is due; ``everything`` at the end."""
        now = self.clock()
        for reason, (refusal, count) in list(self._held.items()):
            if everything or now - self._last.get(reason, now - 1.0) >= 1.0:
                self._last[reason] = now
                del self._held[reason]
                when = datetime.now(UTC).isoformat(timespec="milliseconds")
                self.write(json.dumps({"time": when, **vars(refusal), "count": count}))


class Gate:
    """The application as hospitals see it.

    Args:
        app: The whole application.
        members: The site of each admitted key (DER), read anew for every request.
        inspect: Given the path and the body of a request, why a node may not ask this; None where it may.
        refused: Takes note of every refusal.
        clock: The time in UTC; for tests.
    """

    def __init__(
        self,
        app: App,
        *,
        members: Callable[[], Mapping[bytes, str]],
        inspect: Inspect,
        refused: Callable[[Refusal], None],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._app, self._members, self._inspect, self._refused, self._clock = app, members, inspect, refused, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with why not."""
        if not _listed(scope, OUTSIDE):
            await self._refuse(scope, send, 404, "no such path")
            return
        peer: Peer | None = scope["state"].pop(_PEER, None)
        site = self._members().get(peer.key, "") if peer else ""
        if why := self._stranger(scope, peer, site):
            await self._refuse(scope, send, 403, why, site=site)
            return
        try:
            async with asyncio.timeout(BODY_TIME):
                body = await _body(scope, receive)
        except TimeoutError:
            await self._refuse(scope, send, 408, "the body of the request did not come", site=site)
            return
        if body is None:
            await self._refuse(scope, send, 413, f"a request has at most {MAX_BODY} bytes", site=site)
            return
        if objection := await asyncio.to_thread(self._inspect, scope["raw_path"], body):
            await self._refuse(scope, send, 403, objection.reason, site=site, code=objection.code)
            return
        await self._app(scope, _again(body, receive), send)

    def _stranger(self, scope: Scope, peer: Peer | None, site: str) -> str:
        """Why the one at the other end may not ask at all; empty where it may."""
        if peer is None:
            return "no certificate"
        if not site:
            return "the key of the certificate is no member's"
        if self._clock() >= peer.until:
            return "the certificate has expired since the connection was made"
        if scope["raw_path"] == HEALTH:
            return ""
        claimed = [value for name, value in scope["headers"] if name == KEY_HEADER]
        if len(claimed) != 1 or not hmac.compare_digest(claimed[0], peer.header):
            return "the key of the request is not that of the certificate"
        return ""

    async def _refuse(
        self, scope: Scope, send: Send, status: int, reason: str, *, site: str = "", code: int | None = None
    ) -> None:
        self._refused(Refusal(reason, status, _shown(scope), _sender(scope), site))
        await answer(send, status, reason, code)


class Inside:
    """The application as the coordinator's own processes see it: loopback, a shared secret, and what they need.

    Args:
        app: The whole application.
        secret: What ``x-fedward-secret`` must say.
        refused: Takes note of every refusal.
    """

    def __init__(self, app: App, *, secret: str, refused: Callable[[Refusal], None]) -> None:
        self._app, self._secret, self._refused = app, secret.encode("ascii"), refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with why not; the application's start and end pass."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        told = [value for name, value in scope["headers"] if name == SECRET_HEADER]
        if len(told) != 1 or not hmac.compare_digest(told[0], self._secret):
            status, reason = 403, "the inner listener was asked without the secret"
        elif not _listed(scope, INSIDE):
            status, reason = 404, "no such path within"
        else:
            await self._app(scope, receive, send)
            return
        self._refused(Refusal(reason, status, _shown(scope), _sender(scope)))
        await answer(send, status, reason)


def server_context(
    certificate: Path, key: Path, authority: Path, *, refused: Callable[[Refusal], None]
) -> ssl.SSLContext:
    """TLS 1.3 that asks for a certificate of this authority; no session is resumed, so each connection shows its own.

    Args:
        certificate: The gate's, PEM.
        key: Its private key, PEM.
        authority: The certificate of the authority, PEM; no other is trusted.
        refused: Takes note of handshakes that fail.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    context.load_verify_locations(cafile=authority)
    context.load_cert_chain(certificate, key)

    class Told(ssl.SSLObject):
        """A connection whose failed handshake is told; asyncio drops it without a word."""

        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError as error:
                what = getattr(error, "verify_message", "") or (error.reason or "unknown").lower().replace("_", " ")
                refused(Refusal(f"the handshake failed: {what}", 0))
                raise

    context.sslobject_class = Told
    return context


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        UsageError: The address is not this machine's, is in use, or may not be had.
    """
    try:
        made = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        # asyncio sets this for sockets that it made itself; without it each answer waits 40 ms for an acknowledgement.
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except (OSError, OverflowError) as error:
        what = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise UsageError(f"cannot listen on {host}:{port}: {what}", hint="choose another --listen") from error
    return made


async def answer(send: Send, status: int, reason: str, code: int | None = None) -> None:
    """Answer with ``reason`` as JSON; where the body was not waited for, the connection ends with that."""
    body = json.dumps({"detail": reason} | ({} if code is None else {"code": code})).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if status in {408, 413}:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _listed(scope: Scope, allowed: frozenset[tuple[bytes, bytes]]) -> bool:
    """Whether the request is on the list, byte for byte: encoded, doubled or longer spellings are not on it."""
    if scope["type"] != "http" or scope["query_string"]:
        return False
    return (scope["method"].encode(), scope["raw_path"]) in allowed and scope["path"] == scope["raw_path"].decode()


async def _body(scope: Scope, receive: Receive) -> bytes | None:
    """The whole body, or None where it is larger than a request may be."""
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    if any(not value.isdigit() or int(value) > MAX_BODY for value in lengths):
        return None
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            break
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
        if size > MAX_BODY:
            return None
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives ``body`` first, and then what comes on the connection."""
    given = False

    async def receive_again() -> dict[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


def _shown(scope: Scope) -> str:
    raw: bytes = scope.get("raw_path") or b""
    return raw[:100].decode("ascii", "backslashreplace").encode("unicode_escape").decode("ascii")[:100]


def _sender(scope: Scope) -> str:
    client = scope.get("client")
    return f"{client[0]}:{client[1]}" if client else ""
