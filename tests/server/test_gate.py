"""What passes the gate, tried on Flower's own application, through real TLS, from outside."""

import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute, iter_route_contexts
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.superlink.main import create_app

from server.gate import INSIDE, MAX_BODY, OUTSIDE, Refusal, RefusalLog
from shared.certificates import Authority
from shared.link_keys import make_key
from tests.federation.links import HOST, Credentials, Desk, asked, until

ALLOWED = {path.decode() for _, path in OUTSIDE}
PROTOBUF = "application/x-protobuf"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with Desk.make(tmp_path_factory.mktemp("gate")).served() as served:
        yield served


@pytest.fixture(scope="module")
def alpha(desk: Desk) -> Credentials:
    return desk.admit("alpha")


@pytest.fixture(scope="module")
def beta(desk: Desk, alpha: Credentials) -> Credentials:
    shown = desk.admit("beta")
    until(lambda: status(desk, shown, "GET", "/health") == 200, what="a new member is not let in")
    return shown


def request(method: str, target: str, headers: dict[str, str] | None = None, *, version: str = "1.1") -> bytes:
    lines = [f"{method} {target} HTTP/{version}", "host: localhost", "content-length: 0"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode()


def statuses(
    desk: Desk, shown: Credentials, targets: list[tuple[str, str]], version: str = "1.1", **own: str
) -> list[int]:
    """The status of the answer to each request, 0 where there was none."""
    headers = {"content-type": PROTOBUF, **shown.headers(), **own}
    answers = desk.speak(shown, *(request(*target, headers, version=version) for target in targets))
    return [int(one.split(b" ", 2)[1]) if one else 0 for one in answers]


def status(desk: Desk, shown: Credentials, method: str, target: str, **own: str) -> int:
    return statuses(desk, shown, [(method, target)], **own)[0]


def routes() -> list[tuple[str, str]]:
    """Every route of Flower's application, from its own table."""
    found = [
        (method, str(context.path))
        for context in iter_route_contexts(create_app().routes)
        if isinstance(context.route, APIRoute)
        for method in sorted(context.methods or ())
    ]
    found += [("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/")]
    return found


def spellings(path: str) -> list[str]:
    """Other ways to write a path that a careless filter or server takes for the same."""
    first, _, rest = path.lstrip("/").partition("/")
    return [
        path,
        path.replace("/", "//"),
        f"//{path.lstrip('/')}",
        f"/v1/fleet/..{path}",
        f"/v1/fleet/../../{path.lstrip('/')}",
        f"/v1/fleet/%2e%2e/%2e%2e{path}",
        f"/v1/fleet/..%2f..{path}",
        f"/health/..{path}",
        f"/health;{path}",
        f"/health?{path}",
        f"/health#{path}",
        f"/{first}/./{rest}",
        f"/%76{path[2:]}",
        path.replace("control", "%63ontrol").replace("runtime", "%72untime"),
        path.replace("/", "%2f"),
        path.upper(),
        path + ".",
        path + "/",
        path + "%00",
        path + "?",
        path + ";x",
        path.replace("/", "\\"),
        f"https://localhost{path}",
        f"http://127.0.0.1{path}",
        f"https://localhost/v1/fleet/..{path}",
    ]


def test_nothing_but_the_listed_paths_passes_in_any_spelling(desk: Desk, beta: Credentials) -> None:
    table = [(method, path) for method, path in routes() if path not in ALLOWED]
    assert len([path for _, path in table if path.startswith("/v1/control/")]) > 30
    assert len([path for _, path in table if path.startswith("/v1/runtime/")]) > 15
    targets = [(method, spelling) for method, path in table for spelling in spellings(path)]
    found = statuses(desk, beta, targets)
    assert [(target, one) for target, one in zip(targets, found, strict=True) if one not in {404, 400}] == []
    assert found.count(400) < len(found) / 4  # no HTTP at all: a blank or a backslash in the target


def test_nor_in_the_first_version_of_http(desk: Desk, beta: Credentials) -> None:
    targets = [one for one in routes() if one[1] not in ALLOWED][::4]
    assert set(statuses(desk, beta, targets, version="1.0")) == {404}


def test_the_plain_spelling_is_404_and_not_a_mistake_of_the_probe(desk: Desk, beta: Credentials) -> None:
    assert set(statuses(desk, beta, [one for one in routes() if one[1] not in ALLOWED])) == {404}
    assert status(desk, beta, "GET", "/health") == 200


def test_every_listed_path_is_one_of_flowers_and_passes_by_its_method_alone(desk: Desk, beta: Credentials) -> None:
    table = set(routes())
    assert {(method.decode(), path.decode()) for method, path in OUTSIDE | INSIDE} <= table
    fleet = sorted(path.decode() for method, path in OUTSIDE if method == b"POST")
    # Flower's own answer, or that of the look into the message, which an empty one does not pass
    assert not {0, 404, 405} & set(statuses(desk, beta, [("POST", path) for path in fleet]))
    others = [(method, path) for path in fleet for method in ("GET", "PUT", "OPTIONS", "DELETE")]
    assert set(statuses(desk, beta, others)) == {404}
    same = {spelling for path in fleet for spelling in (path, f"{path}?")}
    spelt = [("POST", spelling) for path in fleet for spelling in spellings(path) if spelling not in same]
    assert set(statuses(desk, beta, spelt)) <= {404, 400}


def test_an_upgrade_to_a_web_socket_is_no_way_in(desk: Desk, beta: Credentials) -> None:
    headers = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    assert status(desk, beta, "GET", "/v1/control/start-run", **headers) == 404


def answered(desk: Desk, context: ssl.SSLContext) -> bytes:
    """What comes back over a connection that is made with ``context``; nothing where the handshake fails."""
    try:
        with desk.connected(context) as line:
            return asked(line, request("GET", "/health"))
    except (ssl.SSLError, ConnectionError):
        return b""


@pytest.mark.control("HIPAA-164.312-d-authentication")
def test_without_a_certificate_there_is_no_connection(desk: Desk) -> None:
    context = ssl.create_default_context(cafile=str(desk.coordinator.authority_path))
    assert answered(desk, context) == b""
    until(lambda: "the handshake failed: peer did not return a certificate" in desk.gate_log())


def test_anothers_authority_an_expired_certificate_and_the_gates_own_are_none(
    desk: Desk, beta: Credentials, tmp_path: Path
) -> None:
    other = Authority.make(make_key(tmp_path / "other.key"), "hub")
    shown = [
        desk.credentials("beta", other),
        desk.credentials("beta", now=datetime.now(UTC) - timedelta(days=800)),
        desk.credentials("beta", now=datetime.now(UTC) + timedelta(days=2)),
    ]
    contexts = [one.context(desk.coordinator.authority_path) for one in shown]
    gate = ssl.create_default_context(cafile=str(desk.coordinator.authority_path))
    gate.load_cert_chain(desk.coordinator.gate_path, desk.coordinator.gate_key_path)
    assert {answered(desk, context) for context in (*contexts, gate)} == {b""}
    assert answered(desk, beta.context(desk.coordinator.authority_path))
    for why in ("local issuer certificate", "certificate has expired", "not yet valid", "certificate purpose"):
        until(lambda why=why: why in desk.gate_log(), what=desk.gate_log())


@pytest.mark.control("HIPAA-164.312-e-transmission")
def test_older_versions_of_tls_and_no_tls_are_not_spoken(desk: Desk, beta: Credentials) -> None:
    assert answered(desk, beta.context(desk.coordinator.authority_path, ssl.TLSVersion.TLSv1_2)) == b""
    with socket.create_connection((HOST, desk.port), timeout=10) as plain:
        plain.sendall(request("GET", "/health"))
        assert plain.recv(100) == b""


def test_no_session_is_resumed(desk: Desk, beta: Credentials) -> None:
    context = beta.context(desk.coordinator.authority_path)
    with desk.connected(context) as line:
        assert asked(line, request("GET", "/health")).startswith(b"HTTP/1.1 200")
        assert line.session is None or not line.session.has_ticket


def test_a_certificate_of_no_member_is_refused(desk: Desk, beta: Credentials) -> None:
    stranger = desk.credentials("gamma")
    namesake = desk.credentials("beta")  # the name of a member, another key
    for shown in (stranger, namesake):
        assert status(desk, shown, "POST", "/v1/fleet/activate-node") == 403
        assert status(desk, shown, "GET", "/health") == 403
    assert "is no member's" in desk.gate_log()


def test_a_member_that_is_taken_out_is_refused_on_the_connection_that_it_has(desk: Desk) -> None:
    shown = desk.admit("delta")
    until(lambda: status(desk, shown, "GET", "/health") == 200)
    context = shown.context(desk.coordinator.authority_path)
    with httpx.Client(verify=context, trust_env=False, base_url=f"https://localhost:{desk.port}") as client:
        assert client.get("/health").status_code == 200
        (desk.coordinator.members_folder / "delta.json").unlink()
        until(lambda: client.get("/health").status_code == 403)


@pytest.mark.control("HIPAA-164.312-d-authentication")
def test_the_key_of_the_request_must_be_that_of_the_certificate(
    desk: Desk, alpha: Credentials, beta: Credentials
) -> None:
    path = "/v1/fleet/activate-node"
    own, foreign = alpha.headers(), beta.headers()
    assert status(desk, alpha, "POST", path) not in {0, 403}
    for headers in (
        foreign,  # captured from beta and replayed by alpha
        {"flwr-public-key": foreign["flwr-public-key"]},
        {"flwr-public-key": ""},
        {"flwr-public-key": own["flwr-public-key"] + "AAAA"},
    ):
        assert status(desk, alpha, "POST", path, **headers) == 403
    raw = request("POST", path, {"content-type": PROTOBUF, **own}).replace(
        b"\r\n\r\n", b"\r\nflwr-public-key: " + foreign["flwr-public-key"].encode() + b"\r\n\r\n"
    )
    missing = request("POST", path, {"content-type": PROTOBUF})
    assert all(one.startswith(b"HTTP/1.1 403") for one in desk.speak(alpha, raw, missing))
    assert '"site": "alpha"' in desk.gate_log()


def test_a_member_acts_for_itself_with_flowers_own_client(desk: Desk, alpha: Credentials, beta: Credentials) -> None:
    with desk.node(alpha) as own, pytest.raises(httpx.HTTPStatusError) as met:
        own.ActivateNode(
            ActivateNodeRequest(public_key=public_key_to_bytes(alpha.key.public_key()), heartbeat_interval=30)
        )
    assert met.value.response.status_code not in {403, 404}  # Flower's own answer: it is not registered yet
    with desk.node(alpha, beta.key) as foreign, pytest.raises(httpx.HTTPStatusError) as met:
        foreign.PullMessages(PullMessagesRequest(node=Node(node_id=1)))
    assert met.value.response.status_code == 403


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_has_an_end(desk: Desk, beta: Credentials, declared: bool) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(MAX_BODY // 2**20 + 1):
            yield bytes(2**20)

    url = f"https://localhost:{desk.port}/v1/fleet/push-object"
    headers = {"content-type": PROTOBUF, **beta.headers()}
    content = b"".join(parts()) if declared else parts()
    context = beta.context(desk.coordinator.authority_path)
    try:
        answer = httpx.post(url, content=content, headers=headers, verify=context, trust_env=False).status_code
    except httpx.TransportError:
        answer = 413  # it was told before all was sent
    assert answer == 413
    until(lambda: '"status": 413' in desk.gate_log())
    assert desk.healthy()


def test_within_everything_needs_the_secret_and_fleet_paths_are_not_served(desk: Desk) -> None:
    with desk.within(**{"content-type": PROTOBUF}) as client:
        for method, path in routes():
            for headers in ({}, {"x-fedward-secret": ""}, {"x-fedward-secret": "0" * 64}):
                assert client.request(method, path, headers=headers).status_code == 403, path
            answer = client.request(method, path, headers=desk.secret).status_code
            listed = (method.encode(), path.encode()) in INSIDE
            assert (answer != 404) == listed, (path, answer)
        assert client.post("/v1/fleet/activate-node", headers=desk.secret).status_code == 404
        twice = [("x-fedward-secret", desk.coordinator.secret())] * 2
        assert client.get("/health", headers=twice).status_code == 403
    assert desk.coordinator.secret() not in desk.gate_log()


def test_a_header_that_names_another_sender_is_not_believed(desk: Desk) -> None:
    stranger = desk.credentials("gamma")
    assert status(desk, stranger, "GET", "/v1/control/x", **{"x-forwarded-for": "203.0.113.9"}) == 404
    assert "203.0.113.9" not in desk.gate_log()


def test_refusals_are_counted_a_line_a_second_for_each_reason() -> None:
    lines: list[str] = []
    now = [0.0]
    log = RefusalLog(lines.append, clock=lambda: now[0])
    for _ in range(50):
        log(Refusal("no such path", 404, "/x"))
        log(Refusal("no certificate", 403))
    assert len(lines) == 2
    now[0] = 0.9
    log.flush()
    assert len(lines) == 2
    now[0] = 1.0
    log.flush()
    assert [line for line in lines if '"count": 49' in line] == lines[2:]
    log(Refusal("no such path", 404, "/x"))
    log.flush(everything=True)
    assert sum(int(line.rpartition('"count": ')[2].rstrip("}")) for line in lines) == 101


def test_what_is_logged_of_a_path_is_short_and_plain(desk: Desk, beta: Credentials) -> None:
    desk.speak(beta, request("GET", "/%1b[31mred" + "x" * 5000))
    until(lambda: "redxxx" in desk.gate_log())
    assert "\x1b" not in desk.gate_log()
    assert max(map(len, desk.gate_log().splitlines())) < 600
