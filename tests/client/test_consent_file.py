"""Consents from CSV and FHIR: read strictly, all or nothing, told by line, and never with a Patient ID on disk."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.cli import app
from client.consent import ALL, Choice
from client.consent_file import read_consents
from client.consenting import import_consents
from client.node import Node
from client.records import pseudonym_of, read_register
from shared.errors import UsageError
from tests.federation import toy

TODAY = date(2026, 6, 15)
HEAD = "patient_id,decision,purpose,date,until,basis\n"


def read(tmp_path: Path, text: str | bytes, **options: Any) -> list[Any]:
    path = tmp_path / "consents"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_consents(path, purpose="research", today=TODAY, **options)


@pytest.mark.control("GDPR-7-3-withdrawal")
def test_a_table_is_read(tmp_path: Path) -> None:
    rows = read(
        tmp_path,
        HEAD + "007,given,research|teaching,2026-01-02,2026-12-31,\n"
        '"Müller, 8",withdrawn,,2026-02-03,,\n009,Given,,2026-01-02,,"PIPL 13(1)(1), 29"\n',
    )
    assert [(one.where, one.patient_id, one.purpose, one.decision.choice) for one in rows] == [
        ("line 2", "007", "research", Choice.GIVEN),
        ("line 2", "007", "teaching", Choice.GIVEN),
        ("line 3", "Müller, 8", ALL, Choice.WITHDRAWN),
        ("line 4", "009", "research", Choice.GIVEN),
    ]
    assert rows[0].decision.until == date(2026, 12, 31)
    assert str(rows[3].decision.basis) == "PIPL 13(1)(1), 29"


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_tables_of_spreadsheets_are_read(tmp_path: Path, delimiter: str) -> None:
    text = "Patient ID,Decision,Date\r\n1,given,2026-01-02\r\n".replace(",", delimiter)
    assert read(tmp_path, b"\xef\xbb\xbf" + text.encode())[0].patient_id == "1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + "1,yes,,2026-01-02,,\n", "line 2: decision is not one of given, withdrawn, refused"),
        (HEAD + "1,given,,02.01.2026,,\n", "line 2: date is no day"),
        (HEAD + "1,given,,20260102,,\n", "line 2: date is no day"),
        (HEAD + "1,given,,2026-01-02,2025-01-01,\n", "line 2: until is before date"),
        (HEAD + "1,refused,,2026-01-02,2027-01-01,\n", "line 2: a decision that is refused has no until"),
        (HEAD + ",given,,2026-01-02,,\n", "line 2: patient_id is empty"),
        (HEAD + "1,given,,2026-01-02\n", "line 2: 4 fields, and the first line names 6"),
        (HEAD + "1,given,,2026-01-02,,consent\n", "line 2: basis is no lawful basis"),
        (HEAD + "1,given,*,2026-01-02,,\n", "line 2: a consent is for a purpose"),
        (HEAD + "1,given,,2027-01-02,,\n", "line 2: the date lies in the future"),
        (
            HEAD + "1,yes,,2026-01-02,,\n2,given,,2027-01-02,,\n,given,,2026-01-02,,\n",
            "line 2: decision is not one of given, withdrawn, refused; line 3: the date lies in the future; line 4: ",
        ),
        (HEAD + "\n1,given,,2026-01-02,,\n\n1,refused,research,2026-01-02,,\n", "line 5: says otherwise than line 3"),
        (HEAD + '1,"given,,2026-01-02,,\n', "line 2: no CSV"),
        ("patient,decision,date\n", "line 1: the column patient_id is missing"),
        ("patient_id,decision,date,colour\n", "line 1: no column colour"),
        ("patient_id,decision,date,date\n", "line 1: a column is there twice"),
        (HEAD, "holds no decision"),
        (b"\xff\xfe1\x00", "line 1: the bytes are not UTF-8"),
        (HEAD.encode() + b"1,given,,2026-01-02,,\nM\xfcller,given,,2026-01-02,,\n", "line 3: the bytes are not UTF-8"),
    ],
)
def test_what_is_wrong_is_told_by_line_and_nothing_is_taken(tmp_path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert said in caught.value.message
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_several_wrong_lines_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"line 2: .*; line 8: .* and 1 more|line 2: .*; and 1 more"):
        read(tmp_path, HEAD + "1,given,,x,,\n" * 6)


# --- FHIR -------------------------------------------------------------------------------------------------------------


def consent(number: int | str = 7, **changes: Any) -> dict[str, Any]:
    return {
        "resourceType": "Consent",
        "id": "c1",
        "status": "active",
        "scope": {
            "coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "research"}],
        },
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "patient": {"identifier": {"system": "urn:oid:1.2.3", "value": str(number)}},
        "dateTime": "2026-01-02T23:30:00-05:00",
        "policyRule": {"coding": [{"code": "OPTIN"}]},
        "provision": {"type": "permit", "period": {"start": "2026-01-01", "end": "2026-12-31"}},
    } | changes


@pytest.mark.control("GDPR-7-3-withdrawal")
def test_a_resource_a_bundle_and_ndjson_say_the_same(tmp_path: Path) -> None:
    one = consent()
    patient = {"resourceType": "Patient", "id": "p", "identifier": [{"system": "urn:oid:1.2.3", "value": "7"}]}
    by_reference = consent(patient={"reference": "Patient/p"})
    bundle = {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [{"resource": by_reference}, {"resource": patient}],
    }
    texts = [json.dumps(one, indent=1), json.dumps(bundle), f"{json.dumps(patient)}\n{json.dumps(by_reference)}\n"]
    found = [read(tmp_path, text)[0] for text in texts]
    for row in found:
        assert (row.patient_id, row.purpose, row.decision.choice) == ("7", "research", Choice.GIVEN)
        assert (row.decision.since, row.decision.until) == (date(2026, 1, 3), date(2026, 12, 31)), "UTC"


@pytest.mark.parametrize(
    ("changes", "choice"),
    [
        ({"provision": {"type": "deny"}}, Choice.REFUSED),
        ({"status": "rejected"}, Choice.REFUSED),
        ({"status": "inactive"}, Choice.WITHDRAWN),
        ({"status": "entered-in-error", "provision": None}, Choice.WITHDRAWN),
    ],
)
def test_a_no_is_a_no_for_every_purpose(tmp_path: Path, changes: dict[str, Any], choice: Choice) -> None:
    (row,) = read(tmp_path, json.dumps(consent(**changes)))
    assert (row.decision.choice, row.purpose) == (choice, ALL)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dateTime": "2026"}, "dateTime is no day"),
        ({"dateTime": ""}, "dateTime is no day"),
        ({"provision": None}, "neither permit nor deny"),
        ({"provision": {"type": "permit", "provision": [{"type": "deny"}]}}, "provision.provision narrows"),
        ({"provision": {"type": "permit", "actor": [{}]}}, "provision.actor narrows"),
        ({"provision": {"type": "permit", "class": [{"code": "x"}]}}, "provision.class narrows"),
        ({"provision": {"type": "permit", "purpose": [{"code": "HMARKT"}]}}, "provision.purpose narrows"),
        ({"provision": {"type": "permit", "action": [{"coding": [{"code": "correct"}]}]}}, "provision.action narrows"),
        ({"provision": {"type": "deny", "provision": [{"type": "permit"}]}}, "exceptions to a deny"),
        ({"patient": {"reference": "Patient/unknown"}}, "patient has no identifier here"),
        ({"status": 7}, "Consent: status"),
        ({"status": "agreed"}, "status is none that FHIR R4 has"),
    ],
)
def test_what_is_not_understood_is_told_and_nothing_is_taken(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    text = f"{json.dumps(consent(1))}\n{json.dumps(consent(2, **changes))}\n"
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert "line 2: " in caught.value.message
    assert said in caught.value.message


def test_other_scopes_and_drafts_say_nothing(tmp_path: Path) -> None:
    other = consent(2, scope={"coding": [{"code": "treatment"}]})
    text = "\n".join(json.dumps(one) for one in (consent(1), other, consent(3, status="draft")))
    assert [row.patient_id for row in read(tmp_path, text)] == ["1"]


def test_of_several_identifiers_one_is_the_patient_id(tmp_path: Path) -> None:
    many = [{"system": "a", "value": "1"}, {"system": "b", "value": "2"}]
    patient = {"resourceType": "Patient", "id": "p", "identifier": many}
    text = f"{json.dumps(patient)}\n{json.dumps(consent(patient={'reference': 'Patient/p'}))}\n"
    with pytest.raises(UsageError, match="--system"):
        read(tmp_path, text)
    assert read(tmp_path, text, system="b")[0].patient_id == "2"


# --- the command ------------------------------------------------------------------------------------------------------


def call(*words: object) -> dict[str, Any]:
    done = CliRunner().invoke(app, [str(one) for one in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.control("GDPR-7-3-withdrawal")
def test_an_import_is_recorded_and_the_same_again_changes_nothing(tmp_path: Path) -> None:
    node = Node.create(tmp_path / "node", site="H1", purpose="research")
    file = tmp_path / "consents.csv"
    file.write_text(HEAD + "4711-geheim,given,,2024-01-02,,\n0815-secret,refused,,2024-01-02,,\n")
    words = ("consent", "import", node.folder, file, "--json")
    assert call(*words, "--dry-run")["changed"] == 2
    assert read_register(node)[0].serial == 0
    first = call(*words)
    assert (first["changed"], first["stopped"], first["choices"]) == (2, 1, {"given": 1, "refused": 1})
    rows = len(toy.log_rows(node.folder))
    assert call(*words)["changed"] == 0
    assert len(toy.log_rows(node.folder)) == rows
    written = b"".join(path.read_bytes() for path in node.folder.rglob("*") if path.is_file())
    assert b"geheim" not in written
    assert b"0815-secret" not in written
    shown = call("consent", "show", node.folder, "4711-geheim", "--json")
    assert (shown["pseudonym"], shown["today"]) == (pseudonym_of(node, "4711-geheim"), "takes part")
    CliRunner().invoke(app, ["consent", "withdraw", str(node.folder), "4711-geheim"], catch_exceptions=False)
    assert call("consent", "show", node.folder, "4711-geheim", "--json")["today"] == "withdrawn"
    assert call(*words)["changed"] == 0, "an old file takes no withdrawal back"


def test_a_pseudonym_is_the_one_of_de_identification(tmp_path: Path) -> None:
    from client.deid.codec import Dataset
    from client.deid.collect import collect
    from client.deid.pseudonyms import Pseudonyms, SiteKey

    node = Node.create(tmp_path / "node", site="H1", purpose="research")
    header: Dataset = {0x00080005: ("CS", b"ISO_IR 192"), 0x00100020: ("LO", "Mu\u0308ller 8 ".encode())}
    expected = Pseudonyms(SiteKey(node.key("pseudonym"))).patient(collect(header, {}).patient)
    assert pseudonym_of(node, "M\u00fcller 8") == expected


@pytest.mark.control("GDPR-7-3-withdrawal")
@pytest.mark.parametrize("patients", [1, 7, 40])
def test_the_length_of_the_log_does_not_say_how_many_withdrew(tmp_path: Path, patients: int) -> None:
    node = Node.create(tmp_path / "node", site="H1", purpose="research")
    toy.with_basis(node.folder)
    file = tmp_path / "decisions.csv"
    for decision, day in (("given", 1), ("withdrawn", 2)):
        lines = [f"{number},{decision},,2026-01-0{day},,\n" for number in range(patients)]
        file.write_text(HEAD + "".join(lines))
        before = len(toy.log_rows(node.folder))
        found = import_consents(node, read_consents(file, purpose="research", today=date(2026, 6, 1)), file=file)
        rows = toy.log_rows(node.folder)[before:]
        assert found.changed == patients
        assert [(row["action"], row["outcome"]) for row in rows] == [
            ("consent.import", "started"),
            ("consent.import", "ok"),
        ]
        assert set(rows[0]["detail"]) == {"file", "decisions", "records_before", "records"}
        assert all(row["subject"] is None for row in rows)
