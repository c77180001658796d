"""The privacy ledger of a hospital: what was spent on the same patients, on disk before the training that it pays for.

One for a real node, ``NODE/privacy/ledger.jsonl``, whatever the task, the run or the federation: all that was ever
trained on the same patients composes. A crash never refunds. The ledger refuses what would take epsilon, at the delta
of the hospital's budget, above that budget. A virtual hospital, whose patients are nobody's, has one ledger for each
run and no budget.

What it cannot see: training elsewhere on the same patients, here or at another hospital, and a folder that was put back
as a whole, audit log and all (:mod:`client.ledger_file`).
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, Self

from client.charge import Budget, Charge, Receipt
from client.ledger_file import Acknowledged, Book, LedgerFile, budget_row, charge_row
from client.training import accounting
from client.training.accounting import Mechanism, PrivacyStatement
from shared.errors import BudgetError, UsageError

MOST_CHARGES: Final = 3
"""Of one round of a task in a run: it is trained again, and paid for again, where secure aggregation repeats it."""
MOST_ROUNDS: Final = 100_000
"""More rounds than a charter has; nobody needs to know how many more would fit."""
_LONGEST: Final = 300


class Ledger:
    """The ledger in ``path``, held by this process alone; use it as a context manager.

    Args:
        path: The file; made with mode 0600 where missing.
        data_set: What it is about; stands in the first line of a new one.
        acknowledged: How far the node's audit log knows that this ledger had come.

    Raises:
        RecordError: Another process holds it, the disk refuses, a line was altered, or it lacks what was acknowledged.
    """

    def __init__(self, path: Path, *, data_set: str = "cohort", acknowledged: Acknowledged | None = None) -> None:
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
        for name, text in (("who", who), ("why", why)):
            if not (text.strip() and text.isprintable() and len(text) <= _LONGEST):
                raise UsageError(
                    f"a budget stands in the ledger with --{name}: 1 to {_LONGEST} visible characters",
                    hint="say who decided, and why",
                )
        self._file.append("budget", budget_row(budget, who, why))

    def reserve(self, charge: Charge, *, most: int | None = MOST_CHARGES) -> Receipt:
        """Make ``charge`` durable and return the leave to train.

        Far below the budget the cheap accountant decides; near it the exact one, 0.2 s for each pair of settings.

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
        if self.budget is not None and not self._covers([charge.mechanism]):
            raise self._exceeded(charge, self.budget)
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
        return spent_of(self.book)

    def fits(self, charge: Charge, limit: int = MOST_ROUNDS) -> int:
        """How many more rounds like ``charge`` the budget covers, up to ``limit``; that many where there is none."""
        if self.budget is None:
            return limit
        return most_that(lambda rounds: self._covers([charge.mechanism._replace(steps=rounds * charge.steps)]), limit)

    def _covers(self, further: list[Mechanism]) -> bool:
        budget = self.budget
        return budget is None or accounting.within([*self.history(), *further], budget.delta, budget.epsilon)

    def _exceeded(self, charge: Charge, budget: Budget) -> BudgetError:
        """What would be spent, what may be, and what would still fit."""
        steps = self.fits(replace(charge, steps=1), charge.steps - 1)
        room = f"no round like it fits; {steps} of its {charge.steps} steps would" if steps else "nothing like it fits"
        before = self.history()
        spent, projected = (_words(one, budget.delta) for one in (before, (*before, charge.mechanism)))
        return BudgetError(
            f"round {charge.round} of {charge.task} would bring epsilon to {projected}, above the budget of "
            f"{budget.epsilon:g} at delta {budget.delta:g}; {spent} is spent",
            hint=f"{room}; ask for fewer steps or more noise, or change the budget with 'fedward node budget set'",
        )


def _words(history: tuple[Mechanism, ...], delta: float) -> str:
    try:
        return f"{accounting.epsilon(history, delta)[0]:.3f}"
    except BudgetError:
        return "infinity"


def history_of(book: Book) -> tuple[Mechanism, ...]:
    """All charged mechanisms of a ledger, equal settings taken together."""
    return accounting.merged(charge.mechanism for charge in book.charges)


def spent_of(book: Book) -> float:
    """See :meth:`Ledger.spent`."""
    patients = max((charge.patients for charge in book.charges), default=1)
    delta = accounting.default_delta(patients) if book.budget is None else book.budget.delta
    return accounting.epsilon(history_of(book), delta)[0]


def most_that(holds: Callable[[int], bool], limit: int = MOST_ROUNDS) -> int:
    """The largest n in [0, ``limit``] for which ``holds(n)``, of a condition that, once false, stays false.

    Asked at 1, 2, 4 and so on first: what is near the start is found in few steps.
    """
    low, high = 0, 1
    while high <= limit and holds(high):
        low, high = high, 2 * high
    high = min(high, limit + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
