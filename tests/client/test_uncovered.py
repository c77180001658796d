"""Training without differential privacy is said beside every epsilon of the same patients."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner

from client.budget import set_budget, standing
from client.budget_page import render
from client.budget_words import forecast_lines, standing_json, without_privacy
from client.charge import Budget
from client.cli import app
from client.node import Node
from client.uncovered import uncovered
from compliance.log import Action, Entry, Outcome
from tests.federation import toy

RULES = toy.charter(privacy={"mode": "patient"})
CHARGED = (Action.PRIVACY_CHARGE, Outcome.OK)
BEGUN, DONE, FAILED = ((Action.TRAIN, outcome) for outcome in (Outcome.STARTED, Outcome.OK, Outcome.FAILED))


def row(kind: tuple[Action, Outcome], mode: str | None = None, number: int = 1, run: str = "r") -> Mapping[str, Any]:
    detail = {"task": "t"} | ({} if mode is None else {"privacy": mode})
    return {"action": kind[0].value, "outcome": kind[1].value, "run": run, "round": number, "detail": detail}


@pytest.mark.parametrize(
    ("rows", "count"),
    [
        ([], 0),
        ([row(BEGUN, "off"), row(DONE)], 1),
        ([row(BEGUN, "off")], 1),
        ([row(BEGUN, "off"), row(FAILED)], 0),
        ([row(BEGUN, "off"), row(DONE), row(BEGUN, "off"), row(DONE)], 2),
        ([row(BEGUN, "off"), row(DONE), row(BEGUN, "off"), row(FAILED)], 1),
        ([row(BEGUN, "patient"), row(CHARGED), row(DONE)], 0),
        ([row(BEGUN, "distributed")], 0),
        ([row(BEGUN, "whatever")], 1),
        ([row(BEGUN), row(DONE)], 1),
        ([row(BEGUN), row(CHARGED), row(DONE)], 0),
        ([row(BEGUN), row(CHARGED), row(FAILED)], 0),
        ([row(BEGUN), row(DONE), row(BEGUN, "patient"), row(CHARGED), row(DONE)], 1),
        ([row(BEGUN), row(CHARGED, number=2), row(CHARGED, run="x"), row(DONE)], 1),
    ],
)
def test_rounds_that_no_epsilon_covers_are_counted(rows: list[Mapping[str, Any]], count: int) -> None:
    assert uncovered(rows) == count


@pytest.fixture
def node(tmp_path) -> Node:
    return Node.create(tmp_path / "node", site="H1", purpose=RULES.purpose)


def train_without(node: Node, rounds: int) -> None:
    with node.open_log() as log:
        for number in range(1, rounds + 1):
            for outcome in (Outcome.STARTED, Outcome.OK):
                log.append(Entry(Action.TRAIN, outcome, "run", number, detail={"task": "t", "privacy": "off"}))


def test_show_set_json_and_page_say_how_many(node: Node, tmp_path) -> None:
    assert standing(node).uncovered == 0
    assert without_privacy(standing(node)) == ""
    train_without(node, 1)
    said = "1 round was trained without differential privacy on these patients, and no epsilon covers it"
    words = ["set", node.folder, "--epsilon", 3, "--patients", 9, "--who", "Ada", "--why", "a study"]
    for command in (words, ["show", node.folder]):
        done = CliRunner().invoke(app, ["budget", *map(str, command)])
        assert done.exit_code == 0, done.output
        assert said in done.output
    train_without(node, 2)
    said = "3 rounds were trained without differential privacy on these patients, and no epsilon covers them"
    (tmp_path / "c.toml").write_text(RULES.to_toml())
    page = tmp_path / "p.html"
    plan = CliRunner().invoke(app, ["budget", "plan", str(node.folder), str(tmp_path / "c.toml"), "--page", str(page)])
    assert said in plan.output
    assert said in page.read_text()
    told = json.loads(CliRunner().invoke(app, ["budget", "show", str(node.folder), "--json"]).output)
    assert told["rounds_without_privacy"] == 3
    off = replace(RULES, privacy=replace(RULES.privacy, mode="off"))
    assert said in "\n".join(forecast_lines(off, None, standing(node)))
    assert said in render(off, None, standing(node))


def test_where_all_was_under_differential_privacy_nothing_is_said(node: Node) -> None:
    set_budget(node, Budget(3.0, 1e-5, 9), who="Ada", why="a study")
    found = standing(node)
    assert standing_json(found)["rounds_without_privacy"] == 0
    assert "without differential privacy" not in render(RULES, None, found).replace("This charter trains without", "")
