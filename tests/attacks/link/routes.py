"""Every route that Flower's SuperLink serves, asked of Flower itself, and spellings of a path that fool filters."""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app

FLEET = tuple(
    f"/v1/fleet/{name}"
    for name in (
        *("activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "push-messages", "get-run"),
        *("get-fab", "push-object", "pull-object", "confirm-message-received"),
    )
)
"""What the gate lets a member ask, beside ``/health``."""
ALLOWED = (*FLEET, "/health")


@dataclass(frozen=True)
class Route:
    """A method and a path."""

    method: str
    path: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def superlink(folder: Path, *, secret: bytes | None = None) -> FastAPI:
    """Flower's own SuperLink as it comes: all its APIs on one listener, nodes known by signature alone."""
    lifespan = importlib.import_module("flwr.superlink.cli.flower_superlink").SuperLinkLifespan
    config = SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host="127.0.0.1",
        port=0,
        insecure=True,
        certificates=None,
        superexec_auth_secret=secret,
        authn_plugin=NoOpControlAuthnPlugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type="grpc-rere",
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=str(folder / "state.db"),
        isolation="process",
        runtime_dependency_install=False,
    )
    return create_app(config, lifespan)


def served(folder: Path) -> tuple[Route, ...]:
    """What Flower's app answers to: Control, Runtime and Fleet, the health check, and its own documentation."""
    found = {
        Route(method, context.route.path)
        for context in iter_route_contexts(superlink(folder).routes)
        for method in context.route.methods or ()
    }
    return tuple(sorted(found, key=str))


def forbidden(folder: Path) -> tuple[Route, ...]:
    """What nobody may reach from outside."""
    return tuple(route for route in served(folder) if route.path not in ALLOWED)


def spellings(path: str, port: int) -> Iterator[str]:
    """Request targets that some reader on the way may take for ``path``, and a filter for something else."""
    first, rest = path[1], path[2:]
    yield path
    yield path.upper()
    yield path.title()
    yield f"{path}/"
    yield f"{path};x=1"
    yield f"{path}?x=1"
    yield f"{path}%3fx=1"
    yield f"{path}#x"
    yield f"{path}%00"
    yield f"{path}%20"
    yield f"{path}%0d%0a"
    yield f"/{path}"
    yield f"//{path}"
    yield path.replace("/", "//")
    yield path.replace("/", "/./")
    yield f"/%{ord(first):02x}{rest}"
    yield f"/%25{ord(first):02x}{rest}"
    yield "/" + path[1:].replace("/", "%2f")
    yield "/" + path[1:].replace("/", "%5c")
    yield "/" + path[1:].replace("/", "\\")
    yield path.replace("/", "%2f")
    yield path.replace("-", "%2d")
    for base in ("/v1/fleet/pull-messages", "/v1/fleet", "/health"):
        up = base.count("/")
        for dots in ("..", "%2e%2e", ".%2e", "%2E.", "%252e%252e", "..;", "%c0%ae%c0%ae", "%uff0e%uff0e"):
            yield base + f"/{dots}" * up + path
        yield base + "/" + "..%2f" * up + path[1:]
        yield base + "/" + "..%5c" * up + path[1:]
        yield base + "/" + "..\\" * up + path[1:]
        yield f"{base};{path}"
        yield f"{base}%00{path}"
        yield f"{base}%23{path}"
        yield f"{base}%3f/..{path}"
        yield f"{base}\x0b{path}"
    for host in ("localhost", "127.0.0.1", f"127.0.0.1:{port}", "user@localhost", ""):
        yield f"http://{host}{path}"
        yield f"https://{host}{path}"
    yield f"http:{path}"
    yield path[1:]
