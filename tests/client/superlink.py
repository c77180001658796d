"""A real SuperLink for tests: Flower's own application behind mutual TLS 1.3, its state on disk, driven from here.

It runs in threads of the test's process; :meth:`SuperLink.stop` and :meth:`SuperLink.start` are a restart on the same
port with the same state. What a ServerApp would do through the Runtime API is done on the state itself.
"""

import hashlib
import os
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from flwr.app import Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, SUPERLINK_NODE_ID, SubStatus
from flwr.server.superlink.linkstate.linkstate import LinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID
from flwr.supercore.corestate import sql_corestate
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.main import create_app

from client.run_check import SERVER_APP
from shared.bundle import bundle
from shared.certificates import Authority, pem
from shared.link_keys import PublicKey, make_key
from tests.ports import free_port

HOST = "127.0.0.1"


class Server(uvicorn.Server):
    """A server in a thread: the signals are the test's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass
class SuperLink:
    """A coordinator's end of the link."""

    folder: Path
    authority: Authority
    port: int = 0
    app: Any = None
    requests: list[str] = field(default_factory=list)
    _server: Server | None = None
    _thread: threading.Thread | None = None

    @classmethod
    def make(cls, folder: Path) -> "SuperLink":
        folder.mkdir(parents=True)
        authority = Authority.make(make_key(folder / "authority.key"), "test")
        (folder / "authority.pem").write_bytes(pem(authority.certificate))
        gate = make_key(folder / "gate.key")
        (folder / "gate.pem").write_bytes(pem(authority.server(gate.public_key(), "test", [HOST])))
        return cls(folder, authority, free_port())

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def state(self) -> LinkState:
        state: LinkState = self.app.state.linkstate_factory.state()
        return state

    def start(self, certificate: str = "gate", *, mutual: bool = True) -> None:
        os.environ["FLWR_DATABASE"] = str(self.folder / "state.db")
        sql_corestate.HEARTBEAT_PATIENCE = 100  # type: ignore[attr-defined]  # of the task of a run, which nobody runs here
        self.app = create_app()
        inner = self.app

        async def counted(scope: Any, receive: Any, send: Any) -> None:
            self.requests.append(scope.get("path", ""))
            await inner(scope, receive, send)

        config = uvicorn.Config(
            counted,
            host=HOST,
            port=self.port,
            lifespan="off",
            log_level="warning",
            ssl_keyfile=str(self.folder / f"{certificate}.key"),
            ssl_certfile=str(self.folder / f"{certificate}.pem"),
            ssl_ca_certs=str(self.folder / "authority.pem"),
            ssl_cert_reqs=ssl.CERT_REQUIRED if mutual else ssl.CERT_NONE,
            timeout_graceful_shutdown=1,
        )
        config.load()
        assert config.ssl is not None
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
        self._server = Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)

    def stop(self) -> None:
        if self._server and self._thread:
            self._server.should_exit = True
            self._thread.join(10)
        self._server = None

    def register(self, key: PublicKey, site: str) -> int:
        return self.state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, public_key_to_bytes(key), 0, name=site)

    def online(self, node: int) -> bool:
        (found,) = self.state.get_node_info(node_ids=[node])
        return str(found.status) == "online"

    def wait_for(self, node: int, *, online: bool = True, seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while self.online(node) != online:
            assert time.monotonic() < deadline, "the node does not come" if online else "the node does not go"
            time.sleep(0.02)

    def begin(
        self,
        config: dict[str, Any],
        *,
        fab: bytes | None = None,
        kind: str = SERVER_APP,
        app: tuple[str, str] = ("fedward/fedward", "0.1.0"),
    ) -> int:
        """A run that is under way."""
        content = bundle() if fab is None else fab
        state = self.state
        found = state.store_fab(Fab(hashlib.sha256(content).hexdigest(), content, {}))
        run = state.create_run(*app, found, config, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, kind)
        task = state.get_run_info(run_ids=[run])[0].primary_task_id
        assert task is not None
        assert state.claim_task(task)
        assert state.activate_task(task)
        return run

    def end(self, run: int) -> None:
        task = self.state.get_run_info(run_ids=[run])[0].primary_task_id
        assert task is not None
        assert self.state.finish_task(task, SubStatus.COMPLETED, "")

    def send(self, run: int, node: int, content: RecordDict, kind: str = "train", *, hold: bool = False) -> str:
        """A message to a node; with ``hold`` its objects do not come."""
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run, SUPERLINK_NODE_ID, 0
        message = Message(content, dst_node_id=node, message_type=kind, group_id="1")
        state = self.state
        with no_object_id_recompute():
            message.metadata.__dict__["_message_id"] = message.object_id
            session = state.start_session(run)
            bare = remove_content_from_message(message)
            stored, wanted = state.store_message_and_object_tree(bare, get_object_tree(message), session)
            assert stored
            objects = {name: one.deflate() for name, one in get_all_nested_objects(message).items()}
        for name in () if hold else wanted:
            assert state.store_object(run, session, name, objects[name])
        return message.metadata.message_id

    def reply(self, run: int, message: str, seconds: float = 20.0) -> Message:
        """The answer to a message, as a ServerApp gets it."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for found in self.state.get_message_res({message}, run):
                if found.has_error():
                    return found
                tree = self.state.object_store.get_object_tree(found.metadata.message_id)
                names = [part.object_id for part in iterate_object_tree(tree)]
                contents = {name: self._object(name, deadline) for name in names}
                whole = inflate_object_from_contents(found.metadata.message_id, contents)
                assert isinstance(whole, Message)
                return whole
            time.sleep(0.05)
        raise AssertionError(f"no answer within {seconds} s")

    def _object(self, name: str, deadline: float) -> bytes:
        while time.monotonic() < deadline:
            if content := self.state.object_store.get(name):
                return content
            time.sleep(0.02)
        raise AssertionError("a part of the answer did not come")


@contextmanager
def superlink(folder: Path) -> Iterator[SuperLink]:
    made = SuperLink.make(folder)
    made.start()
    try:
        yield made
    finally:
        with suppress(Exception):
            made.stop()
