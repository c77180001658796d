"""``fedward node start``, ``status`` and ``health``, as an operator uses them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.link_state import LinkState
from client.node import Node
from shared import health
from shared.certificates import digest
from shared.charter import Charter
from shared.charter_plans import CoordinatorPlan
from tests.client.linked import RULES, Hospital, config, refusal, until, wish
from tests.client.superlink import SuperLink, superlink
from tests.federation import toy
from tests.ports import free_port
from tests.shared.test_supervisor import HOUSE, alive

pytestmark = pytest.mark.live

FEDWARD = [sys.executable, "-P", "-c", "from shared.cli import main; main()", "node"]


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SuperLink]:
    with superlink(tmp_path_factory.mktemp("coordinator") / "dir") as made:
        yield made


def rules(coordinator: SuperLink) -> Charter:
    plan = CoordinatorPlan("test", coordinator.address, digest(coordinator.authority.certificate))
    return replace(RULES, coordinator=plan)


@pytest.fixture
def hospital(coordinator: SuperLink, tmp_path: Path) -> Hospital:
    return Hospital.make(tmp_path / "H1", coordinator, rules=rules(coordinator))


def environment() -> dict[str, str]:
    return dict(os.environ) | {"PYTHONPATH": str(HOUSE)}


def fedward(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [*FEDWARD, *map(str, arguments)]
    return subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def started(hospital: Hospital, *options: object) -> Iterator[subprocess.Popen[str]]:
    words = [*FEDWARD, "start", str(hospital.node.folder), *map(str, options)]
    with subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def state(hospital: Hospital) -> LinkState:
    return LinkState.load(hospital.node.link)


def test_a_node_is_started_looked_at_survives_a_kill_of_its_link_and_is_stopped(
    coordinator: SuperLink, hospital: Hospital
) -> None:
    port = free_port()
    with started(hospital, "--health", port) as process:
        until(lambda: state(hospital).is_serving and state(hospital).device != "", "it connects", 60)
        told = fedward("status", hospital.node.folder)
        assert told.returncode == 0
        assert told.stdout.startswith("H1: connected since ")
        assert f"coordinator: {coordinator.address}\n" in told.stdout
        assert "device: CPU" in told.stdout
        raw: dict[str, Any] = json.loads(fedward("status", hospital.node.folder, "--json").stdout)
        assert (raw["version"], raw["state"], raw["error"]) == (1, "connected", "")
        assert fedward("health", port).returncode == 0
        again = fedward("start", hospital.node.folder)
        assert again.returncode == 2
        assert "has been started already" in again.stderr

        first = state(hospital).pid
        os.kill(first, signal.SIGKILL)
        until(lambda: state(hospital).pid != first and state(hospital).is_serving, "it comes back", 30)
        run = coordinator.begin(config(rules(coordinator)))
        refused = refusal(coordinator.reply(run, coordinator.send(run, hospital.number, wish()), 60))
        assert refused.code == "protocol"  # from the installed ClientApp: the wish is none of its messages
        until(lambda: state(hospital).refusals == 1, "the refusal is counted")
        told = fedward("status", hospital.node.folder)
        assert f"1 of them refused, 0 failed; the last: protocol: {refused.reason}" in told.stdout

        last = state(hospital).pid
        process.terminate()
        assert process.wait(20) == 0
        assert process.stderr is not None
        said = process.stderr.read()
    assert not alive(last)
    assert "link was ended by SIGKILL" in said
    assert "Traceback" not in said
    assert not coordinator.online(hospital.number)
    assert not health.check(port)
    ended = fedward("status", hospital.node.folder)
    assert (ended.returncode, ended.stdout.startswith("H1: stopped since ")) == (8, True)


def test_a_killed_supervisor_leaves_nothing_that_runs_and_the_status_says_so(
    coordinator: SuperLink, hospital: Hospital
) -> None:
    with started(hospital) as process:
        until(lambda: state(hospital).is_serving, "it connects", 60)
        last = state(hospital).pid
        process.kill()
        process.wait(10)
        until(lambda: not alive(last), "the link ends too")
    told = fedward("status", hospital.node.folder)
    assert told.returncode == 8
    assert "it ended without a word" in told.stdout


def missing_certificate(hospital: Hospital) -> None:
    hospital.node.certificate.unlink()


def foreign_certificate(hospital: Hospital) -> None:
    other = Node.create(hospital.node.folder.with_name("other"), site="other", purpose=toy.PURPOSE)
    shutil.copy(other.link_key, hospital.node.link_key)


def open_key(hospital: Hospital) -> None:
    hospital.node.link_key.chmod(0o644)


def no_coordinator(hospital: Hospital) -> None:
    hospital.node.pin(RULES)


def no_charter(hospital: Hospital) -> None:
    (hospital.node.folder / "charter.toml").unlink()


@pytest.mark.parametrize(
    ("spoil", "status", "words"),
    [
        (missing_certificate, 2, "certificate.pem; join with"),
        (foreign_certificate, 6, "is for another key"),
        (open_key, 6, "others may read the key"),
        (no_coordinator, 6, "names no coordinator"),
        (no_charter, 6, "has pinned no charter"),
    ],
)
def test_what_starting_again_cannot_mend_is_said_at_once_in_one_line(
    spoil: Any, status: int, words: str, hospital: Hospital
) -> None:
    spoil(hospital)
    told = fedward("start", hospital.node.folder)
    assert (told.returncode, words in told.stderr) == (status, True), told.stderr
    assert len(told.stderr.splitlines()) == 1


def test_a_node_that_was_never_started_and_a_port_without_health(hospital: Hospital) -> None:
    told = fedward("status", hospital.node.folder)
    assert (told.returncode, told.stdout) == (8, "H1: not started; start it with 'fedward node start'\n")
    asked = fedward("health", free_port())
    assert (asked.returncode, asked.stdout) == (8, "not serving\n")


@pytest.mark.parametrize("text", ["", "[]", '{"state": "fine"}', '{"version": 2}', '{"what": 1}', '{"pid": "x"}'])
def test_a_damaged_state_is_said(text: str, hospital: Hospital) -> None:
    (hospital.node.link / "status.json").write_text(text)
    told = fedward("status", hospital.node.folder)
    assert told.returncode == 2
    assert "status.json" in told.stderr
    assert len(told.stderr.splitlines()) == 1
