"""The one process in which Flower's SuperLink runs: its application behind an inner listener and the gate.

``python -m server.flower_link FOLDER HOST:PORT``, started and kept by ``fedward server start``. Nothing of Flower
listens by itself: the inner listener is a Unix socket behind a secret, the gate asks for a member's certificate, and
neither passes more than a list of paths. Besides what Flower checks, a node may only fetch, confirm and answer the
messages that were sent to itself.
"""

import asyncio
import contextlib
import errno
import logging
import os
import resource
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Final

import uvicorn
from flwr.app import Message
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, ISOLATION_MODE_PROCESS, TRANSPORT_TYPE_GRPC_RERE
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.corestate import sql_corestate
from flwr.supercore.error import ApiErrorCode
from flwr.supercore.utils import uint64_to_int64
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app
from google.protobuf.message import DecodeError

from server.coordinator import Coordinator
from server.gate import (
    FLEET,
    App,
    Gate,
    Inside,
    Inspect,
    Objection,
    PeerProtocol,
    Refusal,
    RefusalLog,
    bound,
    server_context,
)
from server.members import Members
from server.within import listening
from shared.console import complain
from shared.errors import FedwardError, UsageError
from shared.places import Address

LOOPBACK: Final = "127.0.0.1"
TASK_LIFE: Final = 600  # seconds for which a run outlives the SuperLink that it belongs to
UNDER_WAY: Final = timedelta(seconds=2)
"""For how long nobody takes a message for lost that a node has not confirmed."""
HANDSHAKE_TIME: Final = 10.0  # seconds in which a connection must be shaken hands on
_OVER: Final = int(ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED)
_KEEP_ALIVE: Final = 75  # seconds; nodes ask every few
_LINGER: Final = 3  # seconds that requests under way have at the end
_LOG_BYTES: Final = 5 * 2**20
_LOG_FILES: Final = 3

_OF_NODE: Final = """
WITH RECURSIVE own(id) AS (
  SELECT message_id FROM message_ins WHERE dst_node_id = :node
  UNION SELECT child_id FROM object_children JOIN own ON parent_id = own.id
) SELECT 1 FROM own WHERE id = :object LIMIT 1
"""
_TO_NODE: Final = "SELECT 1 FROM message_ins WHERE message_id = :object AND dst_node_id = :node"
_AGAIN: Final = """
UPDATE message_ins SET delivered_at = '' WHERE dst_node_id = :node AND delivered_at <> '' AND delivered_at < :before
  AND EXISTS (SELECT 1 FROM objects WHERE object_id = message_ins.message_id)
  AND NOT EXISTS (SELECT 1 FROM message_res WHERE reply_to_message_id = message_ins.message_id)
"""


_ANNOUNCED: Final = "SELECT 1 FROM objects WHERE object_id = :object"


class _State(SqlLinkState):
    """Flower's state, which loses nothing where a connection ends under an answer.

    Flower takes a message for delivered once it was asked for. Our nodes ask for the next message only when they have
    done with the last: what they have neither confirmed (its objects are still here) nor answered, they have not got.

    And Flower tells a node that announces an answer which of its objects to send. Where that word is lost, and the run
    has taken the announcement meanwhile, it knows nothing of it when the node asks again, and the run waits in vain.
    """

    def get_message_ins(self, node_id: int, limit: int | None, *, run_id: int | None = None) -> list[Message]:
        before = (datetime.now(UTC) - UNDER_WAY).isoformat()
        self.query(_AGAIN, {"node": uint64_to_int64(node_id), "before": before})
        return super().get_message_ins(node_id, limit, run_id=run_id)

    def store_message_and_object_tree(
        self, message: Message, object_tree: ObjectTree, session_id: str
    ) -> tuple[bool, list[str]]:
        stored, missing = super().store_message_and_object_tree(message, object_tree, session_id)
        announced = {"object": object_tree.object_id}
        if stored or not message.metadata.reply_to_message_id or not self.query(_ANNOUNCED, announced):
            return stored, missing
        return True, self.preregister_object_tree(object_tree, session_id)


def superlink(coordinator: Coordinator) -> tuple[App, SqlLinkState]:
    """Flower's application with its state in the coordinator's folder; it starts no process and opens no port."""
    config = SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host=LOOPBACK,
        port=0,
        insecure=True,  # of what Flower would open by itself: nothing
        certificates=None,
        superexec_auth_secret=bytes.fromhex(coordinator.secret()),
        authn_plugin=NoOpControlAuthnPlugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=str(coordinator.database_path.resolve()),
        isolation=ISOLATION_MODE_PROCESS,
        runtime_dependency_install=False,
    )
    # A run whose process says nothing for two heartbeats of 30 s is over for Flower, and the SuperLink may be away for
    # longer than that. Our executor sees the end of the process itself.
    vars(sql_corestate)["HEARTBEAT_PATIENCE"] = TASK_LIFE // HEARTBEAT_DEFAULT_INTERVAL
    for name in [name for name in os.environ if name.startswith("FLWR_INTERNAL_")]:
        del os.environ[name]  # they would open ports of the older interfaces
    app = create_app(config, SuperLinkLifespan)
    made = app.state.linkstate_factory
    state = _State(made.database, made.federation_manager, made.objectstore_factory.store())
    state.initialize()
    made.state_instance = state  # where Flower keeps the one that it makes for the first who asks
    return app, state


def inspector(state: SqlLinkState) -> Inspect:
    """What a node asks for by the id of a message or an object must have been sent to it; Flower asks only who it is.

    Flower itself has checked, or will check, that the node in the request has the key in the header. A message that was
    taken back while a node fetched it is refused in the same way, and the node makes of it that the run is over.
    """

    def sent(query: str, node: int, object_id: str) -> bool:
        return bool(state.query(query, {"node": uint64_to_int64(node), "object": object_id}))

    def inspect(path: bytes, body: bytes) -> Objection | None:
        what = path.removeprefix(FLEET)
        try:
            if what == b"push-messages":
                push = PushMessagesRequest.FromString(body)
                if any(one.metadata.src_node_id != push.node.node_id for one in push.messages_list):
                    return Objection("an answer in the name of another node", _OVER)
            elif what == b"pull-object":
                pull = PullObjectRequest.FromString(body)
                if not sent(_OF_NODE, pull.node.node_id, pull.object_id):
                    return Objection("a part of a message that was not sent to this node", _OVER)
            elif what == b"confirm-message-received":
                confirm = ConfirmMessageReceivedRequest.FromString(body)
                if not sent(_TO_NODE, confirm.node.node_id, confirm.message_object_id):
                    return Objection("a receipt for a message that was not sent to this node", _OVER)
        except DecodeError:
            return None  # Flower says so itself
        return None

    return inspect


class _Loop(asyncio.SelectorEventLoop):
    """An event loop whose listeners do not wait for ever, nor for a minute, on strangers who say nothing."""

    async def create_server(self, *args: Any, **options: Any) -> Any:
        if options.get("ssl"):
            options["ssl_handshake_timeout"] = HANDSHAKE_TIME
        return await super().create_server(*args, **options)


def _short_of_files(refused: RefusalLog) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """What takes note of connections that could not be accepted as of refusals: not each with a trace."""

    def note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}:
            refused(Refusal("as many connections as this process may have open files", 0))
        else:
            loop.default_exception_handler(context)

    return note


def _many_files() -> None:
    """Allow this process as many open files as the system lets it have; the usual 1024 are soon full of strangers."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class _Server(uvicorn.Server):
    """A server among others in one process: signals are the process's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(coordinator: Coordinator, outer: socket.socket, tls: ssl.SSLContext, refused: RefusalLog) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        coordinator: Whose SuperLink.
        outer: Bound, for the gate.
        tls: The gate's.
        refused: Takes note of what is not let through.
    """
    app, state = superlink(coordinator)
    gate = Gate(app, members=Members(coordinator), inspect=inspector(state), refused=refused)
    inside = Inside(app, secret=coordinator.secret(), refused=refused)
    inner = listening(coordinator)
    within = _Server(_config(inside, lifespan="on"))
    without = _Server(_config(gate, http=PeerProtocol, ssl_context_factory=lambda *_: tls))
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_short_of_files(refused))

    def stop() -> None:
        within.should_exit = without.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    flushing = loop.create_task(_flush(refused))
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(within.serve([inner]))
            group.create_task(without.serve([outer]))
    finally:
        flushing.cancel()
        refused.flush(everything=True)


def _config(app: App, **others: Any) -> uvicorn.Config:
    """What both listeners have in common: HTTP/1.1 by the strict parser, no web sockets, no header is believed."""
    return uvicorn.Config(
        app,
        loop="asyncio",
        http=others.pop("http", "h11"),
        ws="none",
        lifespan=others.pop("lifespan", "off"),
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_LINGER,
        **others,
    )


async def _flush(refused: RefusalLog) -> None:
    while True:
        await asyncio.sleep(1.0)
        refused.flush()


def log_to(path: Path, *names: str, form: str = "%(asctime)s %(levelname)s %(name)s %(message)s") -> None:
    """Have these loggers write to a file of at most 5 MiB, with two older ones kept, and nowhere else."""
    handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES - 1, encoding="utf-8")
    handler.setFormatter(logging.Formatter(form))
    for name in names:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False


def main(arguments: list[str]) -> int:
    """Run the process; the exit status is that of the error where it cannot."""
    os.umask(0o077)
    folder, listen = arguments
    try:
        coordinator, address = Coordinator.open(Path(folder)), Address.parse(listen)
        log_to(
            coordinator.superlink_folder / "superlink.log", "flwr", "uvicorn", "fedward.members", "alembic", "asyncio"
        )
        log_to(coordinator.superlink_folder / "gate.log", "fedward.gate", form="%(message)s")
        refused = RefusalLog(logging.getLogger("fedward.gate").warning)
        try:
            tls = server_context(
                coordinator.gate_path, coordinator.gate_key_path, coordinator.authority_path, refused=refused
            )
        except OSError as error:
            raise UsageError(
                f"the certificates of {coordinator.folder} cannot be used: {error.strerror or error}",
                hint="make them with 'fedward server init'",
            ) from error
        _many_files()
        with asyncio.Runner(loop_factory=_Loop) as runner:
            runner.run(serve(coordinator, bound(address.host, address.port), tls, refused))
    except ValueError as error:
        complain(f"--listen {listen}: {error}")
        return UsageError.exit_code
    except FedwardError as error:
        complain(error.message, error.hint)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
