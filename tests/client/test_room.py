"""How many rounds a budget still covers: the number that one question after another would find, with few of them."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.charge import Budget
from client.ledger import Ledger
from client.room import MOST_ASKED, Room, room, room_for
from client.training import accounting
from client.training.accounting import Mechanism
from shared.errors import BudgetError, UsageError
from tests.client.charges import CHARGE, rounds

ONE = Mechanism(4.0, 0.25, 4)


class Counting:
    """Stands in for the accountants: a cheap one that is too dear by some factor, and an exact one that counts."""

    def __init__(self, patch: pytest.MonkeyPatch, dear: float, power: float, *, fails: bool = False) -> None:
        self.asked, self.dear, self.power, self.fails = 0, dear, power, fails
        patch.setattr(accounting, "bound", lambda history, _: self.dear * self._cost(history))
        patch.setattr(accounting, "epsilon", self._epsilon)

    def _cost(self, history: Sequence[Mechanism]) -> float:
        return float(sum(one.steps for one in history) ** self.power) / 10

    def _epsilon(self, history: Sequence[Mechanism], _: float) -> tuple[float, str]:
        self.asked += 1
        if self.fails:
            raise BudgetError("no finite epsilon")
        return self._cost(history), "prv"

    def fit(self, spent: int, steps: int, limit: float, most: int) -> int:
        """By asking for one round after another."""
        count = 0
        while count < most and self._cost([ONE._replace(steps=spent + (count + 1) * steps)]) <= limit:
            count += 1
        return count


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.tuples(st.integers(0, 300), st.integers(1, 40)),
    limit=st.floats(0.05, 30),
    costs=st.tuples(st.floats(1.0, 3.0), st.floats(0.5, 1.2)),
    most=st.integers(1, 3000),
)
def test_it_is_the_number_that_counting_finds(
    monkeypatch: pytest.MonkeyPatch, steps: tuple[int, int], limit: float, costs: tuple[float, float], most: int
) -> None:
    counting = Counting(monkeypatch, *costs)
    spent, each = steps
    history = [ONE._replace(steps=spent)] if spent else []
    found = room_for(history, ONE._replace(steps=each), 1e-5, limit, most)
    assert found == Room(counting.fit(spent, each, limit, most))
    assert counting.asked <= MOST_ASKED


def test_where_the_exact_accountant_fails_the_cheap_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(monkeypatch, 2.0, 1.0, fails=True)
    assert room_for([], ONE, 1e-5, 8.0) == Room(10)
    assert counting.asked <= MOST_ASKED


def test_it_says_at_least_so_many_where_it_stops_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(monkeypatch, 2.0, 1.0)
    monkeypatch.setattr("client.room.MOST_ASKED", 1)
    found = room_for([], ONE, 1e-5, 8.0)
    assert counting.asked == 1
    assert not found.exact
    assert 10 <= found.rounds <= 20


def test_nothing_is_asked_where_the_cheap_bound_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(monkeypatch, 1.0, 1.0)
    assert room_for([], ONE, 1e-5, 1e9, 100) == Room(100)
    monkeypatch.setattr(accounting, "bound", lambda *_: math.inf)
    assert room_for([ONE], ONE, 1e-5, 3.0) == Room(0)
    assert counting.asked == 0


def test_a_delta_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError):
        room(lambda _: [ONE], 0.0, 3.0)


def test_after_a_dozen_different_settings_it_takes_few_questions_and_is_what_is_then_paid(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, asked = accounting._prv, 0

    def counted(history: Sequence[Mechanism], delta: float) -> float:
        nonlocal asked
        asked += 1
        return exact(history, delta)

    monkeypatch.setattr(accounting, "_prv", counted)
    history = [Mechanism(2.0 + index / 10, 0.1 + index / 100, 2) for index in range(12)]
    spent = accounting.epsilon(history, 1e-5)[0]
    asked = 0
    found = room_for(history, ONE, 1e-5, spent + 0.5)
    assert found.exact
    assert asked <= 6
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        for charge, one in zip(rounds(12), history, strict=True):
            ledger.reserve(_with(charge, one))
        ledger.set_budget(Budget(spent + 0.5, 1e-5, 16), who="Ada", why="a study")
        ledger.reserve(_with(CHARGE, ONE._replace(steps=4 * found.rounds), "another"))
        with pytest.raises(BudgetError):
            ledger.reserve(_with(CHARGE, ONE, "another"))


def _with(charge, one: Mechanism, run: str = "run"):
    return type(charge)(**(vars(charge) | one._asdict() | {"run": run}))
