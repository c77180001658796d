"""``fedward server start``, ``run``, ``resume``, ``stop`` and ``status``: real processes, and hospitals at the gate."""

import json
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.flower_node import Fleet
from compliance.log import verify
from server.runs import RunFolder
from tests.federation.hospitals import SITES, Founded
from tests.federation.links import until


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Founded:
    return Founded.make(tmp_path_factory.mktemp("founded"), plan={"rounds": 3})


@pytest.fixture(scope="module")
def started(founded: Founded) -> Iterator[Founded]:
    with founded.started():
        yield founded


def finish(founded: Founded, *words: object, status: int = 0, seconds: float = 120) -> str:
    process = founded.command(*words)
    said, _ = process.communicate(timeout=seconds)
    assert process.returncode == status, said
    assert "Traceback" not in said
    return said


def told(founded: Founded) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(finish(founded, "status", founded.folder, "--json"))
    return found


def run_of(founded: Founded, name: str) -> RunFolder:
    return RunFolder.open(founded.desk.coordinator, name)


def test_a_run_trains_and_is_followed_round_by_round(started: Founded) -> None:
    with started.attended():
        said = finish(started, "run", started.folder, started.charter_path, "--name", "first")
    assert [line for line in said.splitlines() if "round 3 of 3" in line]
    path = started.folder / "runs" / "first" / "toy"
    assert json.loads((path / "history.json").read_text())["outcome"] == "ok"
    assert (path / "model.safetensors").exists()
    assert verify(started.desk.coordinator.log_path).entries > 3
    (first,) = [one for one in told(started)["runs"] if one["name"] == "first"]
    assert (first["state"], first["round"], first["hint"]) == ("ok", 3, "")
