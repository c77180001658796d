"""The evidence report: each figure with its file, nothing invented, what does not verify said first."""

import json
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from pathlib import Path
from urllib.parse import quote

import pytest
from typer.testing import CliRunner

from compliance.compliance_cli import app
from compliance.endorse import vouched
from compliance.evidence import Evidence, gather
from compliance.evidence_page import render, write_matrix, write_report
from compliance.incident import Incidents
from compliance.log import Action, AuditLog, Entry, Outcome
from compliance.matrix import Matrix, matrix
from compliance.party import Facts, Figure, Kind, Party, Table, Topic, party_in
from compliance.place import Place
from compliance.shown import KNOWN
from shared.errors import RecordError, UsageError
from shared.files import private_folder
from tests.browser import LOW_CONTRAST, WIDE, check_page, chromium
from tests.compliance import members

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>\u202e"


def facts(name: str = "H1") -> Facts:
    return Facts(
        figures={
            Topic.PROCESSING: [
                Figure("Controller", name, "node.json: site"),
                Figure("Contact", None, "no file"),
                Figure("Purpose", HOSTILE, "node.json: purpose"),
            ],
            Topic.PRIVACY: [Figure("Patients", "suppressed (fewer than 10)", "cohort/index.json")],
        },
        tables={
            Topic.LINEAGE: [
                Table("Models", ("Run", "Weights"), (("r1", "ab" * 32), ("r2", None)), "runs/", frozenset({1}))
            ]
        },
    )


def party(folder: Path, name: str = "H1", says: Callable[[], Facts] | None = None) -> Party:
    path = folder / "audit" / "log.jsonl"
    return Party(
        folder=folder,
        kind=Kind.HOSPITAL,
        name=name,
        logs=(path,),
        open_log=lambda: AuditLog(path, site=name, subject_key=b"k" * 32),
        facts=says or (lambda: facts(name)),
        knows_pseudonyms=True,
    )


@pytest.fixture
def own(tmp_path: Path) -> Party:
    made = party(tmp_path / "node")
    with made.open_log() as log:
        log.append(Entry(Action.INGEST, Outcome.STARTED))
        log.append(Entry(Action.INGEST, Outcome.OK))
    return made


@pytest.fixture(scope="module")
def controls() -> Matrix:
    return matrix()


def chapter(found: Evidence) -> str:
    return render(found).split('<section id="processing"')[1].split("</section>")[0]


@pytest.mark.control("GDPR-30-record")
def test_each_figure_stands_with_its_file_and_what_is_not_known_is_said(own: Party, controls: Matrix) -> None:
    found = gather(own, controls, now=NOW)
    text = chapter(found)
    for part in ("Controller", "H1", "node.json: site", "not recorded"):
        assert part in text
    told = found.to_json()
    assert told["chapters"][0]["topics"]["processing"]["figures"][1] == {
        "what": "Contact",
        "value": None,
        "source": "no file",
    }
    assert told["logs"][0]["entries"] == 2
    assert json.loads(json.dumps(told)) == json.loads(json.dumps(told, sort_keys=True))
    found.require_verified()


def test_it_declares_nothing(own: Party, controls: Matrix) -> None:
    text = re.sub(r"<[^>]+>", " ", render(gather(own, controls, now=NOW)))
    for found in re.finditer(r"[^.;]*\b(compliant|anonymous)\b[^.;]*", text):
        assert re.search(r"nothing compliant|no model anonymous|makes no model anonymous", found[0]), found[0]


def test_text_from_files_stays_text(own: Party, controls: Matrix) -> None:
    text = render(gather(own, controls, now=NOW))
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "\u202e" not in text
    assert "http://" not in text
    assert "https://" not in text


def test_small_numbers_of_people_in_an_incident_are_suppressed(own: Party, controls: Matrix) -> None:
    Incidents(own).open(who="DPO", aware=datetime(2026, 1, 1, tzinfo=UTC), affected={"H1": 7})
    Incidents(own).open(who="DPO", aware=datetime(2026, 1, 1, tzinfo=UTC), affected={"H1": 70})
    found = gather(own, controls, now=NOW)
    assert sorted(one.people for one in found.incidents) == ["70", "suppressed (fewer than 10)"]
    assert all(one.overdue for one in found.incidents)
    assert "overdue" in render(found).split("<nav")[0]


@pytest.mark.control("GDPR-30-record")
def test_a_log_that_was_altered_is_the_first_thing_that_is_said(own: Party, controls: Matrix) -> None:
    path = own.logs[0]
    path.write_bytes(path.read_bytes().replace(b'"ingest"', b'"review"', 1))
    found = gather(own, controls, now=NOW)
    assert "does not verify" in render(found).split("<nav")[0]
    assert str(own.folder) not in render(found)
    with pytest.raises(RecordError):
        found.require_verified()


def test_a_ledger_that_does_not_verify_keeps_no_other_fact_from_being_said(tmp_path: Path, controls: Matrix) -> None:
    def damaged() -> Facts:
        raise RecordError(f"the privacy ledger {tmp_path}/node/privacy/ledger.jsonl was altered", hint="restore it")

    made = party(tmp_path / "node", says=damaged)
    with made.open_log() as log:
        log.append(Entry(Action.INGEST, Outcome.OK))
    found = gather(made, controls, now=NOW)
    assert found.faults == ("H1: the privacy ledger privacy/ledger.jsonl was altered",)
    assert found.logs[0].entries == 1


def test_a_log_that_is_missing_is_a_fault(tmp_path: Path, controls: Matrix) -> None:
    (tmp_path / "node").mkdir()
    assert "there is none" in gather(party(tmp_path / "node"), controls, now=NOW).faults[0]


def federated(home: Path, *witnesses: str, ago: Sequence[int] = ()) -> tuple[Party, dict[str, Place]]:
    """H1 as a party whose newest checkpoint these sites cosigned, so many minutes ago."""
    places = {site: members.node(home, site) for site in ("H1", "H2", "H3", "H4")}
    own, charter = places["H1"], members.charter_of(list(places.values()))
    made = replace(party(own.folder), vouch=lambda found: vouched(charter, found))
    with made.open_log() as log:
        log.append_many([Entry(Action.ROUND, Outcome.OK, round=number) for number in range(3)])
    private_folder(own.audit / KNOWN)
    for one in (places["H2"], places["H3"], places["H4"]):
        one.endorsement.save(own.audit / KNOWN / f"{quote(one.endorsement.origin, safe='')}.json")
    signed = own.trail.checkpoint()
    for site, minutes in zip_longest(witnesses, ago, fillvalue=0):
        signer = places[str(site)].signer
        line = signer.cosign(signed.note.text, NOW - timedelta(minutes=int(minutes)))
        own.trail.add_cosignature(signed.size, line, signer.witness_key)
    return made, places


@pytest.mark.control("HIPAA-164.312-c-witnessed")
@pytest.mark.parametrize(
    ("ago", "witnessed"), [((50, 20, 5), 20), ((50, 20, -9_999_999), 20), ((9_999_999, 50, 20), 50), ((7, -99), None)]
)
def test_a_checkpoint_is_witnessed_from_the_moment_of_the_last_cosignature_that_was_needed(
    tmp_path: Path, controls: Matrix, ago: Sequence[int], witnessed: int | None
) -> None:
    """No clock alone says when: neither one that is far ahead nor one that is far behind."""
    made, _ = federated(tmp_path, *("H2", "H3", "H4")[: len(ago)], ago=ago)
    (log,) = gather(replace(made, needed=lambda: 2), controls, now=NOW).logs
    at = "" if witnessed is None else f"{NOW - timedelta(minutes=witnessed):%Y-%m-%d %H:%M} UTC"
    assert (log.when, log.witnessed, log.needed) == (at, None if witnessed is None else 3, 2)


def test_too_few_cosignatures_are_told_and_witness_nothing(tmp_path: Path, controls: Matrix) -> None:
    made, _ = federated(tmp_path, "H2")
    found = gather(made, controls, now=NOW)
    assert (found.logs[0].cosigned, found.logs[0].needed, found.logs[0].witnessed) == (("H2",), 2, None)
    assert "H2<small>2 are needed</small>" in render(found)


@pytest.mark.control("GDPR-30-record", "HIPAA-164.312-c-witnessed")
def test_a_checkpoint_is_verified_and_told_with_who_has_cosigned_it(tmp_path: Path, controls: Matrix) -> None:
    made, places = federated(tmp_path, "H2", "H3")
    found = gather(made, controls, now=NOW)
    found.require_verified()
    (log,) = found.logs
    assert (log.entries, log.published, log.witnessed, log.cosigned) == (3, 3, 3, ("H2", "H3"))
    assert log.when == "2026-03-01 12:00 UTC"
    assert "H2, H3<small>2 of them, as many as are needed, by 2026-03-01 12:00 UTC</small>" in render(found)
    with made.open_log() as more:
        more.append(Entry(Action.ROUND, Outcome.OK, round=9))
    places["H1"].trail.checkpoint()
    found = gather(made, controls, now=NOW)
    assert (found.logs[0].published, found.logs[0].cosigned, found.logs[0].witnessed) == (4, (), 3)
    assert "an earlier one, of 3 entries, was by as many as are needed on 2026-03-01 12:00 UTC" in render(found)


def test_a_cosignature_of_somebody_whom_nobody_vouches_for_counts_for_nothing(tmp_path: Path, controls: Matrix) -> None:
    made, places = federated(tmp_path, "H2", "H3")
    for path in (places["H1"].audit / KNOWN).iterdir():
        path.unlink()
    assert gather(made, controls, now=NOW).logs[0].cosigned == ()


def test_a_checkpoint_whose_key_nobody_names_is_said_not_to_have_been_checked(tmp_path: Path, controls: Matrix) -> None:
    made, _ = federated(tmp_path, "H2", "H3")
    found = gather(replace(made, vouch=None), controls, now=NOW)
    assert (found.logs[0].published, found.logs[0].unchecked != "") == (None, True)
    assert "not checked: nothing here says whose key signed it" in render(found)


@pytest.mark.control("HIPAA-164.312-c-witnessed", "HIPAA-164.312-c-integrity")
@pytest.mark.parametrize("what", ["cut", "cosignature", "stranger"])
def test_a_log_that_is_not_the_one_that_was_signed_is_a_fault(tmp_path: Path, controls: Matrix, what: str) -> None:
    made, places = federated(tmp_path, "H2")
    audit = places["H1"].audit
    match what:
        case "cut":
            made.logs[0].write_bytes(b"".join(made.logs[0].read_bytes().splitlines(keepends=True)[:-1]))
        case "cosignature":
            path = audit / "checkpoints" / "3"
            lines = path.read_text().split("\n")
            lines[-2] = lines[-2][:-8] + ("A" if lines[-2][-8] != "A" else "B") + lines[-2][-7:]
            path.write_text("\n".join(lines))
        case _:
            strangers = members.charter_of([members.node(tmp_path / "other", "H1")])
            made = replace(made, vouch=lambda found: vouched(strangers, found))
    found = gather(made, controls, now=NOW)
    assert found.logs[0].fault, what
    assert str(made.folder) not in render(found)
    with pytest.raises(RecordError):
        found.require_verified()


@pytest.mark.control("HIPAA-164.312-c-witnessed")
def test_a_log_of_another_that_showed_two_histories_stands_on_top(tmp_path: Path, controls: Matrix) -> None:
    made, places = federated(tmp_path, "H2", "H3")
    folder, origin = places["H1"].witness_folder, places["H2"].endorsement.origin
    private_folder(folder)
    (folder / f"{quote(origin, safe='')}.split").write_text("evidence.json")
    found = gather(made, controls, now=NOW)
    assert found.faults == (f"{origin} showed two histories of its log",)
    assert "two histories" in render(found).split("<nav")[0]
    with pytest.raises(RecordError):
        found.require_verified()


def test_hospitals_of_a_simulation_stand_side_by_side(tmp_path: Path, controls: Matrix) -> None:
    parts = tuple(party(tmp_path / "sim" / name, name) for name in ("H1", "H2"))
    for one in parts:
        with one.open_log() as log:
            log.append(Entry(Action.INGEST, Outcome.OK))
    whole = replace(party(tmp_path / "sim", "simulation"), kind=Kind.SIMULATION, parts=parts, logs=())
    found = gather(whole, controls, now=NOW)
    _, both = found.shown(Topic.PROCESSING)
    assert both.name == "H1, H2"
    assert both.lines[0].values == (("", "H1, H2"),)  # whose name is the value
    assert both.lines[1].values == (("", None),)
    (table,) = found.shown(Topic.LINEAGE)[1].tables
    assert table.columns == ("Hospital", "Run", "Weights")
    assert [row[0] for row in table.rows] == ["H1", "H1", "H2", "H2"]
    assert table.wide == {2}


def test_it_is_written_for_its_owner_and_replaces_nothing_unasked(own: Party, controls: Matrix, tmp_path: Path) -> None:
    found = gather(own, controls, now=NOW)
    page = write_report(tmp_path / "out", found)
    for path in (page, page.with_suffix(".json")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="already"):
        write_report(tmp_path / "out", found)
    write_report(tmp_path / "out", found, overwrite=True)


def test_a_folder_that_nobody_knows_is_wrong_use(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError):
            party_in(folder)
        for words in (["report", str(folder), "--out", str(tmp_path / "out")], ["incident", "list", str(folder)]):
            assert isinstance(CliRunner().invoke(app, words).exception, UsageError)
    assert not (tmp_path / "out").exists()


@pytest.mark.system("chromium")
def test_it_can_be_read_in_light_dark_and_print_and_asks_nobody(controls: Matrix, tmp_path: Path) -> None:
    own, places = federated(tmp_path, "H2", "H3")
    private_folder(places["H1"].witness_folder)
    (places["H1"].witness_folder / f"{quote(places['H3'].endorsement.origin, safe='')}.split").write_text("x.json")
    Incidents(own).open(who="DPO", aware=datetime(2026, 1, 1, tzinfo=UTC), affected={"H1": 7})
    page = write_report(tmp_path / "out", gather(own, controls, now=NOW))
    write_matrix(tmp_path / "matrix.html", controls)
    with chromium() as browser:
        for width, dark in ((1280, False), (1280, True), (390, False)):
            check_page(browser, page, width=width, dark=dark)
        check_page(browser, tmp_path / "matrix.html", width=1280, dark=True)
        browser.open(page, width=680)  # what is left of A4 between its margins, at 96 pixels an inch
        browser.emulate("print")
        assert browser.evaluate(WIDE) == 0
        assert browser.evaluate(LOW_CONTRAST) == []
