"""The SuperLink as one process: what it keeps and opens, and what a node may ask beyond who it is."""

import os
import resource
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.node_pb2 import Node
from flwr.supercore.task_identity import TaskIdentity

from client.flower_messages import reply_to
from client.flower_node import Fleet
from client.link_trouble import RunOverError
from server.executor import sweep
from server.flower_line import FlowerRun, Line, Work, work
from server.flower_link import HANDSHAKE_TIME, TASK_LIFE, UNDER_WAY
from server.members import pem_of
from shared.bundle import bundle
from shared.link_keys import public_der
from tests.federation.links import Credentials, Desk, until

SECRET_WORDS = "the patients' model"


@dataclass(frozen=True)
class Two:
    """A SuperLink with two nodes that are connected, and a run whose process this test is."""

    desk: Desk
    line: Line
    job: Work
    number: int
    fleets: dict[str, Fleet]

    def send(self, site: str, text: str = SECRET_WORDS) -> str:
        """A message to a node; gives its id."""
        (node,) = [one.number for one in self.line.nodes() if one.name == site]
        TaskIdentity.run_id, TaskIdentity.node_id = self.number, SUPERLINK_NODE_ID  # and not the last node's
        (number,) = self.job.grid.push_messages([message(node, text)])
        return str(number)


def message(node: int, text: str) -> Message:
    return Message(RecordDict({"what": ConfigRecord({"text": text})}), dst_node_id=node, message_type="train", ttl=300)


@contextmanager
def connected(desk: Desk, shown: Credentials) -> Iterator[Fleet]:
    tls = shown.context(desk.coordinator.authority_path)
    address = f"localhost:{desk.port}"
    with Fleet(address, tls, shown.key, patiently=lambda call: call(), seen=lambda _: None) as fleet:
        fleet.activate()
        yield fleet


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    desk = Desk.make(tmp_path_factory.mktemp("two"))
    alpha, beta = desk.admit("alpha"), desk.admit("beta")
    with desk.served(), Line(desk.coordinator) as line:
        line.register({one.site: pem_of(public_der(one.key.public_key())) for one in (alpha, beta)})
        number = line.start(bundle(), {"federation": "f", "charter": "c", "run": "r"})
        claim = line.acquire()
        assert claim is not None
        with (
            connected(desk, alpha) as first,
            connected(desk, beta) as second,
            work(desk.coordinator, claim.token) as job,
        ):
            yield Two(desk, line, job, number, {"alpha": first, "beta": second})
            job.finish("completed", "")


def test_a_message_goes_to_its_node_and_the_answer_comes_back(two: Two) -> None:
    assert two.job.name == "r"
    number = two.send("alpha")
    delivery = two.fleets["alpha"].pull()
    assert delivery is not None
    assert two.fleets["beta"].pull() is None
    two.fleets["alpha"].fetch(delivery)
    two.fleets["alpha"].push(reply_to(delivery, RecordDict({"x": ConfigRecord({"n": 1})})), 0.1)
    (answer,) = two.job.grid.pull_messages([number])
    assert answer.content["x"]["n"] == 1


def test_nodes_are_known_by_name_and_key_and_a_new_key_takes_the_place_of_the_old(two: Two) -> None:
    assert [(one.name, one.online) for one in two.line.nodes()] == [("alpha", True), ("beta", True)]
    keys = {one.name: one.key for one in two.line.nodes()}
    two.line.register(keys)  # once more is nothing
    assert {one.name: one.key for one in two.line.nodes()} == keys
    old, new = (pem_of(public_der(two.desk.credentials("gamma").key.public_key())) for _ in range(2))
    two.line.register({"gamma": old})
    two.line.register({"gamma": new})
    assert [one.key for one in two.line.nodes() if one.name == "gamma"] == [new]


def test_a_node_neither_fetches_nor_confirms_what_was_sent_to_another(two: Two) -> None:
    number = two.send("alpha")
    delivery = two.fleets["alpha"].pull()
    assert delivery is not None
    beta = two.fleets["beta"]
    with pytest.raises(RunOverError):
        beta.fetch(delivery)
    with pytest.raises(RunOverError):
        beta.confirm(delivery)
    refused = [
        PullObjectRequest(node=Node(node_id=two.fleets["alpha"].node_id), run_id=two.number, object_id=number),
        PullMessagesRequest(node=Node(node_id=two.fleets["alpha"].node_id)),
        ConfirmMessageReceivedRequest(
            node=Node(node_id=two.fleets["alpha"].node_id), run_id=two.number, message_object_id=number
        ),
    ]
    for request, call in zip(
        refused, (beta._client.PullObject, beta._client.PullMessages, beta._client.ConfirmMessageReceived), strict=True
    ):
        with pytest.raises(httpx.HTTPStatusError) as met:
            call(request)
        assert met.value.response.status_code == 401  # Flower's: the key is not that node's
    assert two.fleets["alpha"].fetch(delivery)
    until(lambda: "not sent to this node" in two.desk.gate_log())


@pytest.mark.live
def test_a_message_that_was_lost_on_its_way_is_given_again(two: Two) -> None:
    """A connection may end under the answer to the question for messages; Flower alone would have sent it once."""
    number = two.send("alpha", "lost")
    alpha = two.fleets["alpha"]
    lost = alpha.pull()
    assert alpha.pull() is None  # it may be on its way
    time.sleep(UNDER_WAY.total_seconds())
    assert two.fleets["beta"].pull() is None
    delivery = alpha.pull()
    assert lost is not None
    assert delivery is not None
    assert delivery.message_id == lost.message_id == number
    alpha.fetch(delivery)
    time.sleep(UNDER_WAY.total_seconds())
    assert alpha.pull() is None, "it was given again after its receipt"
    alpha.push(reply_to(delivery, RecordDict({"x": ConfigRecord({"n": 2})})), 0.1)
    (answer,) = two.job.grid.pull_messages([number])
    assert answer.content["x"]["n"] == 2


def test_a_message_that_was_answered_without_a_receipt_is_not_given_again(two: Two) -> None:
    two.send("alpha", "refused unseen")
    alpha = two.fleets["alpha"]
    delivery = alpha.pull()
    assert delivery is not None
    alpha.push(reply_to(delivery, RecordDict({"x": ConfigRecord({"n": 3})})), 0.1)
    time.sleep(UNDER_WAY.total_seconds())
    assert alpha.pull() is None


def test_an_answer_whose_announcement_was_answered_to_nobody_comes_all_the_same(two: Two) -> None:
    """The word which objects to send was lost, and the run has taken the announcement: it waits for them."""
    number = two.send("alpha", "announced twice")
    alpha = two.fleets["alpha"]
    delivery = alpha.pull()
    assert delivery is not None
    alpha.fetch(delivery)
    reply = reply_to(delivery, RecordDict({"x": ConfigRecord({"n": 4})}))
    announced = PushMessagesRequest(
        node=Node(node_id=alpha.node_id),
        messages_list=[ProtoMessage.FromString(reply[0])],
        message_object_trees=[ObjectTree.FromString(reply[1])],
    )
    assert alpha._client.PushMessages(announced).objects_to_push  # and nobody hears it
    got: list[Message] = []
    run = threading.Thread(target=lambda: got.extend(two.job.grid.pull_messages([number])), daemon=True)
    run.start()
    time.sleep(1.0)  # the run has taken it, and asks for the objects
    alpha.push(reply, 0.1)
    run.join(20)
    assert [one.content["x"]["n"] for one in got] == [4]
    assert not alpha._client.PushMessages(announced).objects_to_push, "it was asked for again after all"


@pytest.mark.live
def test_who_says_nothing_is_not_listened_to_for_long(two: Two) -> None:
    with socket.create_connection(("localhost", two.desk.port)) as stranger:
        stranger.settimeout(HANDSHAKE_TIME + 10)
        started = time.monotonic()
        with suppress(ConnectionResetError):
            assert stranger.recv(1) == b""
        assert time.monotonic() - started < HANDSHAKE_TIME + 5


def test_the_gate_has_as_many_open_files_as_the_system_allows(two: Two) -> None:
    (pid,) = [int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit() and _is_link(one, two.desk)]
    (soft, hard), own = resource.prlimit(pid, resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == hard == own[1]


def test_a_node_does_not_answer_for_another(two: Two) -> None:
    number = two.send("alpha")
    delivery = two.fleets["alpha"].pull()
    assert delivery is not None
    two.fleets["alpha"].fetch(delivery)
    forged = reply_to(delivery, RecordDict({"x": ConfigRecord({"n": 666})}))  # in the name of alpha, sent by beta
    with pytest.raises(RunOverError):
        two.fleets["beta"].push(forged, 0.1)
    own = ProtoMessage.FromString(forged[0])
    own.metadata.src_node_id = two.fleets["beta"].node_id  # in its own name, to a question that it was not asked
    request = PushMessagesRequest(
        node=Node(node_id=two.fleets["beta"].node_id),
        messages_list=[own],
        message_object_trees=[ObjectTree.FromString(forged[1])],
    )
    answer = two.fleets["beta"]._client.PushMessages(request)
    assert not answer.objects_to_push
    assert list(two.job.grid.pull_messages([number])) == []
    assert "in the name of another node" in two.desk.gate_log()


def test_a_run_outlives_a_superlink_that_is_away_for_minutes(two: Two) -> None:
    with closing(sqlite3.connect(two.desk.coordinator.database_path)) as rows:
        (until_,) = rows.execute("SELECT strftime('%s', active_until) FROM task WHERE token IS NOT NULL").fetchone()
    assert TASK_LIFE - 120 < int(until_) - time.time() <= TASK_LIFE


def test_only_the_gates_port_is_open_and_nobody_outside_is_asked(two: Two) -> None:
    (pid,) = [int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit() and _is_link(one, two.desk)]
    inodes = {str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir() if one.is_symlink()}
    table = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    table += [row.split() for row in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
    own = [row for row in table if f"socket:[{row[9]}]" in inodes]
    listening = {int(row[1].rpartition(":")[2], 16) for row in own if row[3] == "0A"}
    assert listening == {two.desk.port}
    assert all(int(row[1].rpartition(":")[2], 16) in listening for row in own), "it has asked somebody"


def _is_link(process: Path, desk: Desk) -> bool:
    try:
        command = (process / "cmdline").read_bytes()
    except OSError:
        return False
    return b"server.flower_link" in command and str(desk.coordinator.folder).encode() in command


def test_what_is_on_the_disk_is_for_its_owner_and_names_no_secret(two: Two) -> None:
    folder = two.desk.coordinator.superlink_folder
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"state.db", "superlink.log", "gate.log"}
    assert [path for path in files if path.stat().st_mode & 0o077] == []
    text = "".join(path.read_text(errors="replace") for path in files if ".log" in path.name)
    token = two.job.grid._token
    assert [word for word in (two.desk.coordinator.secret(), token, SECRET_WORDS) if word in text] == []


def test_only_a_few_of_flowers_requests_are_possible_within(two: Two) -> None:
    with two.desk.within(**two.desk.secret) as client:
        for path in ("start-automation", "list-connectors", "create-federation", "add-app", "stream-logs"):
            assert client.post(f"/v1/control/{path}").status_code == 404
        for path in ("create-task", "get-connector", "push-logs"):
            assert client.post(f"/v1/runtime/{path}").status_code == 404


def test_after_the_end_of_a_run_nothing_of_its_messages_is_left(tmp_path: Path) -> None:
    desk = Desk.make(tmp_path)
    alpha = desk.admit("alpha")
    with desk.served(), Line(desk.coordinator) as line:
        line.register({"alpha": pem_of(public_der(alpha.key.public_key()))})
        number = line.start(bundle(), {"federation": "f", "charter": "c", "run": "r"})
        claim = line.acquire()
        assert claim is not None
        with connected(desk, alpha) as fleet, work(desk.coordinator, claim.token) as job:
            job.grid.push_messages([message(fleet.node_id, SECRET_WORDS)])  # never fetched
            with closing(sqlite3.connect(desk.coordinator.database_path)) as rows:
                kept = [content for (content,) in rows.execute("SELECT content FROM objects") if len(content) > 30]
            assert kept
            assert all(_holds(desk, content) for content in kept)
            job.finish("failed", "because")
        assert line.runs(number) == (FlowerRun(number, "r", "finished", "failed"),)
        sweep(desk.coordinator.database_path)
        assert not any(_holds(desk, content) for content in kept)


def _holds(desk: Desk, content: bytes) -> bool:
    return any(content in path.read_bytes() for path in desk.coordinator.superlink_folder.glob("state.db*"))


@pytest.mark.live
def test_a_superlink_that_is_killed_comes_back_with_its_nodes_and_its_run(tmp_path: Path) -> None:
    desk = Desk.make(tmp_path)
    alpha = desk.admit("alpha")
    process = desk.start()
    try:
        until(desk.healthy)
        with Line(desk.coordinator) as line:
            line.register({"alpha": pem_of(public_der(alpha.key.public_key()))})
            number = line.start(bundle(), {"federation": "f", "charter": "c", "run": "r"})
            claim = line.acquire()
            assert claim is not None
            with connected(desk, alpha) as fleet, work(desk.coordinator, claim.token) as job:
                (sent,) = job.grid.push_messages([message(fleet.node_id, "before")])
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                process = desk.start()
                nodes = job.grid.get_nodes()  # waits until it is back
                assert [one.name for one in nodes] == ["alpha"]
                delivery = fleet.pull()
                assert delivery is not None
                fleet.fetch(delivery)
                fleet.push(reply_to(delivery, RecordDict({"w": ArrayRecord()})), 0.1)
                assert [one.metadata.reply_to_message_id for one in job.grid.pull_messages([sent])] == [sent]
                job.finish("completed", "")
            assert [one.ended for one in line.runs(number)] == ["completed"]
    finally:
        process.terminate()
        process.wait(15)


@pytest.mark.parametrize(("listen", "said"), [("nowhere", "host:port"), ("127.0.0.1:1", "cannot listen")])
def test_an_address_that_cannot_be_had_is_said_in_a_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], listen: str, said: str
) -> None:
    from server.flower_link import main

    desk = Desk.make(tmp_path)
    taken = listen if listen == "nowhere" else f"203.0.113.7:{desk.port}"
    assert main([str(desk.coordinator.folder), taken]) == 2
    assert said in capfd.readouterr().err
