"""DICOM audit messages against the schema of PS3.15 A.5.1.1."""

import base64
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from lxml import etree

from compliance.export.dicom import message
from compliance.export.events import EVENTS
from compliance.log import Action
from tests.compliance.exports import NOTE, ROWS, export, filled, named, record, records

SCHEMA = etree.RelaxNG.from_rnc_string(
    (Path(__file__).parent / "data" / "audit-message.rnc").read_text(encoding="utf-8")
)


def checked(data: bytes) -> etree._Element:
    root = etree.fromstring(data)
    SCHEMA.assertValid(root)
    return root


def objects(root: etree._Element) -> dict[str, etree._Element]:
    return {
        one.find("ParticipantObjectIDTypeCode").get("csd-code"): one
        for one in root.findall("ParticipantObjectIdentification")
    }


def details(one: etree._Element) -> dict[str, str]:
    pairs = one.findall("ParticipantObjectDetail")
    return {pair.get("type"): base64.b64decode(pair.get("value")).decode() for pair in pairs}


@pytest.mark.parametrize(
    "broken",
    [
        b"<AuditMessage/>",
        b"<AuditMessage><EventIdentification/></AuditMessage>",
    ],
)
def test_the_schema_refuses_what_is_no_audit_message(broken: bytes) -> None:
    assert not SCHEMA.validate(etree.fromstring(broken))


@pytest.mark.parametrize("name", ["EventDateTime", "EventOutcomeIndicator"])
def test_the_schema_refuses_a_message_without_what_is_mandatory(tmp_path: Path, name: str) -> None:
    root = etree.fromstring(message(records(filled(tmp_path, actions=(Action.TRAIN,)))[0]))
    del root.find("EventIdentification").attrib[name]
    assert not SCHEMA.validate(root)


@pytest.mark.control("HIPAA-164.312-b-export")
@pytest.mark.parametrize("action", Action)
def test_every_act_in_every_outcome_is_a_valid_message(tmp_path: Path, action: Action) -> None:
    found = [checked(message(record, NOTE)) for record in records(filled(tmp_path, actions=(action,)))]
    events = [one.find("EventIdentification") for one in found]
    assert [one.get("EventOutcomeIndicator") for one in events] == ["0", "0", "8", "4", "0"]
    assert {one.findall("EventTypeCode")[-1].get("csd-code") for one in events} == {action.value}


@pytest.mark.parametrize("name", [*EVENTS, "moon.landing"])
def test_every_name_of_the_table_makes_a_valid_message(name: str) -> None:
    event = checked(message(named(name))).find("EventIdentification")
    assert event.findall("EventTypeCode")[-1].get("csd-code") == name


def test_a_message_says_who_when_and_where_it_stands_in_the_log(tmp_path: Path) -> None:
    entry = records(filled(tmp_path, actions=(Action.TRAIN,)))[0]
    root = checked(message(entry, NOTE))
    assert root.find("EventIdentification").get("EventDateTime") == entry.stamp
    assert [one.get("UserID") for one in root.findall("ActiveParticipant")] == ["fedward", "H1"]
    assert [one.get("UserIsRequestor") for one in root.findall("ActiveParticipant")] == ["true", "false"]
    assert root.find("AuditSourceIdentification").get("AuditEnterpriseSiteID") == "H1"
    found = objects(root)
    assert found["leaf-hash"].get("ParticipantObjectID") == entry.leaf
    facts = details(found["leaf-hash"])
    assert (facts["leaf-index"], facts["checkpoint"], facts["purpose"]) == ("0", NOTE, "research on enhancement")
    assert facts["detail.why"] == 'a <b> & "c"'
    assert found["run"].get("ParticipantObjectID") == "run-0"
    assert entry.subject is not None
    assert found["keyed-digest"].get("ParticipantObjectID") == entry.subject[1]
    assert found["keyed-digest"].get("ParticipantObjectDataLifeCycle") == "6"


def test_a_security_alert_describes_itself(tmp_path: Path) -> None:
    """PS3.15 A.5.3.11."""
    entry = records(filled(tmp_path, actions=(Action.REFUSAL,)))[3]
    found = objects(checked(message(entry)))
    assert details(found["110182"]) == {"Alert Description": "refusal: refused"}


def test_a_file_has_one_document_a_line(tmp_path: Path) -> None:
    log = filled(tmp_path)
    export(log, "--to", tmp_path / "out", "--format", "dicom", "--action", "train")
    lines = (tmp_path / "out").read_bytes().splitlines()
    assert len(lines) == 5
    for line in lines:
        checked(line)


@given(ROWS)
@settings(max_examples=100, deadline=None)
def test_whatever_stands_in_an_entry_the_message_is_one_valid_line(row: dict[str, Any]) -> None:
    data = message(record(row), "note\n")
    assert b"\n" not in data
    checked(data)
