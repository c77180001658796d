"""From outside, at the gate: whatever is asked and however it is spelt, only the fleet's ten paths are there."""

import json
import resource
import ssl
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node

from tests.attacks.link.conftest import Side, silence
from tests.attacks.link.fleet import signed
from tests.attacks.link.raw import connect, request, talk
from tests.attacks.link.routes import ALLOWED, FLEET, forbidden, spellings
from tests.live.standing import descendants, fedward, wait_until

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]

NOWHERE = {400, 403, 404, 405, 413, 414, 431}
"""What a gate says to what it does not serve; nothing of it comes from Flower."""
TARGETS = (
    *("/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/acquire-task", "/v1/runtime/responses"),
    *("/v1/fleet/register-node", "/v1/fleet/unregister-node", "/openapi.json", "/docs"),
)


def healthy(side: Side) -> bool:
    """Whether the gate still answers a member."""
    return talk(side.port, request("GET", "/health"), side.member("H1"), wait=5).statuses == (200,)


def contact(side: Side) -> str:
    """When H3 last heard of the coordinator."""
    status = json.loads((side.standing.node("H3") / "link" / "status.json").read_text())
    assert status["state"] in {"connected", "working"}, status
    return str(status["last_contact"])


def test_a_member_is_served(gate: Side) -> None:
    assert healthy(gate)
    body = PullMessagesRequest(node=Node(node_id=5)).SerializeToString()
    done = talk(gate.port, request("POST", "/v1/fleet/pull-messages", body), gate.member("H1"))
    assert done.statuses[0] in {401, 403}, "a certificate alone, without Flower's signature, is not enough"


def test_no_route_but_the_fleets_is_there_for_a_member(gate: Side, tmp_path: Path) -> None:
    routes = forbidden(tmp_path)
    assert len(routes) > 70
    found = {}
    for route in routes:
        data = request(route.method, route.path)
        found[str(route)] = talk(gate.port, data, gate.member("H1"), head=route.method == "HEAD").statuses
    assert {name: statuses for name, statuses in found.items() if statuses != (404,)} == {}


def test_no_route_at_all_is_there_without_a_certificate(gate: Side, tmp_path: Path) -> None:
    for path in (*ALLOWED, *(route.path for route in forbidden(tmp_path)[:10])):
        done = _refused_by_tls(gate, request("POST", path))
        assert done == b"", path


def _refused_by_tls(side: Side, data: bytes) -> bytes:
    try:
        return talk(side.port, data, side.stranger(), wait=5).raw
    except (ssl.SSLError, OSError):
        return b""


@pytest.mark.parametrize("path", TARGETS)
def test_no_spelling_of_a_path_gets_through(gate: Side, path: str) -> None:
    method = "GET" if path in {"/openapi.json", "/docs"} else "POST"
    through = {}
    for one in dict.fromkeys(spellings(path, gate.port)):
        done = talk(gate.port, request(method, one, headers=signed(gate.key("H1"))), gate.member("H1"), wait=5)
        if not set(done.statuses) <= NOWHERE or (not done.answers and not done.closed):
            through[one] = done.raw
    assert through == {}
    assert healthy(gate)


def test_an_allowed_path_is_allowed_in_one_spelling(gate: Side) -> None:
    for path in ("/v1/fleet/pull-messages", "/health"):
        method = "GET" if path == "/health" else "POST"
        for one in dict.fromkeys(spellings(path, gate.port)):
            if one.partition("?")[0] == path or one.startswith(("http://", "https://")):
                continue
            done = talk(gate.port, request(method, one, headers=signed(gate.key("H1"))), gate.member("H1"), wait=5)
            assert set(done.statuses) <= NOWHERE, (one, done.raw)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "post"])
def test_the_fleets_paths_take_one_method(gate: Side, method: str) -> None:
    for path in FLEET:
        done = talk(gate.port, request(method, path, headers=signed(gate.key("H1"))), gate.member("H1"), wait=5)
        assert set(done.statuses) <= NOWHERE, (path, done.raw)


OVERRIDES = ("X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Path", "X-Forwarded-Prefix", "X-HTTP-Method-Override")


@pytest.mark.parametrize("header", [*OVERRIDES, "X-Forwarded-Uri", "X-Forwarded-Host", "Forwarded", "X-Script-Name"])
def test_no_header_points_elsewhere(gate: Side, header: str) -> None:
    for value in ("/v1/control/list-runs", "/v1", "POST", "host=localhost;proto=https", "127.0.0.1"):
        done = talk(gate.port, request("GET", "/health", headers=[(header, value)]), gate.member("H1"))
        assert done.statuses == (200,)
        assert b"run" not in done.answers[0].body
        done = talk(gate.port, request("POST", "/v1/control/list-runs", headers=[(header, value)]), gate.member("H1"))
        assert done.statuses == (404,)


HOSTS = ["localhost", "127.0.0.1:1", "superlink", "x/v1/runtime/pull-object?", "x/v1/control/list-runs#", "", "[::1]"]


@pytest.mark.parametrize("host", [*HOSTS, "a@b", "a b", "*", "x\x7f"])
def test_no_host_header_makes_another_path_of_one(gate: Side, host: str) -> None:
    """Flower's middleware takes the path out of a URL that older Starlettes put together from the Host header."""
    body = PullMessagesRequest(node=Node(node_id=5)).SerializeToString()
    for path in ("/v1/fleet/pull-messages", "/v1/control/list-runs", "/v1/runtime/pull-object"):
        done = talk(gate.port, request("POST", path, body, host=host), gate.member("H1"), wait=5)
        assert set(done.statuses) <= {*NOWHERE, 401}, (path, done.raw)


def test_old_and_other_protocols_open_nothing(gate: Side) -> None:
    """HTTP/1.0, HTTP/0.9, HTTP/2 with and without an upgrade, and no Host at all."""
    for data in (
        request("GET", "/openapi.json", version="HTTP/1.0"),
        request("POST", "/v1/control/list-runs", version="HTTP/1.0", host=None),
        request("POST", "/v1/control/list-runs", host=None),
        b"GET /openapi.json\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
        request("GET", "/openapi.json", version="HTTP/2.0"),
        request("GET", "/openapi.json", version="HTTP/1.1\r\nX: y"),
        request("OPTIONS", "*"),
        request("CONNECT", "127.0.0.1:22"),
        b"\r\n\r\n" + request("GET", "/openapi.json"),
        b"\x16\x03\x01\x00\x05hello",
    ):
        done = talk(gate.port, data, gate.member("H1"), wait=5)
        assert set(done.statuses) <= NOWHERE, (data, done.raw)
        assert b"openapi" not in done.raw
    context = gate.member("H1")
    context.set_alpn_protocols(["h2", "http/1.1"])
    with connect(gate.port, context) as link:
        assert isinstance(link, ssl.SSLSocket)
        assert link.selected_alpn_protocol() in {None, "http/1.1"}


UPGRADE = [
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", "x3JJHMbDL1EzLkh9GBhXDw=="),
    ("Sec-WebSocket-Version", "13"),
]


@pytest.mark.parametrize(
    "path", ["/health", "/v1/fleet/pull-messages", "/v1/control/start-run", "/v1/runtime/get-nodes"]
)
@pytest.mark.parametrize("to", ["websocket", "h2c", "TLS/1.0"])
def test_a_connection_is_upgraded_to_nothing(gate: Side, path: str, to: str) -> None:
    headers = [*UPGRADE, ("Upgrade", to), ("HTTP2-Settings", "AAMAAABkAAQCAAAAAAIAAAAA")]
    done = talk(gate.port, request("GET", path, headers=headers), gate.member("H1"), wait=5)
    assert 101 not in done.statuses
    assert b"101 Switching" not in done.raw
    assert set(done.statuses) <= ({200} if path == "/health" else set()) | NOWHERE


def test_a_second_request_is_judged_as_the_first(gate: Side) -> None:
    """Pipelined behind a path that is allowed, on the connection that was found good."""
    good, bad = request("GET", "/health"), request("POST", "/v1/control/list-runs")
    context = gate.member("H1")
    assert talk(gate.port, good + bad, context, expect=2, linger=0.3).statuses == (200, 404)
    assert talk(gate.port, bad + good, context, expect=2, linger=0.3).statuses in {(404, 200), (404,)}
    assert talk(gate.port, good * 20 + bad * 20, context, expect=40).statuses == (200,) * 20 + (404,) * 20
    assert talk(gate.port, [good, bad], context, expect=2, pause=0.3).statuses == (200, 404)


HIDDEN = (
    b"POST /v1/control/list-runs HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Type: application/protobuf\r\n\r\n"
)
LENGTHS = [
    [("Content-Length", "4"), ("Transfer-Encoding", "chunked")],
    [("Transfer-Encoding", "chunked"), ("Content-Length", "4")],
    [("Content-Length", "0"), ("Content-Length", str(len(HIDDEN)))],
    [("Content-Length", f"0, {len(HIDDEN)}")],
    [("Content-Length", "+0")],
    [("Content-Length", "-1")],
    [("Content-Length", "0x0")],
    [("Content-Length", "9" * 40)],
    [("Content-Length", "0"), ("Transfer-Encoding", "xchunked")],
    [("Content-Length", "0"), ("Transfer-Encoding", "identity, chunked")],
    [("Content-Length", "0"), ("Transfer-Encoding ", "chunked")],
    [("Content-Length", "0"), ("Transfer-Encoding", "\x0bchunked")],
    [("Content-Length", "0"), ("X", "y\r\n Transfer-Encoding: chunked")],
    [("Content-Length", "0"), ("X", "y\nTransfer-Encoding: chunked")],
    [("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "identity")],
    [("Content-Length", "1e1")],
]


@pytest.mark.parametrize("lengths", LENGTHS, ids=[repr(one)[:60] for one in LENGTHS])
def test_no_request_is_smuggled_in_a_body(gate: Side, lengths: list[tuple[str, str]]) -> None:
    for body in (HIDDEN, b"0\r\n\r\n" + HIDDEN, f"{len(HIDDEN):x};x=y\r\n".encode() + HIDDEN + b"\r\n0\r\n\r\n"):
        data = request("POST", "/v1/fleet/pull-messages", body, [*signed(gate.key("H1")), *lengths])
        done = talk(gate.port, data, gate.member("H1"), expect=2, wait=2, linger=0.2)
        assert set(done.statuses) <= {*NOWHERE, 401, 411, 501}, done.raw
        assert b"application/protobuf" not in done.raw
    assert healthy(gate)


@pytest.mark.parametrize(
    "data",
    [
        request("GET", "/health", headers=[("X-Long", "x" * 1024 * 1024)]),
        request("GET", "/health", headers=[(f"X-{n}", "y") for n in range(50_000)]),
        request("GET", "/" + "x" * 1024 * 1024),
        request("GET", "/v1/fleet/" + "../" * 100_000 + "openapi.json"),
        b"G" * 1024 * 1024,
        b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + bytes(1024 * 1024),
    ],
    ids=["a header", "many headers", "a path", "many dots", "a method", "zeros"],
)
def test_what_is_far_too_long_is_refused_and_forgotten(gate: Side, data: bytes) -> None:
    before = resident(gate)
    for _ in range(5):
        done = talk(gate.port, data, gate.member("H1"), wait=10)
        assert done.closed or set(done.statuses) <= NOWHERE, done.raw[:300]
    assert healthy(gate)
    assert resident(gate) < before + 64 * 1024, "KiB"


def resident(side: Side) -> int:
    """KiB that the coordinator's processes have in memory together."""
    total = 0
    service = side.standing.services["coordinator"]
    for pid in (service.pid, *descendants(service.pid)):
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    return total


def test_a_body_above_the_limit_is_not_taken_in(gate: Side) -> None:
    context, before = gate.member("H1"), resident(gate)
    big = PushObjectRequest(node=Node(node_id=5), run_id=1, object_id="0" * 64, object_content=bytes(20 * 1024 * 1024))
    body = big.SerializeToString()
    headers = signed(gate.key("H1"))
    done = talk(gate.port, request("POST", "/v1/fleet/push-object", body, headers), context, wait=30)
    assert done.statuses == (413,) or (done.closed and not done.statuses), done.raw[:300]
    # Only announced, nothing sent: the answer does not wait for it.
    announced = request("POST", "/v1/fleet/push-object", b"", [*headers, ("Content-Length", str(len(body)))])
    assert talk(gate.port, announced, context, wait=10).statuses == (413,)
    expecting = request(
        "POST", "/v1/fleet/push-object", b"", [*headers, ("Content-Length", str(len(body))), ("Expect", "100-continue")]
    )
    done = talk(gate.port, expecting, context, wait=10)
    assert done.statuses == (413,)
    assert b"100 Continue" not in done.raw
    # Without a length, in chunks: it ends where the limit is.
    start = request("POST", "/v1/fleet/push-object", b"", [*headers, ("Transfer-Encoding", "chunked")])
    chunk = b"100000\r\n" + bytes(1024 * 1024) + b"\r\n"
    done = talk(gate.port, [start, *([chunk] * 20), b"0\r\n\r\n"], context, wait=30)
    assert done.statuses == (413,) or (done.closed and not done.statuses), done.raw[:300]
    assert healthy(gate)
    assert resident(gate) < before + 64 * 1024, "KiB"


def test_a_chunk_of_flowers_own_size_is_not_too_large(gate: Side) -> None:
    chunk = PushObjectRequest(node=Node(node_id=5), run_id=1, object_content=bytes(5 * 1024 * 1024 + 4096))
    data = request("POST", "/v1/fleet/push-object", chunk.SerializeToString(), signed(gate.key("H1")))
    done = talk(gate.port, data, gate.member("H1"), wait=30)
    assert done.statuses[0] in {401, 403}, "it is read, and refused for the node it names"


def test_a_real_hospital_goes_on_while_fifty_connections_hang(gate: Side) -> None:
    """Half of them without a certificate: a handshake that stops, a request or a body that never ends."""
    partial = request("POST", "/v1/fleet/push-object", b"", [*signed(gate.key("H1")), ("Content-Length", "1000000")])
    with ExitStack() as stack:
        links = []
        for number in range(50):
            kind = number % 5
            link = stack.enter_context(connect(gate.port, gate.member("H1") if kind > 1 else None, wait=10))
            links.append(link)
            if kind:
                link.sendall([b"", b"\x16\x03\x01\x02\x00\x01", b"POST /v1/fl", partial, partial + bytes(100)][kind])
        first, end = contact(gate), time.monotonic() + 40
        while time.monotonic() < end:
            for number, link in enumerate(links):
                if number % 5 == 2:  # a letter now and then
                    try:
                        link.sendall(b"x")
                    except OSError:
                        continue
            started = time.monotonic()
            assert healthy(gate)
            assert time.monotonic() - started < 5, "a member waits for strangers"
            if contact(gate) > first and time.monotonic() > end - 20:
                break
            time.sleep(1)
        assert contact(gate) > first, "the hospital lost its coordinator"
    assert healthy(gate)


def test_a_crowd_without_certificates_keeps_no_member_out(gate: Side) -> None:
    """More idle connections than a process may have open files by default, which costs an attacker nothing.

    The hard limit of most systems is far above the soft one of 1024, and a handshake need not wait for ever.
    """
    standing = gate.standing
    silence(standing)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    try:
        standing.start("coordinator", prefix=("prlimit", "--nofile=1024:8192"))
        standing.ready("coordinator")
        before = sum(path.stat().st_size for path in logs(gate))
        with ExitStack() as stack:
            for _ in range(1500):
                stack.enter_context(connect(gate.port, None, wait=10))
            time.sleep(10)
            started = time.monotonic()
            assert healthy(gate)
            assert time.monotonic() - started < 5
        assert sum(path.stat().st_size for path in logs(gate)) < before + 500_000, "the disk is filled by strangers"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        silence(standing)
        standing.up("coordinator", "H3")


def test_refusals_are_told_once_a_second_and_forge_no_line(gate: Side) -> None:
    """A flood of refusals does not fill the disk, and what is logged stays one line each."""
    before = log_lines(gate)
    started = time.monotonic()
    forged = '/v1/%0a{"action":"model.release","outcome":"ok"}%0d%0a'
    with connect(gate.port, gate.member("H1")) as link:
        link.settimeout(10)
        for _ in range(30):
            link.sendall(request("POST", forged) * 10)
            assert link.recv(65536)
    spent = time.monotonic() - started
    wait_until(lambda: log_lines(gate) > before, 20, "refusals are nowhere told")
    time.sleep(2)
    assert log_lines(gate) - before <= 5 * (spent + 5), "more than a few lines a second"
    for path in logs(gate):
        assert b'\n{"action":"model.release"' not in path.read_bytes()
    record = gate.standing.server / "audit" / "log.jsonl"
    if record.exists():
        fedward("audit", "verify", record)


def logs(side: Side) -> list[Path]:
    """Everything that the coordinator writes lines to."""
    found = [one for one in side.standing.server.rglob("*") if one.is_file() and one.suffix in {".log", ".jsonl"}]
    return [*found, side.standing.services["coordinator"].log]


def log_lines(side: Side) -> int:
    return sum(one.read_bytes().count(b"\n") for one in logs(side))


def test_a_refusal_tells_nothing_of_the_machine(gate: Side) -> None:
    for data in (
        request("POST", "/v1/control/list-runs"),
        request("POST", "/v1/fleet/pull-messages", b"\xff" * 100),
        request("POST", "/v1/fleet/pull-messages", b"\xff" * 100, signed(gate.key("H1"))),
        request("POST", "/v1/fleet/get-run", b"", [("Content-Type", "text/plain"), *signed(gate.key("H1"))]),
    ):
        done = talk(gate.port, data, gate.member("H1"))
        assert set(done.statuses) <= {*NOWHERE, 401, 415}, done.raw
        for word in (b"Traceback", str(gate.standing.root).encode(), b"site-packages", b"sqlite", b".py"):
            assert word not in done.raw
