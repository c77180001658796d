"""Incidents: both clocks, an append-only file, and an audit log that knows how far it had come."""

import json
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from compliance.clocks import Law, Risk, Role
from compliance.compliance_cli import app
from compliance.incident import Incidents, moment
from compliance.log import AuditLog, entries, verify
from compliance.notices import draft
from compliance.party import Facts, Kind, Party
from shared.errors import OutputError, RecordError, UsageError

AWARE = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
SECRET = "A nurse named Maria Keller lost FWABCDEFGHIJKLMNOP"


def party(folder: Path, kind: Kind = Kind.HOSPITAL) -> Party:
    path = folder / "audit" / "log.jsonl"
    return Party(
        folder=folder,
        kind=kind,
        name="H1",
        logs=(path,),
        open_log=lambda: AuditLog(path, site="H1", subject_key=b"k" * 32),
        facts=Facts,
        knows_pseudonyms=kind is Kind.HOSPITAL,
    )


@pytest.fixture
def incidents(tmp_path: Path) -> Incidents:
    return Incidents(party(tmp_path / "node"))


@pytest.mark.control("GDPR-33-breach", "HIPAA-164.404-breach", "PIPL-57-breach")
def test_one_record_starts_all_clocks(incidents: Incidents) -> None:
    one = incidents.open(who="DPO", aware=AWARE, affected={"H1": 12})
    found = {duty.id: duty.due for duty in one.pending()}
    assert found == {
        "GDPR-33-authority": AWARE + timedelta(hours=72),
        "GDPR-34-people": None,
        "HIPAA-164.404-individuals": AWARE + timedelta(days=60),
        "HIPAA-164.408-secretary": datetime(2027, 3, 1, 23, 59, 59, tzinfo=UTC),
        "PIPL-57": None,
    }
    assert [duty.id for duty in one.overdue(AWARE + timedelta(hours=73))] == ["GDPR-33-authority"]
    assert incidents.get(one.id) == one


def test_a_coordinator_is_a_processor_unless_it_says_otherwise(tmp_path: Path) -> None:
    own = Incidents(party(tmp_path / "c", Kind.COORDINATOR))
    one = own.open(who="DPO", aware=AWARE)
    assert {duty.id for duty in one.duties} == {"GDPR-33-2-controller", "HIPAA-164.410-entity", "PIPL-57"}
    assert own.open(who="DPO", aware=AWARE, role=Role.CONTROLLER).breach.role is Role.CONTROLLER


def test_more_becomes_known_and_the_newest_counts(incidents: Incidents) -> None:
    one = incidents.open(who="DPO", aware=AWARE, affected={"H1": 12}, words={"happened": "first"})
    one = incidents.update(one.id, who="DPO", affected={"H1": 700}, risk=Risk.UNLIKELY, words={"happened": "then"})
    assert one.breach.total == 700
    assert one.words == {"happened": "then"}
    ids = {duty.id: duty.source for duty in one.duties}
    assert "GDPR-34-people" not in ids
    assert ids["HIPAA-164.408-secretary"] == "45 CFR 164.408(b)"
    one = incidents.update(one.id, who="DPO", laws=[Law.GDPR])
    assert {duty.id for duty in one.duties} == {"GDPR-33-authority"}


def test_a_duty_is_settled_by_what_a_person_did_and_never_by_a_draft(incidents: Incidents) -> None:
    one = incidents.open(who="DPO", aware=AWARE, affected={"H1": 12})
    one = incidents.note(one.id, "GDPR-33-authority", "drafted", who="DPO")
    assert "GDPR-33-authority" in {duty.id for duty in one.pending()}
    one = incidents.note(one.id, "GDPR-33-authority", "sent", who="DPO", at=AWARE + timedelta(hours=80))
    one = incidents.note(one.id, "GDPR-34-people", "not due", who="DPO", why="encrypted")
    assert not {"GDPR-33-authority", "GDPR-34-people"} & {duty.id for duty in one.pending()}
    assert one.settled["GDPR-34-people"].why == "encrypted"
    one = incidents.update(one.id, who="DPO", close=True, why="done")
    assert one.closed is not None
    assert incidents.update(one.id, who="DPO", risk=Risk.HIGH).closed is None  # more became known: open again


def test_of_pseudonyms_only_keyed_digests_are_kept_and_nobody_counts_twice(
    incidents: Incidents, tmp_path: Path
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("FWAAAA\nFWBBBB\n\nFWAAAA\n")
    one = incidents.open(who="DPO", aware=AWARE, digests={"H1": incidents.digests(names)})
    assert one.breach.total == 2
    names.write_text("FWBBBB\nFWCCCC\n")
    one = incidents.update(one.id, who="DPO", digests={"H1": incidents.digests(names)})
    assert one.breach.total == 3
    assert incidents.update(one.id, who="DPO", affected={"H1": 40}).breach.total == 40
    for path in incidents.party.folder.rglob("*.jsonl"):
        assert "FWAAAA" not in path.read_text()
    names.write_text("\n")
    with pytest.raises(UsageError, match="names nobody"):
        incidents.digests(names)
    with pytest.raises(UsageError, match="knows no pseudonyms"):
        Incidents(party(tmp_path / "c", Kind.COORDINATOR)).digests(names)


def test_the_log_has_the_acts_and_no_word_of_what_happened(incidents: Incidents) -> None:
    one = incidents.open(who=SECRET, aware=AWARE, words={"happened": SECRET})
    incidents.update(one.id, who=SECRET, words={"measures": SECRET})
    incidents.note(one.id, "PIPL-57", "not due", who=SECRET, why=SECRET)
    path = incidents.party.logs[0]
    assert verify(path).entries == 6
    assert [f"{row['action']} {row['outcome']}" for row in entries(path)] == [
        f"incident.{act} {outcome}" for act in ("open", "update", "notice") for outcome in ("started", "ok")
    ]
    assert "Keller" not in path.read_text()
    assert "FWABC" not in path.read_text()


def test_files_are_for_their_owner_alone(incidents: Incidents) -> None:
    one = incidents.open(who="DPO", aware=AWARE)
    folder = incidents.party.incidents
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / f"{one.id}.jsonl").stat().st_mode) == 0o600


def _cut(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def _delete(path: Path) -> None:
    path.unlink()


def _change(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"DPO"', b'"DPX"', 1))


def _swap(path: Path) -> None:
    path.write_bytes(b"".join(reversed(path.read_bytes().splitlines(keepends=True))))


def _begin_anew(path: Path) -> None:
    first = json.loads(path.read_bytes().splitlines()[0])
    first["aware"] = "2026-03-02T09:30:00Z"
    path.write_text(json.dumps(first, separators=(",", ":"), sort_keys=True) + "\n")


@pytest.mark.control("HIPAA-164.404-breach")
@pytest.mark.parametrize("harm", [_cut, _delete, _change, _swap, _begin_anew])
def test_a_file_that_was_cut_deleted_changed_or_begun_anew_is_found_out(
    incidents: Incidents, harm: Callable[[Path], None]
) -> None:
    one = incidents.open(who="DPO", aware=AWARE)
    incidents.update(one.id, who="DPO", affected={"H1": 3})
    harm(incidents.party.incidents / f"{one.id}.jsonl")
    with pytest.raises(RecordError):
        incidents.all()
    with pytest.raises(RecordError):
        incidents.update(one.id, who="DPO", affected={"H1": 4})


def test_what_cannot_be_recorded_is_not_written(incidents: Incidents, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> str:
        raise RecordError("cannot write the audit log", hint="free some space")

    monkeypatch.setattr(AuditLog, "append", full)
    with pytest.raises(RecordError):
        incidents.open(who="DPO", aware=AWARE)
    assert not list(incidents.party.incidents.glob("INC-*"))


def test_what_cannot_be_written_does_not_count(incidents: Incidents, monkeypatch: pytest.MonkeyPatch) -> None:
    one = incidents.open(who="DPO", aware=AWARE)

    def full(*_: object, **__: object) -> None:
        raise OutputError("cannot write", hint="free some space")

    monkeypatch.setattr("compliance.incident.write_bytes", full)
    with pytest.raises(OutputError):
        incidents.update(one.id, who="DPO", affected={"H1": 3})
    assert incidents.all() == (one,)


def test_times_need_a_zone_and_lie_behind(incidents: Incidents) -> None:
    assert moment("2026-03-01T10:30:00+01:00") == AWARE
    for text in ("2026-03-01T10:30:00", "yesterday", "2026-02-30T00:00:00Z"):
        with pytest.raises(UsageError):
            moment(text)
    with pytest.raises(UsageError, match="lies ahead"):
        incidents.open(who="DPO", aware=datetime.now(UTC) + timedelta(hours=1))
    one = incidents.open(who="DPO", aware=AWARE)
    with pytest.raises(UsageError, match="before the breach was known"):
        incidents.note(one.id, "PIPL-57", "sent", who="DPO", at=AWARE - timedelta(days=1))


def test_wrong_use_is_told_and_changes_nothing(incidents: Incidents) -> None:
    one = incidents.open(who="DPO", aware=AWARE)
    for wrong in (
        lambda: incidents.update("INC-1", who="DPO", affected={"H1": 1}),
        lambda: incidents.update(one.id, who="DPO"),
        lambda: incidents.update(one.id, who="DPO", words={"mood": "bad"}),
        lambda: incidents.update(one.id, who="DPO", affected={"H 1": 1}),
        lambda: incidents.update(one.id, who="DPO", affected={"H1": -1}),
        lambda: incidents.update(one.id, who="", affected={"H1": 1}),
        lambda: incidents.update(one.id, who="DPO", risk="mild"),
        lambda: incidents.note(one.id, "GDPR-99", "sent", who="DPO"),
        lambda: incidents.note(one.id, "PIPL-57", "not due", who="DPO", why=" "),
    ):
        with pytest.raises(UsageError) as caught:
            wrong()
        assert caught.value.hint
    assert incidents.all() == (one,)


# --- drafts -----------------------------------------------------------------------------------------------------------


@pytest.mark.control("GDPR-33-breach", "HIPAA-164.404-breach", "PIPL-57-breach")
def test_drafts_have_the_contents_that_the_law_asks_for_and_gaps_where_nobody_said(tmp_path: Path) -> None:
    wanted = {
        "GDPR-33-authority": ["(a)", "(b)", "(c)", "(d)", "Approximate number of people", "Reasons for the delay"],
        "GDPR-34-people": ["plain language", "What it may mean for you", "Whom you can ask"],
        "GDPR-33-2-controller": ["Processor: H1"],
        "HIPAA-164.404-individuals": [
            "(c)(1)(A)",
            "(c)(1)(B)",
            "(c)(1)(C)",
            "(c)(1)(D)",
            "(c)(1)(E)",
            "first-class mail",
        ],
        "HIPAA-164.406-media-NY": ["prominent media serving NY", "(c)(1)(E)"],
        "HIPAA-164.408-secretary": ["Individuals affected", "164.408(b)"],
        "HIPAA-164.410-entity": ["164.410(c)(1)"],
        "PIPL-57": ["Categories", "Remedies", "Contact"],
    }
    seen: set[str] = set()
    for kind in (Kind.HOSPITAL, Kind.COORDINATOR):
        own = Incidents(party(tmp_path / kind.value, kind))
        words = {"happened": "A disk was lost & found"}
        one = own.open(who="DPO", aware=AWARE, affected={"H1": 700}, residents={"NY": 700}, words=words)
        for duty in one.duties:
            text = draft(one, duty, own.party)
            assert text.startswith("DRAFT")
            assert "nothing was sent" in text
            assert "A disk was lost & found" in text
            assert "[to be filled in:" in text
            for part in wanted[duty.id]:
                assert part in text, (duty.id, part)
            seen.add(duty.id)
    assert seen == set(wanted)


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "node"
    folder.mkdir()
    monkeypatch.setattr("compliance.party.party_in", party)
    return folder


def test_the_commands_open_update_draft_note_and_list(node: Path, tmp_path: Path) -> None:
    run = CliRunner()
    words = ["--who", "DPO", "--aware", "2026-03-01T10:30:00+01:00", "--affected", "H1=12", "--happened", "lost"]
    opened = json.loads(run.invoke(app, ["incident", "open", str(node), *words, "--json"]).output)
    name = opened["id"]
    assert opened["affected"] == {"H1": 12}
    assert {one["id"]: one["overdue"] for one in opened["duties"]}["GDPR-33-authority"] is True
    names = tmp_path / "names.txt"
    names.write_text("FWAAAA\n")
    more = ["--affected", f"H2=@{names}", "--affected", "H3=?", "--residents", "NY=3", "--risk", "high"]
    done = run.invoke(app, ["incident", "update", str(node), name, "--who", "DPO", *more])
    assert done.exit_code == 0, done.output
    assert "an unknown number of people" in done.output
    out = tmp_path / "draft.txt"
    asked = ["incident", "notice", str(node), name, "GDPR-33-authority", "--who", "DPO"]
    assert run.invoke(app, [*asked, "--out", str(out)]).exit_code == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert isinstance(run.invoke(app, [*asked, "--out", str(out)]).exception, UsageError)  # a draft replaces nothing
    assert isinstance(run.invoke(app, asked).exception, UsageError)
    assert run.invoke(app, [*asked, "--sent", "2026-03-09T10:00:00Z"]).exit_code == 0
    listed = run.invoke(app, ["incident", "list", str(node)]).output
    assert "GDPR-33-authority: sent, 2026-03-09 10:00 UTC (late)" in listed
    assert "OVERDUE since 2026-04-30 09:30 UTC" in listed


@pytest.mark.parametrize(
    "words",
    [
        ["--aware", "2026-03-01T10:30:00"],
        ["--aware", "2026-03-01T10:30:00Z", "--affected", "H1"],
        ["--aware", "2026-03-01T10:30:00Z", "--affected", "H1=many"],
        ["--aware", "2026-03-01T10:30:00Z", "--affected", "H1=@missing"],
        ["--aware", "2026-03-01T10:30:00Z", "--law", "ccpa"],
        ["--aware", "2026-03-01T10:30:00Z", "--role", "king"],
    ],
)
def test_wrong_words_are_wrong_use_and_open_nothing(node: Path, words: list[str]) -> None:
    error = CliRunner().invoke(app, ["incident", "open", str(node), "--who", "DPO", *words]).exception
    assert isinstance(error, UsageError), error
    assert not list(node.rglob("INC-*"))
