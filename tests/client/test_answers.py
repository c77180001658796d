"""An answer that was lost on its way is sent again, and not made again."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from flwr.app import Message, RecordDict

from client import eligible
from client.answers import ANSWERS, asked_under, keep_answer, kept_answer
from client.app import close_sessions
from client.charge import Budget
from client.consenting import set_basis, withdraw
from client.ledger import Ledger
from client.node import Node
from client.session import Session
from shared.wire import EvaluateRequest, Refusal, TrainReply, TrainRequest, kind_of
from simulation.local_grid import LocalGrid
from tests.federation import toy
from tests.federation.masked import Federation, Wire


def hospitals(root: Path, *, virtual: bool = False) -> Federation:
    """Three hospitals with a budget each, as if they were no virtual ones."""
    federation = Federation.make(root, 3, plan={"rounds": 1, "evaluate_every": 9}, privacy={"mode": "patient"})
    for site in federation.sites:
        if not virtual:
            about = root / site / "node.json"
            about.write_text(about.read_text().replace("true", "false"))
            toy.allow_all(about.parent)
            with Ledger(Node.open(root / site).ledger(), data_set=site) as ledger:
                ledger.set_budget(Budget(1e6, 1e-5, 4), who="a test", why="answers that are lost")
    return federation


def done(federation: Federation, kind: str) -> tuple[RecordDict, RecordDict]:
    """What H1 was asked last by a message of ``kind`` in a run, and what it answered."""
    wire = Wire()
    federation.run(wire)
    return [(asked, answer) for site, asking, asked, answer in wire.seen if (site, asking) == ("H1", kind)][-1]


def ask(federation: Federation, content: RecordDict, kind: str) -> RecordDict:
    with LocalGrid(toy.APP, federation.nodes, on_close=close_sessions) as grid:
        node = next(node for node, config in federation.nodes.items() if config["site"] == "H1")
        (reply,) = grid.send_and_receive([Message(content, dst_node_id=node, message_type=kind)])
    return reply.content


def acts(federation: Federation, action: str) -> int:
    return sum(row["action"] == action for row in toy.log_rows(federation.root / "H1"))


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_the_very_same_request_gets_the_very_same_answer_and_nothing_is_done_for_it(tmp_path: Path, kind: str) -> None:
    federation = hospitals(tmp_path)
    asked, answer = done(federation, kind)
    before = [acts(federation, action) for action in ("train", "evaluate", "privacy.charge")]
    again = ask(federation, asked, kind)
    assert again["arrays"]["upload"].data == answer["arrays"]["upload"].data
    assert again["message"]["json"] == answer["message"]["json"]
    assert [acts(federation, action) for action in ("train", "evaluate", "privacy.charge")] == before
    last = toy.log_rows(tmp_path / "H1")[-1]
    assert (last["action"], last["detail"]["again"]) == ("message.out", True)
    assert (tmp_path / "H1" / ANSWERS / f"{kind}.bin").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_no_image_is_looked_at_for_an_answer_that_is_there(tmp_path: Path, kind: str) -> None:
    federation = hospitals(tmp_path)
    asked, answer = done(federation, kind)
    images = tmp_path / "H1" / "cohort" / "images"
    for path in images.iterdir():
        path.write_bytes(b"damaged")
    again = ask(federation, asked, kind)
    assert again["arrays"]["upload"].data == answer["arrays"]["upload"].data


def test_who_wants_more_patients_than_there_are_now_sends_nothing_again(tmp_path: Path) -> None:
    federation = hospitals(tmp_path)
    asked, _ = done(federation, "train")
    with (tmp_path / "H1" / "policy.toml").open("a") as policy:
        policy.write("min_patients = 1000\n")
    refusal = Refusal.from_record(ask(federation, asked, "train"))
    assert (refusal.code, "too few patients" in refusal.reason) == ("policy", True)


def test_another_request_is_a_new_one(tmp_path: Path) -> None:
    federation = hospitals(tmp_path)
    asked, _ = done(federation, "train")
    request = TrainRequest.from_record(asked)
    other = replace(request, header=replace(request.header, attempt=2))
    refusal = Refusal.from_record(ask(federation, other.to_record(), "train"))
    assert refusal.code in {"protocol", "masks"}
    assert "masks" in refusal.reason or "used up" in refusal.reason


def test_the_checkpoint_that_a_request_carries_is_part_of_it(tmp_path: Path) -> None:
    federation = hospitals(tmp_path)
    asked, _ = done(federation, "train")
    request = TrainRequest.from_record(asked)
    session = Session.open(tmp_path / "H1")
    try:
        assert asked_under(session, request) != asked_under(session, replace(request, record="another"))
    finally:
        session.close()


@pytest.mark.control("GDPR-7-3-withdrawal")
@pytest.mark.parametrize("how", ["withdrawn", "basis cleared", "another day"])
@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_an_answer_from_before_a_no_an_expiry_or_another_basis_is_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, how: str
) -> None:
    federation = hospitals(tmp_path)
    asked, _ = done(federation, kind)
    node, path = federation.node("H1"), tmp_path / "H1" / ANSWERS / f"{kind}.bin"
    kept = path.read_bytes()
    if how == "withdrawn":
        withdraw(node, "PATIENT-H1-1")
    elif how == "basis cleared":
        set_basis(node, None)
    else:
        monkeypatch.setattr(eligible, "today", lambda: datetime.now(UTC).date() + timedelta(days=1))
    path.write_bytes(kept)  # as where the process dies before it deletes the answer
    before = acts(federation, kind)
    assert kind_of(ask(federation, asked, kind)) == Refusal.kind
    assert not [row for row in toy.log_rows(tmp_path / "H1") if row["detail"].get("again")]
    assert acts(federation, kind) == before


@pytest.mark.control("GDPR-7-3-withdrawal")
def test_an_answer_that_was_under_way_while_somebody_withdrew_is_not_sent_again(tmp_path: Path) -> None:
    federation = hospitals(tmp_path)
    asked, answer = done(federation, "train")
    request, node = TrainRequest.from_record(asked), federation.node("H1")
    session = Session.open(node.folder)
    try:
        key = asked_under(session, request)
        withdraw(node, "PATIENT-H1-1")
        keep_answer(session, request, key, answer)
        assert kept_answer(session, request, asked_under(session, request)) is None
    finally:
        session.close()


def test_an_answer_that_is_torn_stays_lost_and_is_not_made_again(tmp_path: Path) -> None:
    federation = hospitals(tmp_path)
    asked, _ = done(federation, "train")
    path = tmp_path / "H1" / ANSWERS / "train.bin"
    path.write_bytes(path.read_bytes()[:-1])
    before = acts(federation, "train")
    assert Refusal.from_record(ask(federation, asked, "train")).code == "masks"
    assert acts(federation, "train") == before


def test_who_has_pinned_another_charter_since_sends_nothing_again(tmp_path: Path) -> None:
    federation = hospitals(tmp_path)
    asked, _ = done(federation, "train")
    federation.node("H1").pin(replace(federation.charter, seed=99))
    assert Refusal.from_record(ask(federation, asked, "train")).code == "policy"


def test_a_disk_that_is_full_costs_no_answer(tmp_path: Path) -> None:
    federation = hospitals(tmp_path)
    for site in federation.sites:
        (tmp_path / site / ANSWERS).write_text("a file in the place of the folder")
    _, answer = done(federation, "train")
    assert kind_of(answer) == TrainReply.kind


def test_a_virtual_hospital_keeps_no_answer(tmp_path: Path) -> None:
    federation = hospitals(tmp_path, virtual=True)
    asked, _ = done(federation, "evaluate")
    assert EvaluateRequest.from_record(asked).masking
    assert not (tmp_path / "H1" / ANSWERS).exists()
