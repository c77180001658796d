"""The hospital's ClientApp: it decides, records, pays, trains and answers, in this order; it never falls over."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

from client import budget, rounds
from client.app import app, close_sessions
from client.charge import Budget
from client.cohort import Split
from client.ledger_file import read_book
from client.node import Node
from compliance.log import Action, AuditLog, Entry, Outcome, verify
from shared.charter import Charter
from shared.errors import DataError, RecordError
from shared.header import Header
from shared.imaging.tasks import get_task
from shared.vector import Layout
from shared.weights import load_weights, weights_of
from shared.wire import EvaluateReply, EvaluateRequest, Refusal, TrainReply, TrainRequest, kind_of
from simulation.local_grid import set_identity
from tests.federation import toy

RULES = toy.charter()
STATE = weights_of(get_task("toy").network(RULES.seed))
LAYOUT = Layout.of(STATE)
MODEL = LAYOUT.flatten(STATE)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_sessions()


@pytest.fixture
def node(tmp_path: Path) -> Path:
    return toy.make_node(tmp_path / "H1", "H1", RULES)


def header(rules: Charter = RULES, **changes: Any) -> Header:
    return replace(Header(rules.id, rules.sha256, "run-1", 1, 1, "toy", LAYOUT.digest(MODEL)), **changes)


def send(folder: Path | str, content: RecordDict, kind: str = "train", run: str = "") -> RecordDict:
    set_identity()
    message = Message(content, dst_node_id=5, message_type=kind)
    message.metadata.__dict__["_message_id"] = "message-1"
    config: dict[str, Any] = {"node-dir": "/evil"} | ({"run": run} if run else {})
    context = Context(1, 5, {"node-dir": str(folder), "site": "H1"}, state=RecordDict(), run_config=config)
    reply = app(message, context)
    assert reply.metadata.reply_to_message_id == "message-1"
    return reply.content


def train(folder: Path, request: Header | None = None, layout: str = LAYOUT.sha256) -> RecordDict:
    return send(folder, TrainRequest(request or header(), layout, MODEL).to_record())


def refused(content: RecordDict) -> Refusal:
    return Refusal.from_record(content)


def acts(folder: Path) -> list[tuple[str, str]]:
    return [(row["action"], row["outcome"]) for row in toy.log_rows(folder)]


def test_a_request_of_another_run_than_the_one_that_the_link_checked_is_refused(node: Path) -> None:
    asked = TrainRequest(header(), LAYOUT.sha256, MODEL).to_record()
    refusal = refused(send(node, asked, run="run-2"))
    assert (refusal.code, "names another run" in refusal.reason) == ("protocol", True)
    assert acts(node) == [("message.in", "ok"), ("refusal", "refused"), ("message.out", "started")]
    assert kind_of(send(node, asked, run="run-1")) == TrainReply.kind
    assert kind_of(send(node, asked)) == TrainReply.kind, "a simulation has no link"


# --- training ---------------------------------------------------------------------------------------------------------


def test_the_answer_is_the_local_minus_the_global_model_weighted_by_slices(node: Path) -> None:
    reply = TrainReply.from_record(train(node))
    assert (reply.header, reply.site) == (header(), "H1")
    assert reply.body.weight == sum(patient.slices for patient in Node.open(node).cohort.load_split(Split.TRAIN))
    assert reply.body.update.shape == (LAYOUT.size,)
    assert np.abs(reply.body.update).max() > 0
    assert set(reply.body.metrics) == {"loss", "samples"}


def test_the_same_request_gives_the_same_update_also_from_a_fresh_process(node: Path) -> None:
    first = TrainReply.from_record(train(node)).body.update
    again = TrainReply.from_record(train(node)).body.update
    close_sessions()
    fresh = TrainReply.from_record(train(node)).body.update
    assert first.tobytes() == again.tobytes() == fresh.tobytes()


def test_rounds_and_sites_draw_different_batches(node: Path, tmp_path: Path) -> None:
    other = toy.make_node(tmp_path / "H2", "H2", RULES)
    shutil.rmtree(other / "cohort")
    shutil.copytree(node / "cohort", other / "cohort")
    replies = [train(node), train(other), train(node, header(round=2))]
    assert len({TrainReply.from_record(reply).body.update.tobytes() for reply in replies}) == 3


@pytest.mark.control("HIPAA-164.312-b-audit")
def test_everything_is_recorded_before_it_is_done(node: Path) -> None:
    train(node)
    assert acts(node) == [("message.in", "ok"), ("train", "started"), ("train", "ok"), ("message.out", "started")]
    rows = toy.log_rows(node)
    assert {(row["run"], row["round"], row["detail"]["task"]) for row in rows} == {("run-1", 1, "toy")}
    assert rows[0]["detail"]["model"] == LAYOUT.digest(MODEL)
    assert b"PATIENT" not in (node / "audit" / "log.jsonl").read_bytes()


# --- what else leaves -----------------------------------------------------------------------------------------------

NO_CONSENT = toy.charter(privacy={"scores": "masked"})


def test_without_masks_no_score_leaves_unless_the_charter_consents(tmp_path: Path) -> None:
    folder = toy.make_node(tmp_path / "H1", "H1", NO_CONSENT)
    answer = send(folder, EvaluateRequest(header(NO_CONSENT, round=0), LAYOUT.sha256, MODEL).to_record(), "evaluate")
    assert refused(answer).code == "policy"
    assert "consent" in refused(answer).reason
    assert ("evaluate", "started") not in acts(folder), "nobody is evaluated for nothing"


def test_without_masks_no_loss_and_no_count_leaves_unless_the_charter_consents(tmp_path: Path) -> None:
    folder = toy.make_node(tmp_path / "H1", "H1", NO_CONSENT)
    assert TrainReply.from_record(train(folder, header(NO_CONSENT))).body.metrics == {}


# --- differential privacy ---------------------------------------------------------------------------------------------

PRIVATE = toy.charter(privacy={"mode": "patient", "noise_multiplier": 2.0, "sample_rate": 0.5})


@pytest.fixture
def private(tmp_path: Path) -> Path:
    return toy.make_node(tmp_path / "P1", "H1", PRIVATE)


def test_under_differential_privacy_neither_counts_nor_losses_leave(private: Path) -> None:
    reply = TrainReply.from_record(train(private, header(PRIVATE)))
    assert reply.body.weight == 1.0
    assert dict(reply.body.metrics) == {}


@pytest.mark.control("GDPR-25-budget")
def test_the_charge_is_durable_before_the_training(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object, **__: object) -> None:
        raise MemoryError("in the middle of the round")

    monkeypatch.setattr(rounds, "train_round", crash)
    assert refused(train(private, header(PRIVATE))).reason == "MemoryError"
    (charge,) = read_book(Node.open(private).ledger("run-1")).charges
    assert (charge.run, charge.federation, charge.task, charge.round) == ("run-1", "test", "toy", 1)
    assert (charge.steps, charge.noise_multiplier, charge.mode, charge.patients) == (2, 2.0, "patient", 4)
    assert acts(private)[1:] == [
        ("train", "started"),
        ("privacy.charge", "started"),
        ("privacy.charge", "ok"),
        ("train", "failed"),
        ("refusal", "refused"),
        ("message.out", "started"),
    ]


def test_a_round_that_is_asked_for_again_is_paid_for_again(private: Path) -> None:
    updates = [TrainReply.from_record(train(private, header(PRIVATE))).body.update for _ in range(2)]
    assert updates[0].tobytes() != updates[1].tobytes(), "the noise is fresh"
    assert len(read_book(Node.open(private).ledger("run-1")).charges) == 2


def test_without_differential_privacy_nothing_is_charged(node: Path) -> None:
    train(node)
    assert not (node / "privacy").exists()


# --- the budget of a real hospital ------------------------------------------------------------------------------------


@pytest.fixture
def real(private: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hospital with patients; it would need masks as well, which are not what is asked about here."""
    about = (private / "node.json").read_text().replace("true", "false")
    (private / "node.json").write_text(about)
    monkeypatch.setattr("client.masks.expected", lambda *_, **__: None)
    return toy.allow_all(private)


def set_budget(folder: Path, epsilon: float, patients: int = 9) -> None:
    budget.set_budget(Node.open(folder), Budget(epsilon, 1e-5, patients), who="Ada", why="a test")


@pytest.mark.control("GDPR-25-budget")
def test_a_real_hospital_without_a_budget_trains_nothing_under_privacy(real: Path) -> None:
    refusal = refused(train(real, header(PRIVATE)))
    assert (refusal.code, refusal.reason) == ("policy", "this hospital has set no privacy budget")
    assert ("privacy.charge", "started") not in acts(real)
    assert not (real / "privacy").exists()


def test_a_real_hospital_charges_its_one_ledger_with_the_number_of_patients_that_it_declared(real: Path) -> None:
    set_budget(real, 1e4)
    for run in ("run-1", "run-2"):
        TrainReply.from_record(train(real, header(PRIVATE, run=run)))
    book = read_book(real / "privacy" / "ledger.jsonl")
    assert [(charge.run, charge.patients) for charge in book.charges] == [("run-1", 9), ("run-2", 9)]
    (row,) = [row for row in toy.log_rows(real) if row["action"] == "privacy.charge" and row["run"] == "run-2"][1:]
    assert (row["outcome"], row["detail"]["ledger_rows"], row["detail"]["ledger_head"]) == ("ok", 4, book.head)


def test_what_the_budget_does_not_cover_is_refused_and_told_to_nobody_but_the_hospital(real: Path) -> None:
    set_budget(real, 0.5)
    refusal = refused(train(real, header(PRIVATE)))
    assert (refusal.code, refusal.reason) == ("budget", "this hospital's privacy ledger does not pay for this round")
    here = next(row["detail"]["here"] for row in toy.log_rows(real) if row["action"] == "refusal")
    assert "above the budget of 0.5 at delta 1e-05; 0.000 is spent" in here
    assert acts(real)[-5:] == [
        ("train", "started"),
        ("privacy.charge", "started"),
        ("train", "failed"),
        ("refusal", "refused"),
        ("message.out", "started"),
    ]


@pytest.mark.control("GDPR-25-budget")
def test_a_real_hospital_with_a_budget_trains_nothing_without_privacy(real: Path) -> None:
    Node.open(real).pin(RULES)
    TrainReply.from_record(train(real))
    close_sessions()
    set_budget(real, 5.0)
    assert "without differential privacy" in refused(train(real)).reason


@pytest.mark.parametrize("loss", ["the last charge", "the file", "everything but the budget"])
def test_a_ledger_that_lacks_what_the_audit_log_knows_stops_all_training(real: Path, loss: str) -> None:
    set_budget(real, 1e4)
    path = real / "privacy" / "ledger.jsonl"
    for number in (1, 2):
        TrainReply.from_record(train(real, header(PRIVATE, round=number)))
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    if loss == "the file":
        path.unlink()
    else:
        path.write_bytes(b"".join(lines[: {"the last charge": 3, "everything but the budget": 2}[loss]]))
    for fresh in (False, True):
        if fresh:
            close_sessions()  # another process has only the log on disk to know it from
        refusal = refused(train(real, header(PRIVATE, round=3)))
        assert (refusal.code, refusal.reason) == ("record", "this hospital cannot keep its record of it")
    assert "lacks line 4" in toy.log_rows(real)[-2]["detail"]["here"]
    close_sessions()
    with pytest.raises(RecordError, match="lacks line 4"):
        set_budget(real, 2e4)
    path.write_bytes(whole)
    path.chmod(0o600)
    TrainReply.from_record(train(real, header(PRIVATE, round=3)))


def test_a_crash_between_the_ledger_and_the_log_stops_nothing(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_budget(real, 1e4)
    append, session = AuditLog.append, []

    def crashes(log: AuditLog, entry: Entry) -> str:
        if (entry.action, entry.outcome) == (Action.PRIVACY_CHARGE, Outcome.OK):
            session.append(log)
            raise RecordError("the machine is gone", hint="switch it on")
        return append(log, entry)

    monkeypatch.setattr(AuditLog, "append", crashes)
    assert refused(train(real, header(PRIVATE))).code == "record"
    monkeypatch.undo()
    monkeypatch.setattr("client.masks.expected", lambda *_, **__: None)
    close_sessions()
    TrainReply.from_record(train(real, header(PRIVATE)))
    assert len(session) == 1
    assert len(read_book(real / "privacy" / "ledger.jsonl").charges) == 2, "a crash never refunds"


# --- evaluation -------------------------------------------------------------------------------------------------------


def evaluate(folder: Path, request: Header) -> RecordDict:
    return send(folder, EvaluateRequest(request, LAYOUT.sha256, MODEL).to_record(), "evaluate")


@pytest.mark.control("MODEL-held-out")
def test_an_evaluation_scores_the_model_of_the_request_on_held_out_patients_alone(node: Path) -> None:
    train(node)  # leaves another model in the session's network
    reply = EvaluateReply.from_record(evaluate(node, header(round=0)))
    task, total = get_task("toy"), 0.0
    network = task.network(0)
    load_weights(network, STATE)
    held_out = Node.open(node).cohort.load_split(Split.HELD_OUT)
    for patient in held_out:
        for study in patient.studies:
            total += task.score(task.predict(network, study), study).values["mse"]
    assert reply.body.sums["mse"] == pytest.approx(total)
    assert reply.body.sums["slices"] == sum(patient.slices for patient in held_out)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.control("GDPR-29-pinned-charter")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"charter": "f" * 64}, "another charter"),
        ({"federation": "stranger"}, "another charter"),
        ({"task": "denoise"}, "no such task"),
        ({"round": 4}, "3 rounds"),
        ({"round": 0}, "3 rounds"),
    ],
)
def test_what_policy_forbids_is_refused_and_the_refusal_is_recorded(
    node: Path, changes: dict[str, Any], reason: str
) -> None:
    refusal = refused(train(node, header(**changes)))
    assert refusal.code == "policy"
    assert reason in refusal.reason
    assert acts(node) == [("message.in", "ok"), ("refusal", "refused"), ("message.out", "started")]
    row = toy.log_rows(node)[1]
    assert row["detail"]["code"] == "policy"
    assert reason in row["detail"]["reason"]
    assert row["run"] == "run-1"


def test_a_charter_that_is_pinned_between_two_requests_counts_for_the_second(node: Path) -> None:
    assert kind_of(train(node)) == "train.reply"
    Node.open(node).pin(PRIVATE)
    assert "another charter" in refused(train(node)).reason
    assert TrainReply.from_record(train(node, header(PRIVATE))).body.weight == 1.0


@pytest.mark.control("GDPR-5-1-b-purpose")
def test_another_purpose_or_too_few_patients_are_refused(tmp_path: Path) -> None:
    folder = toy.make_node(tmp_path / "H1", "H1", RULES)
    described = json.loads((folder / "node.json").read_text())
    (folder / "node.json").write_text(json.dumps(described | {"purpose": "billing"}))
    assert "purpose" in refused(train(folder)).reason
    small = toy.make_node(tmp_path / "H2", "H2", RULES, patients=1)
    assert "too few patients" in refused(train(small)).reason
    ct = toy.make_node(tmp_path / "H3", "H3", RULES, modality="CT")
    assert "too few patients" in refused(train(ct)).reason


@pytest.mark.control("HIPAA-164.312-c-integrity")
def test_a_model_of_another_layout_or_digest_is_refused(node: Path) -> None:
    assert "layout" in refused(train(node, layout="0" * 64)).reason
    assert "header names" in refused(train(node, header(model="0" * 64))).reason
    longer = replace(MODEL, vector=np.append(MODEL.vector, np.float32(0)))
    content = send(node, TrainRequest(header(), LAYOUT.sha256, longer).to_record())
    assert "does not fit" in refused(content).reason
    refusal = [("refusal", "refused"), ("message.out", "started")]
    readable = [("message.in", "ok"), *refusal]
    assert acts(node) == readable * 3


def test_a_request_that_cannot_be_read_is_refused_and_recorded(node: Path) -> None:
    for content, kind in (
        (RecordDict(), "train"),
        (TrainRequest(header(), LAYOUT.sha256, MODEL).to_record(), "evaluate"),
    ):
        refusal = refused(send(node, content, kind))
        assert (refusal.code, refusal.header) == ("protocol", None)
    assert acts(node) == [("refusal", "refused"), ("message.out", "started")] * 2


def test_an_unexpected_error_is_told_by_its_type_and_never_by_its_text(
    node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def quote(*_: object, **__: object) -> None:
        raise DataError("the slice of Haldane^Ada is damaged", hint="look at it")

    monkeypatch.setattr(rounds, "train_round", quote)
    refusal = refused(train(node))
    assert (refusal.code, refusal.reason) == ("error", "DataError")
    assert b"Haldane" not in (node / "audit" / "log.jsonl").read_bytes()
    assert verify(node / "audit" / "log.jsonl").entries == 5


@pytest.mark.control("HIPAA-164.312-b-audit")
def test_a_hospital_that_cannot_record_does_nothing(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[bool] = []
    monkeypatch.setattr(rounds, "train_round", lambda *_, **__: trained.append(True))
    train(node, header(round=4))  # opens the session
    monkeypatch.setattr("compliance.log.os.fsync", _full_disk)
    refusal = refused(train(node))
    assert (refusal.code, refusal.reason) == ("record", "RecordError")
    assert not trained


def test_a_hospital_that_cannot_charge_does_not_train(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[bool] = []
    monkeypatch.setattr(rounds, "train_round", lambda *_, **__: trained.append(True))
    (private / "privacy").write_text("in the way")
    assert refused(train(private, header(PRIVATE))).code == "record"
    assert not trained


@pytest.mark.parametrize("folder", ["", "/nowhere", "."])
def test_a_node_that_cannot_be_opened_still_answers(folder: str) -> None:
    refusal = refused(send(folder, TrainRequest(header(), LAYOUT.sha256, MODEL).to_record()))
    assert (refusal.site, refusal.code) == ("H1", "error")


def test_a_node_without_a_charter_refuses(tmp_path: Path) -> None:
    Node.create(tmp_path / "H1", site="H1", purpose=toy.PURPOSE)
    assert kind_of(train(tmp_path / "H1")) == "refusal"


def _full_disk(_: int) -> None:
    raise OSError(28, "No space left on device")
