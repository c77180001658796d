"""``fedward node basis|consent|subject|dataset`` as a person meets them."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from client import subject_cli
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
    assert "no bound: 1 round without differential privacy" in said
    call("consent", "withdraw", node, PATIENT, "--pseudonym")
    assert "withdrawn" in call("consent", "show", node, PATIENT, "--pseudonym").stdout
    assert "1: withdrawn" in call("consent", "show", node).stdout
    call("subject", "restrict", node, PATIENT, "--pseudonym", "--who", "Ada")
    assert "restricted" in call("subject", "report", node, PATIENT, "--pseudonym").stdout
    told = json.loads(call("subject", "erase", node, PATIENT, "--pseudonym", "--who", "Ada", "--json", "--yes").stdout)
    assert told["after"] == {"policy": "stop", "runs": ["run-1"], "epsilon": None, "requests": []}
    again = call("subject", "erase", node, PATIENT, "--pseudonym", "--who", "Ada")
    assert json.loads(call("dataset", "show", node, "--json").stdout)["written"] is True, "an erasure writes it anew"
    assert f"this patient was erased on {told['on']}; nothing of him is here" in again.stdout
    assert "it counts if he comes" not in again.output


def test_a_patient_id_that_nobody_has_is_told(node: Path) -> None:
    done = call("consent", "withdraw", node, "no such number")
    assert "nobody in the cohort has this Patient ID" in done.output
    assert isinstance(call("consent", "withdraw", node, " ").exception, UsageError)


def test_who_asks_about_a_patient_that_nobody_has_is_not_told_that_he_takes_part(node: Path) -> None:
    shown = call("consent", "show", node, "H99")
    assert "not in the cohort and nothing recorded of him" in shown.stdout
    assert "it counts if he comes" not in shown.output
    asked = call("subject", "report", node, "H99")
    assert isinstance(asked.exception, DataError)
    assert not asked.stdout
    assert not [row for row in toy.log_rows(node) if row["subject"]], "nobody was reported on"


def test_what_is_recorded_of_a_patient_who_is_not_in_the_cohort_is_told(node: Path) -> None:
    call("consent", "withdraw", node, "H99")
    shown = call("consent", "show", node, "H99").stdout
    assert "withdrawn" in shown
    assert "not in the cohort: it counts if he comes" in shown
    assert json.loads(call("consent", "show", node, "H99", "--json").stdout)["in_cohort"] is False
    assert "State: not in the cohort; takes no part: withdrawn" in call("subject", "report", node, "H99").stdout


def test_nobody_is_erased_by_a_typing_error(node: Path) -> None:
    words = ("subject", "erase", node, "H99", "--who", "Ada", "--yes")
    assert isinstance(call(*words).exception, DataError)
    assert not [row for row in toy.log_rows(node) if row["subject"]]
    call(*words, "--unknown")
    assert "this patient was erased on" in call(*words).stdout, "he is kept out before he comes"
    assert "erased on" in call("consent", "show", node, "H99").stdout


def test_an_erasure_is_confirmed(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("subject", "erase", node, PATIENT, "--pseudonym", "--who", "Ada")
    assert isinstance(call(*words).exception, UsageError)
    monkeypatch.setattr(subject_cli, "_at_a_terminal", lambda: True)
    refused = CliRunner().invoke(app, [str(one) for one in words], input="n\n")
    assert isinstance(refused.exception, UsageError)
    assert "takes part" in call("consent", "show", *words[2:5]).stdout
    done = CliRunner().invoke(app, [str(one) for one in words], input="y\n")
    assert done.exit_code == 0
    assert "deleted:" in done.stdout


@pytest.mark.parametrize("name", ["..", ".", "a/b", "/etc", ""])
def test_a_pseudonym_names_no_other_folder(node: Path, name: str) -> None:
    """It is the name of a folder that an erasure removes."""
    before = set(node.rglob("*"))
    done = call("subject", "erase", node, name, "--pseudonym", "--who", "Ada", "--yes", "--unknown")
    assert isinstance(done.exception, UsageError)
    assert before <= set(node.rglob("*"))


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
    stale = json.loads(call("dataset", "show", node, "--json").stdout)
    assert (stale["written"], stale["sha256"]) == (False, None), "its time is inside, and so another at each call"
    assert "not written yet" in call("dataset", "show", node).stdout
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
