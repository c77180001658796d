"""Without the gate and without the hospital's checks these attacks work: what the other files find is not luck."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, RecordDict
from flwr.proto.control_pb2 import ListRunsRequest, ListRunsResponse
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.message_pb2 import PullObjectRequest
from flwr.proto.node_pb2 import Node

from shared.bundle import bundle
from tests.attacks.link import fabs, keys
from tests.attacks.link.evil import Evil, evil_coordinator
from tests.attacks.link.fleet import Member, member, refused
from tests.attacks.link.raw import request, talk
from tests.attacks.link.replies import answer_to, order, push
from tests.attacks.link.routes import ALLOWED, forbidden, served, spellings
from tests.ports import free_port


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, a gate and two members."""
    folder = tmp_path_factory.mktemp("pki")
    authority = keys.issue("authority", authority=True)
    authority.save(folder, "authority")
    keys.issue("gate", authority, usages=(keys.SERVER,)).save(folder, "gate")
    for site in ("H1", "H2"):
        keys.issue(site, authority).save(folder, site)
    return folder


@pytest.fixture
def bare(tmp_path: Path, pki: Path) -> Iterator[Evil]:
    """Flower's SuperLink with mutual TLS and nothing else in front of it."""
    with evil_coordinator(tmp_path, free_port(), (pki / "gate.pem", pki / "gate.key"), pki / "authority.pem") as evil:
        yield evil


def join(bare: Evil, pki: Path, site: str) -> tuple[Member, Node]:
    context = keys.client_context(pki / "authority.pem", pki / f"{site}.pem", pki / f"{site}.key")
    one = member(bare.port, context, keys.load_key(pki / f"{site}.key"))
    bare.register(site, one.public_key)
    return one, one.activate()


def test_flower_serves_what_nobody_outside_may_reach(tmp_path: Path) -> None:
    paths = {route.path for route in served(tmp_path)}
    assert set(ALLOWED) <= paths, "a release of Flower that renamed a route of the fleet"
    for needed in ("/v1/control/start-run", "/v1/runtime/acquire-task", "/v1/fleet/register-node", "/openapi.json"):
        assert needed in {route.path for route in forbidden(tmp_path)}
    assert len(forbidden(tmp_path)) > 70
    assert len(set(spellings("/v1/control/start-run", 1))) > 60


def test_whoever_reaches_the_bare_listener_reads_all_runs(bare: Evil, pki: Path) -> None:
    run = bare.run(b"anything", {})
    context = keys.client_context(pki / "authority.pem", pki / "H1.pem", pki / "H1.key")
    asked = request("POST", "/v1/control/list-runs", ListRunsRequest().SerializeToString())
    answer = talk(bare.port, asked, context).answers[0]
    assert answer.status == 200
    assert [one.run_id for one in ListRunsResponse.FromString(answer.body).run_dict.values()] == [run]


def test_some_spellings_reach_what_a_filter_by_prefix_lets_through(bare: Evil, pki: Path) -> None:
    """The list is worth its length: the bare app takes several of these for the path itself."""
    context = keys.client_context(pki / "authority.pem", pki / "H1.pem", pki / "H1.key")
    body = ListRunsRequest().SerializeToString()
    taken = [
        one
        for one in dict.fromkeys(spellings("/v1/control/list-runs", bare.port))
        if talk(bare.port, request("POST", one, body), context, wait=5).statuses[:1] == (200,)
    ]
    assert len(taken) >= 3, taken
    assert any(one.startswith("http") for one in taken), "absolute form"
    assert any("%" in one for one in taken), "an escaped letter"


def test_a_member_pulls_the_objects_of_another_and_answers_for_it(bare: Evil, pki: Path) -> None:
    (first, one), (_, two) = join(bare, pki, "H1"), join(bare, pki, "H2")
    run = bare.run(b"anything", {})
    asked = RecordDict({"message": ConfigRecord({"text": "for H2 alone"})})
    message = bare.send(run, "H2", asked, "query")
    pulled = first.client.PullObject(PullObjectRequest(node=one, run_id=run, object_id=message))
    assert pulled.object_available
    assert b"query" in pulled.object_content

    forged = answer_to(message, run, two.node_id, RecordDict({"message": ConfigRecord({"text": "I am H2"})}))
    assert push(first.client, one, forged)
    answer = bare.reply(run, message, 10)
    assert answer is not None
    assert answer.metadata.src_node_id == two.node_id
    assert answer.content["message"]["text"] == "I am H2"


def test_a_member_gives_orders_to_another_hospital(bare: Evil, pki: Path) -> None:
    """Flower takes a message without 'reply to' from a node for one of its own coordinator's."""
    (first, one), (second, two) = join(bare, pki, "H1"), join(bare, pki, "H2")
    run = bare.run(b"anything", {})
    forged = order(run, two.node_id, "train", RecordDict({"message": ConfigRecord({"text": "train for me"})}))
    assert push(first.client, one, forged)
    pulled = second.client.PullMessages(PullMessagesRequest(node=two))
    assert [one.metadata.src_node_id for one in pulled.messages_list] == [1]


def test_captured_headers_of_another_are_taken_from_any_connection(bare: Evil, pki: Path) -> None:
    (first, _), (second, two) = join(bare, pki, "H1"), join(bare, pki, "H2")
    captured = second.said[-1]
    context = keys.client_context(pki / "authority.pem", pki / "H1.pem", pki / "H1.key")
    thief = member(bare.port, context, first.key, headers=lambda: captured)
    message = bare.send(bare.run(b"anything", {}), "H2", RecordDict(), "query")
    pulled = thief.client.PullMessages(PullMessagesRequest(node=two))
    assert [one.metadata.message_id for one in pulled.messages_list] == [message]
    assert refused(lambda: first.client.PullMessages(PullMessagesRequest(node=two))) == 401, "its own name it must say"


def test_the_traps_would_leave_a_trace(tmp_path: Path) -> None:
    """A hospital that ran what it is sent would be found out."""
    trace = tmp_path / "trace"
    exec(compile(fabs.trap(trace), "trap", "exec"), {})  # noqa: S102
    assert trace.read_text() == fabs.MARKER
    made = dict(fabs.forged(trace))
    assert len(made) >= 15
    assert bundle() not in made.values()
    assert "agentapp" in fabs.contents(made["an agent"])["pyproject.toml"].decode()
    assert "evil.app:app" in fabs.contents(made["another component"])["pyproject.toml"].decode()
    assert "http://" in fabs.contents(made["dependencies from the network"])["pyproject.toml"].decode()
    trapped = [name for name, fab in made.items() if fabs.MARKER.encode() in b"".join(read(fab).values())]
    assert len(trapped) >= 7


def read(fab: bytes) -> dict[str, bytes]:
    try:
        return fabs.contents(fab)
    except zipfile.BadZipFile:
        return {}
