"""``fedward server start``, ``run``, ``resume``, ``stop``, ``status``, ``health``: real processes, real hospitals."""

import dataclasses
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compliance.log import verify
from server.keeper import keep
from server.runs import RunFolder
from server.starting import check
from shared.errors import CharterError, FedwardError, PolicyError, UsageError
from tests.federation.hospitals import Founded
from tests.federation.links import Desk, until
from tests.ports import free_port

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Founded:
    return Founded.make(tmp_path_factory.mktemp("founded"), plan={"rounds": 2, "evaluate_every": 9}, deadline=60.0)


@pytest.fixture(scope="module")
def started(founded: Founded) -> Iterator[Founded]:
    with founded.started():
        yield founded


def finish(founded: Founded, *words: object, status: int = 0, seconds: float = 150) -> str:
    process = founded.command(*words)
    said, _ = process.communicate(timeout=seconds)
    assert process.returncode == status, said
    assert "Traceback" not in said
    return said


def told(founded: Founded) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(finish(founded, "status", founded.folder, "--json"))
    return found


def test_a_run_trains_and_is_followed_round_by_round(started: Founded) -> None:
    with started.attended():
        said = finish(started, "run", started.folder, started.charter_path, "--name", "first")
        assert {one["site"] for one in told(started)["members"] if one["connected"]} == {"H1", "H2", "H3"}
    assert [line for line in said.splitlines() if "toy round 2 of 2: 3 hospitals" in line]
    path = started.folder / "runs" / "first" / "toy"
    assert json.loads((path / "history.json").read_text())["outcome"] == "ok"
    assert (path / "model.safetensors").exists()
    assert verify(started.desk.coordinator.log_path).entries > 3
    (first,) = [one for one in told(started)["runs"] if one["name"] == "first"]
    assert (first["state"], first["round"], first["hint"]) == ("ok", 2, "")
    finish(started, "resume", started.folder, "first", status=2)  # it has ended well


def test_a_run_is_stopped_and_gone_on_with(started: Founded) -> None:
    with started.attended() as hospitals:
        finish(started, "run", started.folder, started.charter_path, "--name", "second", "--detach")
        until(lambda: "query.secagg_advertise" in {kind for _, kind in hospitals.answered}, 60)
        hospitals.held.set()  # whatever is under way stays so
        assert "second is" in finish(started, "run", started.folder, started.charter_path, status=2)
        finish(started, "stop", started.folder, "second")
        assert [one["state"] for one in told(started)["runs"] if one["name"] == "second"] == ["stopped"]
        assert "not under way" in finish(started, "stop", started.folder, "second", status=2)
        hospitals.held.clear()
        assert "ok" in finish(started, "resume", started.folder, "second")
    assert RunFolder.open(started.desk.coordinator, "second").attempt == 2


def test_who_interrupts_the_following_does_not_end_the_run(started: Founded) -> None:
    follower = started.command("run", started.folder, started.charter_path, "--name", "third")
    run = started.folder / "runs" / "third"
    until((run / "progress.jsonl").exists, 60)
    follower.send_signal(signal.SIGINT)
    said, _ = follower.communicate(timeout=20)
    assert follower.returncode == 130
    assert "the run goes on" in said
    assert "Traceback" not in said
    assert [one["state"] for one in told(started)["runs"] if one["name"] == "third"] == ["running"]
    finish(started, "stop", started.folder, "third")


def test_hospitals_that_are_not_there_are_named_before_anything_begins(started: Founded) -> None:
    said = finish(started, "run", started.folder, started.charter_path, "--name", "none", "--wait", 0.5, status=8)
    assert "not connected: H1, H2, H3" in said
    assert not (started.folder / "runs" / "none").exists()


def test_a_second_coordinator_does_not_start_beside_the_first(started: Founded) -> None:
    assert "running already" in finish(
        started, "start", started.folder, "--listen", f"127.0.0.1:{free_port()}", status=2
    )
    assert told(started)["state"] == "serving"


def test_without_the_coordinator_every_command_says_how_to_start_it(tmp_path: Path) -> None:
    founded = Founded.make(tmp_path)
    said = finish(founded, "run", founded.folder, founded.charter_path, status=8)
    assert f"fedward server start {founded.folder}" in said
    assert told(founded) | {"members": 3} == {
        "name": "hub",
        "address": founded.desk.coordinator.address,
        "state": "stopped",
        "members": 3,
        "runs": [],
    }
    finish(founded, "health", free_port(), status=8)
    assert "has no runs" in finish(founded, "resume", founded.folder, status=2)
    assert "no run" in finish(founded, "stop", founded.folder, "x", status=2)


def test_health_is_told_and_a_stopped_coordinator_says_that_a_run_is_unfinished(tmp_path: Path) -> None:
    founded = Founded.make(tmp_path, deadline=60.0)
    port = free_port()
    process = founded.command("start", founded.folder, "--listen", f"127.0.0.1:{founded.desk.port}", "--health", port)
    try:
        until(lambda: founded.state() == "serving")
        assert "serving" in finish(founded, "health", port)
        finish(founded, "run", founded.folder, founded.charter_path, "--name", "r", "--detach")
        until((founded.folder / "runs" / "r" / "progress.jsonl").exists, 60)
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert founded.state() == "stopped"
    (run,) = told(founded)["runs"]
    assert (run["state"], "resume" in run["hint"]) == ("interrupted", True)


@pytest.mark.parametrize(
    ("listen", "why"), [("nowhere", "host:port"), ("203.0.113.9:9443", "cannot listen"), ("127.0.0.1:0", "host:port")]
)
def test_a_gate_that_cannot_be_is_said_at_once(tmp_path: Path, listen: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        keep(Desk.make(tmp_path).coordinator.folder, listen=listen)


def refused(founded: Founded, kind: type[FedwardError], **changes: Any) -> str:
    with pytest.raises(kind) as met:
        check(founded.desk.coordinator, dataclasses.replace(founded.charter, **changes))
    return str(met.value)


def test_a_charter_of_another_coordinator_or_with_strangers_is_refused(founded: Founded) -> None:
    plan, masking = founded.charter.coordinator, founded.charter.masking
    assert plan is not None
    assert masking is not None
    check(founded.desk.coordinator, founded.charter)
    assert "names no coordinator" in refused(founded, PolicyError, coordinator=None)
    for change in ({"address": "x.example:1"}, {"authority": "0" * 64}, {"name": "other"}, {"country": "CN"}):
        other = dataclasses.replace(plan, **change)
        assert next(iter(change)) in refused(founded, PolicyError, coordinator=other)
    first, *others = founded.charter.members
    stranger = dataclasses.replace(first, identity="ab" * 32)
    assert "H1" in refused(founded, PolicyError, members=(stranger, *others))
    assert "not among the apps" in refused(founded, PolicyError, masking=dataclasses.replace(masking, apps=("0" * 64,)))
    assert "secure aggregation" in refused(founded, CharterError, masking=None, members=())
