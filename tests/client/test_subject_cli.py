"""``fedward node basis|consent|subject|dataset`` as a person meets them."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from client.app import close_sessions
from client.cli import app
from client.node import Node
from shared.errors import DataError, UsageError
from shared.wire import TrainReply, kind_of
from tests.client import test_app as apps
from tests.federation import toy

PATIENT = "PATIENT-H1-1"


@pytest.fixture
def node(tmp_path: Path) -> Path:
    return toy.make_node(tmp_path / "H1", "H1", apps.RULES)


def call(*words: object, status: int = 0) -> Result:
    done = CliRunner().invoke(app, [str(one) for one in words])
    if done.exception is None or isinstance(done.exception, SystemExit):
        assert done.exit_code == status, done.output
    return done


def test_a_basis_is_set_shown_and_cleared(node: Path) -> None:
    words = ("--act", "a law", "--who", "Dr. Wu", "--why", "the board")
    call("basis", "set", node, "GDPR 6(1)(e), 9(2)(j)", *words, "--since", "2026-01-01", "--until", "2026-12-31")
    shown = json.loads(call("basis", "show", node, "--json").stdout)
    assert (shown["basis"], shown["until"]) == ("GDPR 6(1)(e), 9(2)(j)", "2026-12-31")
    assert shown["purposes"] == [toy.PURPOSE]
    assert isinstance(call("basis", "set", node, "consent", *words).exception, UsageError)
    assert isinstance(call("basis", "set", node, "GDPR 6(1)(a), 9(2)(a)", *words).exception, UsageError)
    call("basis", "clear", node)
    assert json.loads(call("basis", "show", node, "--json").stdout) == {"basis": None}


def test_a_patient_is_reported_restricted_and_erased(node: Path) -> None:
    assert kind_of(apps.train(node)) == TrainReply.kind
    close_sessions()
    said = call("subject", "report", node, PATIENT, "--pseudonym").stdout
    assert "round 1" in said
    assert "takes part" in said
    assert "no bound: 1 rounds without differential privacy" in said
    call("consent", "withdraw", node, PATIENT, "--pseudonym")
    assert "withdrawn" in call("consent", "show", node, PATIENT, "--pseudonym").stdout
    assert "1: withdrawn" in call("consent", "show", node).stdout
    call("subject", "restrict", node, PATIENT, "--pseudonym", "--who", "Ada")
    assert "restricted" in call("subject", "report", node, PATIENT, "--pseudonym").stdout
    told = json.loads(call("subject", "erase", node, PATIENT, "--pseudonym", "--who", "Ada", "--json").stdout)
    assert told["after"] == {"policy": "stop", "runs": ["run-1"], "epsilon": None, "requests": []}
    again = call("subject", "erase", node, PATIENT, "--pseudonym", "--who", "Ada")
    assert "nothing of this patient is here" in again.stdout
    assert "this patient was erased" in again.output
    assert "it counts if he comes" not in again.output


def test_a_patient_id_that_nobody_has_is_told(node: Path) -> None:
    done = call("consent", "withdraw", node, "no such number")
    assert "nobody in the cohort has this Patient ID" in done.output
    assert isinstance(call("consent", "withdraw", node, " ").exception, UsageError)


@pytest.mark.control("MODEL-provenance")
def test_a_manifest_is_written_shown_and_checked(node: Path) -> None:
    call("dataset", "write", node)
    shown = json.loads(call("dataset", "show", node, "--json", "--check").stdout)
    assert (shown["written"], shown["frozen_split"], shown["wrong_studies"]) == (True, True, 0)
    assert shown["manifest"]["counts"]["train"] == 4
    others = json.loads(call("dataset", "show", node, "--json", "--for-others").stdout)["manifest"]
    assert others["counts"]["train"] == "fewer than 10"
    assert "sources" not in others
    call("consent", "withdraw", node, PATIENT, "--pseudonym")
    assert json.loads(call("dataset", "show", node, "--json").stdout)["written"] is False
    assert kind_of(apps.train(node)) == TrainReply.kind
    close_sessions()
    assert json.loads(call("dataset", "show", node, "--json").stdout)["written"] is True, "a round writes it anew"
    (node / "cohort" / "images" / "H1-0.safetensors").write_bytes(b"other")
    assert isinstance(call("dataset", "show", node, "--check").exception, DataError)


def test_a_node_without_a_cohort_has_no_manifest(tmp_path: Path) -> None:
    node = Node.create(tmp_path / "n", site="H1", purpose="research")
    assert isinstance(call("dataset", "write", node.folder).exception, DataError)
    shutil.rmtree(node.folder)
    assert isinstance(call("dataset", "write", node.folder).exception, UsageError)
