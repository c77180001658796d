"""``fedward node budget``: what a hospital is told of its privacy, and what it decides."""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.budget import Forecast, at_two, forecast, promise, set_budget, standing
from client.budget_page import plot, render
from client.budget_words import figure, forecast_json, forecast_lines, rounds_left
from client.charge import Budget, Charge
from client.cli import app
from client.ledger import Ledger
from client.ledger_file import read_book
from client.node import Node
from client.paying import known
from client.training import accounting
from client.training.accounting import COVERS, NOT_COVERED, Mechanism, epsilon
from compliance.log import verify
from shared.charter import Charter, PrivacyPlan, TaskPlan
from shared.errors import FedwardError, PolicyError, RecordError, UsageError
from tests.browser import check_page, chromium
from tests.federation import toy
from tests.federation.masked import Federation

CHARGE = Charge("run-7", "mr-2025", "denoise", 1, "patient", 3.0, 0.25, 2, 240)
RULES = Charter(
    id="ct-2026",
    purpose=toy.PURPOSE,
    tasks=(TaskPlan("denoise", rounds=6, local_steps=4), TaskPlan("segment", rounds=4, local_steps=2)),
    privacy=PrivacyPlan("patient", sample_rate=0.25, noise_multiplier=2.0),
)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node.create(tmp_path / "node", site="H1", purpose=toy.PURPOSE)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """An accountant that anybody can check in the head: a step costs 0.1 at a noise multiplier of 2, and 0.2 at 1."""

    def counts(history: Sequence[Mechanism], _: float) -> tuple[float, str]:
        return round(sum(one.steps * 0.2 / one.noise_multiplier for one in history), 9), "prv"

    def within(history: Sequence[Mechanism], delta: float, limit: float) -> bool:
        return counts(history, delta)[0] <= limit

    monkeypatch.setattr(accounting, "epsilon", counts)
    monkeypatch.setattr(accounting, "within", within)
    monkeypatch.setattr(accounting, "bound", lambda history, delta: counts(history, delta)[0])


def spend(node: Node, rounds: int, **changes: Any) -> None:
    with Ledger(node.ledger(), data_set=node.site) as ledger:
        for number in range(1, rounds + 1):
            ledger.reserve(replace(CHARGE, round=number, **changes))


def give(node: Node, limit: float, patients: int = 240) -> None:
    set_budget(node, Budget(limit, 1e-5, patients), who="A. Lovelace, DPO", why="the CT studies")


def run(*words: object) -> str:
    """What a command prints; the error that it ends with is raised."""
    done = CliRunner().invoke(app, ["budget", *map(str, words)])
    if isinstance(done.exception, FedwardError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def squeezed(text: str) -> str:
    return " ".join(text.split())


# --- show and set -----------------------------------------------------------------------------------------------------


def test_before_anything_is_set_or_spent_it_says_so_and_makes_no_file(node: Node) -> None:
    text = run("show", node.folder)
    assert "H1: epsilon 0.00 is spent at delta 1e-05, 0 rounds" in text
    assert "no budget is set: a real hospital trains nothing under differential privacy" in text
    told = json.loads(run("show", node.folder, "--json"))
    assert (told["budget"], told["spent"], told["further_rounds"], told["charges"]) == (None, 0.0, None, [])
    assert not (node.folder / "privacy").exists()


@pytest.mark.usefixtures("counted")
def test_it_says_what_is_spent_on_what_and_what_still_fits(node: Node) -> None:
    give(node, 3.0)
    spend(node, 6)
    spend(node, 2, task="segment", steps=3)
    text = run("show", node.folder)
    assert "H1: epsilon 1.20 of 3 is spent at delta 1e-05, 8 rounds" in text
    assert "budget: epsilon 3 at delta 1e-05, 240 patients declared; set 20" in text
    assert "by A. Lovelace, DPO: the CT studies" in text
    assert "9 more rounds of the last settings fit" in text
    assert "mr-2025, run run-7, denoise: 6 rounds, 12 steps" in text
    assert "mr-2025, run run-7, segment: 2 rounds, 6 steps" in text
    told = json.loads(run("show", node.folder, "--json"))
    assert told["spent"] == pytest.approx(1.2)
    assert told["further_rounds"] == 9
    assert told["budget"] | {"time": ""} == {
        "epsilon": 3.0,
        "delta": 1e-5,
        "patients": 240,
        "who": "A. Lovelace, DPO",
        "why": "the CT studies",
        "time": "",
    }
    assert told["charges"][1] == {
        "federation": "mr-2025",
        "run": "run-7",
        "task": "segment",
        "charges": 2,
        "steps": 6,
    }
    assert told["ledger"] == {"rows": 10, "head": read_book(node.ledger()).head}
    spend(node, 9, task="segment", steps=3, run="another")
    assert "nothing fits: the budget covers no further round like the last one" in run("show", node.folder)


def test_a_budget_is_set_and_recorded_with_who_and_why_and_says_what_is_spent(node: Node) -> None:
    words = ["--epsilon", 3, "--patients", 240, "--who", "A. Lovelace, DPO", "--why", "the CT studies"]
    assert "epsilon 0.00 of 3 is spent" in run("set", node.folder, *words)
    spend(node, 2)
    text = run("set", node.folder, "--epsilon", 2, "--who", "G. Hopper", "--why", "less will do")
    assert "of 2 is spent at delta 1e-05, 2 rounds" in text
    book = read_book(node.ledger())
    assert [change.budget for change in book.changes] == [Budget(3.0, 1e-5, 240), Budget(2.0, 1e-5, 240)]
    rows = [row for row in toy.log_rows(node.folder) if row["action"] == "privacy.budget"]
    assert [row["outcome"] for row in rows] == ["started", "ok", "started", "ok"]
    assert (rows[3]["detail"]["who"], rows[3]["detail"]["why"]) == ("G. Hopper", "less will do")
    assert (rows[3]["detail"]["ledger_rows"], rows[3]["detail"]["ledger_head"]) == (5, book.head)
    assert verify(node.folder / "audit" / "log.jsonl").entries == 4


def test_the_number_of_patients_is_declared_and_never_counted_and_delta_follows_it(tmp_path: Path) -> None:
    folder = toy.make_node(tmp_path / "H1", "H1", toy.charter(), patients=4)
    (folder / "node.json").write_text((folder / "node.json").read_text().replace("true", "false"))
    words = ["--epsilon", 3, "--who", "Ada", "--why", "a study"]
    with pytest.raises(UsageError, match="it becomes public"):
        run("set", folder, *words)
    told = json.loads(run("set", folder, *words, "--patients", 50_000, "--json"))
    assert (told["budget"]["patients"], told["budget"]["delta"]) == (50_000, 2e-6)
    told = json.loads(run("set", folder, *words, "--json"))
    assert (told["budget"]["patients"], told["budget"]["delta"]) == (50_000, 2e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--epsilon 0 --patients 9 --who A --why B", "is no budget"),
        ("--epsilon nan --patients 9 --who A --why B", "is no budget"),
        ("--epsilon 3 --patients 9 --delta 0 --who A --why B", "is not from 1e-09 to 1e-05"),
        ("--epsilon 3 --patients 9 --delta 1e-3 --who A --why B", "is not from 1e-09 to 1e-05"),
        ("--epsilon 3 --who A --why B", "becomes public"),
    ],
)
def test_what_is_no_budget_is_wrong_use_and_changes_nothing(node: Node, words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as wrong:
        run("set", node.folder, *words.split())
    assert wrong.value.hint
    assert not (node.folder / "privacy").exists()


@pytest.mark.control("HIPAA-164.312-a2i-users")
def test_nobody_and_no_reason_set_no_budget(node: Node) -> None:
    with pytest.raises(UsageError, match="--why"):
        run("set", node.folder, "--epsilon", 3, "--patients", 9, "--who", "Ada", "--why", " ")
    assert not (node.folder / "audit" / "log.jsonl").exists(), "a text that is too long fills no log"
    assert read_book(node.ledger()).budget is None


def test_a_virtual_hospital_has_no_budget(tmp_path: Path) -> None:
    Node.create(tmp_path / "v", site="H1", purpose=toy.PURPOSE, seed=1)
    (tmp_path / "c.toml").write_text(RULES.to_toml())
    for words in (["show"], ["set", "--epsilon", 1, "--patients", 9, "--who", "A", "--why", "B"]):
        with pytest.raises(PolicyError, match="virtual hospital"):
            run(words[0], tmp_path / "v", *words[1:])
    with pytest.raises(PolicyError, match="virtual hospital"):
        run("plan", tmp_path / "v", tmp_path / "c.toml")


def test_no_budget_is_set_while_the_node_works(node: Node) -> None:
    give(node, 3.0)
    with Ledger(node.ledger()), pytest.raises(RecordError, match="held by another process"):
        give(node, 4.0)
    with node.open_log(), Ledger(node.ledger()):
        assert "of 3 is spent" in run("show", node.folder)
    with node.open_log():  # the record alone is shared
        give(node, 4.0)


def test_a_ledger_that_was_put_back_is_refused_by_every_command(node: Node, tmp_path: Path) -> None:
    give(node, 3.0)
    shutil.copytree(node.folder / "privacy", tmp_path / "copy")
    give(node, 2.0)
    newest = node.ledger().read_bytes()
    shutil.copytree(tmp_path / "copy", node.folder / "privacy", dirs_exist_ok=True)
    (tmp_path / "c.toml").write_text(RULES.to_toml())
    commands = [["show", node.folder], ["plan", node.folder, tmp_path / "c.toml"]]
    commands.append(["set", node.folder, "--epsilon", 9, "--who", "A", "--why", "B"])
    for words in commands:
        with pytest.raises(RecordError, match="was cut off or an older copy was put back") as refused:
            run(*words)
        assert "fedward node budget rebuild" in refused.value.hint
    node.ledger().write_bytes(newest)
    assert "of 2 is spent" in run("show", node.folder)


@pytest.mark.parametrize(("rows", "head"), [(0, "a"), ("2", "a"), (None, "a"), (1, 7)])
def test_a_log_that_never_said_so_is_not_believed(rows: Any, head: Any) -> None:
    with pytest.raises(RecordError, match="does not say"):
        known({"ledger_rows": rows, "ledger_head": head})


# --- plan -------------------------------------------------------------------------------------------------------------


def planned(node: Node, rules: Charter = RULES) -> Forecast:
    found = forecast(standing(node), rules)
    assert found is not None
    return found


@pytest.mark.usefixtures("counted")
def test_a_plan_says_epsilon_after_each_task_and_how_many_rounds_fit(node: Node) -> None:
    give(node, 3.0)
    spend(node, 3, noise_multiplier=2.0, steps=2)  # 0.6
    found = planned(node)  # 6 rounds of 0.4, then 4 of 0.2
    assert [task.epsilon for task in found.tasks] == pytest.approx([3.0, 3.8])
    assert (found.fits, [task.fits for task in found.tasks], found.covered) == (6, [6, 0], False)
    assert (found.epsilon, found.alone, found.twice) == pytest.approx((3.8, 3.2, 6.4))
    assert found.repeated == pytest.approx(0.6 + 3 * 3.2)
    assert found.noise == pytest.approx(2 * 3.2 / 2.4, abs=0.04)
    assert found.noise >= 2 * 3.2 / 2.4, "rounded to the safe side"
    assert (found.curve[0].round, found.curve[0].epsilon) == (3, pytest.approx(0.6))
    assert (found.curve[-1].round, found.curve[-1].epsilon) == (13, pytest.approx(3.8))
    give(node, 4.0)
    found = planned(node)
    assert (found.fits, found.covered, found.noise) == (10, True, 2.0)
    give(node, 0.5)
    found = planned(node)
    assert (found.fits, found.noise) == (0, None), "what is spent is above it already"


def test_a_plan_is_what_the_ledger_then_charges(node: Node) -> None:
    give(node, 1.7)
    found = planned(node)
    assert found.fits is not None
    assert 0 < found.fits < found.rounds
    steps = [task.local_steps for task in RULES.tasks for _ in range(task.rounds)]
    with Ledger(node.ledger()) as ledger:
        for number, count in enumerate(steps[: found.fits], start=1):
            charge = replace(CHARGE, round=number, steps=count, noise_multiplier=2.0)
            ledger.reserve(charge)
        assert ledger.fits(replace(charge, steps=steps[found.fits])) == 0
    whole = Mechanism(2.0, 0.25, sum(steps))
    assert found.alone == epsilon([whole], 1e-5)[0]
    assert found.twice == epsilon([whole._replace(steps=2 * sum(steps))], 1e-5)[0]
    assert found.noise is not None
    assert 1.6 < epsilon([whole._replace(noise_multiplier=found.noise)], 1e-5)[0] <= 1.7


@pytest.mark.parametrize(("sigma", "rate", "steps", "exact"), [(2.07, 0.5, 40, 19.05), (8.0, 1.0, 20, 4.98)])
def test_a_patient_at_two_hospitals_costs_more_under_shared_noise_than_both_together(
    sigma: float, rate: float, steps: int, exact: float
) -> None:
    """The exact figures are those of dp-accounting for shifts of 0, C and 2C in one sum, at delta 1e-5."""
    one = Mechanism(sigma, rate, steps)
    bound = epsilon([at_two(one, shared=True)], 1e-5)[0]
    assert exact - 0.02 <= bound
    assert bound > epsilon([at_two(one, shared=False)], 1e-5)[0]
    assert at_two(one, shared=False).steps == 2 * steps


def test_a_plan_of_shared_noise_promises_what_shared_noise_does(node: Node, tmp_path: Path) -> None:
    noise = {"mode": "distributed", "patients": 16, "noise_multiplier": 1.5}
    rules = Federation.make(tmp_path / "federation", plan={"local_steps": 1}, privacy=noise).charter
    covers, left_out = promise(rules)
    assert any("masks hold" in text for text in covers)
    assert any("masks were taken off" in text for text in left_out)
    assert promise(RULES) == (COVERS, NOT_COVERED)
    text = render(rules, planned(node, rules), standing(node))
    assert "an upload whose masks were taken off" in text
    assert "the model updates of these training steps" not in text


@pytest.mark.usefixtures("counted")
def test_the_command_says_it_in_words_as_json_and_as_a_page(node: Node, tmp_path: Path) -> None:
    give(node, 2.0)
    (tmp_path / "c.toml").write_text(RULES.to_toml())
    page = tmp_path / "plan.html"
    text = run("plan", node.folder, tmp_path / "c.toml", "--page", page)
    assert "the whole charter takes epsilon from 0.00 to 3.20; the budget is 2: 5 of its 10 rounds fit" in text
    assert "task rounds steps epsilon after it rounds that fit denoise 6 24 2.40 5 of 6 segment 4 8 3.20 0 of 4" in (
        squeezed(text)
    )
    assert "with a noise multiplier of 3.2" in text
    assert "two hospitals of this charter: 3.20 for the charter becomes at most 6.40" in text
    assert "the unit is the patient" in text
    assert "not covered: " in text
    assert page.stat().st_mode & 0o777 == 0o600
    told = json.loads(run("plan", node.folder, tmp_path / "c.toml", "--json"))
    assert told["charter"] == {"id": "ct-2026", "sha256": RULES.sha256, "mode": "patient"}
    assert (told["forecast"]["covered"], told["forecast"]["rounds_that_fit"]) == (False, 5)
    assert told["forecast"]["tasks"][1] | {"epsilon": 0} == {
        "name": "segment",
        "rounds": 4,
        "steps": 8,
        "epsilon": 0,
        "rounds_that_fit": 0,
    }
    assert told["forecast"]["curve"][0] == [0, 0.0]
    assert len(read_book(node.ledger()).charges) == 0


@pytest.mark.usefixtures("counted")
def test_without_a_budget_a_plan_still_works_and_says_so(node: Node) -> None:
    found = planned(node, replace(RULES, privacy=replace(RULES.privacy, delta=1e-6)))
    assert (found.delta, found.fits, found.covered, found.noise) == (1e-6, None, None, None)
    text = "\n".join(forecast_lines(RULES, found, found.standing))
    assert "no budget is set" in text
    assert forecast_json(RULES, found, found.standing)["forecast"]["rounds_that_fit"] is None


def test_without_privacy_there_is_nothing_to_forecast(node: Node, tmp_path: Path) -> None:
    rules = replace(RULES, privacy=PrivacyPlan())
    (tmp_path / "c.toml").write_text(rules.to_toml())
    give(node, 3.0)
    text = run("plan", node.folder, tmp_path / "c.toml", "--page", tmp_path / "p.html")
    assert "no finite epsilon; a hospital with a budget takes no part" in text
    assert json.loads(run("plan", node.folder, tmp_path / "c.toml", "--json"))["forecast"] is None
    assert "takes no part in it" in (tmp_path / "p.html").read_text()


def test_settings_without_a_finite_epsilon_are_said_to_have_none(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    give(node, 3.0)
    monkeypatch.setattr(accounting, "_rdp", lambda *_: math.inf)
    monkeypatch.setattr(accounting, "_prv", lambda *_: math.inf)
    found = planned(node)
    assert (found.fits, found.noise, found.epsilon) == (0, None, math.inf)
    assert plot(found) is not None, "the budget's line can still be drawn"
    assert "to infinite; the budget is 3: nothing fits" in "\n".join(forecast_lines(RULES, found, found.standing))
    assert forecast_json(RULES, found, found.standing)["forecast"]["epsilon"] is None
    render(RULES, found, found.standing)


def test_a_page_is_a_page_and_a_charter_a_charter(node: Node, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no name for a page"):
        run("plan", node.folder, tmp_path / "c.toml", "--page", node.folder / "keys" / "audit.key")
    with pytest.raises(UsageError) as missing:
        run("plan", node.folder, tmp_path / "missing.toml")
    assert missing.value.exit_code == 2


@pytest.mark.parametrize(("value", "text"), [(0.0, "0.00"), (1.001, "1.01"), (2.5, "2.50"), (math.inf, "infinite")])
def test_an_epsilon_is_a_bound_and_rounded_up(value: float, text: str) -> None:
    assert figure(value) == text


@pytest.mark.usefixtures("counted")
def test_one_more_round_fits(node: Node) -> None:
    give(node, 0.3)
    spend(node, 1)
    assert rounds_left(standing(node)) == "1 more round of the last settings fits"


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.mark.system("chromium")
@pytest.mark.usefixtures("counted")
def test_the_page_fits_and_can_be_read_in_light_and_dark_and_asks_nobody(node: Node, tmp_path: Path) -> None:
    pages = {}
    spend(node, 3)
    pages["none"] = planned(node)
    for limit in (0.5, 2.0, 90.0):
        give(node, limit)
        pages[f"{limit:g}"] = planned(node)
    for name, found in pages.items():
        (tmp_path / f"{name}.html").write_text(render(RULES, found, found.standing))
    (tmp_path / "off.html").write_text(render(RULES, None, standing(node)))
    with chromium() as browser:
        for name in (*pages, "off"):
            check_page(browser, tmp_path / f"{name}.html", width=1280, dark=name == "2")
        check_page(browser, tmp_path / "2.html", width=390, dark=False)


@pytest.mark.usefixtures("counted")
def test_names_from_outside_stay_text_on_the_page(node: Node) -> None:
    give(node, 2.0)
    set_budget(node, Budget(2.0, 1e-5, 9), who="<b>Ada</b>", why="a 'study' & more")
    found = planned(node)
    html = render(RULES, found, found.standing, made=datetime(2026, 1, 2, tzinfo=UTC))
    assert "<b>Ada" not in html
    assert "&lt;b&gt;Ada" in html
    assert "2 January 2026" in html


@pytest.mark.usefixtures("counted")
def test_the_picture_has_the_budget_where_the_curve_meets_it(node: Node) -> None:
    give(node, 2.4)  # 6 rounds of 0.4
    drawn = plot(planned(node))
    assert drawn is not None
    places = [tuple(map(float, point.split(","))) for point in drawn.curve.split()]
    met = next(place for place in places if place[0] == drawn.fits)
    assert met[1] == pytest.approx(drawn.budget, abs=0.2)
    assert [tick.label for tick in drawn.tasks] == ["denoise", "segment"]
    assert not drawn.cut
    give(node, 0.1)
    drawn = plot(planned(node))
    assert drawn is not None
    assert drawn.cut, "a budget at the foot of the picture would not be seen"
    assert drawn.fits is None
