"""This hospital's end of Flower's fleet API: messages in, answers out, and nothing that the other end sends is run.

Flower's own SuperNode installs and imports what the coordinator sends, has an API on this machine and starts a process
for every message. Of it only the protocol is used here: protobuf over HTTPS, each request signed with the node's key
(https://flower.ai, release 1.41, ``flwr.supernode``). Connections are TLS 1.3 with both certificates. Redirects are not
followed, answers are bounded, and every object is held against its SHA-256 before anybody reads it.

Of this room only this file and ``client/flower_messages.py`` use Flower's internals.
"""

import contextlib
import hashlib
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self, TypeVar, cast

import httpx
from flwr.common.serde import run_from_proto
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.node_pb2 import Node as ProtoNode
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufClientInterceptor, ProtobufRequestContext
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from google.protobuf.message import DecodeError

from client.flower_messages import Delivery, pairs
from client.link_http import BoundedHttp
from client.link_trouble import (
    CutError,
    GarbledError,
    LinkError,
    RejectedError,
    RunOverError,
    StillActiveError,
    UnreachableError,
)
from shared.link_keys import PrivateKey

HEARTBEAT = 15.0
"""Seconds that this node promises a sign of life within; the coordinator takes it for gone after twice as many.

Flower's own node promises 30. Less would make of a short cut of the line a hospital that is gone."""
MAX_OBJECTS = 10_000
"""Parts of one message; Flower cuts an array into parts of 5 MiB."""
MAX_MESSAGE = 1 << 33  # bytes
_LANES = 4
_MISSING = 120.0  # seconds that a part of a message may come later than the message
_PUSHES = 5
_OVER = {
    ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED,
    ApiErrorCode.FLEET_GET_RUN_FAILED,
    ApiErrorCode.FLEET_GET_FAB_FAILED,
}

Result = TypeVar("Result")
Patient = Callable[[Callable[[], Result]], Result]
"""Calls something again and again until the coordinator can be reached."""


@dataclass(frozen=True)
class Run:
    """What the coordinator says of a run.

    Attributes:
        task_type: What it runs itself, in Flower's words.
        config: The run's configuration as it was given when it was started.
        fab: The app bundle.
    """

    task_type: str
    config: Mapping[str, object]
    fab: bytes


class _Version:
    """Says which Flower this is. Flower's own class would end the process where the other end has another one."""

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers.update(dict(RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata()))
        return call_next(context)


class _Send:
    """The last of the chain: sends by our own client, so that Flower's, which follows redirects, never does."""

    def __init__(self, http: BoundedHttp) -> None:
        self._http = http

    def intercept(self, context: ProtobufRequestContext, _call_next: ProtobufCall) -> httpx.Response:
        return self._http.send(context.request)


class Fleet:
    """The coordinator, seen from one node.

    Args:
        address: ``host:port`` of the coordinator's gate.
        tls: With the authority of the federation and the certificate of this hospital.
        key: The node's; it signs every request.
        patiently: How everything but :meth:`activate`, :meth:`heartbeat` and :meth:`deactivate` is called.
        seen: Told of the clock difference in seconds (this machine ahead: positive) of every answer.
    """

    def __init__(
        self,
        address: str,
        tls: ssl.SSLContext,
        key: PrivateKey,
        *,
        patiently: Patient[object],
        seen: Callable[[float | None], None],
    ) -> None:
        self._http = BoundedHttp(f"https://{address}", tls, seen)
        chain: list[ProtobufClientInterceptor] = [
            _Version(),
            NodeAuthHttpInterceptor(key, key.public_key()),
            _Send(self._http),
        ]
        self._client = FleetHttpClient(f"https://{address}", interceptors=chain, verify=tls)
        self._public = public_key_to_bytes(key.public_key())
        self._patiently = patiently
        self._node = ProtoNode()
        self._pool = ThreadPoolExecutor(_LANES, thread_name_prefix="objects")

    @property
    def node_id(self) -> int:
        """This node's number; 0 before :meth:`activate`."""
        return int(self._node.node_id)

    def activate(self, earlier: int = 0) -> int:
        """Take up the connection and return the node's number.

        Args:
            earlier: The number in an earlier life that is certainly over. Flower takes a sign of life of a node that is
                gone for its return, so that it need not wait until the coordinator has noticed that it was gone.

        Raises:
            StillActiveError: The coordinator does not know this node's key, or takes it for connected already.
            LinkError: It cannot be reached, or refuses.
        """
        self._node = ProtoNode(node_id=earlier)
        with contextlib.suppress(RejectedError):  # it may know this node by another number by now
            if earlier and self.heartbeat():
                return earlier
        request = ActivateNodeRequest(public_key=self._public, heartbeat_interval=HEARTBEAT)
        try:
            self._node = ProtoNode(node_id=_call(lambda: self._client.ActivateNode(request)).node_id)
        except CutError:
            if _call(self._http.is_cut):
                raise CutError.behind_handshake() from None
            raise
        return int(self._node.node_id)

    def heartbeat(self) -> bool:
        """Give a sign of life; False where the coordinator does not know the node any more.

        Raises:
            LinkError: It cannot be reached, or refuses.
        """
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT)
        return bool(_call(lambda: self._client.SendNodeHeartbeat(request)).success)

    def deactivate(self) -> None:
        """Take leave, so that nobody waits for this node; that it cannot be reached does not matter any more."""
        with contextlib.suppress(LinkError):
            _call(lambda: self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._node.node_id)))

    def pull(self) -> Delivery | None:
        """The next message for this node, or None.

        Raises:
            GarbledError: It is no message for this node.
        """
        answer = self._ask(lambda: self._client.PullMessages(PullMessagesRequest(node=self._node)))
        if not answer.messages_list:
            return None
        if len(answer.messages_list) != len(answer.message_object_trees):
            raise GarbledError("a message without its parts")
        raw, tree = answer.messages_list[0], answer.message_object_trees[0]
        parts = tuple(dict.fromkeys(part.object_id for part in iterate_object_tree(tree)))
        if raw.metadata.dst_node_id != self._node.node_id or parts[-1] != raw.metadata.message_id:
            raise GarbledError("a message for another node, or parts of another message")
        if len(parts) > MAX_OBJECTS:
            raise GarbledError(f"a message of {len(parts)} parts, more than {MAX_OBJECTS}")
        return Delivery(raw.SerializeToString(), parts)

    def run(self, run_id: int) -> Run:
        """What the coordinator says of a run, with its bundle.

        Raises:
            RunOverError: It has ended, or is not for this node.
        """
        asked = GetRunRequest(node=self._node, run_id=run_id)
        run = run_from_proto(self._ask(lambda: self._client.GetRun(asked)).run)
        request = GetFabRequest(node=self._node, hash_str=run.fab_hash, run_id=run_id)
        fab = self._ask(lambda: self._client.GetFab(request)).fab
        return Run(run.primary_task_type, dict(run.override_config), bytes(fab.content))

    def is_over(self, run_id: int) -> bool:
        """Whether a run has ended; False also where the coordinator cannot be asked at the moment."""
        try:
            _call(lambda: self._client.GetRun(GetRunRequest(node=self._node, run_id=run_id)))
        except RunOverError:
            return True
        except LinkError:
            pass
        return False

    def fetch(self, delivery: Delivery) -> dict[str, bytes]:
        """The objects of a message by their ids, each held against its id, and tell the coordinator that they are here.

        Raises:
            GarbledError: One is missing, or is not what its id says.
            RunOverError: The run has ended.
        """
        lock, left = threading.Lock(), MAX_MESSAGE

        def one(part: str) -> bytes:
            nonlocal left
            content = self._object(delivery.run_id, part)
            with lock:
                left -= len(content)
            if left < 0:
                raise GarbledError(f"a message of more than {MAX_MESSAGE} bytes")
            return content

        contents = dict(zip(delivery.parts, self._pool.map(one, delivery.parts), strict=True))
        self.confirm(delivery)
        return contents

    def confirm(self, delivery: Delivery) -> None:
        """Tell the coordinator that it need not keep a message any longer.

        Raises:
            RunOverError: The run has ended.
        """
        request = ConfirmMessageReceivedRequest(
            node=self._node, run_id=delivery.run_id, message_object_id=delivery.message_id
        )
        self._ask(lambda: self._client.ConfirmMessageReceived(request))

    def push(self, reply: list[bytes], seconds: float) -> None:
        """Send an answer.

        Args:
            reply: As :func:`deflate` makes it.
            seconds: What it took, for Flower's own books.

        Raises:
            RunOverError: The run has ended.
            GarbledError: The coordinator does not take it.
        """
        message, tree = ProtoMessage.FromString(reply[0]), ObjectTree.FromString(reply[1])
        contents = pairs(reply[2:])
        request = PushMessagesRequest(
            node=self._node, messages_list=[message], message_object_trees=[tree], clientapp_runtime_list=[seconds]
        )
        for _ in range(_PUSHES):
            answer = self._ask(lambda: self._client.PushMessages(request))
            asked = [part for part in contents if part in set(answer.objects_to_push)]
            objects = (
                PushObjectRequest(
                    node=self._node,
                    run_id=message.metadata.run_id,
                    object_id=part,
                    object_content=contents[part],
                    session_id=answer.session_id,
                )
                for part in asked
            )
            stored = self._pool.map(lambda one: self._ask(lambda: self._client.PushObject(one)).stored, objects)
            if all(stored):
                return
        raise GarbledError(f"the coordinator did not keep an answer that was sent {_PUSHES} times")

    def close(self) -> None:
        """Close the connections."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _object(self, run_id: int, part: str) -> bytes:
        request = PullObjectRequest(node=self._node, run_id=run_id, object_id=part)
        deadline, pause = time.monotonic() + _MISSING, 0.1
        while True:
            answer = self._ask(lambda: self._client.PullObject(request))
            if answer.object_available:
                break
            if not answer.object_found or time.monotonic() > deadline:
                raise GarbledError("a message of which a part is missing")
            time.sleep(pause)
            pause = min(2 * pause, 2.0)
        content = bytes(answer.object_content)
        if hashlib.sha256(content).hexdigest() != part:
            raise GarbledError("a message of which a part is not what its digest says")
        return content

    def _ask(self, call: Callable[[], Result]) -> Result:
        return cast(Result, self._patiently(lambda: _call(call)))


def _call(call: Callable[[], Result]) -> Result:
    try:
        return call()
    except httpx.HTTPStatusError as error:
        raise _refused(error.response) from error
    except (httpx.HTTPError, OSError) as error:
        raise UnreachableError.because(error) from error
    except (ValueError, DecodeError, RecursionError) as error:
        raise GarbledError(f"an answer that is none: {type(error).__name__}") from error


def _refused(response: httpx.Response) -> LinkError:
    flower = FlowerError.from_json(response.text)
    if flower is not None and flower.code in _OVER:
        return RunOverError("the run has ended")
    if flower is not None and flower.code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED:
        return StillActiveError()
    return RejectedError.with_status(response.status_code)
