"""A Flower ``Grid`` that runs the real ClientApps of many nodes on this machine: no Ray, no SuperLink, no sockets.

With ``workers=0`` the ClientApp runs in this process, one message after the other in one thread. With more, each worker
is a process of its own (:mod:`simulation.grid_worker`), reached by two pipes on which Flower's own protobuf messages
travel (:func:`send_message`). A node always belongs to the same worker, so that its files have one writer and what it
keeps in memory is kept once. Results do not depend on the number of workers.

Only this file, ``ray_engine.py``, ``client/flower_node.py`` and ``server/flower_link.py`` use Flower's internals.
"""

import contextlib
import importlib
import itertools
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import IO, Protocol, Self
from uuid import uuid4

from flwr.app import Array, ArrayRecord, Context, Error, Message, RecordDict
from flwr.app.message import make_message
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from shared.errors import FedwardError, UsageError
from shared.processes import interrupt_held_back
from simulation.frames import read_frame, write_frame

RUN_ID = 1
READY = b"ready"
_GRACE = 3.0  # seconds for a worker to end by itself
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

NodeConfigs = Mapping[int, Mapping[str, str]]
Seen = Callable[[str, str, RecordDict, RecordDict], None]
"""Is told of an answer: the site, the type of the message that it answers, that message's content, and its own."""


class LocalGrid(Grid):
    """The grid.

    Args:
        app: Where the ClientApp is, as ``module:attribute``, for example ``client.app:app``.
        nodes: Configuration of each node by its id, as the ClientApp sees it in ``context.node_config``. The entry
            ``site`` is also the node's name in :meth:`get_nodes`.
        workers: Processes to run them in; 0 runs them in this one.
        on_close: Called by :meth:`close` in this process, for what the ClientApp holds open with ``workers=0``.
        watch: Told of every answer before the coordinator gets it; by several threads.

    Raises:
        UsageError: There is no such app.
    """

    def __init__(
        self,
        app: str,
        nodes: NodeConfigs,
        *,
        workers: int = 0,
        on_close: Callable[[], None] | None = None,
        watch: Seen | None = None,
    ) -> None:
        set_identity()
        self._nodes = {node: dict(config) for node, config in nodes.items()}
        self._visible = list(self._nodes)
        self._on_close, self._watch = on_close, watch
        self._failed: FedwardError | None = None
        self._run = Run.create_empty(run_id=RUN_ID)
        self._replies: dict[str, Message] = {}
        self._arrived = threading.Condition()
        lanes = max(1, min(workers, len(self._nodes)))
        shares = [dict(itertools.islice(self._nodes.items(), first, None, lanes)) for first in range(lanes)]
        hosts = _start_workers(app, shares) if workers else [_Here(app, self._nodes)]
        self._lanes = [_Lane(host, self._answered) for host in hosts]
        self._lane = {node: lane for lane, share in zip(self._lanes, shares, strict=True) for node in share}

    def set_run(self, run: Run) -> None:
        """Set the run's description."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run's description."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to one node."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type, ttl=ttl, group_id=group_id)

    def select(self, sites: Iterable[str]) -> None:
        """Let only the nodes of ``sites`` take part from now on: one grid serves several federations, one by one.

        Raises:
            UsageError: A site has no node here.
        """
        wanted = set(sites)
        if unknown := wanted - {config.get("site", "") for config in self._nodes.values()}:
            raise UsageError(f"the grid has no site {min(unknown)}", hint="start it with that site's node")
        self._visible = [node for node, config in self._nodes.items() if config.get("site", "") in wanted]

    def get_node_ids(self) -> Iterable[int]:
        """Ids of the nodes that take part."""
        return list(self._visible)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Ids and names of the nodes that take part."""
        return [NodeInfo(node_id=node, name=self._nodes[node].get("site", "")) for node in self._visible]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand messages to their nodes and return at once; the ids are for :meth:`pull_messages`."""
        ids = []
        for message in messages:
            number = str(uuid4())
            message.metadata.__dict__["_message_id"] = number  # as every grid of Flower does
            ids.append(number)
            lane = self._lane.get(message.metadata.dst_node_id)
            if lane is None:
                self._deliver(number, _failure(message, ErrorCode.NODE_UNAVAILABLE, "no such node"))
            else:
                lane.put(message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have arrived to these messages; each is given out once."""
        with self._arrived:
            return [self._replies.pop(number) for number in list(message_ids) if number in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push, then wait for all replies, or for those that arrive within ``timeout`` seconds."""
        ids = list(self.push_messages(messages))
        end = None if timeout is None else time.monotonic() + timeout
        with self._arrived:
            self._arrived.wait_for(
                lambda: all(number in self._replies for number in ids),
                None if end is None else max(0.0, end - time.monotonic()),
            )
        return self.pull_messages(ids)

    def close(self) -> None:
        """End the workers; what they still do is not waited for longer than a few seconds.

        Raises:
            FedwardError: What ``watch`` raised first.
        """
        for lane in self._lanes:
            lane.stop()
        for lane in self._lanes:
            lane.join()
        if self._on_close:
            self._on_close()
        if self._failed:
            raise self._failed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answered(self, message: Message, reply: Message) -> None:
        try:
            if self._watch and reply.has_content():
                site = self._nodes[message.metadata.dst_node_id].get("site", "")
                self._watch(site, message.metadata.message_type, message.content, reply.content)
        except FedwardError as error:  # in a thread of its own: told when the grid closes, and the round goes on
            self._failed = self._failed or error
        self._deliver(message.metadata.message_id, reply)

    def _deliver(self, number: str, reply: Message) -> None:
        with self._arrived:
            self._replies[number] = reply
            self._arrived.notify_all()


class _Host(Protocol):
    """Something that runs the ClientApp for some nodes."""

    def handle(self, message: Message) -> Message:
        """The reply to one message, or an error reply; never an exception of the ClientApp's."""

    def kill(self) -> None:
        """End what it is doing, where that is possible."""

    def close(self) -> None:
        """End it when it has nothing to do."""


class Nodes:
    """The ClientApp and the contexts of some nodes, in this process.

    Raises:
        UsageError: There is no such app.
    """

    def __init__(self, app: str, nodes: NodeConfigs) -> None:
        self._app = _load(app)
        self._contexts = {
            node: Context(RUN_ID, node, dict(config), state=RecordDict(), run_config={})
            for node, config in nodes.items()
        }

    def handle(self, message: Message) -> Message:
        """The reply of the node that ``message`` is for."""
        return self.answer(message, self._contexts[message.metadata.dst_node_id])

    def answer(self, message: Message, context: Context) -> Message:
        """Run the ClientApp on ``message``; whatever it raises becomes an error reply, as in Flower's own runtimes."""
        try:
            return self._app(message, context)
        except Exception as error:  # noqa: BLE001  # the boundary of the ClientApp
            return _failure(message, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, type(error).__name__)


class _Here(Nodes):
    """In this process: every message with records of its own, since a ClientApp may change what it is given."""

    def handle(self, message: Message) -> Message:
        return super().handle(make_message(message.metadata, _own_copy(message.content)))

    def kill(self) -> None:
        """A thread cannot be ended from outside; it ends with the process."""

    def close(self) -> None:
        """Nothing to end."""


class _Process:
    """In a worker process with one thread for arithmetic."""

    def __init__(self, app: str, nodes: NodeConfigs) -> None:
        environment = dict(os.environ) | dict.fromkeys(_THREADS, "1")
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        self._app = app
        # -P: the current folder may have a folder called client of its own, and no code of it may run.
        command = [sys.executable, "-P", "-m", "simulation.grid_worker"]
        with interrupt_held_back():
            self._worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        assert self._worker.stdin and self._worker.stdout  # noqa: S101  # asked for above
        self._to, self._from = self._worker.stdin, self._worker.stdout
        setup = {"app": app, "nodes": {str(node): dict(config) for node, config in nodes.items()}}
        write_frame(self._to, json.dumps(setup).encode())

    def wait_ready(self) -> None:
        """Wait until the app is loaded.

        Raises:
            UsageError: It cannot be.
        """
        answer = read_frame(self._from)
        if answer != READY:
            reason = answer.decode() if answer else f"a worker ended while it loaded {self._app}"
            raise UsageError(reason, hint="see what it printed above")

    def handle(self, message: Message) -> Message:
        try:
            send_message(self._to, message)
            reply = receive_message(self._from)
        except OSError:
            reply = None
        return reply or _failure(message, ErrorCode.NODE_UNAVAILABLE, "the worker process ended")

    def kill(self) -> None:
        self._worker.kill()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._to.close()
        try:
            self._worker.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._worker.kill()
            self._worker.wait()
        self._from.close()


def _start_workers(app: str, shares: Iterable[NodeConfigs]) -> list[_Host]:
    """Start all workers at once, then wait for each; none is left behind if one fails."""
    workers = [_Process(app, share) for share in shares]
    try:
        for worker in workers:
            worker.wait_ready()
    except BaseException:
        for worker in workers:
            worker.kill()
            worker.close()
        raise
    return list(workers)


class _Lane:
    """A thread that hands messages to one host, one after the other."""

    def __init__(self, host: _Host, deliver: Callable[[Message, Message], None]) -> None:
        self._host, self._deliver = host, deliver
        self._queue: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, message: Message) -> None:
        self._queue.put(message)

    def stop(self) -> None:
        """Let the message under way be the last."""
        self._stopping = True
        self._queue.put(None)

    def join(self) -> None:
        """Wait for it, within reason, and end the host."""
        self._thread.join(_GRACE)
        if self._thread.is_alive():
            self._host.kill()
            self._thread.join(_GRACE)
        self._host.close()

    def _run(self) -> None:
        while (message := self._queue.get()) is not None and not self._stopping:
            self._deliver(message, self._host.handle(message))


def send_message(stream: IO[bytes], message: Message) -> None:
    """Write ``message`` in Flower's protobuf form, but each array's bytes behind it in a frame of their own.

    Nested protobuf messages are copied at every level: 0.4 s for 40 MB, where the pipe itself takes 0.03 s.

    Raises:
        OSError: The reader is gone.
    """
    content = _own_copy(message.content, keep_data=False) if message.has_content() else None
    error = message.error if message.has_error() else None
    write_frame(stream, message_to_proto(make_message(message.metadata, content, error)).SerializeToString())
    for array in _arrays(message):
        write_frame(stream, array.data)


def receive_message(stream: IO[bytes]) -> Message | None:
    """The next message that :func:`send_message` wrote, or None where the writer is gone, also in the middle of it."""
    data = read_frame(stream)
    if data is None:
        return None
    message = message_from_proto(ProtoMessage.FromString(data))
    for array in _arrays(message):
        numbers = read_frame(stream)
        if numbers is None:
            return None
        array.data = numbers
    return message


def _arrays(message: Message) -> list[Array]:
    records = message.content.values() if message.has_content() else ()
    return [array for record in records if isinstance(record, ArrayRecord) for array in record.values()]


def set_identity() -> None:
    """Tell Flower who this process is; without it no message can be made."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, SUPERLINK_NODE_ID, 1


def _load(reference: str) -> ClientApp:
    module, _, name = reference.partition(":")
    try:
        app = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"cannot load the ClientApp {reference}: {error}", hint="give it as module:name") from error
    if not isinstance(app, ClientApp):
        raise UsageError(f"{reference} is not a ClientApp", hint="give it as module:name")
    return app


def _failure(message: Message, code: int, reason: str) -> Message:
    return Message(Error(code, reason), reply_to=message)


def _own_copy(content: RecordDict, *, keep_data: bool = True) -> RecordDict:
    """Records that may be changed unnoticed; only the bytes of arrays, which cannot change, are shared or left out."""
    copy = RecordDict()
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            every = ((key, one, one.data if keep_data else b"") for key, one in record.items())
            arrays = {key: Array(one.dtype, tuple(one.shape), one.stype, data) for key, one, data in every}
            copy[name] = ArrayRecord(arrays)
        else:
            copy[name] = deepcopy(record)
    return copy
