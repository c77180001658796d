"""A coordinator turned bad: it has the gate's key, and sends a hospital whatever it likes.

Each deed is answered with a refusal that says why, or with an error, stands in the hospital's own log, runs nothing of
what was sent, and does not end the hospital's service.
"""

import gzip
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.proto.error_pb2 import Error as ProtoError
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.constant import TaskType
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from shared.bundle import bundle
from shared.charter import Charter
from shared.header import Header
from shared.records import raw_bytes, raw_floats, to_records
from shared.secagg.setup_messages import AdvertiseRequest
from shared.vector import Flat
from shared.wire import Refusal, TrainRequest, kind_of
from shared.wire_masks import MaskReply, MaskRequest
from tests.attacks.link import fabs
from tests.attacks.link.conftest import Side
from tests.attacks.link.evil import Evil, Receive, Scope, Send, evil_coordinator
from tests.live.standing import SITES, Service, descendants, wait_until

pytestmark = [pytest.mark.live, pytest.mark.timeout(1200)]


@dataclass
class Trial:
    """One hospital, H1, connected to a bad coordinator.

    Attributes:
        side: The federation.
        evil: The coordinator.
        charter: What H1 has pinned.
        service: H1's service.
        home: The home of H1's processes.
        trace: A file that exists once anything of a forged bundle has run.
    """

    side: Side
    evil: Evil
    charter: Charter
    service: Service
    home: Path
    trace: Path
    epoch: int = 1

    @property
    def node(self) -> Path:
        return self.side.standing.node("H1")

    @property
    def config(self) -> dict[str, Any]:
        """The run config of an honest run."""
        return {"federation": self.charter.id, "charter": self.charter.sha256, "run": "run-honest"}

    def advertise(self, **changes: Any) -> RecordDict:
        """A request that an honest hospital answers, if the run is honest."""
        self.epoch += 1
        return MaskRequest(self.header(**changes), "advertise", AdvertiseRequest(self.epoch).to_bytes()).to_record()

    def header(self, **changes: Any) -> Header:
        made = Header(self.charter.id, self.charter.sha256, "run-honest", 1, 1, "denoise", "0" * 64)
        return replace(made, **changes)

    def ask(self, fab: bytes, config: dict[str, Any], kind: str = TaskType.SERVER_APP) -> tuple[int, str]:
        """An honest request in a run that is not: the run and the message."""
        run = self.evil.run(fab, config, kind)
        return run, self.evil.send(run, "H1", self.advertise(), "query.secagg_advertise")

    def refusals(self) -> list[dict[str, Any]]:
        rows = self.side.standing.log("H1")
        return [row for row in rows if (row["action"], row["outcome"]) == ("refusal", "refused")]

    def check_honest(self, wait: float = 90.0) -> None:
        """The node goes on: an honest request is answered."""
        end = time.monotonic() + wait
        while True:
            run, message = self.ask(bundle(), self.config)
            answer = self.evil.reply(run, message, end - time.monotonic())
            self.evil.end(run)
            assert self.service.alive(), self.side.standing.told()
            assert answer is not None, self.side.standing.told()
            if answer.has_content():
                break
            time.sleep(2)  # it was not connected: Flower says so in its place
        assert kind_of(answer.content) == MaskReply.kind, Refusal.from_record(answer.content)

    def check_nothing_ran(self) -> None:
        """Nothing of a bundle was run, and nothing of it lies anywhere below the hospital's folders."""
        assert not self.trace.exists()
        below = [path for root in (self.node, self.home) for path in root.rglob("*") if path.is_file()]
        assert below
        found = [path for path in below if fabs.MARKER.encode() in path.read_bytes()]
        assert found == []
        assert [path for path in below if path.suffix in {".py", ".pth", ".fab", ".so"}] == []
        assert not list(self.trace.parent.glob("*.py"))


@pytest.fixture(scope="module")
def trial(side: Side) -> Iterator[Trial]:
    standing, home = side.standing, side.scratch / "home"
    (home / "flwr").mkdir(parents=True)
    trace = side.scratch / "traces" / "ran"
    trace.parent.mkdir()
    with evil_coordinator(side.scratch / "evil", side.port, side.gate, side.authority) as evil:
        for site in SITES:
            evil.register(site, public_key_to_bytes(side.key(site).public_key()))
        service = standing.start("H1", HOME=str(home), FLWR_HOME=str(home / "flwr"))
        made = Trial(side, evil, Charter.load(standing.charter), service, home, trace)
        wait_until(lambda: evil.online("H1"), 120, standing.told())
        yield made
        service.kill()


def refusal(answer: Message | None) -> Refusal:
    assert answer is not None, "no answer at all"
    assert answer.has_content(), answer.error
    return Refusal.from_record(answer.content)


def test_an_honest_run_is_answered(trial: Trial) -> None:
    trial.check_honest()


@pytest.mark.control("GDPR-32-own-code")
def test_another_bundle_is_refused_and_never_looked_into(trial: Trial) -> None:
    made = dict(fabs.forged(trial.trace))
    before = len(trial.refusals())
    asked = {name: trial.ask(fab, trial.config) for name, fab in made.items()}
    found: dict[str, object] = {}
    for name, (run, message) in asked.items():
        answer = trial.evil.reply(run, message, 60)
        said = refusal(answer) if answer is not None and answer.has_content() else None
        found[name] = (said.site, said.code, bool(said.reason)) if said else answer
        trial.evil.end(run)
    assert {name: one for name, one in found.items() if one != ("H1", "policy", True)} == {}
    assert len(trial.refusals()) >= before + len(made), "each stands in the record"
    trial.check_nothing_ran()
    trial.check_honest()


@pytest.mark.parametrize("kind", [TaskType.AGENT_APP, TaskType.SIMULATION, TaskType.MODEL, TaskType.CONNECTOR])
def test_a_run_of_another_kind_is_refused(trial: Trial, kind: str) -> None:
    run, message = trial.ask(bundle(), trial.config, kind)
    assert refusal(trial.evil.reply(run, message)).code == "policy"
    trial.evil.end(run)
    trial.check_honest()


def configs(trial: Trial) -> dict[str, dict[str, Any]]:
    honest, elsewhere = trial.config, str(trial.side.standing.node("H2"))
    return {
        "nothing": {},
        "no charter": {key: value for key, value in honest.items() if key != "charter"},
        "no federation": {key: value for key, value in honest.items() if key != "federation"},
        "no run": {key: value for key, value in honest.items() if key != "run"},
        "another charter": honest | {"charter": "0" * 64},
        "a charter that begins like it": honest | {"charter": trial.charter.sha256[:32]},
        "a charter in capitals": honest | {"charter": trial.charter.sha256.upper()},
        "another federation": honest | {"federation": "elsewhere"},
        "a federation with a space": honest | {"federation": f"{trial.charter.id} "},
        "a node folder elsewhere": honest | {"node-dir": elsewhere},
        "the node's name": honest | {"site": "H2"},
        "settings": honest | {"epsilon": 1000.0, "rounds": 10_000},
        "masks off": honest | {"masks": False},
        "masks off in words": honest | {"secure_aggregation": "off"},
        "flower's own": honest | {"num-server-rounds": 3},
        "an empty key": honest | {"": ""},
        "a number": honest | {"run": 5},
        "a truth": honest | {"federation": True},
        "a path for a run": honest | {"run": "../../../etc/passwd"},
        "an empty run": honest | {"run": ""},
        "a long run": honest | {"run": "x" * 100_000},
        "lines for a run": honest | {"run": 'a\n{"action":"train","outcome":"ok"}\r\x1b[2J'},
        "ten thousand keys": honest | {f"key-{number}": "x" for number in range(10_000)},
    }


def test_a_run_config_beyond_the_three_keys_is_refused(trial: Trial) -> None:
    made = configs(trial)
    asked = {name: trial.ask(bundle(), config) for name, config in made.items()}
    found = {}
    for name, (run, message) in asked.items():
        answer = refusal(trial.evil.reply(run, message, 120))
        found[name] = (answer.code, bool(answer.reason))
        trial.evil.end(run)
    assert {name: one for name, one in found.items() if one != ("policy", True)} == {}
    for line in (trial.node / "audit" / "log.jsonl").read_bytes().splitlines():
        json.loads(line)
    assert b"\x1b" not in trial.service.log.read_bytes(), "a terminal that is told what to do by a stranger"
    trial.check_honest()


def test_every_further_message_of_a_refused_run_is_refused(trial: Trial) -> None:
    run, message = trial.ask(b"no", trial.config)
    assert refusal(trial.evil.reply(run, message)).code == "policy"
    for kind in ("train", "evaluate", "query.secagg_share", "query.secagg_unmask"):
        message = trial.evil.send(run, "H1", trial.advertise(), kind)
        assert refusal(trial.evil.reply(run, message)).code == "policy"
    trial.evil.end(run)


def test_a_run_that_changes_after_it_was_looked_at_gains_nothing(trial: Trial) -> None:
    """The check is made once for a run: what it allowed is what runs, not what the run says later."""
    run, message = trial.ask(bundle(), trial.config)
    assert kind_of(trial.evil.reply(run, message).content) == MaskReply.kind  # type: ignore[union-attr]
    with trial.evil.state.session() as session:  # type: ignore[attr-defined]
        from sqlalchemy import text

        session.execute(
            text("UPDATE run SET override_config = :new"),
            {"new": json.dumps(trial.config | {"node-dir": str(trial.side.standing.node("H2"))})},
        )
    message = trial.evil.send(run, "H1", trial.advertise(), "query.secagg_advertise")
    answer = trial.evil.reply(run, message)
    assert answer is not None
    if kind_of(answer.content) == MaskReply.kind:
        assert MaskReply.from_record(answer.content).site == "H1"
    assert trial.side.standing.log("H2") == before_h2(trial)
    trial.evil.end(run)


def before_h2(trial: Trial) -> list[dict[str, Any]]:
    """H2 never ran in this file: its log ends with its budget."""
    return [row for row in trial.side.standing.log("H2") if row["action"] not in {"message.in", "train", "refusal"}]


def requests(trial: Trial) -> dict[str, tuple[str, RecordDict]]:
    """What a run that is honest in form may ask for, and no hospital does."""
    header, model = trial.header, Flat(np.zeros(10, np.float32), b"")
    train = lambda made: ("train", TrainRequest(made, "0" * 64, model).to_record())  # noqa: E731
    return {
        "without masks": train(header()),
        "another task": train(header(task="segment")),
        "more rounds": train(header(round=99)),
        "another federation": train(header(federation="elsewhere")),
        "another charter": train(header(charter="0" * 64)),
        "a model of another shape": (
            "train",
            TrainRequest(header(), "0" * 64, Flat(np.zeros(1, np.float32), b"x" * 1000), b"masks").to_record(),
        ),
        "evaluation without masks": (
            "evaluate",
            TrainRequest(header(), "0" * 64, model).to_record(),
        ),
        "an answer for a request": (
            "query.secagg_advertise",
            MaskReply(header(), "H2", "advertise", b"x").to_record(),
        ),
        "another run in the header": ("query.secagg_advertise", trial.advertise(run="another")),
        "an epoch of long ago": (
            "query.secagg_advertise",
            MaskRequest(header(), "advertise", AdvertiseRequest(0).to_bytes()).to_record(),
        ),
    }


@pytest.mark.control("GDPR-29-pinned-charter")
def test_a_request_beyond_the_charter_is_refused(trial: Trial) -> None:
    run = trial.evil.run(bundle(), trial.config)
    asked = {name: trial.evil.send(run, "H1", content, kind) for name, (kind, content) in requests(trial).items()}
    found = {}
    for name, message in asked.items():
        answer = trial.evil.reply(run, message, 120)
        assert answer is not None, name
        assert answer.has_content(), name
        kind = kind_of(answer.content)
        found[name] = Refusal.from_record(answer.content).code if kind == Refusal.kind else kind
    assert {name: code for name, code in found.items() if code not in {"policy", "protocol", "masks"}} == {}
    assert not trial.side.standing.charges("H1")
    assert not trial.side.standing.trainings("H1")
    trial.evil.end(run)
    trial.check_honest()


TYPES = [
    *("query", "query.unknown", "query.close_sessions", "query._answer", "query.__class__", "train.more", "evaluate.x"),
    *("query." + "x" * 100_000, "query.import", "train.app", "evaluate.__call__"),
]


def test_a_message_type_that_nobody_handles_is_answered_with_an_error(trial: Trial) -> None:
    run = trial.evil.run(bundle(), trial.config)
    asked = [(kind, trial.evil.send(run, "H1", trial.advertise(), kind)) for kind in TYPES]
    for kind, message in asked:
        answer = trial.evil.reply(run, message, 120)
        assert answer is not None, kind[:50]
        if answer.has_error():
            assert "Traceback" not in (answer.error.reason or "")
            assert str(trial.side.standing.root) not in (answer.error.reason or "")
        else:
            assert kind_of(answer.content) == Refusal.kind, kind[:50]
    assert trial.service.log.stat().st_size < 5_000_000, "the log took them in whole"
    trial.evil.end(run)
    trial.check_honest()


def _typed(kind: str) -> Callable[[ProtoMessage], None]:
    return lambda message: setattr(message.metadata, "message_type", kind)


def _numbered(**numbers: Any) -> Callable[[ProtoMessage], None]:
    def change(message: ProtoMessage) -> None:
        for name, number in numbers.items():
            setattr(message.metadata, name, number)

    return change


ENVELOPES: dict[str, Callable[[ProtoMessage], None]] = {
    "a type that is none": _typed("unknown"),
    "a type in capitals": _typed("TRAIN"),
    "a type with zeros": _typed("query.secagg_\x00"),
    "a path for a type": _typed("../x"),
    "no type": _typed(""),
    "a line for a type": _typed("\n\x1b[31m"),
    "a run that is not there": _numbered(run_id=12345),
    "for another hospital": _numbered(dst_node_id=12345),
    "from another hospital": _numbered(src_node_id=12345),
    "an answer": _numbered(reply_to_message_id="0" * 64),
    "of no time": _numbered(created_at=float("nan")),
    "of long ago": _numbered(created_at=0.0),
    "for ever": _numbered(ttl=float("inf")),
    "for no time": _numbered(ttl=-1.0),
    "without a name": _numbered(message_id=""),
    "with another name": _numbered(message_id="../../../../tmp/x"),
    "an error": lambda message: message.error.CopyFrom(ProtoError(code=2**31 - 1, reason="\x1b[31m" * 1000)),
}


@pytest.mark.parametrize("name", ENVELOPES)
def test_an_envelope_that_flower_itself_would_not_send_ends_nothing(trial: Trial, name: str) -> None:
    run = trial.evil.run(bundle(), trial.config)

    def rewrite(response: PullMessagesResponse) -> None:
        for message in response.messages_list:
            ENVELOPES[name](message)

    pulled = len(trial.evil.asked)
    trial.evil.rewrite = rewrite
    try:
        trial.evil.send(run, "H1", trial.advertise(), "query.secagg_advertise")
        wait_until(lambda: "/v1/fleet/pull-messages" in trial.evil.asked[pulled:], 60, "nothing was fetched")
        time.sleep(6)
    finally:
        trial.evil.rewrite = None
    assert not Path("/tmp/x").exists()  # noqa: S108
    assert b"\x1b[31m" not in trial.service.log.read_bytes()
    trial.evil.end(run)
    trial.check_honest(180)


def test_more_messages_than_were_asked_for_and_trees_without_end_end_nothing(trial: Trial) -> None:
    run = trial.evil.run(bundle(), trial.config)

    def rewrite(response: PullMessagesResponse) -> None:
        if not response.messages_list:
            return
        first, tree = ProtoMessage(), ObjectTree()
        first.CopyFrom(response.messages_list[0])
        tree.CopyFrom(response.message_object_trees[0])
        del response.message_object_trees[:]
        for _ in range(50):
            tree = ObjectTree(object_id="0" * 64, children=[tree])
        tree.children.extend([ObjectTree(object_id=f"{number:064x}") for number in range(100_000)])
        response.message_object_trees.append(tree)
        response.messages_list.extend([first] * 1000)

    trial.evil.rewrite = rewrite
    try:
        trial.evil.send(run, "H1", trial.advertise(), "query.secagg_advertise")
        end = time.monotonic() + 15
        while time.monotonic() < end:
            assert largest(trial.service) < 1024 * 1024, "KiB"
            time.sleep(0.2)
    finally:
        trial.evil.rewrite = None
    trial.evil.end(run)
    trial.check_honest(240)


def records() -> dict[str, RecordDict]:
    deep = b"[" * 30_000 + b"]" * 30_000
    array = Array("float32", (3,), "fedward.raw", b"\0" * 12)
    return {
        "nothing": RecordDict(),
        "no structure": RecordDict({"message": ConfigRecord({})}),
        "a number": RecordDict({"message": ConfigRecord({"json": 5})}),
        "no JSON": RecordDict({"message": ConfigRecord({"json": b"\xff\xfe"})}),
        "deep JSON": RecordDict({"message": ConfigRecord({"json": deep})}),
        "long JSON": RecordDict({"message": ConfigRecord({"json": b'"' + b"x" * 5_000_000 + b'"'})}),
        "metrics": RecordDict({"message": MetricRecord({"json": 1.0})}),
        "another record": RecordDict({"message": ConfigRecord({"json": b"{}"}), "more": ConfigRecord({})}),
        "a pickle": RecordDict({"arrays": ArrayRecord({"model": Array("float32", (3,), "numpy.ndarray", PICKLE)})}),
        "a shape that lies": to_records(
            {"kind": "train.request"}, {"model": Array("float32", (2**31 - 1, 2**31 - 1), "fedward.raw", b"")}
        ),
        "a negative shape": to_records(
            {"kind": "train.request"}, {"model": Array("float32", (-1,), "fedward.raw", b"")}
        ),
        "another type": to_records(
            {"kind": "train.request"}, {"model": Array("object", (1,), "numpy.ndarray", PICKLE)}
        ),
        "not finite": to_records({"kind": "train.request"}, {"model": raw_floats(np.full(5, np.nan, np.float32))}),
        "many arrays": to_records({"kind": "train.request"}, {f"a{n}": array for n in range(2000)}),
        "forty megabytes": to_records({"kind": "train.request"}, {"model": raw_bytes(bytes(40_000_000))}),
    }


PICKLE = (
    b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    + b" " * 58
    + b"\n"
    + (b"cposix\nsystem\n(S'touch /tmp/fedward-was-pickled'\ntR.")
)


@pytest.mark.parametrize("kind", ["train", "query.secagg_share"])
def test_records_that_are_malformed_are_refused(trial: Trial, kind: str) -> None:
    run = trial.evil.run(bundle(), trial.config)
    asked = {name: trial.evil.send(run, "H1", content, kind) for name, content in records().items()}
    for name, message in asked.items():
        answer = trial.evil.reply(run, message, 180)
        assert answer is not None, name
        if answer.has_content():
            assert Refusal.from_record(answer.content).code in {"protocol", "policy", "masks"}, name
    assert not Path("/tmp/fedward-was-pickled").exists()  # noqa: S108
    trial.evil.end(run)
    trial.check_honest()


@pytest.mark.parametrize("group", ["x" * 5_000_000, "\n\r\x1b[31m", "../../..", "-1", "", "1e400", "\x00", "ß" * 1000])
def test_a_strange_group_id_changes_nothing(trial: Trial, group: str) -> None:
    run = trial.evil.run(bundle(), trial.config)
    message = trial.evil.send(run, "H1", trial.advertise(), "query.secagg_advertise", group=group)
    answer = trial.evil.reply(run, message, 90)
    assert answer is not None
    assert trial.service.log.stat().st_size < 5_000_000, "the log took it in whole"
    assert b"\x1b[31m" not in trial.service.log.read_bytes()
    trial.evil.end(run)
    trial.check_honest()


def swap(parts: dict[str, bytes]) -> dict[str, bytes]:
    """Every part holds what the last one should."""
    last = list(parts.values())[-1]
    return dict.fromkeys(parts, last)


def flip(parts: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data[:-1] + bytes([data[-1] ^ 1]) for name, data in parts.items()}


def cut(parts: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data[: len(data) // 2] for name, data in parts.items()}


def lie(parts: dict[str, bytes]) -> dict[str, bytes]:
    """Each says that it is its own child."""
    return {name: f"RecordDict {name} 2".encode() + b"\x00" + b"{}" for name in parts}


def strange(parts: dict[str, bytes]) -> dict[str, bytes]:
    return dict.fromkeys(parts, b"Popen  4\x00evil")


@pytest.mark.parametrize("objects", [swap, flip, cut, lie, strange])
def test_parts_that_are_not_what_their_names_say_are_not_taken(
    trial: Trial, objects: Callable[[dict[str, bytes]], dict[str, bytes]]
) -> None:
    store = trial.evil.state.object_store
    kept, store.verify = store.verify, False
    try:
        run = trial.evil.run(bundle(), trial.config)
        message = trial.evil.send(run, "H1", trial.advertise(), "query.secagg_advertise", objects=objects)
        answer = trial.evil.reply(run, message, 60)
    finally:
        store.verify = kept
    if answer is not None and answer.has_content():
        assert kind_of(answer.content) == Refusal.kind, "it was answered as if nothing were wrong"
    trial.evil.end(run)
    trial.check_honest(180)


def test_parts_that_never_come_hold_up_nobody_for_ever(trial: Trial) -> None:
    run = trial.evil.run(bundle(), trial.config)
    trial.evil.send(run, "H1", trial.advertise(), "query.secagg_advertise", objects=lambda parts: {})
    time.sleep(5)
    started = time.monotonic()
    trial.check_honest(300)
    assert time.monotonic() - started < 240
    trial.evil.end(run)


def test_a_hospital_follows_no_redirection(trial: Trial) -> None:
    """Elsewhere somebody else listens, without TLS: nothing of a hospital may come there."""
    elsewhere, came = socket.create_server(("127.0.0.1", 0)), []
    elsewhere.settimeout(0.1)
    port = elsewhere.getsockname()[1]
    statuses = iter([301, 302, 307, 308] * 1000)

    async def tamper(scope: Scope, receive: Receive, send: Send) -> bool:
        target = f"http://127.0.0.1:{port}{scope['path']}".encode()
        await respond(send, next(statuses), b"", (b"location", target), (b"refresh", b"0; url=" + target))
        return True

    with elsewhere:
        trial.evil.tamper = tamper
        asked, end = len(trial.evil.asked), time.monotonic() + 25
        while time.monotonic() < end:
            try:
                link, _ = elsewhere.accept()
            except TimeoutError:
                continue
            link.settimeout(2)
            came.append(link.recv(4096))
            link.close()
        trial.evil.tamper = None
        assert len(trial.evil.asked) > asked, "the hospital asked nothing meanwhile"
    assert came == []
    trial.check_honest(180)


async def respond(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [*headers]})
    await send({"type": "http.response.body", "body": body})


PROTOBUF = (b"content-type", b"application/protobuf")
FLOWER_ERROR = json.dumps(
    {"code": 5, "message": "a\nb\x1b[31mREAD", "public_details": "Traceback\n" + "x" * 100_000, "detail": ["x"] * 1000}
).encode()
RESPONSES: dict[str, tuple[int, bytes, tuple[tuple[bytes, bytes], ...]]] = {
    "not protobuf": (200, b"\xff" * 1000, (PROTOBUF,)),
    "a page": (200, b"<html>sign in to the network</html>", ((b"content-type", b"text/html"),)),
    "nothing": (200, b"", (PROTOBUF,)),
    "unauthorised": (401, FLOWER_ERROR, ((b"content-type", b"application/json"),)),
    "forbidden": (403, FLOWER_ERROR, ((b"content-type", b"application/json"),)),
    "gone": (410, FLOWER_ERROR, ((b"content-type", b"application/json"),)),
    "an error of its own": (500, FLOWER_ERROR, ((b"content-type", b"application/json"),)),
    "bad gateway": (502, b"", ()),
    "try later": (429, b"", ((b"retry-after", b"999999999"),)),
    "a cookie": (500, b"", ((b"set-cookie", b"x=y; Domain=localhost"), (b"alt-svc", b'h3="127.0.0.1:1"'))),
    "another version": (
        200,
        b"",
        (PROTOBUF, (b"flwr-version-incompatibility-message", b"\x1b[31mupgrade from http://127.0.0.1:1/")),
    ),
    "a bomb": (200, gzip.compress(bytes(256 * 1024 * 1024)), (PROTOBUF, (b"content-encoding", b"gzip"))),
}


@pytest.mark.parametrize("name", RESPONSES)
def test_no_response_ends_the_service(trial: Trial, name: str) -> None:
    status, body, headers = RESPONSES[name]

    async def tamper(scope: Scope, receive: Receive, send: Send) -> bool:
        await respond(send, status, body, *headers)
        return True

    asked = len(trial.evil.asked)
    trial.evil.tamper = tamper
    peak, end = 0, time.monotonic() + 12
    while time.monotonic() < end:
        peak = max(peak, largest(trial.service))
        time.sleep(0.1)
    trial.evil.tamper = None
    wait_until(lambda: len(trial.evil.asked) > asked, 90, "the hospital asked nothing meanwhile")
    assert trial.service.alive(), trial.side.standing.told()
    assert peak < 1024 * 1024, f"{peak} KiB in one process"
    trial.check_honest(180)
    said = trial.service.log.read_bytes()
    assert b"\x1b[31m" not in said
    assert len(said) < 20_000_000


def largest(service: Service) -> int:
    """KiB of the largest process of a service."""
    found = [0]
    for pid in (service.pid, *descendants(service.pid)):
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue
        found += [int(line.split()[1]) for line in lines if line.startswith("VmRSS:")]
    return max(found)


def test_an_answer_without_end_is_given_up(trial: Trial) -> None:
    """Zeros, a megabyte at a time, for as long as somebody takes them."""
    sent = 0

    async def tamper(scope: Scope, receive: Receive, send: Send) -> bool:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": [PROTOBUF]})
        try:
            while sent < 3_000 and trial.evil.tamper:
                await send({"type": "http.response.body", "body": bytes(1024 * 1024), "more_body": True})
                sent += 1
        finally:
            await send({"type": "http.response.body", "body": b""})
        return True

    trial.evil.tamper = tamper
    peak, end = 0, time.monotonic() + 20
    while time.monotonic() < end and peak < 2_500_000:
        peak = max(peak, largest(trial.service))
        time.sleep(0.05)
    trial.evil.tamper = None
    assert peak < 1_500_000, f"{peak} KiB in one process"
    trial.check_honest(240)


POLICIES = {
    "the task": 'tasks = ["segment"]\n',
    "rounds": "max_rounds = 1\n",
    "epsilon": "max_epsilon = 0.001\n",
    "the purpose": 'purposes = ["something else"]\n',
    "countries": 'countries = ["FR"]\n',
    "no policy at all": "tasks = [\n",
    "a word that it does not have": "allow_everything = true\n",
}


@pytest.mark.parametrize("name", POLICIES)
def test_what_the_hospital_forbids_later_is_refused_in_the_next_run(trial: Trial, name: str) -> None:
    """The charter was pinned when it was allowed; the hospital has changed its mind since."""
    path = trial.node / "policy.toml"
    kept = path.read_bytes() if path.exists() else None
    path.write_text(POLICIES[name])
    path.chmod(0o600)
    try:
        run, message = trial.ask(bundle(), trial.config)
        answer = refusal(trial.evil.reply(run, message))
        assert answer.code in {"policy", "error"}
        assert answer.reason
        assert str(trial.node) not in answer.reason
        trial.evil.end(run)
    finally:
        path.unlink()
        if kept is not None:
            path.write_bytes(kept)
    trial.check_honest()


def test_after_all_that_nothing_was_spent_and_the_record_holds(trial: Trial) -> None:
    from tests.live.standing import fedward

    trial.check_nothing_ran()
    assert not trial.side.standing.charges("H1")
    assert not trial.side.standing.trainings("H1")
    fedward("audit", "verify", trial.node / "audit" / "log.jsonl")
    status = json.loads((trial.node / "link" / "status.json").read_text())
    assert status["refusals"] > 0
    assert "\x1b" not in json.dumps(status)
    assert (trial.node / "link" / "status.json").stat().st_mode & 0o077 == 0
