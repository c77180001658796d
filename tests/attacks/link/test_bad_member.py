"""A member turned bad: H1's key and certificate, and a fleet client that says what it likes.

It is granted more than it could know: the ids of nodes, messages and parts, as they stand in the coordinator's
database.
"""

import copy
import itertools
import json
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    RegisterNodeFleetRequest,
    UnregisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER

from tests.attacks.link import keys, ledgers
from tests.attacks.link.conftest import Side
from tests.attacks.link.fleet import Headers, Member, member, refused, signed
from tests.attacks.link.insider import Insider
from tests.attacks.link.raw import request, talk
from tests.attacks.link.replies import Forged, answer_to, order, push
from tests.live.standing import SITES, Standing, wait_until

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]


@pytest.fixture(scope="module", autouse=True)
def _up(everybody: Side) -> Iterator[None]:
    """All hospitals are at work and have run once, so that every id exists."""
    standing = everybody.standing
    standing.finish(standing.run(name="before"))
    yield


@pytest.fixture
def first(side: Side) -> Member:
    """The bad member."""
    return member(side.port, side.member("H1"), side.key("H1"))


def node_of(side: Side, site: str) -> Node:
    numbers = ledgers.node_ids(side.standing.server)
    return Node(node_id=numbers[public(side, site)])


def public(side: Side, site: str) -> bytes:
    return keys_bytes(side.key(site))


def keys_bytes(key: keys.ec.EllipticCurvePrivateKey) -> bytes:
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes

    return public_key_to_bytes(key.public_key())


def test_the_bad_member_is_a_member(side: Side, first: Member) -> None:
    """What is refused below is not refused because everything is."""
    node = node_of(side, "H1")
    assert first.client.SendNodeHeartbeat(SendNodeHeartbeatRequest(node=node, heartbeat_interval=30)).success
    first.client.PullMessages(PullMessagesRequest(node=node))


def test_it_is_nobody_else(side: Side, first: Member) -> None:
    """Its own headers, the name of another in the request."""
    two = node_of(side, "H2")
    client = first.client
    for call in (
        lambda: client.ActivateNode(ActivateNodeRequest(public_key=public(side, "H2"), heartbeat_interval=30)),
        lambda: client.PullMessages(PullMessagesRequest(node=two)),
        lambda: client.SendNodeHeartbeat(SendNodeHeartbeatRequest(node=two, heartbeat_interval=1e4)),
        lambda: client.DeactivateNode(DeactivateNodeRequest(node_id=two.node_id)),
        lambda: client.GetRun(GetRunRequest(node=two, run_id=1)),
        lambda: client.PullObject(PullObjectRequest(node=two, run_id=1, object_id="0" * 64)),
        lambda: client.PullMessages(PullMessagesRequest(node=Node(node_id=1))),
        lambda: client.PullMessages(PullMessagesRequest()),
    ):
        assert refused(call) in {401, 403}
    assert connected(side.standing, "H2")


def test_the_headers_of_another_are_not_taken_on_its_connection(side: Side, first: Member) -> None:
    """H2's own signature, captured a moment ago; Flower alone takes it for five minutes from anywhere."""
    captured, own = signed(side.key("H2")), signed(side.key("H1"))
    two = node_of(side, "H2")
    names = {name for name, _ in captured}
    mixed: dict[str, Headers] = {
        "captured": captured,
        "captured, then its own": (*captured, *own),
        "its own, then captured": (*own, *captured),
        "interleaved": tuple(row for pair in zip(captured, own, strict=True) for row in pair),
        "interleaved the other way": tuple(row for pair in zip(own, captured, strict=True) for row in pair),
        "its own key too, in capitals": (*captured, (own[0][0].upper(), own[0][1])),
        "its own key first, in capitals": ((own[0][0].title(), own[0][1]), *captured),
        "both in one line": (((captured[0][0]), f"{captured[0][1]},{own[0][1]}"), *captured[1:]),
        "its key, the other's signature": (own[0], *captured[1:]),
        "the other's key, its signature": (captured[0], *own[1:]),
        "an underscore": (*captured, (own[0][0].replace("-", "_"), own[0][1])),
        "its own with a space": (*captured, (own[0][0], " " + own[0][1])),
        "two keys in one value": (
            (captured[0][0], b64encode(b64decode(captured[0][1]) + b64decode(own[0][1])).decode()),
            *captured[1:],
        ),
        "two keys in one value, the other way": (
            (captured[0][0], b64encode(b64decode(own[0][1]) + b64decode(captured[0][1])).decode()),
            *captured[1:],
        ),
    }
    assert {FLEET_HTTP_PUBLIC_KEY_HEADER} <= names
    body = PullMessagesRequest(node=two).SerializeToString()
    found = {}
    for name, headers in mixed.items():
        data = request("POST", "/v1/fleet/pull-messages", body, headers)
        found[name] = talk(side.port, data, side.member("H1")).statuses
    assert {name: one for name, one in found.items() if one not in {(401,), (403,), (400,)}} == {}
    own_connection = talk(side.port, request("POST", "/v1/fleet/pull-messages", body, captured), side.member("H2"))
    assert own_connection.statuses == (200,), "the captured headers are good where they belong"


def test_doubled_headers_of_its_own_do_not_make_it_two(side: Side) -> None:
    own = signed(side.key("H1"))
    body = PullMessagesRequest(node=node_of(side, "H2")).SerializeToString()
    for headers in ((*own, *own), own, (*own, ("x-forwarded-for", "127.0.0.1"), ("x-fedward-secret", "0" * 64))):
        data = request("POST", "/v1/fleet/pull-messages", body, headers)
        assert talk(side.port, data, side.member("H1")).statuses[0] in {400, 401, 403}


def test_nobody_registers_or_takes_out_anybody(side: Side, first: Member) -> None:
    two, new = node_of(side, "H2"), keys.new_key()
    fresh = member(side.port, side.member("H1"), new)
    before = ledgers.node_ids(side.standing.server)
    for call in (
        lambda: first.client.RegisterNode(RegisterNodeFleetRequest(public_key=keys_bytes(new))),
        lambda: fresh.client.RegisterNode(RegisterNodeFleetRequest(public_key=keys_bytes(new))),
        lambda: first.client.UnregisterNode(UnregisterNodeFleetRequest(node_id=two.node_id)),
        lambda: first.client.UnregisterNode(UnregisterNodeFleetRequest(node_id=node_of(side, "H1").node_id)),
    ):
        assert refused(call) == 404
    assert refused(fresh.activate) == 403
    assert ledgers.node_ids(side.standing.server) == before


def test_its_own_deactivation_touches_nobody_else(side: Side, first: Member) -> None:
    first.client.DeactivateNode(DeactivateNodeRequest(node_id=node_of(side, "H1").node_id))
    assert connected(side.standing, "H2")
    # The real H1 says so or comes back; an hour of silence would be the attack's success.
    wait_until(lambda: node_online(side, "H1"), 120, side.standing.told(), every=1)


def node_online(side: Side, site: str) -> bool:
    import sqlite3

    number = node_of(side, site).node_id
    with sqlite3.connect(f"file:{side.standing.server / 'superlink' / 'state.db'}?mode=ro", uri=True) as base:
        row = base.execute(
            "SELECT online_until FROM node WHERE node_id = ?", (number - 2**64 if number >= 2**63 else number,)
        ).fetchone()
    return bool(row and row[0] and float(row[0]) > time.time())


def connected(standing: Standing, site: str) -> bool:
    status = json.loads((standing.node(site) / "link" / "status.json").read_text())
    return status["state"] in {"connected", "working"}


Outcome = dict[str, list[str]]


@contextmanager
def meddling(side: Side, deeds: dict[str, Callable[[str, int], object]]) -> Iterator[Outcome]:
    """Do all ``deeds`` to each message for H2 as soon as it stands in the database, and keep what came of them."""
    outcome: Outcome = {name: [] for name in deeds}
    two, ended, seen = node_of(side, "H2").node_id, threading.Event(), set[str]()
    seen |= {name for name, _ in ledgers.messages(side.standing.server, two)}

    def meddle() -> None:
        while not ended.wait(0.005):
            for message, run in ledgers.messages(side.standing.server, two):
                if message in seen:
                    continue
                seen.add(message)
                for name, deed in deeds.items():
                    outcome[name].append(_told(lambda deed=deed, message=message, run=run: deed(message, run)))

    thread = threading.Thread(target=meddle, daemon=True)
    thread.start()
    try:
        yield outcome
    finally:
        ended.set()
        thread.join(10)


def _told(call: Callable[[], object]) -> str:
    try:
        done = call()
    except httpx.HTTPStatusError as error:
        return f"refused {error.response.status_code}"
    except httpx.TransportError as error:
        return f"cut {error!r}"
    return f"done {done!r}"[:200]


def test_it_can_neither_answer_for_another_nor_give_it_orders_nor_touch_its_messages(side: Side, first: Member) -> None:
    """During a run, with every id known to it, before the real answer is there."""
    one, two = node_of(side, "H1"), node_of(side, "H2")
    words = RecordDict({"message": ConfigRecord({"text": "I am H2"})})

    def pull(message: str, run: int) -> object:
        got = first.client.PullObject(PullObjectRequest(node=one, run_id=run, object_id=message))
        return got.object_available and "READ"

    def answers(message: str, run: int) -> object:
        return push(first.client, one, answer_to(message, run, two.node_id, words)) and "TAKEN"

    def fails(message: str, run: int) -> object:
        error = Error(1, "H2 has failed")
        return push(first.client, one, answer_to(message, run, two.node_id, error=error)) and "TAKEN"

    def as_itself(message: str, run: int) -> object:
        return push(first.client, one, answer_to(message, run, one.node_id, words)) and "TAKEN"

    def orders(message: str, run: int) -> object:
        return push(first.client, one, order(run, two.node_id, "train", words)) and "TAKEN"

    def overwrites(message: str, run: int) -> object:
        asked = PushObjectRequest(node=one, run_id=run, object_id=message, object_content=b"x" * 100)
        return first.client.PushObject(asked).stored and "TAKEN"

    def deletes(message: str, run: int) -> object:
        first.client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=one, run_id=run, message_object_id=message)
        )
        return message not in ledgers.objects(side.standing.server) and "GONE"

    deeds = {one.__name__: one for one in (pull, answers, fails, as_itself, orders, overwrites, deletes)}
    standing = side.standing
    with meddling(side, deeds) as outcome:
        said = finish(standing, "meddled")
    print(json.dumps(outcome, indent=1))  # noqa: T201  # shown where the test fails
    assert all(outcome.values()), "there were messages to meddle with"
    done = {name: rows for name, rows in outcome.items() if any("TAKEN" in row or "GONE" in row for row in rows)}
    assert done == {}
    assert not any("READ" in row for row in outcome["pull"]), "it read what was for H2"
    assert standing.history("meddled")["outcome"] == "ok", said


def finish(standing: Standing, name: str) -> str:
    service = standing.run(name=name)
    assert service.process is not None
    with suppress(Exception):
        service.process.wait(400)
    return service.text()


def test_a_flood_of_pushes_does_not_hold_up_the_others(side: Side, first: Member) -> None:
    one, ended = node_of(side, "H1"), threading.Event()
    run = ledgers.run_ids(side.standing.server)[-1]
    sent = []

    def flood() -> None:
        mine = member(side.port, side.member("H1"), side.key("H1"))
        junk = RecordDict({"message": ConfigRecord({"text": "x" * 100_000})})
        numbers = itertools.cycle((run, 1, 2**63 + 5))
        while not ended.is_set():
            forged = answer_to("0" * 64, next(numbers), one.node_id, junk)
            sent.append(_told(lambda forged=forged: push(mine.client, one, forged)))

    base = side.standing.server / "superlink" / "state.db"
    before = base.stat().st_size
    threads = [threading.Thread(target=flood, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        side.standing.finish(side.standing.run(name="flooded"))
    finally:
        ended.set()
        for thread in threads:
            thread.join(20)
    assert len(sent) > 50
    assert side.standing.history("flooded")["outcome"] == "ok"
    assert base.stat().st_size < before + 50_000_000, "the flood was kept"


def _twice(insider: Insider, message: Message, forged: Forged) -> None:
    """The answer; the same again; the same under another id; and that it failed after all."""
    assert insider.send(forged)
    with suppress(httpx.HTTPStatusError):
        insider.send(forged)
    for other in (
        answer_to(
            message.metadata.message_id,
            message.metadata.run_id,
            insider.node.node_id,
            copy.copy(forged.message.content),
        ),
        answer_to(
            message.metadata.message_id, message.metadata.run_id, insider.node.node_id, error=Error(1, "no, it failed")
        ),
    ):
        with suppress(httpx.HTTPStatusError):
            insider.send(other)


def test_an_answer_that_is_sent_again_counts_once(side: Side) -> None:
    standing = side.standing
    standing.services["H1"].stop()
    with Insider(member(side.port, side.member("H1"), side.key("H1")), "H1", standing.node("H1"), _twice) as insider:
        standing.finish(standing.run(name="twice"))
    history = standing.history("twice")
    assert history["outcome"] == "ok"
    assert insider.answered.count("train") == 2, "one a round"
    for one in history["rounds"][1:]:
        assert sorted(one["train"]["answered"]) == list(SITES)
    standing.up("H1")
    standing.check_paid()


def _junk(insider: Insider, message: Message, forged: Forged) -> None:
    """Something else in place of an answer: no structure, another's name, another kind, nothing."""
    number = len(insider.answered) % 4
    contents = [
        RecordDict(),
        RecordDict({"message": ConfigRecord({"json": b"{}"})}),
        RecordDict({"message": ConfigRecord({"json": b"\xff" * 70_000})}),
        RecordDict({"arrays": ConfigRecord({"x": 1})}),
    ]
    insider.send(
        answer_to(message.metadata.message_id, message.metadata.run_id, insider.node.node_id, contents[number])
    )


def test_a_member_that_answers_with_junk_is_named_and_the_run_ends_with_an_error(side: Side) -> None:
    standing = side.standing
    standing.services["H1"].stop()
    try:
        with Insider(member(side.port, side.member("H1"), side.key("H1")), "H1", standing.node("H1"), _junk):
            said = finish(standing, "junk")
        assert standing.history("junk")["outcome"] != "ok"
        assert "H1" in said
        assert "Traceback" not in said
        for site in ("H2", "H3"):
            assert connected(standing, site)
    finally:
        standing.up("H1")
    standing.finish(standing.run(name="after-junk"))
    standing.check_paid()
