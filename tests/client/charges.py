"""Charges, and ledgers with some of them, for the tests of the privacy ledger."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from client.charge import Budget, Charge
from client.ledger import Ledger
from client.ledger_file import Acknowledged
from client.training import accounting
from client.training.accounting import Mechanism

CHARGE = Charge("run", "federation", "denoise", 1, "patient", 4.0, 0.25, 4, 16)
BUDGET = Budget(3.0, 1e-5, 16)


def count_tenths(monkeypatch: pytest.MonkeyPatch) -> None:
    """An accountant that anybody can check in the head: epsilon is a tenth of the steps."""

    def tenth(history: Iterable[Mechanism], _: float) -> tuple[float, str]:
        return sum(one.steps for one in history) / 10, "prv"

    monkeypatch.setattr(accounting, "epsilon", tenth)
    monkeypatch.setattr(accounting, "within", lambda history, delta, limit: tenth(history, delta)[0] <= limit)
    monkeypatch.setattr(accounting, "bound", lambda history, delta: tenth(history, delta)[0])


def rounds(count: int, first: int = 1) -> list[Charge]:
    return [replace(CHARGE, round=number) for number in range(first, first + count)]


def fill(path: Path, charges: int = 3, budget: Budget | None = BUDGET) -> Acknowledged:
    """A ledger with a budget and some rounds."""
    with Ledger(path) as ledger:
        if budget:
            ledger.set_budget(budget, who="Ada Lovelace, DPO", why="the first study")
        for charge in rounds(charges):
            ledger.reserve(charge)
        return ledger.acknowledged
