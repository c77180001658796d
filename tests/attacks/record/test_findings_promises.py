"""What did not hold when it was first attacked, each with what was promised."""

import contextlib
import itertools
import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.app import close_sessions
from client.cli import app
from client.consent import Choice
from client.consenting import withdraw
from client.lineage import Lineage
from client.node import Node
from client.records import pseudonym_of
from client.rights import erase, rectify
from client.subject_report import report
from compliance import verify
from compliance.checkpoint import Quorum
from compliance.compliance_cli import app as compliance_app
from compliance.incident import Incidents
from compliance.model_cli import app as model_app
from compliance.suppress import split
from compliance.verify import NotVerifiedError
from compliance.witness import Witness
from shared.errors import FedwardError, RecordError, UsageError
from shared.wire import EvaluateRequest, TrainReply, kind_of
from tests.attacks.record.test_consent_promises import HEAD, SECRET, call, fhir, files, read
from tests.attacks.record.test_disk_promises import PATIENT, template
from tests.attacks.record.test_release_promises import ended, folder
from tests.attacks.record.test_report_promises import party
from tests.client import test_app as apps
from tests.client.test_consent_file import consent
from tests.compliance.recording import fill, signer, trail_of
from tests.federation import toy
from tests.federation.released import Ended

__all__ = ["ended", "folder", "template"]


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_sessions()


@pytest.fixture
def node(template: Path, tmp_path: Path) -> Node:
    return Node.open(Path(shutil.copytree(template, tmp_path / "H1")))


def test_two_histories_of_one_size_do_not_both_get_the_default_quorum_of_honest_witnesses(tmp_path: Path) -> None:
    """Docs: "no entry before that size was altered ..., not even by the owner of the log with all of its keys".

    Four honest hospitals, no collusion; the coordinator relays, and shows one history to two and another to two.
    """
    logs = [trail_of(tmp_path / "a", 5, site="hub"), trail_of(tmp_path / "b", 0, site="hub")]
    fill(tmp_path / "b", 5, "what never happened")
    logs[1].checkpoint()
    keys = [signer(f"H{number}").witness_key for number in range(1, 5)]
    holds, needed = 0, Quorum(tuple(keys)).of(logs[0].origin)
    for side, trail in enumerate(logs):
        for number in (1 + 2 * side, 2 + 2 * side):
            own = signer(f"H{number}")
            line = Witness(tmp_path / own.name / "w", own, {trail.origin: signer("hub").log_key}).submit(
                0, (), trail.at(5).raw
            )
            trail.add_cosignature(5, line, own.witness_key)
        try:
            verify.verify(tmp_path / "ab"[side] / "log.jsonl", trail.at(5).raw, signer("hub").log_key, keys, needed)
            holds += 1
        except NotVerifiedError:
            pass
    assert holds <= 1, "both histories verify with the default quorum, and every witness was honest"


@pytest.mark.parametrize("how", ["drop last", "drop first", "drop middle", "delete"])
def test_a_round_that_was_taken_out_of_the_lineage_is_missed(node: Node, how: str) -> None:
    """Exit codes: the lineage "is there and ... does not verify" is 9; consent.md: one durable line a round.

    The audit log has every round that was trained. An administrator takes a round from the lineage, so that the
    answer to a patient (GDPR Art. 15) no longer has it.
    """
    path = node.folder / "rights" / "rounds.jsonl"
    lines = lineage_lines(node)
    assert len(lines) == 3
    assert [trace.part.round for trace in Lineage(node).of(PATIENT)] == [1, 2, 3]
    if how != "delete":
        del lines[{"drop last": 2, "drop first": 0, "drop middle": 1}[how]]
    path.write_bytes(b"".join(lines))
    if how == "delete":
        path.unlink()
    try:
        found = report(node, PATIENT)
    except RecordError:
        return
    said = json.dumps(found.body) + "\n".join(found.lines)
    rounds = [one["round"] for one in found.body["rounds"]]
    assert rounds == [1, 2, 3] or "does not verify" in said, (
        f"the report has the rounds {rounds} of [1, 2, 3], and says nothing of what is missing"
    )


def lineage_lines(node: Node) -> list[bytes]:
    return (node.folder / "rights" / "rounds.jsonl").read_bytes().splitlines(keepends=True)


def test_a_set_of_patients_that_was_altered_is_found_out(node: Node) -> None:
    """Docs: `sets/` is named by what is in it."""
    for path in (node.folder / "rights" / "sets").rglob("*"):
        raw = path.read_bytes()
        if PATIENT.encode() in raw:
            path.write_bytes(raw.replace(PATIENT.encode(), b"PATIENT-H1-9"))
    with pytest.raises(RecordError):
        report(node, PATIENT)


def test_a_status_that_is_there_twice_is_no_permit(tmp_path: Path) -> None:
    text = json.dumps(consent(status="inactive"))[:-1] + ', "status": "active"}'
    try:
        rows = read(tmp_path, text)
    except UsageError:
        return
    assert [row.decision.choice for row in rows] != [Choice.GIVEN]


def test_a_provision_that_is_there_twice_is_no_permit(tmp_path: Path) -> None:
    text = json.dumps(consent(provision={"type": "deny"}))[:-1] + ', "provision": {"type": "permit"}}'
    try:
        rows = read(tmp_path, text)
    except UsageError:
        return
    assert [row.decision.choice for row in rows] != [Choice.GIVEN]


@pytest.mark.parametrize(
    "changes",
    [
        {"modifierExtension": [{"url": "urn:not", "valueBoolean": True}]},
        {"implicitRules": "urn:rules"},
        {"_status": {"extension": [{"url": "urn:x", "valueCode": "unknown"}]}},
    ],
    ids=["modifierExtension", "implicitRules", "_status"],
)
def test_a_permit_that_is_modified_is_not_taken_for_a_plain_one(tmp_path: Path, changes: dict[str, Any]) -> None:
    """FHIR R4, 2.4.1: who does not understand a modifier must not process the resource as if it were not there."""
    with pytest.raises(UsageError):
        fhir(tmp_path, consent(**changes))


def test_an_import_says_of_how_many_nobody_is_here(tmp_path: Path) -> None:
    """A withdrawal under a number that the archive writes otherwise (7 for 007) must not look done: it found nobody."""
    folder = tmp_path / "node"
    toy.make_node(folder, "H1", apps.RULES)
    path = tmp_path / "c.csv"
    path.write_text(HEAD + "0000815,withdrawn,,2026-01-02,,\n")
    known = call("consent", "import", folder, path)
    assert known.exit_code == 0
    said = known.output.lower()
    assert "nobody" in said or "not in" in said or "0 of" in said or "no patient" in said or "not here" in said, said


@pytest.mark.parametrize("least", [3, 5])
def test_no_suppressed_number_can_be_computed_from_what_is_shown(least: int) -> None:
    """Docs: suppressed, "and so is a total that would give one of them away"."""
    given_away = []
    for numbers in itertools.product(range(least + 2), repeat=3):
        shown, whole = split(dict(zip("abc", numbers, strict=True)), least)
        found = readings(shown, whole, least, 10**6)
        for place, (_, text) in enumerate(sorted(shown.items())):
            if not text.isdigit() and len({one[place] for one in found}) == 1:
                given_away.append((numbers, shown, whole))
    assert not given_away, f"{len(given_away)} of them, such as {given_away[0]}"


def readings(parts: dict[str, str], whole: str, least: int, top: int) -> list[tuple[int, ...]]:
    """All numbers that fit what is shown; whoever knows the rule can count these out."""
    ranges = [range(1, least) if not text.isdigit() else (int(text),) for text in parts.values()]
    return [
        found
        for found in itertools.product(*ranges)
        if not whole.isdigit() or sum(found) == int(whole)
        if sum(found) <= top
    ]


def test_a_discovery_after_awareness_or_to_come_puts_no_clock_off(tmp_path: Path) -> None:
    """Who is aware has discovered: a later "discovered" would gain time."""
    incidents = Incidents(party(tmp_path / "n"))
    aware = datetime(2026, 3, 1, tzinfo=UTC)
    try:
        one = incidents.open(who="DPO", aware=aware, discovered=aware + timedelta(days=200), affected={"H1": 12})
    except UsageError:
        return
    last = {duty.id: duty.due for duty in one.duties}["HIPAA-164.404-individuals"]
    assert last is not None
    assert last <= aware + timedelta(days=60)


@pytest.mark.parametrize("charter", ["", " ", "0" * 31, "ab"])
def test_a_charter_that_is_too_short_to_compare_is_no_comparison_that_held(
    ended: Ended, folder: Path, charter: str
) -> None:
    """Docs: --charter SHA256 is "the one that you were told"; an empty shell variable told nothing."""
    given_ = ended.charter.sha256[: len(charter)] if charter.strip("0ab") == "" and charter else charter
    done = CliRunner().invoke(model_app, ["verify", str(folder), "--charter", given_])
    assert done.exception is not None, "exit 0 although --charter was given and nothing was compared"


def test_who_was_tested_on_is_not_trained_on_though_lineage_and_index_were_changed(tmp_path: Path) -> None:
    """consent.md: "a round that would train on somebody who was tested on ... is refused, whoever changed the index".

    One command more than changing the index: the lineage's file of that side is deleted. The audit log still has the
    evaluation.
    """
    home = toy.make_node(tmp_path / "H1", "H1", apps.RULES)
    asked = EvaluateRequest(apps.header(), apps.LAYOUT.sha256, apps.MODEL)
    assert kind_of(apps.send(home, asked.to_record(), "evaluate")) == "evaluate.reply"
    close_sessions()
    shutil.rmtree(home / "rights")
    index = home / "cohort" / "index.json"
    index.write_text(index.read_text().replace("held_out", "train"))
    assert kind_of(apps.train(home)) != TrainReply.kind


DEEP = '{"resourceType":"Consent","x":' + "[" * 60_000 + "]" * 60_000 + "}"
HOSTILE = {
    "deep": DEEP,
    "deep bundle": '{"resourceType":"Bundle","entry":' + "[" * 60_000,
    "year 9999": json.dumps(consent(dateTime="9999-12-31T23:59:59-12:00")),
    "year 1": json.dumps(consent(dateTime="0001-01-01T00:00:00+14:00")),
    "period of year 9999": json.dumps(
        consent(provision={"type": "permit", "period": {"end": "9999-12-31T23:59:59-12:00"}})
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_file_of_consents_that_is_hostile_is_wrong_use_and_no_traceback(tmp_path: Path, what: str) -> None:
    """Docs: "names the lines that are wrong"; exit 2."""
    try:
        read(tmp_path, HOSTILE[what])
    except UsageError as error:
        assert "\n" not in error.message


def test_a_line_whose_columns_are_off_by_one_is_not_quoted(tmp_path: Path) -> None:
    """Docs: "names the lines that are wrong without quoting a Patient ID"."""
    with pytest.raises(UsageError) as caught:
        read(tmp_path, HEAD + f"1,given,,2026-01-02,,{SECRET}\n")
    assert SECRET not in caught.value.message


@pytest.mark.parametrize("door", ["csv", "command", "rectify"])
def test_who_was_erased_is_not_written_down_again(tmp_path: Path, door: str) -> None:
    """Docs: what stays of an erased patient is a keyed digest. The archive's old export of consents comes again."""
    node = Node.open(toy.make_node(tmp_path / "H1", "H1", apps.RULES))
    who = pseudonym_of(node, "815")
    index = node.folder / "cohort" / "index.json"
    index.write_text(index.read_text().replace(PATIENT, who))
    assert erase(node, who, who="Ada") is not None
    assert not [name for name, raw in files(node.folder).items() if who.encode() in raw]
    try:
        if door == "csv":
            path = tmp_path / "c.csv"
            path.write_text(HEAD + "815,withdrawn,,2026-01-02,,\n")
            call("consent", "import", node.folder, path)
        elif door == "command":
            withdraw(node, who)
        else:
            rectify(node, who, who="Ada")
    except FedwardError:
        pass
    left = [name for name, raw in files(node.folder).items() if who.encode() in raw]
    assert not left, f"his pseudonym stands again in {left}"


def test_a_manifest_of_any_content_is_told_and_no_traceback(node: Node) -> None:
    """Exit codes: what is there and damaged is 4 or 9, never a traceback."""
    path = node.folder / "rights" / "manifest.json"
    path.write_bytes(b'{"a":' * 60_000 + b"1" + b"}" * 60_000)
    done = CliRunner().invoke(app, ["dataset", "show", str(node.folder), "--json"])
    assert done.exception is None or isinstance(done.exception, FedwardError), repr(done.exception)


def test_an_incident_that_the_log_never_heard_of_is_none(tmp_path: Path) -> None:
    """controls.md: each line "is named in the audit log, by number and hash, before it is written"."""
    incidents = Incidents(party(tmp_path / "n"))
    one = incidents.open(who="DPO", aware=datetime(2026, 3, 1, tzinfo=UTC), affected={"H1": 12})
    path = tmp_path / "n" / "incidents" / f"{one.id}.jsonl"
    path.with_name("INC-20260301-000000.jsonl").write_bytes(path.read_bytes())
    with pytest.raises(RecordError):
        incidents.all()


def test_an_awareness_of_the_year_one_is_wrong_use(tmp_path: Path) -> None:
    """Exit codes: 2, one line; not a traceback."""
    home = toy.make_node(tmp_path / "H1", "H1", apps.RULES)
    words = ["incident", "open", str(home), "--who", "DPO", "--aware", "0001-01-01T00:00:00+14:00"]
    done = CliRunner().invoke(compliance_app, words)
    assert isinstance(done.exception, (UsageError, SystemExit)), repr(done.exception)


def test_a_lineage_that_was_taken_out_does_not_let_a_run_go_on_after_an_erasure(tmp_path: Path) -> None:
    """consent.md: after an erasure, `stop` "refuses further rounds of those runs" that he could be drawn in."""
    home = toy.make_node(tmp_path / "H1", "H1", apps.RULES)
    (home / "policy.toml").write_text('[erasure]\nafter = "stop"\n')
    assert kind_of(apps.train(home)) == TrainReply.kind
    close_sessions()
    (home / "rights" / "rounds.jsonl").write_bytes(b"")
    with contextlib.suppress(RecordError):
        done = erase(Node.open(home), PATIENT, who="Ada")
        assert done is not None
        assert done.aftermath.runs == ("run-1",), "the log has the round, and the run goes on"
