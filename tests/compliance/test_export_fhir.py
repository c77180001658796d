"""FHIR AuditEvent.

Validated with the R4B (4.3.0) models of fhir.resources 8: its R4 (4.0.1) models ended with version 6, which wants
pydantic 1. AuditEvent and Bundle have the same elements in both: R4B changed evidence, medication definitions and
subscriptions.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B.auditevent import AuditEvent
from fhir.resources.R4B.bundle import Bundle
from hypothesis import given, settings

from compliance.export.events import EVENTS
from compliance.export.fhir import resource
from compliance.log import Action
from tests.compliance.exports import NOTE, ROWS, export, filled, named, record, records


def entity(found: dict[str, Any], name: str) -> dict[str, str]:
    whole = next(one for one in found["entity"] if one.get("name") == name)
    return {one["type"]: one["valueString"] for one in whole["detail"]}


@pytest.mark.control("HIPAA-164.312-b-export")
@pytest.mark.parametrize("action", Action)
def test_every_act_in_every_outcome_is_a_valid_resource(tmp_path: Path, action: Action) -> None:
    found = [resource(record, NOTE) for record in records(filled(tmp_path, actions=(action,)))]
    for one in found:
        again = AuditEvent.model_validate_json(json.dumps(one))
        assert json.loads(again.model_dump_json(exclude_none=True)).keys() == one.keys()
    assert [one["outcome"] for one in found] == ["0", "0", "8", "4", "0"]
    assert {one["subtype"][-1]["code"] for one in found} == {action.value}


@pytest.mark.parametrize("name", [*EVENTS, "moon.landing"])
def test_every_name_of_the_table_makes_a_valid_resource(name: str) -> None:
    AuditEvent.model_validate_json(json.dumps(found := resource(named(name))))
    assert found["subtype"][-1]["code"] == name


def test_a_resource_says_who_when_why_and_where_it_stands_in_the_log(tmp_path: Path) -> None:
    entry = records(filled(tmp_path, actions=(Action.TRAIN,)))[0]
    found = resource(entry, NOTE)
    assert found["id"] == entry.leaf
    assert found["recorded"] == entry.stamp
    assert found["source"]["observer"]["identifier"]["value"] == found["source"]["site"] == "H1"
    assert [one["who"]["identifier"]["value"] for one in found["agent"]] == ["fedward", "H1"]
    assert [one["requestor"] for one in found["agent"]] == [True, False]
    assert found["purposeOfEvent"] == [{"text": "research on enhancement"}]
    details = entity(found, "Security Audit Log")
    assert (details["leaf-index"], details["leaf-hash"]) == ("0", entry.leaf)
    assert details["checkpoint"] == NOTE.strip()
    assert (details["run"], details["round"], details["detail.patients"]) == ("run-0", "0", "3")


@pytest.mark.control("HIPAA-164.312-b-export")
def test_a_patient_is_a_keyed_digest_and_never_a_reference(tmp_path: Path) -> None:
    entry = records(filled(tmp_path, actions=(Action.TRAIN,)))[0]
    patient = resource(entry)["entity"][1]
    assert entry.subject is not None
    assert patient["what"] == {"identifier": {"system": "urn:fedward:subject:patient", "value": entry.subject[1]}}
    assert (patient["type"]["code"], patient["role"]["code"], patient["lifecycle"]["code"]) == ("1", "1", "6")


def test_lines_and_a_bundle_hold_the_same_resources(tmp_path: Path) -> None:
    log = filled(tmp_path, actions=(Action.TRAIN, Action.INGEST))
    export(log, "--to", tmp_path / "lines", "--format", "fhir", "--run", "run-0")
    export(log, "--to", tmp_path / "bundle", "--format", "fhir", "--run", "run-0", "--bundle")
    lines = [json.loads(line) for line in (tmp_path / "lines").read_bytes().splitlines()]
    bundle = Bundle.model_validate_json((tmp_path / "bundle").read_bytes())
    assert len(lines) == 4
    found = json.loads((tmp_path / "bundle").read_bytes())
    assert [one["resource"] for one in found["entry"]] == lines
    assert bundle.type == "collection"
    assert len({one["fullUrl"] for one in found["entry"]}) == 4


def test_a_bundle_of_nothing_has_no_empty_array(tmp_path: Path) -> None:
    log = filled(tmp_path, actions=(Action.TRAIN,))
    export(log, "--to", tmp_path / "out", "--format", "fhir", "--bundle", "--run", "none")
    found = json.loads((tmp_path / "out").read_bytes())
    Bundle.model_validate(found)
    assert "entry" not in found


@given(ROWS)
@settings(max_examples=60, deadline=None)
def test_whatever_stands_in_an_entry_the_resource_is_valid(row: dict[str, Any]) -> None:
    AuditEvent.model_validate_json(json.dumps(resource(record(row))))
