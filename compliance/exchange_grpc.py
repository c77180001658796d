"""The audit exchange over gRPC: the coordinator listens, hospitals call, both show certificates of the federation.

TLS is gRPC's own: between two of ours it is TLS 1.3 (RFC 8446), and neither side takes a certificate that the
federation's authority did not make. Who calls is told by the key in the certificate, never by what a message says.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from compliance.proto.audit_pb2 import TurnReply, TurnRequest
from compliance.proto.audit_pb2_grpc import (
    AuditExchangeServicer,
    AuditExchangeStub,
    add_AuditExchangeServicer_to_server,
)
from shared.errors import FedwardError, PolicyError, ProtocolError, UsageError

MAX_TURN: Final = 4 * 2**20  # bytes of a message; a proof has at most some 2 KiB
PORT_STEP: Final = 1
"""What is added to the port of the gate to have that of the audit exchange."""
_SECONDS: Final = 20.0
_THREADS: Final = 4
_LIMITS: Final = (("grpc.max_receive_message_length", MAX_TURN), ("grpc.max_send_message_length", MAX_TURN))
_LISTENING: Final = (
    *_LIMITS,
    ("grpc.so_reuseport", 0),  # otherwise a second process could listen beside this one
    ("grpc.max_connection_idle_ms", 120_000),
    ("grpc.max_concurrent_streams", 4),
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


class _Servicer(AuditExchangeServicer):
    def __init__(self, office: Office, members: Callable[[], Mapping[bytes, str]]) -> None:
        self._office, self._members = office, members

    def Turn(self, request: TurnRequest, context: grpc.ServicerContext) -> TurnReply:  # noqa: N802
        site = self._members().get(_key_of(context), "")
        if not site:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "the key of the certificate is no member's")
        try:
            return self._office.turn(site, request)
        except FedwardError as error:
            _LOG.warning("%s: %s", site, error.message)
            denied = isinstance(error, PolicyError)
            code = grpc.StatusCode.PERMISSION_DENIED if denied else grpc.StatusCode.FAILED_PRECONDITION
            context.abort(code, error.message)
            raise  # abort has raised already


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
    server = grpc.server(ThreadPoolExecutor(_THREADS), options=_LISTENING, maximum_concurrent_rpcs=4 * _THREADS)
    add_AuditExchangeServicer_to_server(_Servicer(office, members), server)  # type: ignore[no-untyped-call]
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
