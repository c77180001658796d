"""The privacy ledger: what it charges, what it refuses, and what a receipt pays for."""

import contextlib
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.charge import Budget
from client.ledger import Ledger
from client.ledger_file import read_book
from client.room import MOST_ROUNDS, most_that
from client.training import accounting
from client.training.accounting import Mechanism, epsilon
from shared.errors import BudgetError, UsageError
from tests.client.charges import BUDGET, CHARGE, count_tenths, fill, rounds

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "privacy" / "ledger.jsonl"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    count_tenths(monkeypatch)


# --- what stands in it ------------------------------------------------------------------------------------------------


def test_charges_are_read_back_and_compose_over_tasks_runs_and_federations(path: Path) -> None:
    others = [
        replace(CHARGE, task="segment", steps=6),
        replace(CHARGE, run="another"),
        replace(CHARGE, federation="another", noise_multiplier=3.0),
    ]
    with Ledger(path) as ledger:
        ledger.reserve(CHARGE)
    with Ledger(path) as ledger:
        for charge in others:
            ledger.reserve(charge)
        assert ledger.charges == (CHARGE, *others)
        assert ledger.history() == (Mechanism(4.0, 0.25, 14), Mechanism(3.0, 0.25, 4))
        told = ledger.statement()
        assert (told.patients, told.steps, told.history) == (16, 18, ledger.history())


def test_epsilon_is_that_of_the_history(path: Path) -> None:
    with Ledger(path) as ledger:
        assert (ledger.epsilon(1e-5), ledger.spent()) == (0.0, 0.0)
        ledger.reserve(CHARGE)
        assert ledger.epsilon(1e-5) == ledger.spent() == epsilon([CHARGE.mechanism], 1e-5)[0]
        ledger.set_budget(Budget(3.0, 1e-7, 16), who="Ada", why="a smaller delta")
        assert ledger.spent() == epsilon([CHARGE.mechanism], 1e-7)[0]


def test_a_ledger_is_lines_of_canonical_json_for_the_owner_only(path: Path) -> None:
    acknowledged = fill(path, charges=2)
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [row["kind"] for row in rows] == ["open", "budget", "charge", "charge"]
    assert (rows[0]["unit"], rows[0]["data_set"]) == ("patient", "cohort")
    assert all(row["time"].endswith("Z") for row in rows)
    assert (rows[1]["epsilon"], rows[1]["who"], rows[1]["why"]) == (3, "Ada Lovelace, DPO", "the first study")
    assert (rows[3]["federation"], rows[3]["mode"], rows[3]["patients"]) == ("federation", "patient", 16)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert acknowledged.rows == 4


def test_reading_takes_no_lock_and_changes_nothing(path: Path) -> None:
    assert read_book(path).rows == 0
    assert not path.exists()
    fill(path)
    path.write_bytes(path.read_bytes() + b'{"check":"7')
    before = path.read_bytes()
    with path.open("rb"):
        assert len(read_book(path).charges) == 3
    assert path.read_bytes() == before
    with Ledger(path):
        assert len(read_book(path).charges) == 3


# --- the budget -------------------------------------------------------------------------------------------------------


@pytest.mark.control("GDPR-25-budget")
def test_what_the_budget_does_not_cover_is_refused_and_not_charged(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.set_budget(Budget(1.0, 1e-5, 16), who="Ada", why="a pilot")
        charges = iter(rounds(100))
        with pytest.raises(BudgetError):  # the loop is what runs into it
            for charge in charges:
                ledger.reserve(charge)
        paid, before = len(ledger.charges), ledger.head
        assert ledger.spent() <= 1.0
        assert epsilon([CHARGE.mechanism._replace(steps=4 * (paid + 1))], 1e-5)[0] > 1.0
        with pytest.raises(BudgetError, match=r"epsilon to 1\.\d+, above the budget of 1 at delta 1e-05; 0\.\d+ is"):
            ledger.reserve(CHARGE)
        assert (len(ledger.charges), ledger.head) == (paid, before)


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize(
    ("limit", "words"),
    [(0.9, "no round like it fits; 1 of its 4 steps would"), (0.8, "nothing like it fits")],
)
def test_a_refusal_says_what_is_spent_and_what_would_still_fit(path: Path, limit: float, words: str) -> None:
    with Ledger(path) as ledger:
        ledger.set_budget(Budget(limit, 1e-5, 16), who="Ada", why="a pilot")
        for charge in rounds(2):
            ledger.reserve(charge)
        with pytest.raises(BudgetError) as refused:
            ledger.reserve(rounds(1, first=3)[0])
    assert refused.value.message == (
        f"round 3 of denoise would bring epsilon to 1.200, above the budget of {limit} at delta 1e-05; 0.800 is spent"
    )
    assert refused.value.hint.startswith(words)
    assert "fedward node budget set" in refused.value.hint


@pytest.mark.usefixtures("counted")
def test_it_says_how_many_more_rounds_fit(path: Path) -> None:
    with Ledger(path) as ledger:
        assert ledger.fits(CHARGE) == MOST_ROUNDS
        ledger.set_budget(Budget(3.0, 1e-5, 16), who="Ada", why="a pilot")
        assert ledger.fits(CHARGE) == 7
        for charge in rounds(3):
            ledger.reserve(charge)
        assert ledger.fits(CHARGE) == 4
        assert ledger.fits(replace(CHARGE, steps=19)) == 0


def test_as_many_rounds_fit_as_are_said_to(path: Path) -> None:
    with Ledger(path) as ledger:
        ledger.set_budget(Budget(1.5, 1e-5, 16), who="Ada", why="a pilot")
        said = ledger.fits(CHARGE)
        assert said > 1
        for charge in rounds(said):
            ledger.reserve(charge)
        with pytest.raises(BudgetError, match="above the budget"):
            ledger.reserve(rounds(1, first=said + 1)[0])


@pytest.mark.usefixtures("counted")
def test_a_budget_below_what_is_spent_takes_nothing_back_and_refuses_everything(path: Path) -> None:
    fill(path, charges=5)
    with Ledger(path) as ledger:
        ledger.set_budget(Budget(0.5, 1e-5, 16), who="Ada", why="too much was spent")
        assert len(ledger.charges) == 5
        with pytest.raises(BudgetError):
            ledger.reserve(replace(CHARGE, round=6, steps=1))
        ledger.set_budget(Budget(10.0, 1e-5, 20), who="Grace", why="the board has decided")
        ledger.reserve(replace(CHARGE, round=6))
    changes = read_book(path).changes
    assert [(change.budget.epsilon, change.who, change.why) for change in changes] == [
        (3.0, "Ada Lovelace, DPO", "the first study"),
        (0.5, "Ada", "too much was spent"),
        (10.0, "Grace", "the board has decided"),
    ]


@pytest.mark.parametrize("text", ["", "  ", "x" * 301, "a\nb", "\u202eevil"])
def test_a_budget_without_a_person_or_a_reason_is_not_set(path: Path, text: str) -> None:
    with Ledger(path) as ledger:
        for words in ({"who": text, "why": "a study"}, {"who": "Ada", "why": text}):
            with pytest.raises(UsageError, match="visible characters"):
                ledger.set_budget(BUDGET, **words)
        assert ledger.budget is None


@pytest.mark.parametrize(
    "wrong",
    [
        *[(limit, 1e-5, 1) for limit in (0.0, float("inf"), 1e20)],
        *[(1.0, delta, 1) for delta in (0.0, 1.0)],
        *[(1.0, 1e-5, patients) for patients in (0, 1.5, True)],
    ],
)
def test_figures_that_no_budget_has_are_refused(wrong: tuple[float, float, Any]) -> None:
    with pytest.raises(UsageError, match="is no budget"):
        Budget(*wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"noise_multiplier": 0.0},
        {"noise_multiplier": float("nan")},
        {"sample_rate": 0.0},
        {"sample_rate": 1.1},
        {"noise_multiplier": 1e20},
        {"steps": 0},
        {"steps": True},
        {"steps": 1.5},
        {"round": 0},
        {"patients": 0},
        {"patients": 2**53},
        {"mode": "off"},
    ],
)
def test_a_charge_that_no_epsilon_belongs_to_cannot_be_made(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        replace(CHARGE, **wrong)  # type: ignore[arg-type]


def test_a_round_is_paid_for_three_times_at_most_in_a_run(path: Path) -> None:
    with Ledger(path) as ledger:
        for _ in range(3):
            ledger.reserve(CHARGE)
        with pytest.raises(BudgetError, match="3 times"):
            ledger.reserve(CHARGE)
        for other in (replace(CHARGE, run="two"), replace(CHARGE, task="segment"), replace(CHARGE, round=2)):
            ledger.reserve(other)
        ledger.reserve(CHARGE, most=None)


def test_a_virtual_hospital_pays_for_hundreds_of_rounds_without_an_accountant(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> float:
        raise AssertionError("an epsilon was computed")

    monkeypatch.setattr(accounting, "epsilon", never)
    monkeypatch.setattr(accounting, "within", never)
    began = time.process_time()
    with Ledger(path) as ledger:
        for charge in rounds(300):
            ledger.reserve(charge, most=None)
    assert (time.process_time() - began) / 300 < 0.005
    began = time.process_time()
    with Ledger(path) as ledger:
        assert len(ledger.charges) == 300
    assert time.process_time() - began < 0.2


@given(limit=st.integers(1, 2000), last=st.integers(0, 3000))
def test_the_most_that_holds_is_found(limit: int, last: int) -> None:
    assert most_that(lambda number: number <= last, limit) == min(last, limit)


CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.integers(1, 9)),
        st.tuples(st.just("budget"), st.integers(1, 40)),
        st.tuples(st.just("reopen"), st.just(0)),
    ),
    max_size=25,
)


@pytest.mark.usefixtures("counted")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(changes=CHANGES)
def test_whatever_is_asked_the_chain_holds_and_no_charge_goes_above_the_budget_of_its_time(
    path: Path, changes: list[tuple[str, int]]
) -> None:
    path.unlink(missing_ok=True)
    ledger, spent, limit = Ledger(path), 0, 10**9
    for kind, number in changes:
        if kind == "reserve":
            with contextlib.suppress(BudgetError):
                ledger.reserve(replace(CHARGE, steps=number), most=None)
                spent += number
                assert spent <= limit
        elif kind == "budget":
            limit = number
            ledger.set_budget(Budget(number / 10, 1e-5, 9), who="Ada", why="another mind")
        else:
            known = ledger.acknowledged
            ledger.close()
            ledger = Ledger(path, acknowledged=known if known.rows else None)
        assert sum(charge.steps for charge in ledger.charges) == spent
    assert read_book(path) == ledger.book
    ledger.close()


# --- receipts ---------------------------------------------------------------------------------------------------------


def test_a_receipt_pays_for_its_steps_once(path: Path) -> None:
    with Ledger(path) as ledger:
        receipt = ledger.reserve(CHARGE)
    for _ in range(4):
        receipt.take(4.0, 0.25)
    assert receipt.left == 0
    with pytest.raises(BudgetError, match="taken"):
        receipt.take(4.0, 0.25)


def test_a_receipt_does_not_pay_for_another_mechanism(path: Path) -> None:
    with Ledger(path) as ledger:
        receipt = ledger.reserve(CHARGE)
    for step in ((1.0, 0.25), (4.0, 0.5)):
        with pytest.raises(BudgetError, match="not the one"):
            receipt.take(*step)


def test_the_ledger_loads_without_torch() -> None:
    code = "import sys, client.ledger, client.paying; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=REPOSITORY).returncode == 0
