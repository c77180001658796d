"""A withdrawal counts from the next round on: the studies are not read, and the log and the lineage say so."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from client.app import close_sessions
from client.consenting import withdraw
from client.ledger_file import read_book
from client.lineage import EVALUATE, TRAIN, Lineage, Part
from client.manifest import write_manifest
from client.node import Node
from client.rights import erase, restrict
from client.rounds import Rounds
from client.splits import Split
from shared.wire import EvaluateRequest, TrainReply, kind_of
from tests.client import test_app as apps
from tests.client.opened import opened
from tests.federation import toy

PRIVATE = toy.charter(privacy={"mode": "patient", "noise_multiplier": 2.0, "sample_rate": 0.9})


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_sessions()


@pytest.fixture(params=[apps.RULES, PRIVATE], ids=["plain", "private"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Node:
    return Node.open(toy.make_node(tmp_path / "H1", "H1", request.param, patients=6))


def train(node: Node, number: int = 1) -> None:
    asked = apps.header(node.charter, round=number)
    assert kind_of(apps.train(node.folder, asked)) == TrainReply.kind


def evaluate(node: Node, number: int = 1) -> None:
    asked = EvaluateRequest(apps.header(node.charter, round=number), apps.LAYOUT.sha256, apps.MODEL)
    assert kind_of(apps.send(node.folder, asked.to_record(), "evaluate")) == "evaluate.reply"


def images(seen: list[str]) -> set[str]:
    return {Path(name).name for name in seen if name.endswith(".safetensors")}


def begun(node: Node) -> list[dict[str, object]]:
    rows = toy.log_rows(node.folder)
    return [row["detail"] for row in rows if (row["action"], row["outcome"]) == ("train", "started")]


@pytest.mark.control("GDPR-7-3-withdrawal", "GDPR-12-22-rights")
@pytest.mark.parametrize("how", ["withdrawn", "restricted", "objected"])
def test_the_studies_of_somebody_who_says_no_are_not_read_in_the_next_round_of_a_run_under_way(
    node: Node, how: str
) -> None:
    with opened() as seen:
        train(node)
    assert "H1-2.safetensors" in images(seen)
    if how == "withdrawn":
        withdraw(node, "PATIENT-H1-2")
    else:
        restrict(node, "PATIENT-H1-2", who="Ada", objection=how == "objected")
    with opened() as seen:
        train(node, 2)
    assert images(seen) == {f"H1-{number}.safetensors" for number in (0, 1, 3, 4, 5, 6)}
    before, after = begun(node)
    assert (before["patients"], after["patients"]) == (6, 5)
    assert before["records"] != after["records"], "the log says which state of the register each round followed"
    first, second = Lineage(node).parts()
    assert {one.part.round for one in Lineage(node).of("PATIENT-H1-2")} == {1}
    assert first.patients != second.patients


def test_a_held_out_patient_who_says_no_is_not_tested_on(node: Node) -> None:
    if not node.charter.scores_leave:
        pytest.skip("no scores leave")
    withdraw(node, "PATIENT-H1-6")
    asked = EvaluateRequest(apps.header(node.charter), apps.LAYOUT.sha256, apps.MODEL).to_record()
    with opened() as seen:
        refusal = apps.refused(apps.send(node.folder, asked, "evaluate"))
    assert "H1-6.safetensors" not in images(seen)
    assert "held out" in refusal.reason


def test_the_divisor_and_the_price_stay_as_declared_when_somebody_leaves(tmp_path: Path) -> None:
    node = Node.open(toy.make_node(tmp_path / "H1", "H1", PRIVATE, patients=6))
    train(node)
    withdraw(node, "PATIENT-H1-2")
    train(node, 2)
    first, second = read_book(node.ledger("run-1")).charges
    assert (first.patients, first.sample_rate, first.steps) == (second.patients, second.sample_rate, second.steps)
    drawn = json.loads((node.folder / "rights" / "drawn.jsonl").read_text().splitlines()[-1])["drawn"]
    assert "PATIENT-H1-2" not in drawn


def test_all_who_say_no_are_too_few_in_the_same_words(node: Node) -> None:
    for number in range(6):
        withdraw(node, f"PATIENT-H1-{number}")
    with opened() as seen:
        refusal = apps.refused(apps.train(node.folder, apps.header(node.charter)))
    assert (refusal.code, refusal.reason) == ("policy", "too few patients here for this task")
    assert not images(seen) - {"H1-6.safetensors"}


@pytest.mark.control("GDPR-7-3-withdrawal")
def test_the_register_that_was_lost_stops_training_and_says_nothing_of_why(node: Node) -> None:
    withdraw(node, "PATIENT-H1-2")
    (node.folder / "rights" / "records.json").unlink()
    with opened() as seen:
        refusal = apps.refused(apps.train(node.folder, apps.header(node.charter)))
    assert (refusal.code, refusal.reason) == ("record", "this hospital cannot keep its record of it")
    assert not images(seen)


@pytest.mark.control("HIPAA-164.312-c-witnessed")
def test_no_round_is_trained_where_a_log_showed_two_histories(node: Node) -> None:
    folder = node.folder / "audit" / "witness"
    folder.mkdir(mode=0o700, parents=True)
    (folder / "fedward%2FH2%2F0123456789abcdef.split").write_text("evidence.json")
    with opened() as seen:
        refusal = apps.refused(apps.train(node.folder, apps.header(node.charter)))
    assert (refusal.code, refusal.reason) == ("record", "this hospital cannot keep its record of it")
    assert not images(seen)


@pytest.mark.control("GDPR-12-22-rights")
def test_the_lineage_leads_from_a_patient_to_data_set_rounds_and_models(node: Node) -> None:
    with node.open_log() as log:
        manifest = write_manifest(node, log)
    train(node)
    train(node, 2)
    (one, two) = Lineage(node).of("PATIENT-H1-0")
    assert (one.part.kind, one.part.run, one.part.round, one.part.manifest) == (TRAIN, "run-1", 1, manifest.digest)
    assert one.part.model == apps.LAYOUT.digest(apps.MODEL)
    assert Lineage(node).after((one, two)) == (two.part.model,)
    private = node.charter.privacy.mode != "off"
    assert (one.drawn is not None) is private, "without differential privacy nobody is drawn by a coin of his own"
    for path in (node.folder / "rights").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert datetime.fromisoformat(one.part.time).tzinfo == UTC


@pytest.mark.control("MODEL-held-out")
def test_nobody_who_was_tested_on_is_trained_on_though_the_index_was_changed(node: Node) -> None:
    if not node.charter.scores_leave:
        pytest.skip("no scores leave")
    evaluate(node)
    assert [part.kind for part in Lineage(node).parts()] == [EVALUATE]
    index = node.folder / "cohort" / "index.json"
    index.write_text(index.read_text().replace("held_out", "train"))
    refusal = apps.refused(apps.train(node.folder, apps.header(node.charter)))
    assert refusal.code == "record"
    assert [part.kind for part in Lineage(node).parts()] == [EVALUATE]
    done = [row["action"] for row in toy.log_rows(node.folder) if row["outcome"] == "ok"]
    assert "evaluate" in done
    assert not {"train", "privacy.charge"} & set(done)
    assert Lineage(node).mixed() == 0


@pytest.mark.control("GDPR-17-erasure")
@pytest.mark.parametrize("act", [withdraw, lambda node, who: erase(node, who, who="Ada")], ids=["withdrawn", "erased"])
def test_whoever_says_no_while_a_round_is_made_ready_is_not_in_it(
    node: Node, monkeypatch: pytest.MonkeyPatch, act: Any
) -> None:
    """After it was asked who takes part, and before the lineage has the round: an erasure would not find it."""
    who, *others = node.cohort.patients(Split.TRAIN)
    begin, acts, there = Rounds._note, [act], 1 + len(others)

    def note(self: Rounds, *words: Any, **options: Any) -> Part:
        if acts:
            acts.pop()(node, who)
        return begin(self, *words, **options)

    monkeypatch.setattr(Rounds, "_note", note)
    train(node)
    assert Lineage(node).of(who) == ()
    assert [part.round for part in Lineage(node).parts()] == [1]
    assert begun(node)[-1]["patients"] == there - 1
