"""What a hospital refuses to mask, to sign or to begin, whatever the coordinator sends."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict

from client.app import app, close_sessions
from client.node import Node
from shared.charter import Charter
from shared.header import Header
from shared.imaging.tasks import get_task
from shared.secagg.codec import Codec
from shared.secagg.epoch import Epoch
from shared.secagg.round_messages import RoundTask, UnmaskRequest, Upload
from shared.secagg.setup_messages import AdvertiseRequest
from shared.vector import Layout
from shared.weights import weights_of
from shared.wire import MaskedBody, Refusal, TrainReply, TrainRequest, kind_of
from shared.wire_masks import MaskReply, MaskRequest, Step, message_type
from simulation.local_grid import set_identity
from tests.federation import toy
from tests.federation.masked import Federation

STATE = weights_of(get_task("toy").network(3))
LAYOUT = Layout.of(STATE)
MODEL = LAYOUT.flatten(STATE)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_sessions()


@pytest.fixture
def three(tmp_path: Path) -> Federation:
    return Federation.make(tmp_path, 3)


def header(rules: Charter) -> Header:
    return Header(rules.id, rules.sha256, "run-1", 1, 1, "toy", LAYOUT.digest(MODEL))


def send(folder: Path, content: RecordDict, kind: str) -> RecordDict:
    set_identity()
    message = Message(content, dst_node_id=5, message_type=kind)
    message.metadata.__dict__["_message_id"] = "message-1"
    return app(message, Context(1, 5, {"node-dir": str(folder), "site": "H1"}, RecordDict(), {})).content


def ask(three: Federation, site: str, step: Step, payload: bytes) -> RecordDict:
    request = MaskRequest(header(three.charter), step, payload)
    return send(three.root / site, request.to_record(), message_type(step))


def refused(content: RecordDict) -> Refusal:
    assert kind_of(content) == Refusal.kind
    return Refusal.from_record(content)


def begun(three: Federation) -> Epoch:
    """An epoch for which everybody has dealt three rounds."""
    epoch = Epoch(three.charter.federation, time.time_ns() // 1_000_000)
    for site in three.sites:
        answer = ask(three, site, "advertise", AdvertiseRequest(epoch.number).to_bytes())
        epoch.advert(MaskReply.from_record(answer).payload)
    for index, site in enumerate(three.sites, start=1):
        epoch.deal(MaskReply.from_record(ask(three, site, "share", epoch.share_request(index, 1, 3))).payload)
    return epoch


def task_of(three: Federation, epoch: Epoch) -> RoundTask:
    request = TrainRequest(header(three.charter), LAYOUT.sha256, MODEL)
    model = bytes.fromhex(request.header.model)
    return RoundTask(epoch.number, 1, (1, 2, 3), LAYOUT.size, model, request.digest, ("loss", "samples"))


def train(three: Federation, epoch: Epoch, change: Callable[[RoundTask], RoundTask] = lambda task: task) -> RecordDict:
    request = TrainRequest(header(three.charter), LAYOUT.sha256, MODEL)
    masked = replace(request, masking=change(task_of(three, epoch)).to_bytes())
    return send(three.root / "H1", masked.to_record(), "train")


def test_an_honest_request_is_masked(three: Federation) -> None:
    reply = TrainReply.from_record(train(three, begun(three)))
    assert isinstance(reply.body, MaskedBody)


def test_a_second_request_for_the_same_round_gets_nothing_and_trains_nothing(three: Federation) -> None:
    epoch = begun(three)
    train(three, epoch)
    refusal = refused(train(three, epoch))
    assert (refusal.code, "used up" in refusal.reason) == ("masks", True)
    rows = toy.log_rows(three.root / "H1")
    assert [row["outcome"] for row in rows if row["action"] == "train"] == ["started", "ok"]


@pytest.mark.parametrize(
    "change",
    [
        lambda task: replace(task, model=bytes(32)),
        lambda task: replace(task, config=bytes(32)),
        lambda task: replace(task, size=task.size - 1),
        lambda task: replace(task, metrics=()),
        lambda task: replace(task, metrics=("samples", "loss")),
    ],
    ids=["model", "config", "size", "no metrics", "metrics in another order"],
)
def test_masks_for_another_request_are_refused_before_any_work(
    three: Federation, change: Callable[[RoundTask], RoundTask]
) -> None:
    refusal = refused(train(three, begun(three), change))
    assert (refusal.code, "another model, configuration, size or metrics" in refusal.reason) == ("protocol", True)


@pytest.mark.parametrize("participants", [(1, 2), (2, 3)])
def test_too_few_participants_or_without_oneself(three: Federation, participants: tuple[int, ...]) -> None:
    refusal = refused(train(three, begun(three), lambda task: replace(task, participants=participants)))
    assert refusal.code in {"masks", "protocol"}


def test_a_readable_answer_is_refused_where_the_charter_asks_for_masks(three: Federation) -> None:
    request = TrainRequest(header(three.charter), LAYOUT.sha256, MODEL)
    refusal = refused(send(three.root / "H1", request.to_record(), "train"))
    assert (refusal.code, "masked updates" in refusal.reason) == ("policy", True)


@pytest.mark.control("GDPR-25-masks")
def test_a_real_hospital_never_answers_in_the_clear(tmp_path: Path) -> None:
    rules = toy.charter()
    folder = toy.make_node(tmp_path / "H1", "H1", rules)
    about = (folder / "node.json").read_text().replace("true", "false")
    (folder / "node.json").write_text(about)
    assert not Node.open(folder).virtual
    request = TrainRequest(header(rules), LAYOUT.sha256, MODEL)
    refusal = refused(send(folder, request.to_record(), "train"))
    assert (refusal.code, "asks for secure aggregation" in refusal.reason) == ("policy", True)
    toy.allow_all(folder)  # no policy can give that leave
    refusal = refused(send(folder, request.to_record(), "train"))
    assert (refusal.code, "only virtual hospitals" in refusal.reason) == ("policy", True)


def test_an_epoch_from_the_future_cannot_use_up_all_numbers(three: Federation) -> None:
    far = time.time_ns() // 1_000_000 + 2 * 24 * 3600 * 1000
    refusal = refused(ask(three, "H1", "advertise", AdvertiseRequest(far).to_bytes()))
    assert (refusal.code, "a day ahead" in refusal.reason) == ("masks", True)
    begun(three)


def test_a_step_under_another_charter_is_refused(three: Federation) -> None:
    other = replace(header(three.charter), charter="0" * 64)
    request = MaskRequest(other, "advertise", AdvertiseRequest(1).to_bytes())
    assert refused(send(three.root / "H1", request.to_record(), message_type("advertise"))).code == "policy"


def test_a_hospital_that_the_charter_does_not_name_or_names_with_another_key(three: Federation) -> None:
    node = three.node("H1")
    payload = AdvertiseRequest(7).to_bytes()
    stranger = tuple(replace(member, name=f"X{member.name}") for member in three.charter.members)
    swapped = tuple(
        replace(member, identity=other.identity)
        for member, other in zip(three.charter.members, reversed(three.charter.members), strict=True)
    )
    for members, reason in ((stranger, "does not name H1"), (swapped, "not that of H1")):
        rules = replace(three.charter, members=members)
        node.pin(rules)
        request = MaskRequest(header(rules), "advertise", payload)
        refusal = refused(send(three.root / "H1", request.to_record(), message_type("advertise")))
        assert reason in refusal.reason


def test_the_steps_of_one_kind_are_not_taken_for_another(three: Federation) -> None:
    assert refused(ask(three, "H1", "confirm", AdvertiseRequest(1).to_bytes())).code == "protocol"


def test_keys_of_masks_are_for_their_owner_alone(three: Federation) -> None:
    begun(three)
    folder = three.root / "H1" / "masks"
    assert folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())


def test_a_disk_that_is_full_lets_nothing_leave(three: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch = begun(three)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("client.mask_ledger.MaskLedger.claim", full)
    assert refused(train(three, epoch)).code == "error"


def test_a_reveal_that_is_refused_is_not_noted_as_one(three: Federation) -> None:
    epoch = begun(three)
    body = TrainReply.from_record(train(three, epoch)).body
    assert isinstance(body, MaskedBody)
    context = Upload.read(body.upload, task_of(three, epoch), Codec.of(three.charter.federation)).context
    early = UnmaskRequest(epoch.number, 1, context, (1, 2, 3), (), (), epoch.boxes(1, (2, 3), 1)).to_bytes()
    assert refused(ask(three, "H1", "unmask", early)).code == "masks"
    (sums,) = (three.root / "H1" / "sums").iterdir()
    assert b"included" not in sums.read_bytes()
