"""What a coordinator says of itself in the evidence report."""

import json
from pathlib import Path

import pytest

from compliance.party import Kind, Topic
from server.coordinator import Coordinator
from server.evidence import party
from tests.federation import toy


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    return Coordinator.create(tmp_path / "c", name="coordinator-1", address="fl.example.org:8443", country="DE")


def test_a_folder_that_is_no_coordinator_is_none(tmp_path: Path) -> None:
    assert party(tmp_path) is None


@pytest.mark.control("GDPR-30-record")
def test_a_coordinator_is_a_processor_that_knows_no_pseudonyms(coordinator: Coordinator) -> None:
    found = party(coordinator.folder)
    assert found is not None
    assert (found.kind, found.name, found.knows_pseudonyms) == (Kind.COORDINATOR, "coordinator-1", False)
    values = {one.what.split(" (")[0]: one.value for one in found.facts().figures[Topic.PROCESSING]}
    assert values["Processor"] == "coordinator-1"
    assert values["Country"] == "DE"
    assert values["Controllers"] is None
    assert values["Processing agreements"] is None
    with found.open_log() as log:
        assert len(log) == 0


def test_models_stand_with_what_they_were_made_from(coordinator: Coordinator) -> None:
    run = coordinator.folder / "runs" / "run-1"
    (run / "denoise").mkdir(parents=True)
    (run / "charter.toml").write_text(toy.charter().to_toml())
    history = {"run": "run-1", "task": "denoise", "charter": "ab" * 32, "outcome": "ok"}
    card = {"rounds": 3, "sites": ["H1", "H2"], "privacy": "patient", "weights_sha256": "cd" * 32}
    (run / "denoise" / "history.json").write_text(json.dumps(history))
    (run / "denoise" / "model.json").write_text(json.dumps(card))
    (run / "segment").mkdir()
    (run / "segment" / "history.json").write_text(json.dumps(history | {"task": "segment", "outcome": "failed"}))
    (run / "torn").mkdir()
    (run / "torn" / "history.json").write_text("{")
    found = party(coordinator.folder)
    assert found is not None
    (table,) = found.facts().tables[Topic.LINEAGE]
    assert table.rows[0] == ("run-1", "denoise", "3", "H1, H2", "patient", "ab" * 32, "cd" * 32)
    assert table.rows[1][2:5] == (None, None, None)  # a run that failed has no model
    assert any(one.value == toy.charter().sha256 for one in found.facts().figures[Topic.DPIA])
