"""A hospital that answers with the real ClientApp of its node and does with the answers what it likes."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from flwr.app import Context, Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import DeactivateNodeRequest, PullMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from client.app import app, close_sessions
from simulation.local_grid import set_identity
from tests.attacks.link.fleet import Member
from tests.attacks.link.replies import Forged, push

Deed = Callable[["Insider", Message, Forged], None]


@dataclass
class Insider:
    """Stands in for a hospital until it is stopped.

    Attributes:
        member: Its connection.
        site: Its name.
        folder: Its node.
        deed: What it does with an answer; by default it sends it, once.
        answered: Types of the messages that it answered.
        failed: What went wrong on the way.
        loses: Types of messages of which it loses the first, as where a connection is cut under the answer to a pull.
    """

    member: Member
    site: str
    folder: Path
    deed: Deed = field(default=lambda self, message, forged: self.send(forged))
    answered: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    loses: set[str] = field(default_factory=set)
    node: Node = field(default_factory=Node)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Insider":
        self.node = self._activated()
        for work in (self._answer, self._beat):
            threading.Thread(target=work, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        time.sleep(0.5)
        close_sessions()
        with suppress(httpx.HTTPError):
            self.member.client.DeactivateNode(DeactivateNodeRequest(node_id=self.node.node_id))

    def _activated(self) -> Node:
        """Its node; one that was killed counts as connected for half a minute."""
        end = time.monotonic() + 90
        while True:
            try:
                return self.member.activate()
            except httpx.HTTPStatusError:
                if time.monotonic() > end:
                    raise
                time.sleep(2)

    def send(self, forged: Forged) -> bool:
        """Push an answer as an honest hospital does."""
        return push(self.member.client, self.node, forged)

    def _beat(self) -> None:
        while not self._ended.wait(10):
            self.member.client.SendNodeHeartbeat(SendNodeHeartbeatRequest(node=self.node, heartbeat_interval=30))

    def _answer(self) -> None:
        set_identity()
        while not self._ended.wait(0.2):
            try:
                self._once()
            except (httpx.HTTPError, KeyError, ValueError) as error:
                self.failed.append(repr(error))

    def _once(self) -> None:
        client = self.member.client
        pulled = client.PullMessages(PullMessagesRequest(node=self.node))
        for proto, tree in zip(pulled.messages_list, pulled.message_object_trees, strict=True):
            run, name = proto.metadata.run_id, proto.metadata.message_id
            if proto.metadata.message_type in self.loses:
                self.loses.discard(proto.metadata.message_type)
                continue
            parts = {}
            for one in iterate_object_tree(tree):
                asked = PullObjectRequest(node=self.node, run_id=run, object_id=one.object_id)
                while not (got := client.PullObject(asked)).object_available:
                    time.sleep(0.1)
                parts[one.object_id] = got.object_content
            client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(node=self.node, run_id=run, message_object_id=name)
            )
            message = inflate_object_from_contents(name, parts)
            assert isinstance(message, Message)
            message.metadata.__dict__["_message_id"] = name
            config = {"node-dir": str(self.folder), "site": self.site}
            answer = app(message, Context(run, self.node.node_id, config, RecordDict(), {}))
            self.answered.append(message.metadata.message_type)
            self.deed(self, message, packed(answer, self.node.node_id))


def packed(answer: Message, node: int) -> Forged:
    """An answer of the ClientApp, ready for the wire."""
    meta = answer.metadata.__dict__
    meta["_src_node_id"] = node
    meta["_message_id"] = ""
    meta["_message_id"] = answer.object_id
    objects = {name: one.deflate() for name, one in get_all_nested_objects(answer).items()}
    proto = message_to_proto(answer)
    proto.ClearField("content")
    proto.content.SetInParent()
    return Forged(answer, proto, objects)
