"""A model is written with its description or not at all, and the record says so first."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from compliance.log import AuditLog
from server import release
from server.history import HISTORY, History, RoundRecord
from server.release import ModelCard, write_model
from shared.errors import OutputError, RecordError
from tests.federation.scripted import LAYOUT, MODEL, WEIGHTS

CARD = ModelCard("test", "a" * 64, "run-1", "toy", 3, ("H1", "H2"), "off", LAYOUT.size, LAYOUT.digest(MODEL))


@pytest.mark.control("HIPAA-164.312-c-integrity", "MODEL-change")
def test_weights_and_description_belong_together(tmp_path: Path, log: AuditLog) -> None:
    path = write_model(tmp_path / "out", WEIGHTS, CARD, log=log)
    loaded = safetensors.numpy.load_file(path)
    assert set(loaded) == set(WEIGHTS)
    assert all(np.array_equal(loaded[name], WEIGHTS[name]) for name in WEIGHTS)
    described = json.loads((tmp_path / "out" / "model.json").read_text())
    assert described["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert described["sites"] == ["H1", "H2"]
    rows = [json.loads(line) for line in (tmp_path / "coordinator.jsonl").read_bytes().splitlines()]
    assert [(row["action"], row["outcome"]) for row in rows] == [("model.write", "started"), ("model.write", "ok")]
    assert rows[0]["detail"]["sha256"] == described["weights_sha256"]


def test_a_full_disk_leaves_neither(tmp_path: Path, log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: object, **__: object) -> None:
        raise OutputError(f"cannot write {path}: No space left on device")

    monkeypatch.setattr(release, "write_json", full)
    with pytest.raises(OutputError):
        write_model(tmp_path / "out", WEIGHTS, CARD, log=log)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.control("AIACT-11-documentation")
def test_an_unfinished_replacement_never_passes_for_the_earlier_model(
    tmp_path: Path, log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "out", WEIGHTS, CARD, log=log)
    monkeypatch.setattr(release, "write_bytes", _full)
    with pytest.raises(OutputError):
        write_model(tmp_path / "out", WEIGHTS, CARD, log=log)
    assert not (tmp_path / "out" / "model.json").exists()


@pytest.mark.control("AIACT-12-logging")
def test_what_cannot_be_recorded_is_not_written(tmp_path: Path, log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compliance.log.os.fsync", _no_space)
    with pytest.raises(RecordError):
        write_model(tmp_path / "out", WEIGHTS, CARD, log=log)
    assert not (tmp_path / "out").exists()


def test_a_run_that_ended_before_anybody_was_asked_has_not_begun(tmp_path: Path) -> None:
    about = {"run": "run-1", "charter": "c" * 64}
    began = RoundRecord(0, None, None, 0.0, 0.0, "m" * 64)
    for history, wanted in (
        (History("f", "c" * 64, "run-1", "toy", 3, "SGD", outcome="failed", error="nobody came"), True),
        (History("f", "c" * 64, "run-1", "toy", 3, "SGD", outcome="failed", rounds=(began,)), False),
        (History("f", "c" * 64, "run-2", "toy", 3, "SGD", outcome="failed"), False),
        (History("f", "c" * 64, "run-1", "toy", 3, "SGD"), False),
    ):
        (tmp_path / HISTORY).write_text(json.dumps(history.to_json()))
        assert release.never_began(tmp_path, **about) is wanted
    (tmp_path / HISTORY).write_bytes(b"")
    assert not release.never_began(tmp_path, **about)


def _full(path: Path, *_: object, **__: object) -> None:
    raise OutputError(f"cannot write {path}: No space left on device")


def _no_space(_: int) -> None:
    raise OSError(28, "No space left on device")
