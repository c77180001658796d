"""What keeps a coordinator running: the SuperLink behind its gate, and the executor, under one supervisor."""

import contextlib
import http.client
import os
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

from compliance.exchange_grpc import PORT_STEP
from server.coordinator import PRIVATE, Coordinator
from server.gate import HEALTH, SECRET_HEADER, bound
from server.within import connected
from shared.certificates import check_server, read
from shared.console import say
from shared.errors import FedwardError, ProtocolError, UsageError
from shared.files import held, locked, output_errors, private_folder, write_json
from shared.health import serve
from shared.places import Address
from shared.supervisor import Child, Supervisor

EVERYWHERE: Final = "0.0.0.0"  # noqa: S104  # the gate is there to be reached; it asks for a certificate
_SECONDS: Final = 2.0
_LOCK: Final = "lock"
_LAST_PORT: Final = 65535
_GLANCE: Final = 1.0  # seconds in which who only looks at the lock has looked


def keep(folder: Path, *, listen: str | None = None, audit_listen: str | None = None, health: int | None = None) -> int:
    """Keep the coordinator in ``folder`` running until SIGTERM or SIGINT; in the main thread of a process.

    Args:
        folder: The coordinator's.
        listen: ``IP:PORT`` of the gate; None for the port of its address on all addresses of this machine.
        audit_listen: ``IP:PORT`` of the audit exchange; None for the port above the gate's, at the same address.
        health: Port of the health service on 127.0.0.1, or None.

    Returns:
        0, or the exit status of a part that ended for good.

    Raises:
        UsageError: A value is wrong, an address is in use, or the coordinator is running already.
        PolicyError: Others may read a key.
        OutputError: The folder cannot be written.
        ProtocolError: The gate's certificate is none that hospitals take.
    """
    os.umask(0o077)
    coordinator = Coordinator.open(folder)
    coordinator.secret()
    place = listen or f"{EVERYWHERE}:{Address.parse(coordinator.address).port}"
    address = _address("--listen", place)
    audit = audit_listen or _above(address)
    beside = _address("--audit-listen", audit)
    private_folder(coordinator.superlink_folder)
    _check_gate(coordinator)
    with alone(coordinator), contextlib.ExitStack() as stack:
        bound(address.host, address.port).close()  # said now, and not by a part that is started again and again
        _check_audit(beside)
        stack.callback(_clear, coordinator)
        supervisor = Supervisor(children(coordinator, place, audit), say=say)
        if health is not None:
            stack.enter_context(serve(health, lambda: serving(coordinator)))
        with _told(coordinator, place, lambda: supervisor.pids, say):
            return supervisor.run()


def _address(option: str, text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise UsageError(f"{option} {text}: {error}", hint="for example 0.0.0.0:8443") from error


def _above(gate: Address) -> str:
    """Where the audit exchange listens beside this gate."""
    port = gate.port + PORT_STEP
    if port > _LAST_PORT:
        raise UsageError(
            f"there is no port above {gate.port} for the audit exchange",
            hint="give --audit-listen IP:PORT, or another --listen; hospitals call the port above the charter's",
        )
    return str(Address(gate.host, port))


def _check_audit(beside: Address) -> None:
    """Refuse to begin without an address for the audit exchange."""
    try:
        bound(beside.host, beside.port).close()
    except UsageError as error:
        raise UsageError(
            f"the audit exchange {error.message}",
            hint="free that port, or give --audit-listen IP:PORT, where something maps the port above the gate's to it",
        ) from error


def _check_gate(coordinator: Coordinator) -> None:
    """Refuse to stand behind a certificate that turns every hospital away."""
    (gate,), (authority,) = read(coordinator.gate_path, count=1), read(coordinator.authority_path, count=1)
    try:
        check_server(gate, authority, Address.parse(coordinator.address).host)
    except ProtocolError as error:
        again = f"fedward server init {coordinator.folder} --address {coordinator.address}"
        raise ProtocolError(error.message, hint=f"check this machine's clock; renew it with '{again}'") from error


def _clear(coordinator: Coordinator) -> None:
    """Take away what the parts left where others find them; what one that was killed leaves says nothing."""
    for path in (coordinator.inner_path, coordinator.executor_path):
        with output_errors(path):
            path.unlink(missing_ok=True)


def children(coordinator: Coordinator, listen: str, audit: str) -> list[Child]:
    """The three parts, in the order in which they start; runs go on whether or not the last can work."""
    environment, folder = coordinator.environment(), str(coordinator.folder.resolve())
    python = (sys.executable, "-P", "-m")
    return [
        Child("link", (*python, "server.flower_link", folder, listen), environment),
        Child("executor", (*python, "server.executor", folder), environment),
        Child("witness", (*python, "server.witness_link", folder, audit), environment, vital=False),
    ]


def alone(coordinator: Coordinator) -> IO[bytes]:
    """The lock of the one that keeps this coordinator running.

    Raises:
        UsageError: Another process holds it.
        OutputError: The folder cannot be written.
    """
    return locked(
        coordinator.superlink_folder / _LOCK,
        f"the coordinator in {coordinator.folder} is running already",
        hint="see 'fedward server status'",
        error=UsageError,
        patience=_GLANCE,
    )


def running(coordinator: Coordinator) -> bool:
    """Whether somebody keeps this coordinator running just now."""
    return held(coordinator.superlink_folder / _LOCK)


def serving(coordinator: Coordinator) -> bool:
    """Whether its SuperLink answers within two seconds, and its executor takes runs."""
    try:
        if not held(coordinator.executor_path):
            return False
        line = http.client.HTTPConnection("superlink")
        with contextlib.closing(line):
            line.sock = connected(coordinator, _SECONDS)
            line.request("GET", HEALTH.decode(), headers={SECRET_HEADER.decode(): coordinator.secret()})
            return line.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException, FedwardError):
        return False


@contextlib.contextmanager
def _told(
    coordinator: Coordinator, listen: str, pids: Callable[[], dict[str, int]], say: Callable[[str], None]
) -> Iterator[None]:
    """Keep ``status.json`` true while the block runs, and say when the gate is open."""
    over = threading.Event()
    since = datetime.now(UTC).isoformat(timespec="seconds")
    facts: dict[str, Any] = {"version": 1, "since": since, "pid": os.getpid(), "listen": listen}

    def write(state: str) -> None:
        with contextlib.suppress(FedwardError):  # a full disk must not end what is running
            write_json(coordinator.status_path, {**facts, "state": state, "parts": pids()}, mode=PRIVATE)

    def watch() -> None:
        before = None
        while not over.is_set():
            now = ("serving" if serving(coordinator) else "starting", pids())
            if now != before:
                write(now[0])
                if now[0] == "serving" and (before is None or before[0] != "serving"):
                    say(f"the gate is open at {listen}")
                before = now
            over.wait(_SECONDS)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        write("stopped")
