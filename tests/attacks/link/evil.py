"""A coordinator that turned bad: Flower's own SuperLink behind the gate's real key, and nothing that holds it back.

It writes straight into the SuperLink's state, so what Flower's Control API would refuse to it is no obstacle.
"""

import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from flwr.app import Message, Metadata, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, SUPERLINK_NODE_ID, SubStatus
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from tests.attacks.link.routes import superlink

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Tamper = Callable[[Scope, Receive, Send], Awaitable[bool]]
"""Answers a request itself and says so, or leaves it to Flower."""


@dataclass
class Evil:
    """Such a coordinator while it is up.

    Attributes:
        app: Flower's app.
        state: Its state.
        port: Where hospitals find it.
        tamper: What it does instead of answering.
        rewrite: What it makes of messages on their way out, which its own SuperLink would not let it keep.
        asked: The paths that were asked for, in order.
        nodes: Node ids by the name of the site.
    """

    app: FastAPI
    state: LinkState
    port: int
    tamper: Tamper | None = None
    rewrite: Callable[[PullMessagesResponse], None] | None = None
    asked: list[str] = field(default_factory=list)
    nodes: dict[str, int] = field(default_factory=dict)
    _tasks: dict[int, int] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI app: Flower's, with what is done to it."""
        if scope["type"] == "http":
            self.asked.append(scope["path"])
            if self.tamper and await self.tamper(scope, receive, send):
                return
            if self.rewrite and scope["path"] == "/v1/fleet/pull-messages":
                await self.app(scope, receive, _Rewriting(send, self.rewrite))
                return
        await self.app(scope, receive, send)

    def register(self, site: str, public_key: bytes) -> int:
        """Let a hospital in, as the honest coordinator would."""
        self.nodes[site] = self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, public_key, 30.0, name=site)
        return self.nodes[site]

    def online(self, site: str) -> bool:
        """Whether a hospital is connected."""
        rows = self.state.get_node_info(node_ids=[self.nodes[site]])
        return bool(rows) and rows[0].status == "online"

    def run(self, fab: bytes, config: dict[str, Any], kind: str = TaskType.SERVER_APP) -> int:
        """Start a run of ``fab``; its id."""
        digest = self.state.store_fab(Fab("", fab, {}))
        run = self.state.create_run("", "", digest, config, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, kind)
        (task,) = self.state.get_tasks(run_ids=[run])
        assert self.state.claim_task(task.task_id)
        assert self.state.activate_task(task.task_id)
        self._tasks[run] = task.task_id
        return run

    def end(self, run: int) -> None:
        """The run is over."""
        self.state.finish_task(self._tasks.pop(run), SubStatus.STOPPED, "")

    def send(
        self,
        run: int,
        site: str,
        content: RecordDict,
        kind: str,
        *,
        group: str = "1",
        ttl: float = 600.0,
        change: Callable[[Message], None] | None = None,
        objects: Callable[[dict[str, bytes]], dict[str, bytes]] | None = None,
    ) -> str:
        """Leave a message for a hospital; its id. ``change`` alters it, ``objects`` what its parts are said to hold."""
        metadata = Metadata(
            run_id=run,
            message_id="",
            src_node_id=SUPERLINK_NODE_ID,
            dst_node_id=self.nodes[site],
            reply_to_message_id="",
            group_id=group,
            created_at=time.time(),
            ttl=ttl,
            message_type=kind,
        )
        message = make_message(metadata, content)
        if change:
            change(message)
        with no_object_id_recompute():
            message.metadata.__dict__["_message_id"] = message.object_id
            parts = {name: one.deflate() for name, one in get_all_nested_objects(message).items()}
            tree = get_object_tree(message)
        session = self.state.start_session(run)
        stored, _ = self.state.store_message_and_object_tree(remove_content_from_message(message), tree, session)
        assert stored
        for name, data in (objects(parts) if objects else parts).items():
            self.state.object_store.put(name, data)
        return message.metadata.message_id

    def reply(self, run: int, message: str, wait: float = 60.0) -> Message | None:
        """What a hospital answered to ``message``, or nothing within ``wait`` seconds."""
        until = time.monotonic() + wait
        while time.monotonic() < until:
            self.state.acknowledge_task_heartbeat(self._tasks[run])
            found = self.state.get_message_res({message}, run)
            if found:
                whole = self._whole(found[0])
                if whole:
                    return whole
            time.sleep(0.1)
        return None

    def _whole(self, message: Message) -> Message | None:
        """The message with its objects, once all of them were pushed."""
        name, until = message.metadata.message_id, time.monotonic() + 30.0
        if not name or (message.has_error() and not message.metadata.src_node_id):
            return message
        store = self.state.object_store
        names = [one.object_id for one in iterate_object_tree(store.get_object_tree(name))]
        while time.monotonic() < until:
            parts = {one: store.get(one) or b"" for one in names}
            if all(parts.values()):
                whole = inflate_object_from_contents(name, parts)
                assert isinstance(whole, Message)
                return whole
            time.sleep(0.05)
        return None


class _Rewriting:
    """Sends a response on with another body."""

    def __init__(self, send: Send, rewrite: Callable[[PullMessagesResponse], None]) -> None:
        self._send, self._rewrite, self._start, self._body = send, rewrite, dict[str, Any](), b""

    async def __call__(self, event: MutableMapping[str, Any]) -> None:
        if event["type"] == "http.response.start":
            self._start = dict(event)
            return
        self._body += event.get("body", b"")
        if event.get("more_body"):
            return
        if self._start["status"] == 200:
            changed = PullMessagesResponse.FromString(self._body)
            self._rewrite(changed)
            self._body = changed.SerializeToString()
        kept = [row for row in self._start["headers"] if row[0].lower() != b"content-length"]
        await self._send(self._start | {"headers": [*kept, (b"content-length", str(len(self._body)).encode())]})
        await self._send({"type": "http.response.body", "body": self._body})


@contextmanager
def evil_coordinator(folder: Path, port: int, gate: tuple[Path, Path], authority: Path) -> Iterator[Evil]:
    """Stand up a bad coordinator at the address of the charter, with certificate and key of the gate."""
    folder.mkdir(parents=True, exist_ok=True)
    app = superlink(folder)
    evil = Evil(app, app.state.linkstate_factory.state(), port)
    with serving(evil, port, gate, authority):
        yield evil


@contextmanager
def serving(
    app: Callable[[Scope, Receive, Send], Awaitable[None]],
    port: int,
    pair: tuple[Path, Path],
    authority: Path | None,
) -> Iterator[None]:
    """Serve an ASGI app over TLS on loopback, in a thread."""
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        lifespan="off",
        log_level="error",
        ssl_certfile=pair[0],
        ssl_keyfile=str(pair[1]),
        ssl_ca_certs=str(authority) if authority else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if authority else ssl.CERT_NONE,
    )
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 20.0
    while not server.started:
        assert thread.is_alive() and time.monotonic() < until, "the listener did not start"
        time.sleep(0.02)
    try:
        yield
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10.0)
