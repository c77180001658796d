"""The privacy ledger of a hospital: what was spent on the same patients, on disk before the training that it pays for.

One for a real node, ``NODE/privacy/ledger.jsonl``, whatever the task, the run or the federation: all that was ever
trained on the same patients composes. A crash never refunds. The ledger refuses what would take epsilon, at the delta
of the hospital's budget, above that budget. A virtual hospital, whose patients are nobody's, has one ledger for each
run and no budget.

What it cannot see: training elsewhere on the same patients, here or at another hospital, and a folder that was put back
as a whole, audit log and all (:mod:`client.ledger_file`).
"""

from dataclasses import replace
from pathlib import Path
from typing import Final, Self

from client.charge import Budget, Charge, Receipt
from client.ledger_file import Acknowledged, Book, LedgerFile
from client.ledger_rows import budget_row, charge_row, require_reason
from client.room import MOST_ROUNDS, Room, room_for
from client.training import accounting
from client.training.accounting import Mechanism, PrivacyStatement
from shared.errors import BudgetError

MOST_CHARGES: Final = 3
"""Of one round of a task in a run: it is trained again, and paid for again, where secure aggregation repeats it."""


class Ledger:
    """The ledger in ``path``, held by this process alone; use it as a context manager.

    Args:
        path: The file; made with mode 0600 where missing.
        data_set: What it is about; stands in the first line of a new one, and must stand in that of another. None takes
            any, and calls a new one ``cohort``.
        acknowledged: How far the node's audit log knows that this ledger had come.

    Raises:
        RecordError: Another process holds it, the disk refuses, it is no file of the owner's alone, a line was altered,
            it lacks what was acknowledged, or it is about something else.
    """

    def __init__(self, path: Path, *, data_set: str | None = None, acknowledged: Acknowledged | None = None) -> None:
        self._file = LedgerFile(path, data_set=data_set, acknowledged=acknowledged)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the lock back."""
        self._file.close()

    @property
    def book(self) -> Book:
        """All that stands in it."""
        return self._file.book

    @property
    def budget(self) -> Budget | None:
        """The budget that counts; None where none was set."""
        return self.book.budget

    @property
    def charges(self) -> tuple[Charge, ...]:
        """All charges in their order."""
        return self.book.charges

    @property
    def head(self) -> str:
        """SHA-256 of the last line, 64 hexadecimal digits; zeros where there is none."""
        return self.book.head

    @property
    def rows(self) -> int:
        """Number of lines."""
        return self.book.rows

    @property
    def acknowledged(self) -> Acknowledged:
        """How far it has come, for another record to know."""
        return Acknowledged(self.rows, self.head)

    def set_budget(self, budget: Budget, *, who: str, why: str) -> None:
        """Make ``budget`` the one that counts from now on; durable when this returns.

        One below what is spent already takes nothing back: it refuses all further charges.

        Args:
            budget: Replaces the one before.
            who: Who decided, 1 to 300 visible characters.
            why: For what reason, likewise.

        Raises:
            UsageError: Nobody decided it, or for no reason.
            RecordError: It cannot be made durable.
        """
        require_reason(who, why)
        self._file.append("budget", budget_row(budget, who, why))

    def reserve(self, charge: Charge, *, most: int | None = MOST_CHARGES) -> Receipt:
        """Make ``charge`` durable and return the leave to train.

        Far below the budget the cheap accountant decides; near it the exact one.

        Args:
            charge: What is paid for.
            most: How often a round may be paid for in a run; None for a virtual hospital, whose run may be started
                again as often as it is interrupted.

        Raises:
            BudgetError: The round was paid for ``most`` times in this run already, or the budget does not cover it.
            RecordError: It cannot be made durable; nothing may be trained.
        """
        key = (charge.run, charge.federation, charge.task, charge.round)
        before = sum((one.run, one.federation, one.task, one.round) == key for one in self.charges)
        if most is not None and before >= most:
            raise BudgetError(
                f"round {charge.round} of {charge.task} was paid for {before} times in this run",
                hint="an honest coordinator repeats a round twice at most; ask it why",
            )
        budget = self.budget
        if budget and not accounting.within([*self.history(), charge.mechanism], budget.delta, budget.epsilon):
            raise self._exceeded(charge, budget)
        self._file.append("charge", charge_row(charge))
        return Receipt(charge)

    def restore(self, charge: Charge) -> None:
        """Charge again what was charged before and lost since, whatever the budget; it gives no leave to train.

        Raises:
            RecordError: It cannot be made durable.
        """
        self._file.append("charge", charge_row(charge))

    def history(self) -> tuple[Mechanism, ...]:
        """All charged mechanisms, equal settings taken together."""
        return history_of(self.book)

    def epsilon(self, delta: float) -> float:
        """Upper bound on epsilon of all charges at ``delta``; 0 where there is none.

        Raises:
            UsageError: ``delta`` is not in (0, 1).
            BudgetError: No finite epsilon can be shown.
        """
        return accounting.epsilon(self.history(), delta)[0]

    def statement(self, delta: float | None = None) -> PrivacyStatement:
        """The guarantee of all charges; ``delta`` None stands for the default of the largest number of patients."""
        patients = max((charge.patients for charge in self.charges), default=1)
        return accounting.statement(self.history(), delta, patients=patients)

    def spent(self) -> float:
        """Epsilon of all charges at the budget's delta; without a budget at the default one."""
        patients = max((charge.patients for charge in self.charges), default=1)
        return self.epsilon(accounting.default_delta(patients) if self.budget is None else self.budget.delta)

    def fits(self, charge: Charge, limit: int = MOST_ROUNDS) -> int:
        """How many more rounds like ``charge`` the budget covers, up to ``limit``; that many where there is none.

        Where :meth:`room` says that it is not exact, more may.
        """
        return self.room(charge, limit).rounds

    def room(self, charge: Charge, limit: int = MOST_ROUNDS) -> Room:
        """As :meth:`fits`, and whether it is known that no more do."""
        budget = self.budget
        if budget is None:
            return Room(limit)
        return room_for(self.history(), charge.mechanism, budget.delta, budget.epsilon, limit)

    def _exceeded(self, charge: Charge, budget: Budget) -> BudgetError:
        """What would be spent, what may be, and what would still fit."""
        found = self.room(replace(charge, steps=1), charge.steps - 1)
        some = f"{'' if found.exact else 'at least '}{found.rounds} of its {charge.steps} steps would"
        left = f"no round like it fits; {some}" if found.rounds else "nothing like it fits"
        before = self.history()
        spent, projected = (_words(one, budget.delta) for one in (before, (*before, charge.mechanism)))
        return BudgetError(
            f"round {charge.round} of {charge.task} would bring epsilon to {projected}, above the budget of "
            f"{budget.epsilon:g} at delta {budget.delta:g}; {spent} is spent",
            hint=f"{left}; ask for fewer steps or more noise, or change the budget with 'fedward node budget set'",
        )


def _words(history: tuple[Mechanism, ...], delta: float) -> str:
    try:
        return f"{accounting.epsilon(history, delta)[0]:.3f}"
    except BudgetError:
        return "infinity"


def history_of(book: Book) -> tuple[Mechanism, ...]:
    """All charged mechanisms of a ledger, equal settings taken together."""
    return accounting.merged(charge.mechanism for charge in book.charges)
