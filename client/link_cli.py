"""``fedward node start``, ``status`` and ``health``: a hospital's connection to its coordinator."""

import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared import console
from shared.errors import UsageError

if TYPE_CHECKING:
    from client.link_state import LinkState
    from client.node import Node
    from shared.supervisor import Child

_NODE = "The node's folder, from 'fedward node init'."
_STARTED = "started.lock"
_NOT_SERVING = 8


def mount(app: typer.Typer) -> None:
    """Add the commands to the node's group."""
    app.command("start")(start_command)
    app.command("status")(status_command)
    app.command("health")(health_command)


def start_command(
    node: Annotated[Path, typer.Argument(metavar="NODE", help=_NODE)],
    health: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of 127.0.0.1 for the gRPC health service.")
    ] = None,
) -> None:
    """Connect the node to the coordinator of its charter, and answer what it asks for, until SIGTERM or Ctrl-C.

    The node calls the coordinator; nobody can call the node. Only what is installed here is run. Beside the connection
    that trains, a second one, at the port above, makes the members witnesses of each other's audit logs. A coordinator
    that cannot be reached is tried again for ever, and a process that ends is started again after 1 to 60 s.

    HTTPS_PROXY, ALL_PROXY and NO_PROXY are followed; TLS is with the coordinator alone in any case.

    Exit status 0: stopped. 2: no node, no certificate, damaged keys, or it runs already. 6: no charter is pinned or it
    names no coordinator, the certificate is not for it, others may read a key, or a virtual hospital. 8: the
    certificate's time is over or not begun.
    """
    from client.link_place import Place
    from client.link_state import LinkState
    from client.node import Node
    from shared.files import locked
    from shared.health import serve
    from shared.supervisor import Supervisor

    opened = Node.open(node)
    opened.require_real()
    Place.of(opened).tls()  # what starting again cannot mend is said here, once
    folder = opened.link
    with ExitStack() as stack:
        hint = "see 'fedward node status'"
        stack.enter_context(
            locked(folder / _STARTED, "this node has been started already", hint=hint, error=UsageError)
        )
        if health is not None:
            stack.enter_context(serve(health, lambda: LinkState.load(folder).is_serving))
        status = Supervisor(children(opened), say=_say).run()
    if status:
        raise typer.Exit(status)


def children(node: "Node") -> "list[Child]":
    """What ``node start`` keeps running. The hospital trains whether or not its witness link can work."""
    from shared.supervisor import Child

    quiet = {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_HOME": str(node.link.absolute() / "flower"),
    }
    # -P: the current folder may have a folder called client of its own, and no code of it may run.
    python, folder = (sys.executable, "-P", "-m"), str(node.folder.absolute())
    return [
        Child("link", (*python, "client.link", folder), quiet),
        Child("witness", (*python, "client.witness_link", folder), quiet, vital=False),
    ]


def status_command(
    node: Annotated[Path, typer.Argument(metavar="NODE", help=_NODE)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what the node's connection is doing, which device networks run on, and what is wrong.

    Exit status 0: connected. 2: no node, or its state cannot be read. 8: not connected, or not started.
    """
    from client.link_state import LinkState
    from client.node import Node

    opened = Node.open(node)
    state = LinkState.load(opened.link)
    if as_json:
        console.emit_json(asdict(state))
    else:
        for line in _lines(opened.site, state):
            console.say(line)
    if not state.is_serving:
        raise typer.Exit(_NOT_SERVING)


def health_command(
    port: Annotated[int, typer.Argument(metavar="PORT", min=1, max=65535, help="The port given to 'start --health'.")],
) -> None:
    """Ask the health service of a node on this machine whether it is connected; for a container's health check.

    Exit status 0: it is. 8: it is not, or nobody answers.
    """
    from shared.health import check

    serving = check(port)
    console.say("serving" if serving else "not serving")
    if not serving:
        raise typer.Exit(_NOT_SERVING)


def _lines(site: str, state: "LinkState") -> list[str]:
    if not state.coordinator:
        return [f"{site}: not started; start it with 'fedward node start'"]
    work = f" on {state.message} of {state.run}" if state.message else ""
    lines = [f"{site}: {state.state}{work} since {state.since}", f"coordinator: {state.coordinator}"]
    if state.last_contact:
        skew = "" if state.clock_skew_s is None else f"; this machine's clock is {_skew(state.clock_skew_s)}"
        lines.append(f"last contact: {state.last_contact}{skew}")
    if state.device:
        lines.append(f"device: {state.device}")
    counts = f"{console.plural(state.answered, 'message')} answered since the start, {state.refusals} of them refused"
    lines.append(f"{counts}, {state.failures} failed" + (f"; the last: {state.reason}" if state.reason else ""))
    return lines + ([f"wrong: {state.error}"] if state.error else [])


def _skew(seconds: float) -> str:
    if abs(seconds) < 1:
        return "right"
    return f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} the coordinator's"


def _say(line: str) -> None:
    console.err.print(console.plain(line), markup=False, soft_wrap=True)
