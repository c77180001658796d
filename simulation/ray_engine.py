"""A Flower ``Grid`` whose ClientApps are run by Flower's own simulation engine, in actors of Ray: ``--engine ray``.

It stands beside :class:`simulation.local_grid.LocalGrid` and is used the same way: one grid serves every arm of a run,
and the coordinator above it and the hospitals below it are the same. Every message meets a hospital that opens its
folder, answers and closes it, as under a SuperNode: an actor takes whichever message is next, and a node's files have
one writer at a time. The model is that of the local engine, number by number, where the same hospitals answer.

Ray pickles what it moves between the processes of this one machine; nothing of a federation over a network goes this
way. Its processes listen on all interfaces, whatever address they are given, so they ask for a token, made new by
each process of ours, in a file that only this user can read; still, run it behind a firewall.

This is the second adapter of the simulation: like ``simulation/local_grid.py`` it uses Flower's internals, those of the
simulation engine. Ray is an extra of its own (``fedward[ray]``) and is not imported before a grid is made.
"""

import functools
import importlib
import importlib.util
import logging
import os
import secrets
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import (
    HEARTBEAT_INTERVAL_INF,
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
    PARTITION_ID_KEY,
)
from flwr.compat.client.run_info_store import DeprecatedRunInfoStore
from flwr.proto.task_pb2 import Task
from flwr.server.superlink.fleet.vce.backend import Backend
from flwr.server.superlink.fleet.vce.metrics import VceMetrics
from flwr.server.superlink.fleet.vce.vce_api import run_api
from flwr.server.superlink.linkstate import LinkState, LinkStateFactory
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState, RunRecord
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.grid import InMemoryGrid

from shared.errors import FedwardError, UsageError
from simulation.local_grid import RUN_ID, NodeConfigs, Nodes, Seen, set_identity

TASK_ID = 1
_GRACE = 5.0  # seconds for the engine to end by itself
_ONE = threading.Lock()  # all grids of a process would share one Ray, and wait for each other's processors for ever
_FLOWER = logging.getLogger("flwr")


def require_ray() -> None:
    """See that Ray is there, before anything is made.

    Raises:
        UsageError: It is not.
    """
    if importlib.util.find_spec("ray") is None:
        raise UsageError(
            "the engine ray needs Flower's simulation engine, and Ray is not installed here",
            hint="pip install 'fedward[ray]', in a checkout pip install -e '.[ray]'; or leave --engine out",
        )


class RayGrid(InMemoryGrid):
    """The grid.

    Args:
        app: Where the ClientApp is, as ``module:attribute``, for example ``client.app:app``.
        nodes: Configuration of each hospital, as the ClientApp sees it in ``context.node_config``, by any number. The
            entry ``site`` is also the node's name in :meth:`get_nodes`. Node ids are Flower's own.
        workers: Actors of Ray, at least 1; each has one thread for arithmetic.
        watch: Told of every answer before the coordinator gets it.

    Raises:
        UsageError: There is no such app, Ray is not installed, or this process has such a grid open.
    """

    def __init__(self, app: str, nodes: NodeConfigs, *, workers: int, watch: Seen | None = None) -> None:
        require_ray()
        Nodes(app, {})  # only to see that it is there
        if not _ONE.acquire(blocking=False):
            raise UsageError("this process has a grid of the engine ray open", hint="close that one first")
        set_identity()
        factory = LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), ObjectStoreFactory())
        configs = [dict(config) for config in nodes.values()]
        run = _open_run(factory.state())
        super().__init__(factory)
        self.set_run(run)
        self._sites = {_register(self.state, config["site"]): config["site"] for config in configs}
        self._visible = list(self._sites)
        self._watch, self._asked = watch, dict[str, Message]()
        self._failed: FedwardError | None = None
        self._backend: Any = None  # Flower's, which cannot be imported without Ray
        self._stop, self._broken = threading.Event(), list[BaseException]()
        self._level = _FLOWER.level
        _FLOWER.setLevel(logging.CRITICAL + 1)  # tracebacks of every message that fails; what matters is told in a line
        self._folder = tempfile.TemporaryDirectory(prefix="fedward-ray-", ignore_cleanup_errors=True)
        self._before = _keep_to_itself(Path(self._folder.name) / "token")
        stores = {node: _store(node, number, configs[number]) for number, node in enumerate(self._sites)}
        arguments = (factory, stores, _Hospitals(app), max(1, min(workers, len(configs))))
        self._engine = threading.Thread(target=self._serve, args=arguments, daemon=True)
        self._engine.start()

    def select(self, sites: Iterable[str]) -> None:
        """Let only the nodes of ``sites`` take part from now on: one grid serves several federations, one by one.

        Raises:
            UsageError: A site has no node here.
        """
        wanted = set(sites)
        if unknown := wanted - set(self._sites.values()):
            raise UsageError(f"the grid has no site {min(unknown)}", hint="start it with that site's node")
        self._visible = [node for node, site in self._sites.items() if site in wanted]

    def get_node_ids(self) -> Iterable[int]:
        """Ids of the nodes that take part."""
        return list(self._visible)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand messages to the engine and return at once; the ids are for :meth:`pull_messages`."""
        kept = list(messages)
        ids = list(super().push_messages(kept))
        if self._watch:
            self._asked |= {one.metadata.message_id: one for one in kept}
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that have arrived to these messages; each is given out once.

        Raises:
            FedwardError: The engine has ended, so that none will come.
        """
        replies = list(super().pull_messages(message_ids))
        if not replies and not self._engine.is_alive():
            reason = f": {_cause(self._broken[0])}" if self._broken else ""
            raise FedwardError(
                f"Flower's simulation engine ended{reason}",
                hint="use fewer --workers if memory is short, or --engine local",
            )
        for reply in replies:
            self._tell(reply)
        return replies

    def close(self) -> None:
        """End the engine; what a hospital still does is not waited for longer than a few seconds.

        Raises:
            FedwardError: What ``watch`` raised first.
        """
        self._stop.set()
        self._engine.join(_GRACE)
        if self._engine.is_alive() and self._backend is not None and self._backend.pool:
            kill = importlib.import_module("ray").kill
            for actor in list(self._backend.pool._future_to_actor.values()):  # those at work
                kill(actor)
            self._engine.join(_GRACE)
        _FLOWER.setLevel(self._level)
        self._folder.cleanup()
        _restore(self._before)
        _ONE.release()
        if self._failed:
            raise self._failed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tell(self, reply: Message) -> None:
        asked = self._asked.pop(reply.metadata.reply_to_message_id, None)
        if self._watch and asked and reply.has_content():
            site = self._sites[asked.metadata.dst_node_id]
            try:
                self._watch(site, asked.metadata.message_type, asked.content, reply.content)
            except FedwardError as error:  # told when the grid closes, and the round goes on, as in the other grid
                self._failed = self._failed or error

    def _serve(
        self,
        factory: LinkStateFactory,
        stores: dict[int, DeprecatedRunInfoStore],
        hospitals: "_Hospitals",
        workers: int,
    ) -> None:
        """Flower's engine, in a thread of its own: it returns when it is told to stop."""
        settings = {
            "init_args": {
                "address": "local",  # never a cluster that an environment variable names
                "num_cpus": workers,
                "include_dashboard": False,
                "logging_level": logging.ERROR,
                "log_to_driver": False,
                "_temp_dir": self._folder.name,
            },
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "actor": {"tensorflow": 0},
        }

        def backend() -> Backend:
            raybackend = importlib.import_module("flwr.server.superlink.fleet.vce.backend.raybackend")
            made: Backend = raybackend.RayBackend(settings)
            self._backend = made
            return made

        partitions = {node: number for number, node in enumerate(stores)}
        try:
            run_api(lambda: hospitals, backend, partitions, factory, stores, self._stop, VceMetrics())
        except BaseException as error:  # noqa: BLE001  # the boundary of Flower's engine; told by pull_messages
            self._broken.append(error)


class _Hospitals(ClientApp):
    """What an actor runs: the real ClientApp, which it loads by name."""

    def __init__(self, app: str) -> None:
        super().__init__()
        self._app = app

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer one message and close what it opened, since the next one may go to another process."""
        try:
            return Nodes(self._app, {}).answer(message, context)
        finally:
            # Asked for by name, so that an app that is not a hospital's loads nothing of it.
            if "client.app" in sys.modules:
                sys.modules["client.app"].close_sessions()


@functools.cache
def _token() -> str:
    """One for this process: Ray reads it once, and every grid after the first would be locked out of its own."""
    return secrets.token_hex(32)


def _keep_to_itself(token: Path) -> dict[str, str | None]:
    """Let Ray report to nobody, and listen to nobody who lacks the token: its ports would run anybody's code.

    Returns:
        What the variables were before, for :func:`_restore`: another Ray that is started by this process later would
        look for a token that is gone, and wait.
    """
    token.touch(mode=0o600)
    token.write_text(_token())
    ours = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    before = {name: os.environ.get(name) for name in ours}
    os.environ |= ours
    return before


def _restore(before: Mapping[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _open_run(state: LinkState) -> Run:
    """The one run that a simulation has, as Flower's own simulation enters it into the state in memory."""
    assert isinstance(state, InMemoryLinkState)  # noqa: S101  # the name of the database asks for it
    run = Run.create_empty(run_id=RUN_ID)
    run.primary_task_id, run.federation_id = TASK_ID, NOOP_FEDERATION_ID
    state.run_ids[RUN_ID] = RunRecord(run=run)
    state.task_store[TASK_ID] = Task(task_id=TASK_ID, run_id=RUN_ID)
    return run


def _store(node: int, number: int, config: Mapping[str, str]) -> DeprecatedRunInfoStore:
    """Where Flower's engine keeps what a node is told and what it remembers."""
    store = DeprecatedRunInfoStore(node, {PARTITION_ID_KEY: number, **config})
    store.register_context(RUN_ID)
    return store


def _register(state: LinkState, site: str) -> int:
    node = state.create_node(
        NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, secrets.token_bytes(32), heartbeat_interval=HEARTBEAT_INTERVAL_INF, name=site
    )
    state.acknowledge_node_heartbeat(node_id=node, heartbeat_interval=HEARTBEAT_INTERVAL_INF)
    return int(node)


def _cause(error: BaseException) -> str:
    while error.__cause__:
        error = error.__cause__
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
