"""What a node says of itself in the evidence report: read from its files, small numbers suppressed."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.budget import set_budget
from client.charge import Budget, Charge
from client.evidence import facts_of, party
from client.ledger import Ledger
from client.node import Node
from client.paying import ACTS, known, told
from compliance.compliance_cli import app
from compliance.incident import Incidents
from compliance.log import Action, Entry, Outcome
from compliance.party import Facts, Kind, Topic
from shared.errors import RecordError

PROFILE = "ab" * 32


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node.create(tmp_path / "node", site="H1", purpose="research")


def cohort(node: Node, training: int, held_out: int) -> None:
    rows = [
        {
            "key": f"FW{number:04}",
            "split": "train" if number < training else "held_out",
            "studies": [{"modality": "MR"}],
        }
        for number in range(training + held_out)
    ]
    (node.folder / "cohort").mkdir(exist_ok=True)
    (node.folder / "cohort" / "index.json").write_text(json.dumps({"patients": rows, "left_out": {}}))


def deidentified(node: Node, **head: str) -> None:
    detail = {"profile": "research", "profile_sha256": PROFILE, "released": 900, "quarantined": 7, "refused": 0}
    with node.open_log() as log:
        log.append(Entry(Action.DEIDENTIFY, Outcome.OK, detail=detail))
    path = node.folder / "reports" / "deid.json"
    path.parent.mkdir(exist_ok=True)
    text = json.dumps({"format": 1, "profile": "research", "profile_sha256": PROFILE, **head})
    path.write_text(text[:-1] + ', "files": [\n{"input": "Keller^Maria.dcm"}\n], "counts": {}}')


def pay(node: Node, task: str, rounds: int) -> None:
    with node.open_log() as log:
        for number in range(1, rounds + 1):
            charge = Charge("run-1", "f", task, number, "distributed", 1.4, 0.25, 1, 400)
            with Ledger(node.ledger(), data_set=node.site, acknowledged=known(log.newest(*ACTS))) as ledger:
                ledger.reserve(charge)
                detail = {"task": task, **told(ledger.acknowledged)}
            log.append(Entry(Action.PRIVACY_CHARGE, Outcome.OK, run="run-1", round=number, detail=detail))
            begun = {"task": task, "privacy": "distributed"}
            with log.act(Entry(Action.TRAIN, Outcome.STARTED, run="run-1", round=number, detail=begun)):
                pass


def value(facts: Facts, topic: Topic, begin: str) -> str | None:
    return next(one.value for one in facts.figures[topic] if one.what.startswith(begin))


@pytest.mark.control("GDPR-30-record", "GDPR-35-dpia")
def test_a_new_node_says_who_and_why_and_that_the_rest_is_not_recorded(node: Node) -> None:
    found = facts_of(node)
    assert value(found, Topic.PROCESSING, "Controller") == "H1"
    assert value(found, Topic.PROCESSING, "Purpose") == "research"
    for what in ("Contact", "Categories of people", "Patients in training", "Recipients"):
        assert value(found, Topic.PROCESSING, what) is None, what
    assert value(found, Topic.DPIA, "Id of the assessment") is None
    assert value(found, Topic.DEIDENTIFICATION, "De-identification") is None
    assert value(found, Topic.PRIVACY, "Budget") is None
    assert all(one.source for figures in found.figures.values() for one in figures)


@pytest.mark.control("GDPR-30-record")
def test_few_patients_are_suppressed_and_so_is_the_whole_that_would_tell_them(node: Node) -> None:
    cohort(node, 40, 3)
    found = facts_of(node)
    assert value(found, Topic.PROCESSING, "Patients in training") == "40"
    assert str(value(found, Topic.PROCESSING, "Patients held out")).startswith("suppressed")
    assert "43" not in str(value(found, Topic.PROCESSING, "Categories of people"))
    cohort(node, 40, 20)
    assert "60" in str(value(facts_of(node), Topic.PROCESSING, "Categories of people"))
    (node.folder / "policy.toml").write_text("min_patients = 50\n")
    found = facts_of(node)
    assert found.least == 50
    assert str(value(found, Topic.PROCESSING, "Patients in training")).startswith("suppressed")


def test_files_of_few_patients_are_suppressed(node: Node) -> None:
    cohort(node, 3, 1)
    deidentified(node)
    assert str(value(facts_of(node), Topic.DEIDENTIFICATION, "Files released")).startswith("suppressed")
    cohort(node, 30, 10)
    assert value(facts_of(node), Topic.DEIDENTIFICATION, "Files released") == "900"


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ({}, "no determination was needed"),
        (
            {"expert": "Dr. E", "expert_key": "cd" * 32, "expires": "2099-01-01"},
            "by Dr. E, key cdcdcdcdcdcdcdcd…, until",
        ),
        ({"expert": "Dr. E", "expert_key": "cd" * 32, "expires": "2020-01-01"}, "(expired)"),
    ],
)
def test_the_method_is_that_of_the_reports_of_the_profile_in_force(node: Node, head: dict[str, str], says: str) -> None:
    deidentified(node, **head)
    assert says in str(value(facts_of(node), Topic.DEIDENTIFICATION, "Method"))


def test_without_a_report_of_the_profile_in_force_the_method_is_not_recorded(node: Node) -> None:
    deidentified(node, profile_sha256="00" * 32)
    assert value(facts_of(node), Topic.DEIDENTIFICATION, "Method") is None


def test_privacy_is_that_of_the_ledger_by_task_and_together(node: Node) -> None:
    set_budget(node, Budget(8.0, 1e-5, 400), who="DPO", why="board")
    pay(node, "denoise", 3)
    pay(node, "segment", 2)
    found = facts_of(node)
    (table,) = found.tables[Topic.PRIVACY]
    rows = {row[1]: row for row in table.rows}
    assert rows["denoise"][3:5] == ("3", "3")
    assert rows["all together"][3:5] == ("5", "5")
    epsilon = {name: float(str(row[5])) for name, row in rows.items()}
    with Ledger(node.ledger(), data_set="H1") as ledger:
        assert epsilon["all together"] == pytest.approx(ledger.epsilon(1e-5), abs=0.01)
        assert epsilon["all together"] >= ledger.epsilon(1e-5)  # a bound is rounded up
    assert epsilon["denoise"] < epsilon["all together"]
    assert value(found, Topic.PRIVACY, "Rounds without") == "0"
    assert "set by DPO" in str(value(found, Topic.PRIVACY, "Budget"))
    (lineage,) = found.tables[Topic.LINEAGE]
    assert [row[:3] for row in lineage.rows] == [("run-1", "denoise", "3"), ("run-1", "segment", "2")]


def test_a_ledger_that_lacks_what_the_log_knows_is_not_reported_from(node: Node) -> None:
    set_budget(node, Budget(8.0, 1e-5, 400), who="DPO", why="board")
    node.ledger().unlink()
    with pytest.raises(RecordError):
        facts_of(node)


def test_no_pseudonym_and_no_path_of_an_input_is_in_the_report(node: Node, tmp_path: Path) -> None:
    cohort(node, 30, 20)
    deidentified(node)
    done = CliRunner().invoke(app, ["report", str(node.folder), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    for name in ("evidence.html", "evidence.json"):
        text = (tmp_path / "out" / name).read_text()
        assert "FW00" not in text
        assert "Keller" not in text
        assert str(tmp_path) not in text


def test_a_report_of_an_altered_log_is_written_and_exits_with_nine(node: Node, tmp_path: Path) -> None:
    deidentified(node)
    deidentified(node)
    path = node.folder / "audit" / "log.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"released":900', b'"released":901', 1))
    done = CliRunner().invoke(app, ["report", str(node.folder), "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, RecordError)
    assert "does not verify" in (tmp_path / "out" / "evidence.html").read_text()


@pytest.mark.control("HIPAA-164.404-breach")
def test_an_incident_of_a_node_stands_in_its_own_log(node: Node) -> None:
    found = party(node.folder)
    assert found is not None
    assert (found.kind, found.name, found.knows_pseudonyms) == (Kind.HOSPITAL, "H1", True)
    names = node.folder / "names.txt"
    names.write_text("FW0001\n")
    incidents = Incidents(found)
    incidents.open(who="DPO", aware=datetime(2026, 1, 1, tzinfo=UTC), digests={"H1": incidents.digests(names)})
    assert len(incidents.all()) == 1


def test_a_folder_that_is_no_node_is_none(tmp_path: Path) -> None:
    assert party(tmp_path) is None


def figures(node: Node, topic: Topic) -> dict[str, str | None]:
    return {one.what: one.value for one in facts_of(node).figures[topic]}


def test_bases_requests_and_holds_are_in_the_report(node: Node) -> None:
    before = figures(node, Topic.PROCESSING)
    assert before["Lawful basis of whoever has no decision of his own (Art. 6, 9)"] is None
    assert before["Erasures (Art. 17)"] == "none"
    detail = {"basis": "GDPR 6(1)(e), 9(2)(j)", "until": "2028-12-31"}
    with node.open_log() as log:
        log.append(Entry(Action.BASIS_SET, Outcome.OK, detail=detail))
        for _ in range(12):
            log.append(Entry(Action.RIGHTS_REPORT, Outcome.OK, detail={"rounds": 0}))
        for step in ("begin", "done"):
            log.append(Entry(Action.RIGHTS_ERASE, Outcome.OK, detail={"step": step}))
        for hold, state in (("1", "placed"), ("2", "placed"), ("1", "lifted")):
            told = {"hold": hold, "state": state, "who": "Counsel", "why": f"case {hold}"}
            log.append(Entry(Action.LEGAL_HOLD, Outcome.OK, detail=told))
    after = figures(node, Topic.PROCESSING)
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    assert after["Lawful basis of whoever has no decision of his own (Art. 6, 9)"] == (
        f"GDPR 6(1)(e), 9(2)(j) until 2028-12-31, recorded {day}"
    )
    assert after["Reports to patients (Art. 15)"] == f"12, the newest {day}"
    assert after["Erasures (Art. 17)"] == f"suppressed (fewer than 10), the newest {day}"
    assert after["Legal holds in force"] == f"Counsel, since {day}: case 2"
    with node.open_log() as log:
        log.append(Entry(Action.BASIS_SET, Outcome.OK, detail={"basis": "", "until": ""}))
    assert "taken away" in str(
        figures(node, Topic.PROCESSING)["Lawful basis of whoever has no decision of his own (Art. 6, 9)"]
    )
