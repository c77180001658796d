"""A member that turned bad: its own key and certificate, and a client that says whatever it is told to."""

import ssl
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.supernode.fleet_http_client import FleetHttpClient

Headers = tuple[tuple[str, str], ...]


def signed(key: ec.EllipticCurvePrivateKey, *, claim: bytes | None = None) -> Headers:
    """What Flower asks of a node: its public key (or that of another, ``claim``) and the signed time."""
    time = now().isoformat()
    return (
        (FLEET_HTTP_PUBLIC_KEY_HEADER, b64encode(claim or public_key_to_bytes(key.public_key())).decode()),
        (TIMESTAMP_HEADER, time),
        (FLEET_HTTP_SIGNATURE_HEADER, b64encode(sign_message(key, time.encode())).decode()),
    )


@dataclass
class _Says:
    """Puts on every request the headers that ``headers`` makes, in their order, doubled ones too."""

    headers: Callable[[], Headers]
    sent: list[Headers] = field(default_factory=list)

    def intercept(
        self, context: ProtobufRequestContext, call_next: Callable[[ProtobufRequestContext], httpx.Response]
    ) -> httpx.Response:
        extra = self.headers()
        self.sent.append(extra)
        rows = [*context.request.headers.multi_items(), *extra]
        context.request.headers = httpx.Headers(rows)
        return call_next(context)


@dataclass(frozen=True)
class Member:
    """One end of the fleet API that behaves as it likes.

    Attributes:
        client: Flower's own client, over the connection of this member.
        key: The key that it signs with.
        said: The headers that it sent, the latest last.
    """

    client: FleetHttpClient
    key: ec.EllipticCurvePrivateKey
    said: list[Headers]

    @property
    def public_key(self) -> bytes:
        return public_key_to_bytes(self.key.public_key())

    def activate(self, interval: float = 30.0) -> Node:
        answer = self.client.ActivateNode(ActivateNodeRequest(public_key=self.public_key, heartbeat_interval=interval))
        return Node(node_id=answer.node_id)


def member(
    port: int,
    context: ssl.SSLContext,
    key: ec.EllipticCurvePrivateKey,
    *,
    headers: Callable[[], Headers] | None = None,
) -> Member:
    """A member at the gate on ``port``, which signs with ``key`` or says ``headers``."""
    says = _Says(headers or (lambda: signed(key)))
    client = FleetHttpClient(f"https://127.0.0.1:{port}", interceptors=[says], verify=context, timeout=20.0)
    return Member(client, key, says.sent)


def refused(call: Callable[[], object]) -> int:
    """The status with which something is refused; 0 where the connection ended instead.

    Raises:
        AssertionError: It was done.
    """
    try:
        done = call()
    except httpx.HTTPStatusError as error:
        return error.response.status_code
    except httpx.TransportError:
        return 0
    raise AssertionError(f"it was done: {done!r}")


def as_mapping(headers: Headers) -> Mapping[str, str]:
    return dict(headers)
