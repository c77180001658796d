"""``fedward server show`` says what the record of a run says."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from compliance.log import AuditLog
from server.cli import app
from server.history import HISTORY
from shared.errors import DataError, UsageError
from shared.files import write_json
from tests.federation import toy
from tests.federation.scripted import federated, honest, on_train, run


@pytest.fixture
def finished(tmp_path: Path, log: AuditLog) -> Path:
    rules = toy.charter(plan={"rounds": 2, "evaluate_every": 9}, deadline=0.05)
    training = federated(rules, log)
    run([honest("H1"), honest("H2"), on_train("H3", lambda _: [])], rules, log, training)
    write_json(tmp_path / "run" / "toy" / HISTORY, training.history.to_json())
    return tmp_path / "run"


def show(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["show", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_it_names_rounds_answers_and_who_was_missing(finished: Path) -> None:
    text = show(str(finished.parent), "run")
    assert "toy: run run-1 of test: ok, 2 rounds in" in text
    assert "answers: H1 2, H2 2" in text
    assert "round 2, train: H3 did not answer in time" in text


def test_it_prints_the_whole_record_as_json(finished: Path) -> None:
    histories = json.loads(show(str(finished.parent), "run", "--json"))
    assert histories["toy"]["rounds"][1]["train"]["missing"] == ["H3"]


def test_it_says_why_a_run_ended(finished: Path) -> None:
    path = finished / "toy" / HISTORY
    history = json.loads(path.read_text())
    history |= {"outcome": "failed", "error": "toy, round 3: nobody", "failed": history["rounds"][1]["train"]}
    write_json(path, history)
    text = show(str(finished.parent), "run")
    assert "failed, 2 rounds" in text
    assert "toy, round 3: nobody" in text
    assert "round 3, last: H3 did not answer in time" in text


@pytest.mark.parametrize("text", [None, "", "[]", '{"version": 99}'])
def test_a_folder_without_a_record_that_can_be_read_is_told(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / HISTORY).write_text(text)
    with pytest.raises(DataError) as caught:
        show(str(tmp_path.parent), tmp_path.name)
    assert caught.value.hint


def test_a_coordinators_run_is_named_as_in_every_other_command(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "hub" / "runs").mkdir(parents=True)
    finished.rename(tmp_path / "hub" / "runs" / "run-7")
    assert "run run-1 of test: ok" in show(str(tmp_path / "hub"), "run-7")
    for name in ("run-8", "../runs/run-7"):
        with pytest.raises(UsageError):
            show(str(tmp_path / "hub"), name)
