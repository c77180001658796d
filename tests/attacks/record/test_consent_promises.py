"""Hostile consents, and patients who were erased or withdrew and come in again by another door (docs/consent.md)."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from client.app import close_sessions
from client.cli import app
from client.consent import Choice
from client.consent_file import read_consents
from client.consenting import withdraw
from client.eligible import eligible
from client.node import Node
from client.records import pseudonym_of
from client.rights import erase
from shared.errors import FedwardError, RecordError, UsageError
from tests.client import test_app as apps
from tests.client.test_consent_file import consent
from tests.federation import toy

TODAY = date(2026, 6, 15)
HEAD = "patient_id,decision,purpose,date,until,basis\n"
SECRET = "ZZ-4711-KELLER"


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_sessions()


def read(tmp_path: Path, text: str | bytes, **options: Any) -> list[Any]:
    path = tmp_path / "consents"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return read_consents(path, purpose="research", today=TODAY, **options)


def fhir(tmp_path: Path, *resources: Any, **options: Any) -> list[Any]:
    return read(tmp_path, "\n".join(json.dumps(one) for one in resources), **options)


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in words])


# --- hostile files ---------------------------------------------------------------------------------------------------

HOSTILE = {
    "nul": HEAD.encode() + b"1\x00,given,,2026-01-02,,\n",
    "utf-16": (HEAD + "1,given,,2026-01-02,,\n").encode("utf-16"),
    "utf-16 without a mark": (HEAD + "1,given,,2026-01-02,,\n").encode("utf-16-le"),
    "latin-1": HEAD.encode() + "Müller,given,,2026-01-02,,\n".encode("latin-1"),
    "surrogate": HEAD.encode() + b"\xed\xa0\x80,given,,2026-01-02,,\n",
    "huge field": (HEAD + "1" * 3_000_000 + ",given,,2026-01-02,,\n").encode(),
    "huge purpose": (HEAD + "1,given," + "p|" * 500_000 + "p,2026-01-02,,\n").encode(),
    "open quote": (HEAD + '1,"given,,2026-01-02,,\n' + "2,given,,2026-01-02,,\n" * 3).encode(),
    "no line": b"\n\n\n",
    "wide digits": (HEAD + "1,given,,２０２６-01-02,,\n").encode(),
    "week date": (HEAD + "1,given,,2026-W01-1,,\n").encode(),
    "year zero": (HEAD + "1,given,,0000-01-02,,\n").encode(),
    "31 june": (HEAD + "1,given,,2026-06-31,,\n").encode(),
    "no leap year": (HEAD + "1,given,,2026-02-29,,\n").encode(),
    "with a time": (HEAD + "1,given,,2026-01-02T00:00:00Z,,\n").encode(),
    "digits": ('{"resourceType":"Consent","n":' + "9" * 6_000 + "}").encode(),
    "list": json.dumps([consent()]).encode(),
    "null": b"null",
    "surrogate json": b'{"resourceType":"Consent","status":"\\ud800"}',
    "patient is a list": json.dumps(consent(patient=["7"])).encode(),
    "status is a list": json.dumps(consent(status=["active"])).encode(),
    "provision is a list": json.dumps(consent(provision=[{"type": "permit"}])).encode(),
    "scope is text": json.dumps(consent(scope="research")).encode(),
    "scope is null": json.dumps(consent(scope=None)).encode(),
    "a value is a number": json.dumps(consent(patient={"identifier": {"value": 7}})).encode(),
    "period that ends before it begins": json.dumps(
        consent(provision={"type": "permit", "period": {"start": "2026-12-31", "end": "2026-01-01"}})
    ).encode(),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_wrong_use_in_one_line_or_a_decision_that_stands_in_it(tmp_path: Path, what: str) -> None:
    """Docs: "takes all lines or none, and names the lines that are wrong"; exit 2."""
    try:
        rows = read(tmp_path, HOSTILE[what])
    except UsageError as error:
        assert "\n" not in error.message
        assert len(error.message) < 2_000
        assert error.message.isprintable()
        return
    allowed = [row for row in rows if row.decision.choice is Choice.GIVEN]
    assert not allowed, rows


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("a file without a line of names", f"{SECRET},given,research,2026-01-02,,\n"),
        ("columns in another order", HEAD + f"given,{SECRET},,2026-01-02,,\n"),
        ("one column off", HEAD + f"x,given,,{SECRET},,\n"),
        ("in until", HEAD + f"1,given,,2026-01-02,{SECRET},\n"),
        ("too many fields", HEAD + f"1,given,,2026-01-02,,,{SECRET}\n"),
        ("semicolons", HEAD + f"{SECRET};given;;2026-01-02;;\n"),
        ("a heading that is a name", f"patient_id,decision,date,{SECRET}\n1,given,2026-01-02,x\n"),
        ("twice", HEAD + f"{SECRET},given,,2026-01-02,,\n{SECRET},refused,research,2026-01-02,,\n"),
        ("fhir status", json.dumps(consent(status=SECRET))),
        ("fhir reference", json.dumps(consent(patient={"reference": f"Patient/{SECRET}"}))),
        ("fhir date", json.dumps(consent(dateTime=SECRET))),
        ("fhir type", json.dumps(consent(resourceType=SECRET))),
        ("fhir id", json.dumps(consent(id=SECRET, dateTime="x"))),
        ("fhir display", json.dumps(consent(patient={"display": SECRET}))),
        ("fhir provision", json.dumps(consent(provision={"type": SECRET}))),
        ("fhir system", json.dumps(consent(patient={"identifier": [{"system": SECRET, "value": SECRET}] * 2}))),
        ("fhir nested", json.dumps(consent(provision={"type": "permit", SECRET: 1}))),
    ],
)
def test_no_message_quotes_what_may_be_a_patient_id(tmp_path: Path, where: str, text: str) -> None:
    """Docs: "names the lines that are wrong without quoting a Patient ID"; columns may be off."""
    try:
        read(tmp_path, text)
    except UsageError as error:
        assert SECRET not in error.message + str(error.hint), error.message


def test_formulas_marks_and_control_characters_in_a_patient_id_come_out_nowhere(tmp_path: Path) -> None:
    """Docs: Patient IDs become pseudonyms on the way in, and are not stored."""
    node = toy.make_node(tmp_path / "H1", "H1", apps.RULES)
    names = ["=cmd|' /C calc'!A0", "+1+1", "@SUM(A1)", "-2+3", "<script>alert(1)</script>", "\u202egnp", SECRET]
    path = tmp_path / f"{SECRET} consents.csv"
    path.write_text(HEAD + "".join(f'"{name}",withdrawn,,2026-01-02,,\n' for name in names))
    done = call("consent", "import", node, path)
    said = done.output + str(done.exception or "")
    assert done.exit_code == 0, said
    rest = b"".join(one.read_bytes() for one in node.rglob("*") if one.is_file())
    for name in names:
        assert name.encode() not in rest
        assert name not in said
    assert "calc" not in call("consent", "show", node).output


def test_all_or_none_also_where_the_last_of_many_lines_is_wrong(tmp_path: Path) -> None:
    node = toy.make_node(tmp_path / "H1", "H1", apps.RULES)
    path = tmp_path / "c.csv"
    path.write_text(
        HEAD + "".join(f"P{n},withdrawn,,2026-01-02,,\n" for n in range(500)) + "P500,perhaps,,2026-01-02,,\n"
    )
    before = sorted(one.relative_to(node) for one in node.rglob("*"))
    assert isinstance(call("consent", "import", node, path).exception, UsageError)
    assert sorted(one.relative_to(node) for one in node.rglob("*")) == before


# --- what a permit says and does not say -----------------------------------------------------------------------------

NARROWED: dict[str, Any] = {
    "actor": [{"role": {"text": "x"}, "reference": {"reference": "Organization/1"}}],
    "action": [{"text": "collect"}],
    "securityLabel": [{"code": "R"}],
    "purpose": [{"code": "TREAT"}],
    "class": [{"code": "x"}],
    "code": [{"text": "x"}],
    "dataPeriod": {"start": "2020-01-01", "end": "2020-02-01"},
    "data": [{"meaning": "instance", "reference": {"reference": "ImagingStudy/1"}}],
    "provision": [{"type": "deny"}],
}


@pytest.mark.parametrize("what", NARROWED)
def test_a_permit_that_something_narrows_is_an_error(tmp_path: Path, what: str) -> None:
    """Docs: "A permit that something narrows which is not read (...) is an error"."""
    with pytest.raises(UsageError):
        fhir(tmp_path, consent(provision={"type": "permit", what: NARROWED[what]}))


def test_a_consent_of_a_patient_of_another_system_is_nobodys_here(tmp_path: Path) -> None:
    """Docs: "Of several identifiers --system URI names the Patient ID"."""
    other = consent(patient={"identifier": {"system": "urn:oid:9.9.9", "value": "7"}})
    try:
        rows = fhir(tmp_path, other, system="urn:oid:1.2.3")
    except UsageError:
        return
    assert not rows, "the number of another hospital's system was taken for one of ours"


def test_of_several_identifiers_without_a_system_none_is_guessed(tmp_path: Path) -> None:
    patient = {
        "resourceType": "Patient",
        "id": "p",
        "identifier": [{"system": "urn:a", "value": "7"}, {"system": "urn:b", "value": "8"}],
    }
    with pytest.raises(UsageError):
        fhir(tmp_path, patient, consent(patient={"reference": "Patient/p"}))


@pytest.mark.parametrize(
    ("period", "day", "allowed"),
    [
        ({"end": "2026-06-14"}, TODAY, False),
        ({"end": "2026-06-15"}, TODAY, True),
        ({"end": "2026-06-15T23:00:00-05:00"}, date(2026, 6, 17), False),
        ({"end": "2026-06-15T01:00:00+05:00"}, TODAY, False),
        ({"start": "2026-06-16"}, TODAY, False),
        ({"start": "2026-06-15T23:00:00-05:00"}, TODAY, False),
        ({"end": "2026"}, date(2027, 1, 1), False),
        ({"end": "2026-06"}, date(2026, 7, 1), False),
        ({"start": "2026-07"}, TODAY, False),
    ],
)
def test_a_permit_is_for_its_period_alone(tmp_path: Path, period: dict[str, str], day: date, allowed: bool) -> None:
    try:
        (row,) = fhir(tmp_path, consent(provision={"type": "permit", "period": period}))
    except UsageError:
        assert not allowed
        return
    assert (row.decision.refuses(day) == "") is allowed


def test_deny_and_permit_of_one_day_leave_a_no(tmp_path: Path) -> None:
    """Docs: "of two on one day the stricter counts"."""
    from client.consent import Register

    for order in (1, -1):
        both = [consent(), consent(provision={"type": "deny"})][::order]
        try:
            rows = fhir(tmp_path, *both)
        except UsageError:
            continue
        register = Register().decided([("P", row.purpose, row.decision) for row in rows])
        assert register.why_not("P", "research", TODAY)


@pytest.mark.parametrize("purpose", ["research ", " research", "Research", "research\u00a0", "rese\u00adarch"])
def test_a_withdrawal_whose_purpose_differs_by_a_space_or_a_case_does_not_pass_unsaid(
    tmp_path: Path, purpose: str
) -> None:
    """Docs: purposes are "compared word for word". A no that fits no purpose of this node must be told, or be a no."""
    folder = tmp_path / "node"
    node = Node.create(folder, site="H1", purpose="research")
    toy.with_basis(folder)
    who = pseudonym_of(node, "7")
    path = tmp_path / "c.csv"
    path.write_text(HEAD + f'7,withdrawn,"{purpose}",2026-01-02,,\n')
    done = call("consent", "import", folder, path)
    if isinstance(done.exception, UsageError):
        return
    assert done.exit_code == 0
    out = eligible((who,), node, log=folder / "audit" / "log.jsonl") == ()
    assert out or "purpose" in done.output.lower(), f"taken in silence, and he is trained on: {done.output!r}"


@pytest.mark.parametrize("number", ["7 ", " 7", "7\u00a0"])
def test_a_patient_id_with_a_space_is_the_same_patient(tmp_path: Path, number: str) -> None:
    """DICOM PS3.5 6.2 (LO): spaces at the end and at the front are not significant. A withdrawal must find him."""
    node = Node.create(tmp_path / "node", site="H1", purpose="research")
    if number.strip(" ") == "7":
        assert pseudonym_of(node, number) == pseudonym_of(node, "7")
    path = tmp_path / "c.csv"
    path.write_text(HEAD + f'"{number}",withdrawn,,2026-01-02,,\n')
    rows = read_consents(path, purpose="research", today=TODAY)
    if number.strip(" ") == "7":
        assert pseudonym_of(node, rows[0].patient_id) == pseudonym_of(node, "7")


def test_the_last_day_in_utc_and_not_in_the_local_zone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docs: "Days are UTC, and the last day is included to its end"."""
    import time

    from client.eligible import today

    for zone in ("Pacific/Kiritimati", "Etc/GMT+12"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert today() == datetime.now(UTC).date()
    monkeypatch.undo()
    time.tzset()


# --- who comes in again ----------------------------------------------------------------------------------------------

PATIENT = "PATIENT-H1-1"


def files(folder: Path) -> dict[str, bytes]:
    return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node.open(toy.make_node(tmp_path / "H1", "H1", apps.RULES))


@pytest.mark.parametrize("door", ["restrict", "report", "show"])
def test_who_was_erased_is_not_written_down_again_by_whatever_is_asked_about_him(
    node: Node, tmp_path: Path, door: str
) -> None:
    """Docs: what stays of an erased patient is a keyed digest; and the archive's old export of consents comes again."""
    who = pseudonym_of(node, "815")
    index = node.folder / "cohort" / "index.json"
    index.write_text(index.read_text().replace(PATIENT, who))
    withdraw(node, who)
    assert erase(node, who, who="Ada") is not None
    assert not [name for name, raw in files(node.folder).items() if who.encode() in raw]
    if door == "restrict":
        call("subject", "restrict", node.folder, "815", "--who", "Ada")
        call("subject", "restrict", node.folder, "815", "--who", "Ada", "--lift")
    elif door == "report":
        call("subject", "report", node.folder, "815")
    else:
        call("consent", "show", node.folder, "815")
    assert eligible((who,), node, log=node.folder / "audit" / "log.jsonl") == ()
    left = [name for name, raw in files(node.folder).items() if who.encode() in raw]
    assert not left, f"his pseudonym stands again in {left}"


def test_an_index_that_names_an_erased_patient_again_lets_nobody_train_on_him(node: Node) -> None:
    """Docs: "He takes no part from the first durable step on", whatever the cohort's index says."""
    index = node.folder / "cohort" / "index.json"
    kept = index.read_bytes()
    images = node.folder / "cohort" / "images"
    shutil.copytree(images, node.folder.parent / "kept")
    erase(node, PATIENT, who="Ada")
    index.write_bytes(kept)
    shutil.rmtree(images)
    shutil.copytree(node.folder.parent / "kept", images)
    from tests.client.opened import opened

    with opened() as seen, contextlib.suppress(FedwardError):
        apps.train(node.folder)
    assert "H1-1.safetensors" not in {Path(name).name for name in seen}


def test_a_future_or_ancient_day_on_the_command_line_is_no_way_around_a_withdrawal(node: Node) -> None:
    """A withdrawal of today, then a consent dated tomorrow: refused; one dated yesterday: an older decision."""
    day = datetime.now(UTC).date()
    who = pseudonym_of(node, "7")
    withdraw(node, who)
    for given in (day, day - timedelta(days=1), day + timedelta(days=1)):
        path = node.folder.parent / "c.csv"
        path.write_text(HEAD + f"7,given,{toy.PURPOSE},{given},,\n")
        call("consent", "import", node.folder, path)
        assert eligible((who,), node, log=node.folder / "audit" / "log.jsonl") == ()


def test_a_withdrawal_that_cannot_be_recorded_is_refused_and_told(node: Node) -> None:
    log = node.folder / "audit" / "log.jsonl"
    withdraw(node, PATIENT)
    log.write_bytes(log.read_bytes().replace(b'"started"', b'"starved"', 1))
    with pytest.raises(RecordError):
        withdraw(node, "PATIENT-H1-2")
