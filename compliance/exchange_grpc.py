"""The audit exchange over gRPC: the coordinator listens, hospitals call, both show certificates of the federation.

TLS is gRPC's own: between two of ours it is TLS 1.3 (RFC 8446), and neither side takes a certificate that the
federation's authority did not make. Who calls is told by the key in the certificate, never by what a message says,
and before any message is waited for: a call without one holds a thread for seconds, and a key has few calls at once.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from compliance.proto.audit_pb2 import DESCRIPTOR, TurnReply, TurnRequest
from compliance.proto.audit_pb2_grpc import AuditExchangeStub
from shared.errors import FedwardError, PolicyError, ProtocolError, UsageError

MAX_TURN: Final = 4 * 2**20  # bytes of a message; a proof has at most some 2 KiB
PORT_STEP: Final = 1
"""What is added to the port of the gate to have that of the audit exchange."""
_SECONDS: Final = 20.0
RECEIVING: Final = 10.0  # seconds that a message has to arrive in, once its call has begun
CALLS: Final = 2
"""Calls of one key at once. A hospital makes one; where it gave up waiting, its next may meet the one before."""
_THREADS: Final = 256  # made where needed; enough for the calls of 128 keys
_LIMITS: Final = (("grpc.max_receive_message_length", MAX_TURN), ("grpc.max_send_message_length", MAX_TURN))
_LISTENING: Final = (
    *_LIMITS,
    ("grpc.so_reuseport", 0),  # otherwise a second process could listen beside this one
    ("grpc.max_connection_idle_ms", 120_000),
    ("grpc.max_concurrent_streams", 4),
    ("grpc.max_connection_age_ms", 3_600_000),  # what hangs in a connection ends with it
    ("grpc.max_connection_age_grace_ms", 30_000),
)
_LOG: Final = logging.getLogger("fedward.audit")


class Office(Protocol):
    """What answers turns."""

    def turn(self, site: str, request: TurnRequest) -> TurnReply:
        """Answer one turn of a site.

        Raises:
            FedwardError: What it says does not hold, in words that may be told to the site.
        """


@dataclass(frozen=True)
class Papers:
    """What one end shows, and whom it believes.

    Attributes:
        certificate: PEM.
        key: Its private key, PEM.
        authority: PEM of the authority's certificate; no other is trusted.
    """

    certificate: bytes
    key: bytes
    authority: bytes

    @classmethod
    def read(cls, certificate: Path, key: Path, authority: Path) -> "Papers":
        """The papers in these files.

        Raises:
            UsageError: One cannot be read.
        """
        try:
            return cls(certificate.read_bytes(), key.read_bytes(), authority.read_bytes())
        except OSError as error:
            raise UsageError(
                f"cannot read {error.filename}: {error.strerror}", hint="join again, or restore it from a copy"
            ) from error


class _Answering:
    """Takes calls of the method ``Turn`` from the moment in which they begin, before their message is there."""

    def __init__(self, office: Office, members: Callable[[], Mapping[bytes, str]]) -> None:
        self._office, self._members = office, members
        self._calls: dict[bytes, int] = {}
        self._lock, self._asking = threading.Lock(), threading.Lock()

    def turn(self, messages: Iterator[TurnRequest], context: grpc.ServicerContext) -> TurnReply:
        key = _key_of(context)
        self._site(key, context)
        with self._counted(key, context):
            request = _received(messages, context)
            site = self._site(key, context)  # it may have been taken out meanwhile
            try:
                return self._office.turn(site, request)
            except FedwardError as error:
                _LOG.warning("%s: %s", site, error.message)
                denied = isinstance(error, PolicyError)
                code = grpc.StatusCode.PERMISSION_DENIED if denied else grpc.StatusCode.FAILED_PRECONDITION
                context.abort(code, error.message)
                raise  # abort has raised already

    def _site(self, key: bytes, context: grpc.ServicerContext) -> str:
        with self._asking:  # who tells the members reads files anew meanwhile, and has none before the first time
            site = self._members().get(key, "")
        if not site:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "the key of the certificate is no member's")
        return site

    @contextmanager
    def _counted(self, key: bytes, context: grpc.ServicerContext) -> Iterator[None]:
        with self._lock:
            full = self._calls.get(key, 0) >= CALLS
            if not full:
                self._calls[key] = self._calls.get(key, 0) + 1
        if full:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"this key has {CALLS} calls under way already")
        try:
            yield
        finally:
            with self._lock:
                self._calls[key] -= 1
                if not self._calls[key]:
                    del self._calls[key]


def _received(messages: Iterator[TurnRequest], context: grpc.ServicerContext) -> TurnRequest:
    """The one message of a call. Where it does not come in time the call is cancelled, which ends the iterator."""
    late = threading.Timer(RECEIVING, context.cancel)
    late.daemon = True
    late.start()
    try:
        return next(messages)
    except StopIteration:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a turn has one message")
        raise  # abort has raised already
    finally:
        late.cancel()


def _handler(answering: _Answering) -> grpc.GenericRpcHandler:
    """What the service has.

    On the wire one message and a stream of one are the same (gRPC over HTTP/2). But gRPC's Python asks a method for
    streams as soon as the call begins, and one for a message only when that is whole.
    """
    turn = grpc.stream_unary_rpc_method_handler(
        answering.turn,
        request_deserializer=TurnRequest.FromString,
        response_serializer=TurnReply.SerializeToString,
    )
    service = DESCRIPTOR.services_by_name["AuditExchange"].full_name
    return grpc.method_handlers_generic_handler(service, {"Turn": turn})


def _key_of(context: grpc.ServicerContext) -> bytes:
    """The public key of the certificate that the caller has shown, DER; TLS has verified it."""
    (shown,) = context.auth_context()["x509_pem_cert"]
    public = x509.load_pem_x509_certificate(shown).public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@contextmanager
def serve(address: str, papers: Papers, members: Callable[[], Mapping[bytes, str]], office: Office) -> Iterator[int]:
    """Answer turns of members while the block runs; yields the port.

    Args:
        address: ``IP:PORT``; port 0 takes any that is free.
        papers: The coordinator's.
        members: The site of each admitted key (DER), read anew for every turn.
        office: What answers.

    Raises:
        UsageError: The address is in use, or the papers are none.
    """
    threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="audit-exchange")
    server = grpc.server(threads, options=_LISTENING, maximum_concurrent_rpcs=_THREADS)
    server.add_generic_rpc_handlers((_handler(_Answering(office, members)),))
    credentials = grpc.ssl_server_credentials(
        [(papers.key, papers.certificate)], root_certificates=papers.authority, require_client_auth=True
    )
    try:
        port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise UsageError(f"cannot listen on {address}", hint="choose another --audit-listen") from error
    server.start()
    try:
        yield port
    finally:
        server.stop(1.0).wait()


class Caller:
    """A hospital's connection to the audit exchange of its coordinator.

    Args:
        address: ``host:port``.
        papers: The hospital's.
    """

    def __init__(self, address: str, papers: Papers) -> None:
        credentials = grpc.ssl_channel_credentials(papers.authority, papers.key, papers.certificate)
        self._address = address
        self._channel = grpc.secure_channel(address, credentials, options=_LIMITS)
        self._stub = AuditExchangeStub(self._channel)  # type: ignore[no-untyped-call]

    def turn(self, request: TurnRequest) -> TurnReply:
        """One turn.

        Raises:
            ProtocolError: The coordinator is not reached, or refuses.
        """
        try:
            reply: TurnReply = self._stub.Turn(request, timeout=_SECONDS)
        except grpc.RpcError as error:
            said = str(error.details() or error.code().name) if isinstance(error, grpc.Call) else type(error).__name__
            raise ProtocolError(
                f"the audit exchange at {self._address} does not answer: {' '.join(said.split())[:200]}",
                hint="the record is kept, and witnessed later; witnesses can also be asked by file: "
                "'fedward audit witness --help'",
            ) from error
        return reply

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()
