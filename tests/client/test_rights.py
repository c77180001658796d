"""What a patient asks for is done, also when it is broken off amid it: report, rectification, erasure."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from client.app import close_sessions
from client.consenting import withdraw
from client.eligible import eligible
from client.lineage import TRAIN, Lineage
from client.node import Node
from client.records import read_register, tombstone
from client.rights import erase, finish_erasures, rectified, rectify, resume, side_of, spent_on
from client.splits import Split, gone
from client.subject_report import report
from shared.errors import RecordError, UsageError
from shared.files import locked
from shared.retraining import Retraining
from shared.wire import TrainReply, kind_of
from tests.client import test_app as apps
from tests.federation import toy

PRIVATE = toy.charter(privacy={"mode": "patient", "noise_multiplier": 2.0, "sample_rate": 0.9})
PATIENT = "PATIENT-H1-1"


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_sessions()


def trained(folder: Path, rules: Any = PRIVATE, rounds: int = 2) -> Node:
    """A hospital that has taken part in some rounds, with released files and a masked answer that waits."""
    node = Node.open(toy.make_node(folder, "H1", rules))
    for number in range(1, rounds + 1):
        assert kind_of(apps.train(folder, apps.header(rules, round=number))) == TrainReply.kind
    close_sessions()
    for key in (PATIENT, "PATIENT-H1-2"):
        place = folder / "released" / key / "study"
        place.mkdir(parents=True)
        (place / "a.dcm").write_bytes(b"pixels")
        Lineage(node).take_in(key, f"{key[-1]}" * 64, source="folder", profile="p")
    (folder / "reports" / "ingest" / ("1" * 32)).mkdir(parents=True)
    (folder / "answers").mkdir()
    (folder / "answers" / "train.bin").write_bytes(b"masked")
    rows = [{"profile": "p", "study": digit * 64, "instances": [], "held": 0} for digit in "12"]
    (folder / "ingest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return node


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("rights") / "H1").folder


@pytest.fixture
def node(template: Path, tmp_path: Path) -> Node:
    return Node.open(Path(shutil.copytree(template, tmp_path / "H1")))


def everything(node: Node) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(node.folder.rglob("*")) if path.is_file())


# --- access -----------------------------------------------------------------------------------------------------------


@pytest.mark.control("GDPR-12-22-rights")
def test_a_report_has_all_that_is_known(node: Node) -> None:
    made = report(node, PATIENT)
    body = made.body
    assert body["state"] == "takes part"
    assert [one["round"] for one in body["rounds"]] == [1, 2]
    assert all(one["drawn"].startswith("drawn in") for one in body["rounds"])
    assert body["dataset"]["split"] == "train"
    assert body["privacy"]["charges"] == 2
    assert body["privacy"]["epsilon"] > 0
    assert body["taken_in"] == [{"day": datetime.now(UTC).date().isoformat(), "source": "folder"}]
    text = "\n".join(made.lines)
    for word in (
        "GDPR Art. 15",
        "PIPL Art. 45",
        "run-1",
        "round 2",
        "epsilon at most",
        PATIENT,
        "supervisory authority",
        "a person adds",
    ):
        assert word in text
    assert "PATIENT-H1-2" not in text + json.dumps(body)
    assert "training of toy, round 2: drawn in" in text
    assert "1 steps" not in text
    assert toy.log_rows(node.folder)[-1]["action"] == "rights.report"
    assert PATIENT not in (node.folder / "audit" / "log.jsonl").read_text()


def test_the_hospital_itself_is_no_recipient(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    parties = [{"name": name, "role": role, "country": "DE"} for name, role in (("H1", "member"), ("H2", "member"))]
    monkeypatch.setattr(Lineage, "recipients", lambda *_: parties)
    assert [one["name"] for one in report(node, PATIENT).body["recipients"]] == ["H2"]


def test_nothing_is_spent_on_somebody_who_is_only_tested_on(node: Node) -> None:
    body = report(node, "PATIENT-H1-4").body
    assert (body["dataset"]["split"], body["privacy"]["epsilon"], body["rounds"]) == ("held_out", 0.0, [])


def test_charges_from_before_the_lineage_count_as_everybodys_who_is_trained_on(node: Node) -> None:
    (node.folder / "rights" / "rounds.jsonl").unlink()
    spent = spent_on(node, (), trained=True)
    assert (spent.charges, spent.unknown) == (0, 0), "a virtual hospital has a ledger for each run that it knows"
    shutil.copy(node.ledger("run-1"), node.folder / "privacy" / "ledger.jsonl")
    about = node.folder / "node.json"
    about.write_text(about.read_text().replace('"virtual": true', '"virtual": false'))
    spent = spent_on(Node.open(node.folder), (), trained=True)
    assert (spent.charges, spent.unknown) == (2, 2)
    assert spent.epsilon is not None
    assert spent.epsilon > 0


# --- rectification ----------------------------------------------------------------------------------------------------


@pytest.mark.control("GDPR-12-22-rights", "MODEL-held-out")
def test_rectified_studies_are_taken_in_anew_and_the_patient_stays_on_his_side(node: Node) -> None:
    done = rectify(node, PATIENT, who="Ada")
    assert (done.cached, done.released, done.studies) == (1, 1, 1)
    assert not (node.folder / "released" / PATIENT).exists()
    assert not (node.folder / "cohort" / "images" / "H1-1.safetensors").exists()
    assert gone(node.folder / "cohort") == {PATIENT: Split.TRAIN}
    assert '"' + "1" * 64 not in (node.folder / "ingest.jsonl").read_text()
    assert "2" * 64 in (node.folder / "ingest.jsonl").read_text()
    assert eligible((PATIENT, "PATIENT-H1-2"), node) == ("PATIENT-H1-2",)


# --- erasure ----------------------------------------------------------------------------------------------------------


@pytest.mark.control("GDPR-17-erasure")
def test_an_erased_patient_is_nowhere_and_his_rounds_are_marked(node: Node) -> None:
    withdraw(node, PATIENT)
    done = erase(node, PATIENT, who="Ada")
    assert done is not None
    assert (done.taken_out.cached, done.taken_out.released) == (1, 1)
    assert (done.aftermath.policy, done.aftermath.runs) == ("record", ("run-1",))
    assert done.aftermath.epsilon is not None
    assert PATIENT.encode() not in everything(node)
    assert not (node.folder / "answers" / "train.bin").exists()
    assert side_of(node, PATIENT) is None
    assert [trace.part.round for trace in Lineage(node).of(PATIENT)] == [1, 2], "known by the keyed digest"
    assert eligible((PATIENT, "PATIENT-H1-2"), node) == ("PATIENT-H1-2",)
    last = next(row for row in reversed(toy.log_rows(node.folder)) if row["action"] == "rights.erase")
    assert (last["action"], last["outcome"], last["detail"]["step"]) == ("rights.erase", "ok", "done")
    assert last["detail"]["epsilon"] == pytest.approx(done.aftermath.epsilon)
    assert erase(node, PATIENT, who="Ada") is None
    assert report(node, PATIENT).body["state"].startswith("erased on")
    assert kind_of(apps.train(node.folder, apps.header(PRIVATE, round=3))) == TrainReply.kind, "the run goes on"


@pytest.mark.control("GDPR-17-erasure")
@pytest.mark.parametrize("after", ["stop", "retrain"])
def test_the_policy_stops_the_runs_that_he_was_in_and_asks_to_train_them_again(node: Node, after: str) -> None:
    (node.folder / "policy.toml").write_text(f'[erasure]\nafter = "{after}"\n')
    done = erase(node, PATIENT, who="Ada")
    assert done is not None
    refusal = apps.refused(apps.train(node.folder, apps.header(PRIVATE, round=3)))
    assert (refusal.code, refusal.reason) == ("policy", "this hospital takes no further part in this run")
    assert kind_of(apps.train(node.folder, apps.header(PRIVATE, run="run-2"))) == TrainReply.kind
    assert len(done.aftermath.requests) == (after == "retrain")
    for path in done.aftermath.requests:
        asked = Retraining.read(path)
        assert (asked.site, asked.run, asked.task, asked.clean_round) == ("H1", "run-1", "toy", 0)
        key: Ed25519PublicKey = node.identity.public_key()
        key.verify(bytes.fromhex(asked.signature), asked.signed_bytes())
        assert PATIENT not in path.read_text()
        assert tombstone(node, PATIENT) not in path.read_text()


def test_without_differential_privacy_no_epsilon_is_a_mitigation_and_the_runs_stop(tmp_path: Path) -> None:
    node = trained(tmp_path / "H1", apps.RULES)
    done = erase(node, PATIENT, who="Ada")
    assert done is not None
    assert (done.aftermath.policy, done.aftermath.epsilon) == ("stop", None)
    assert read_register(node)[0].stopped == {"run-1"}


def test_an_erasure_waits_for_an_ingest_and_the_patient_is_out_meanwhile(node: Node) -> None:
    with locked(node.folder / "ingest.lock", "a test"), pytest.raises(RecordError, match="an ingest"):
        erase(node, PATIENT, who="Ada")
    assert eligible((PATIENT,), node) == ()
    assert side_of(node, PATIENT) is Split.TRAIN
    assert resume(node) == 1
    assert PATIENT.encode() not in everything(node)


def test_a_round_that_began_before_an_erasure_does_not_name_the_patient_after_it(node: Node) -> None:
    lineage = Lineage(node)
    part = next(lineage.parts())
    erase(node, PATIENT, who="Ada")
    lineage.drawn(part, {PATIENT: 1, "PATIENT-H1-2": 2})
    assert PATIENT.encode() not in everything(node)
    assert lineage.of(PATIENT)[0].drawn == 1


@pytest.mark.control("GDPR-17-erasure")
def test_a_run_that_started_from_a_release_of_his_run_is_an_heir_whatever_its_first_model_is(node: Node) -> None:
    def began(run: str, origin: str) -> None:
        header = replace(apps.header(PRIVATE), run=run, model=run[-1] * 64)
        facts = {"rate": 1.0, "steps": 1, "dataset": "", "manifest": ""}
        Lineage(node).begin(header, TRAIN, ["PATIENT-H1-2"], charter=PRIVATE, origin=origin, **facts)

    began("run-2", "run-1/toy")
    began("run-3", "run-2/toy")
    began("run-4", "run-1/another")
    began("run-5", "")
    lineage = Lineage(node)
    assert lineage.heirs(lineage.of(PATIENT)) == {("run-2", "toy"), ("run-3", "toy")}


@pytest.mark.control("HIPAA-164.312-a2i-users")
def test_somebody_must_have_decided(node: Node) -> None:
    with pytest.raises(UsageError, match="who"):
        erase(node, PATIENT, who=" ")


def dies_at(node: Node, call: int) -> bool:
    """Erase in a process of its own that is killed at its ``call``-th change to the disk; whether it was."""
    child = os.fork()
    if not child:
        left = [call]

        def counted(real: Any) -> Any:
            def act(*given: Any, **named: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*given, **named)

            return act

        for name in ("unlink", "replace", "rename", "rmdir", "write", "fsync", "ftruncate"):
            setattr(os, name, counted(getattr(os, name)))
        try:
            erase(node, PATIENT, who="Ada")
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.control("GDPR-17-erasure")
def test_an_erasure_that_is_killed_anywhere_has_done_nothing_or_is_finished_by_the_next_command(
    template: Path, tmp_path: Path
) -> None:
    (template / "held").mkdir(mode=0o700, exist_ok=True)
    call, states = 0, set()
    while True:
        node = Node.open(Path(shutil.copytree(template, tmp_path / f"H{call}")))
        killed = dies_at(node, call)
        with node.open_log() as log:
            register, _ = read_register(node, log)
            whole = side_of(node, PATIENT) is Split.TRAIN and (node.folder / "released" / PATIENT).exists()
            pending = finish_erasures(node, log)
        erased = tombstone(node, PATIENT) in read_register(node)[0].erased
        if not pending and not erased:
            assert whole, f"call {call}: neither done nor pending, and something is gone"
            assert eligible((PATIENT,), node) == (PATIENT,)
            assert not register.patients
        else:
            assert erased
            assert PATIENT.encode() not in everything(node), f"call {call}"
            assert eligible((PATIENT,), node) == ()
        states.add((whole, bool(pending), erased))
        shutil.rmtree(node.folder)
        if not killed:
            break
        call += 1
    assert call > 10
    assert {(True, False, False), (False, True, True), (False, False, True)} <= states


def test_the_log_does_not_say_how_many_came_back_after_they_were_rectified(node: Node) -> None:
    patients = ("PATIENT-H1-1", "PATIENT-H1-2", "PATIENT-H1-3")
    for patient in patients:
        rectify(node, patient, who="Ada")
    before = len(toy.log_rows(node.folder))
    with node.open_log() as log:
        assert rectified(node, log, patients) == 3
    assert len(toy.log_rows(node.folder)) == before + 2
    assert eligible(patients, node) == patients
