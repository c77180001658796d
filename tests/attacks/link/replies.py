"""Messages that were forged below Flower's own checks."""

import time
from dataclasses import dataclass

from flwr.app import Error, Message, Metadata, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supernode.fleet_http_client import FleetHttpClient


@dataclass(frozen=True)
class Forged:
    """A message, its form on the wire, and its parts by id."""

    message: Message
    proto: ProtoMessage
    objects: dict[str, bytes]


def answer_to(
    request: str, run: int, source: int, content: RecordDict | None = None, *, error: Error | None = None
) -> Forged:
    """An answer to the message with the id ``request`` that says it comes from node ``source``."""
    return _forged(run, source, SUPERLINK_NODE_ID, "query", content or RecordDict(), request=request, error=error)


def order(run: int, node: int, kind: str, content: RecordDict) -> Forged:
    """A message for a hospital that says it comes from the coordinator."""
    return _forged(run, SUPERLINK_NODE_ID, node, kind, content)


def push(client: FleetHttpClient, node: Node, forged: Forged) -> bool:
    """Push a message and its parts as ``node``; whether the other end took all of it."""
    pushed = client.PushMessages(
        PushMessagesRequest(
            node=node, messages_list=[forged.proto], message_object_trees=[get_object_tree(forged.message)]
        )
    )
    taken = [
        client.PushObject(
            PushObjectRequest(
                node=node,
                run_id=forged.proto.metadata.run_id,
                object_id=name,
                object_content=data,
                session_id=pushed.session_id,
            )
        ).stored
        for name, data in forged.objects.items()
        if name in pushed.objects_to_push
    ]
    return bool(taken) and all(taken)


def _forged(
    run: int,
    source: int,
    target: int,
    kind: str,
    content: RecordDict,
    *,
    request: str = "",
    error: Error | None = None,
) -> Forged:
    metadata = Metadata(
        run_id=run,
        message_id="",
        src_node_id=source,
        dst_node_id=target,
        reply_to_message_id=request,
        group_id="1",
        created_at=time.time(),
        ttl=60.0,
        message_type=kind,
    )
    message = make_message(metadata, None if error else content, error)
    with no_object_id_recompute():
        message.metadata.__dict__["_message_id"] = message.object_id
        objects = {name: one.deflate() for name, one in get_all_nested_objects(message).items()}
        return Forged(message, message_to_proto(remove_content_from_message(message)), objects)
