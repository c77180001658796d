"""Flower's messages as byte strings, from one process of a hospital to the next.

A Flower message is a tree of objects, each named by the SHA-256 of its bytes. What goes to a child of the worker, and
what comes back, is those bytes; a child makes a message of them, hands it to the ClientApp that is installed here, and
takes the answer apart again. Nothing is pickled.

Beside ``client/flower_node.py`` this is the file of the room that uses Flower's internals; apart from it, so that a
child needs nothing of the network.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from flwr.app import Context, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity
from google.protobuf.message import DecodeError

from client.link_trouble import GarbledError
from shared.errors import ProtocolError
from shared.parsing import parse_json
from shared.wire import Refusal


@dataclass(frozen=True)
class Delivery:
    """A message that is there to be fetched.

    Attributes:
        raw: Flower's protobuf message, without its content.
        parts: The ids of the objects that it consists of, each once; the last is the message itself.
    """

    raw: bytes
    parts: tuple[str, ...] = ()

    @property
    def message(self) -> Message:
        """It as Flower sees it, without its content.

        Raises:
            GarbledError: It is none.
        """
        try:
            return message_from_proto(ProtoMessage.FromString(self.raw))
        except (DecodeError, ValueError, TypeError, KeyError) as error:
            raise GarbledError(f"a message that is none: {type(error).__name__}") from error

    @property
    def run_id(self) -> int:
        """Flower's number of the run that it belongs to."""
        return int(ProtoMessage.FromString(self.raw).metadata.run_id)

    @property
    def message_id(self) -> str:
        """Flower's name for it: the SHA-256 of the message as an object."""
        return str(ProtoMessage.FromString(self.raw).metadata.message_id)


def work_of(delivery: Delivery, contents: dict[str, bytes], context: Mapping[str, object]) -> Iterator[bytes]:
    """A message for a child of the worker, see :func:`answer`.

    Args:
        delivery: It.
        contents: Its objects by their ids; taken out one by one.
        context: ``node`` (its number), ``node_config`` and ``run_config``.
    """
    yield json.dumps({**context, "message": delivery.message_id, "run": delivery.run_id}).encode()
    while contents:  # what was handed over is not kept
        part = next(iter(contents))
        yield part.encode()
        yield contents.pop(part)


def answer(work: list[bytes], app: ClientApp) -> list[bytes]:
    """What ``app`` answers to the message that :func:`work_of` wrote down, in a process that may end afterwards.

    Behind it stands what the link tells people of it: the reason where it is a refusal, and else nothing.

    Raises:
        GarbledError: It is no message, or not the one that was announced.
        Exception: Whatever the app raises.
    """
    facts = parse_json(work[0])
    run, node = int(facts["run"]), int(facts["node"])
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run, node, 0
    message = inflate_object_from_contents(facts["message"], pairs(work[1:]))
    if not isinstance(message, Message) or (message.metadata.run_id, message.metadata.dst_node_id) != (run, node):
        raise GarbledError("a message that is not what was announced")
    message.metadata.__dict__["_message_id"] = facts["message"]  # an object cannot hold its own digest
    context = Context(run, node, facts["node_config"], state=RecordDict(), run_config=facts["run_config"])
    reply = app(message, context)
    return [*deflate(reply), _refused(reply).encode()]


def _refused(reply: Message) -> str:
    try:
        refusal = Refusal.from_record(reply.content)
    except (ProtocolError, ValueError):  # an answer, or an error of Flower's
        return ""
    return f"{refusal.code}: {refusal.reason}"


def deflate(message: Message) -> list[bytes]:
    """A message as byte strings: itself without content, the tree of its parts, and each part behind its id."""
    with no_object_id_recompute():
        message.metadata.__dict__["_message_id"] = message.object_id
        bare = message_to_proto(remove_content_from_message(message)).SerializeToString()
        strings = [bare, get_object_tree(message).SerializeToString()]
        for part, content in get_all_nested_objects(message).items():
            strings += [part.encode(), content.deflate()]
    return strings


def reply_to(delivery: Delivery, content: RecordDict) -> list[bytes]:
    """An answer that is made here, as :func:`deflate` writes it down."""
    message = delivery.message
    TaskIdentity.run_id, TaskIdentity.node_id = message.metadata.run_id, message.metadata.dst_node_id
    TaskIdentity.task_id = 0
    return deflate(Message(content, reply_to=message))


def pairs(strings: Iterable[bytes]) -> dict[str, bytes]:
    """Objects by their ids, of strings that are an id and an object in turn."""
    both = list(strings)
    return {part.decode(): content for part, content in zip(both[::2], both[1::2], strict=True)}
