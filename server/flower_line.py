"""The coordinator's own line to its SuperLink: Flower's clients for the inner listener, with the secret.

The socket is looked for anew by every connection, so that what runs goes on when the SuperLink was restarted.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeVar

import httpx
from flwr.app import Message
from flwr.common.serde import fab_to_proto, run_from_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest, PushTaskOutputRequest
from flwr.supercore.constant import NodeStatus, TaskType
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectPushError, ObjectUnavailableError
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import (
    ProtobufCall,
    ProtobufClient,
    ProtobufClientInterceptor,
    ProtobufRequestContext,
)
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from server.coordinator import Coordinator
from server.gate import SECRET_HEADER
from server.within import NOWHERE, transport
from shared.errors import ProtocolError
from shared.parsing import parse_json

_SECONDS: Final = 30.0
_FAREWELL: Final = 5.0  # seconds to tell the SuperLink how a run ended; else the executor does
_EXECUTOR: Final = frozenset({"/flwr.proto.Runtime/AcquireTask"})

Client = TypeVar("Client", bound=ProtobufClient)


@dataclass(frozen=True)
class Node:
    """A hospital's node as the SuperLink knows it.

    Attributes:
        number: Its id.
        name: The name under which it was registered: that of the site.
        key: Its public key, PEM.
        online: Whether it was heard of within two of its heartbeats, which is 30 s.
        since: When it was last connected anew, ISO 8601; empty where it never was.
    """

    number: int
    name: str
    key: bytes
    online: bool
    since: str


@dataclass(frozen=True)
class FlowerRun:
    """A run as the SuperLink knows it.

    Attributes:
        number: Its id there.
        name: Ours, from its configuration.
        status: ``pending``, ``starting``, ``running`` or ``finished``.
        ended: ``completed``, ``failed`` or ``stopped`` where it is finished.
    """

    number: int
    name: str
    status: str
    ended: str


@dataclass(frozen=True)
class Claim:
    """The right to carry out a run, for one process.

    Attributes:
        number: The run's id at the SuperLink.
        token: Secret; what the process shows.
    """

    number: int
    token: str


class _Secret:
    """Shows the secret of the inner listener with a request: the lock behind that of its folder."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._secret = coordinator.secret()

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Complete the request."""
        context.request.headers[SECRET_HEADER.decode()] = self._secret
        return call_next(context)


def _led(client: Client, coordinator: Coordinator) -> Client:
    """The client, led to the socket of the inner listener: no other end ever hears of the secret."""
    client.close()
    client._client = httpx.Client(trust_env=False, timeout=_SECONDS, transport=transport(coordinator))
    return client


class Line:
    """Starts and stops runs, registers nodes, and takes what is to be carried out.

    Args:
        coordinator: Whose SuperLink.

    Raises:
        UsageError: The secret is missing or damaged.
        PolicyError: Others may read the secret.
    """

    def __init__(self, coordinator: Coordinator) -> None:
        shown, secret = _Secret(coordinator), bytes.fromhex(coordinator.secret())
        version = RuntimeVersionHttpInterceptor(component_name="flwr-cli")
        executor = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=_EXECUTOR)
        self._folder = coordinator.folder
        self._control = _led(ControlHttpClient(NOWHERE, interceptors=[version, shown]), coordinator)
        self._runtime = _led(RuntimeHttpClient(NOWHERE, interceptors=[version, executor, shown]), coordinator)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the connections."""
        self._control.close()
        self._runtime.close()

    def nodes(self) -> tuple[Node, ...]:
        """Every node that is registered, by name."""
        with self._told():
            found = self._control.ListNodes(ListNodesRequest()).nodes_info
        nodes = [
            Node(one.node_id, one.name, one.public_key, one.status == NodeStatus.ONLINE, one.last_activated_at)
            for one in found
            if one.status != NodeStatus.UNREGISTERED
        ]
        return tuple(sorted(nodes, key=lambda one: one.name))

    def register(
        self, keys: Mapping[str, bytes], *, refused: Callable[[str, ProtocolError], None] | None = None
    ) -> None:
        """Have each site's node known by its name and key (PEM), and no other under that name.

        Flower never takes a key again whose node was taken out. So nodes of sites that are not in ``keys`` stay: the
        gate does not let them in, and no run asks them.

        Args:
            keys: Each site's.
            refused: Told of a site whose key the SuperLink knows under another name, and of that error; the others are
                gone on with. Without it that error is raised.

        Raises:
            ProtocolError: The SuperLink does not answer, or knows a key under another name.
        """
        known = self.nodes()
        for site, key in keys.items():
            for node in (one for one in known if one.name == site and one.key != key):
                with self._told():
                    self._control.UnregisterNode(UnregisterNodeRequest(node_id=node.number))
            if not any(one.name == site and one.key == key for one in known):
                try:
                    with self._told(f"the key of {site} is or was that of another node"):
                        self._control.RegisterNode(RegisterNodeRequest(public_key=key, name=site))
                except ProtocolError as error:
                    if any(one.name == site and one.key == key for one in self.nodes()):
                        continue  # another process was quicker
                    if refused is None:
                        raise
                    refused(site, error)

    def start(self, bundle: bytes, config: Mapping[str, str]) -> int:
        """Start a run with this app bundle and configuration; gives its id."""
        request = StartRunRequest(
            fab=fab_to_proto(Fab("", bundle, {})), override_config=user_config_to_proto(dict(config))
        )
        with self._told():
            number = int(self._control.StartRun(request).run_id)
        if not number:
            raise ProtocolError("the SuperLink did not start the run", hint=self._hint)
        return number

    def runs(self, number: int | None = None) -> tuple[FlowerRun, ...]:
        """The last runs, or that with this id. What is left of the messages of those that are finished is deleted."""
        request = ListRunsRequest(limit=100) if number is None else ListRunsRequest(run_id=number)
        with self._told():
            found = [run_from_proto(one) for one in self._control.ListRuns(request).run_dict.values()]
        return tuple(_run(one) for one in sorted(found, key=lambda one: one.pending_at))

    def stop(self, number: int) -> None:
        """End a run, and delete what is left of its messages; one that is finished is left alone."""
        with self._told():
            if all(one.status != "finished" for one in self.runs(number)):
                self._control.StopRun(StopRunRequest(run_id=number))

    def acquire(self) -> Claim | None:
        """The oldest run that waits to be carried out; its process must be heard of within 30 s."""
        with self._told():
            answer = self._runtime.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
        return Claim(answer.task.run_id, answer.token) if answer.token else None

    @property
    def _hint(self) -> str:
        return f"look at {self._folder / 'superlink' / 'superlink.log'}"

    @contextlib.contextmanager
    def _told(self, refused: str = "") -> Iterator[None]:
        try:
            yield
        except httpx.HTTPStatusError as error:
            with contextlib.suppress(ValueError):
                refused = refused or str(parse_json(error.response.text)["detail"])
            raise ProtocolError(
                f"the SuperLink refused: {refused or error.response.status_code}", hint=self._hint
            ) from error
        except httpx.HTTPError as error:
            raise ProtocolError(
                f"the SuperLink of {self._folder} does not answer",
                hint=f"start it with 'fedward server start {self._folder}', or wait until it is back",
            ) from error


def _run(run: Run) -> FlowerRun:
    return FlowerRun(run.run_id, str(run.override_config.get("run", "")), run.status.status, run.status.sub_status)


class LinkGrid(HttpGrid):
    """Flower's grid over the inner listener; it waits for a SuperLink that is away, for as long as it takes.

    Args:
        coordinator: Whose SuperLink.
        token: The claim's.
    """

    def __init__(self, coordinator: Coordinator, token: str) -> None:
        super().__init__(insecure=True, token=token)
        self._coordinator, self._shown = coordinator, _Secret(coordinator)

    def _connect(self) -> None:
        interceptors: list[ProtobufClientInterceptor] = [
            RuntimeVersionHttpInterceptor(component_name="flwr-serverapp"),
            RuntimeTokenHttpInterceptor(token=self._token),
            self._shown,
        ]
        client = RuntimeHttpClient(NOWHERE, interceptors=interceptors, retry_invoker=self._retry_invoker)
        self._client = _led(client, self._coordinator)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As in the base class.

        Raises:
            ProtocolError: The SuperLink has not taken a part of a message, as may be while its node comes or goes.
        """
        with _parts():
            return super().push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As in the base class.

        Raises:
            ProtocolError: The SuperLink has no longer a part of a message.
        """
        with _parts():
            return super().pull_messages(message_ids)

    @property
    def runtime(self) -> RuntimeHttpClient:
        """The client under the grid."""
        return self._runtime_client

    def patience(self, seconds: float) -> None:
        """From now on wait for a SuperLink that is away for so long at most: this process is about to end."""
        self._retry_invoker.max_time = seconds


@contextlib.contextmanager
def _parts() -> Iterator[None]:
    try:
        yield
    except (ObjectPushError, ObjectPullError, ObjectUnavailableError) as error:
        raise ProtocolError(f"the SuperLink lost a part of a message: {error}", hint="resume the run") from error


@dataclass(frozen=True)
class Work:
    """A run that this process carries out.

    Attributes:
        grid: Its line to the nodes.
        name: Our name of the run, from its configuration.
    """

    grid: "LinkGrid"
    name: str

    def finish(self, ended: str, details: str) -> None:
        """Tell the SuperLink how it ended; it may be away, or have ended the run itself.

        Args:
            ended: ``completed``, ``failed`` or ``stopped``.
            details: Why, in one line.
        """
        self.grid.patience(_FAREWELL)
        with contextlib.suppress(httpx.HTTPError, RunNotRunningException):
            self.grid.runtime.PushTaskOutput(PushTaskOutputRequest(sub_status=ended, details=details))


@contextlib.contextmanager
def work(coordinator: Coordinator, token: str) -> Iterator[Work]:
    """Carry out the run of a claim while the block runs; the SuperLink hears of this process about every 20 s.

    Where the SuperLink has ended the run, or knows it no more, this process gets SIGINT: so Flower's clients do it.
    Neither the app of the run nor anything of it is installed or imported.

    Args:
        coordinator: Whose SuperLink.
        token: The claim's.
    """
    grid = LinkGrid(coordinator, token)
    client = grid.runtime
    heart = HeartbeatSender(make_task_heartbeat_fn_http(client))
    heart.start()
    try:
        answer = client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id, TaskIdentity.run_id = answer.task_id, answer.run.run_id
        TaskIdentity.node_id = answer.context.node_id
        run = run_from_proto(answer.run)
        grid.set_run(run)
        yield Work(grid, str(run.override_config.get("run", "")))
    except RunNotRunningException as error:
        raise ProtocolError("the SuperLink says that the run is over", hint="resume the run") from error
    except httpx.HTTPError as error:
        raise ProtocolError(f"the SuperLink does not take part: {error}", hint="resume the run") from error
    finally:
        grid.patience(0.0)
        heart._stop_event.set()  # its own way waits for an answer that may never come
        grid.close()
