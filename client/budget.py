"""What a hospital has spent of its patients' privacy, and what a charter would cost on top, before it is agreed to."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from client.charge import Budget
from client.ledger import MOST_CHARGES, Ledger, history_of
from client.ledger_file import Book, read_book
from client.ledger_rows import BudgetChange, require_reason
from client.node import Node
from client.paying import ACTS, known, told
from client.room import Room, room, room_for
from client.training import accounting, shared_accounting
from client.training.accounting import COVERS, NOT_COVERED, Mechanism, default_delta, merged
from client.uncovered import Uncovered
from compliance.log import Action, Entry, Outcome, Scalar, entries
from shared.charter import Charter
from shared.errors import BudgetError

MOST_POINTS: Final = 8
"""Of a curve; each is a question to the exact accountant."""
MOST_NOISE: Final = 1000.0
_FINE: Final = 0.01


@dataclass(frozen=True)
class Run:
    """What was charged for one task of one run.

    Attributes:
        charges: Rounds that were paid for, repeats among them.
    """

    federation: str
    run: str
    task: str
    charges: int
    steps: int


@dataclass(frozen=True)
class Standing:
    """What a hospital has spent.

    Attributes:
        site: Its name.
        book: Its ledger.
        delta: The delta of all figures.
        spent: Upper bound on epsilon of all charges; infinite where none can be shown.
        further: How many more rounds like the last one the budget covers; None without a budget or a round.
        uncovered: Rounds that were trained on these patients without differential privacy, which no epsilon covers.
    """

    site: str
    book: Book
    delta: float
    spent: float
    further: Room | None
    uncovered: int = 0

    @property
    def budget(self) -> Budget | None:
        """The budget that counts."""
        return self.book.budget

    @property
    def change(self) -> BudgetChange | None:
        """Who set it, and why."""
        return self.book.changes[-1] if self.book.changes else None

    @property
    def runs(self) -> tuple[Run, ...]:
        """What was charged, by run and task, in the order of their first charges."""
        counts: Counter[tuple[str, str, str]] = Counter()
        steps: Counter[tuple[str, str, str]] = Counter()
        for charge in self.book.charges:
            key = (charge.federation, charge.run, charge.task)
            counts[key] += 1
            steps[key] += charge.steps
        return tuple(Run(*key, counts[key], steps[key]) for key in counts)


@dataclass(frozen=True)
class Point:
    """Epsilon after so many rounds in all."""

    round: int
    epsilon: float


@dataclass(frozen=True)
class TaskCost:
    """One task of a charter.

    Attributes:
        name: Its name.
        rounds: Its rounds.
        steps: Its optimiser steps in all rounds.
        epsilon: After it, all that was there before included.
        fits: How many of its rounds the budget covers; None without a budget.
    """

    name: str
    rounds: int
    steps: int
    epsilon: float
    fits: int | None


@dataclass(frozen=True)
class Forecast:
    """What a charter would cost at a hospital. Epsilon is infinite where no finite one can be shown.

    Attributes:
        standing: Where the hospital stands before it.
        charter: The charter.
        delta: The delta of all figures.
        tasks: Its tasks in order.
        epsilon: After the whole charter, all that was spent before included.
        alone: Of the charter alone.
        twice: Of the charter for a patient whose images are at two of its hospitals.
        repeated: After the charter if every round is charged as often as it may be.
        room: How many rounds of the charter the budget covers; None without a budget.
        noise: The noise multiplier with which the whole charter fits; None without a budget, or where no noise helps.
        before: The curve of what is spent, by rounds charged.
        curve: The curve of the charter on top, from the last point of ``before`` on.
    """

    standing: Standing
    charter: Charter
    delta: float
    tasks: tuple[TaskCost, ...]
    epsilon: float
    alone: float
    twice: float
    repeated: float
    room: Room | None
    noise: float | None
    before: tuple[Point, ...]
    curve: tuple[Point, ...]

    @property
    def rounds(self) -> int:
        """Rounds of all tasks."""
        return sum(task.rounds for task in self.tasks)

    @property
    def fits(self) -> int | None:
        """How many rounds of the charter the budget covers, at least; None without one."""
        return None if self.room is None else self.room.rounds

    @property
    def covered(self) -> bool | None:
        """Whether the budget covers the whole charter; None without one."""
        return None if self.fits is None else self.fits == self.rounds


def set_budget(node: Node, budget: Budget, *, who: str, why: str) -> None:
    """Set a hospital's budget, in its ledger and in its audit log.

    Raises:
        PolicyError: The node is a virtual hospital, which has none.
        UsageError: Nobody decided it, or for no reason.
        RecordError: The ledger is held by another process, or it or the log was altered or cannot be written.
    """
    node.require_real()
    require_reason(who, why)  # before the log has a word of it
    detail: dict[str, Scalar] = {"epsilon": budget.epsilon, "delta": budget.delta, "patients": budget.patients}
    with node.open_log() as log:
        acknowledged = known(log.newest(*ACTS))
        with Ledger(node.ledger(), data_set=node.site, acknowledged=acknowledged) as ledger:
            entry = Entry(Action.PRIVACY_BUDGET, Outcome.STARTED, detail={**detail, "who": who, "why": why})
            with log.act(entry) as done:
                ledger.set_budget(budget, who=who, why=why)
                done.update(told(ledger.acknowledged))


def standing(node: Node, *, patients: int = 1) -> Standing:
    """What a hospital has spent, compared with what its audit log knows.

    Args:
        node: A real hospital's node.
        patients: Where no budget says a delta, it is the default for so many patients.

    Raises:
        PolicyError: The node is a virtual hospital.
        RecordError: Log or ledger was altered, or the ledger lacks what the log knows.
    """
    node.require_real()
    log = node.folder / "audit" / "log.jsonl"
    act, without = None, Uncovered()
    for row in entries(log) if log.exists() else ():
        without.add(row)
        if row["action"] in ACTS and row["outcome"] == Outcome.OK:
            act = row["detail"]
    book = read_book(node.ledger(), known(act), data_set=node.site)
    most = max((charge.patients for charge in book.charges), default=patients)
    delta = default_delta(most) if book.budget is None else book.budget.delta
    spent = history_of(book)
    further = None
    if book.budget is not None and book.charges:
        further = room_for(spent, book.charges[-1].mechanism, delta, book.budget.epsilon)
    return Standing(node.site, book, delta, epsilon_of(spent, delta), further, without.count)


def epsilon_of(history: Sequence[Mechanism], delta: float) -> float:
    """As :func:`client.training.accounting.epsilon`; infinite where none can be shown."""
    try:
        return accounting.epsilon(history, delta)[0]
    except BudgetError:
        return math.inf


def forecast(now: Standing, charter: Charter) -> Forecast | None:
    """What ``charter`` would cost on top of ``now``; None where it trains without differential privacy.

    Costs the exact accountant some twenty to forty questions: seconds.
    """
    privacy = charter.privacy
    if privacy.mode == "off":
        return None
    if now.budget is None and privacy.delta is not None:
        now = replace(now, delta=privacy.delta, spent=epsilon_of(history_of(now.book), privacy.delta))
    delta, history, limit = now.delta, history_of(now.book), now.budget.epsilon if now.budget else None
    steps = [task.local_steps for task in charter.tasks for _ in range(task.rounds)]
    taken = [0, *itertools.accumulate(steps)]  # after so many rounds of the charter
    one = Mechanism(privacy.noise_multiplier, privacy.sample_rate, 1)

    def after(rounds: int, times: int = 1) -> list[Mechanism]:
        return [*history, *([one._replace(steps=times * taken[rounds])] if rounds else [])]

    def value(rounds: int) -> float:
        return epsilon_of(after(rounds), delta)

    ends = list(itertools.accumulate(task.rounds for task in charter.tasks))
    found = {rounds: value(rounds) for rounds in sorted({*_spread(len(steps)), *ends})}
    fits = None
    if limit is not None:
        covered = found[len(steps)] <= limit
        fits = Room(len(steps)) if covered else room(after, delta, limit, len(steps) - 1)
    charged = len(now.book.charges)
    whole = whole_of(charter)
    return Forecast(
        standing=now,
        charter=charter,
        delta=delta,
        tasks=tuple(
            TaskCost(
                task.name,
                task.rounds,
                task.rounds * task.local_steps,
                found[end],
                None if fits is None else min(max(fits.rounds - (end - task.rounds), 0), task.rounds),
            )
            for task, end in zip(charter.tasks, ends, strict=True)
        ),
        epsilon=found[len(steps)],
        alone=alone(charter, delta),
        twice=epsilon_of([at_two(whole, shared=privacy.mode == "distributed")], delta),
        repeated=epsilon_of(after(len(steps), MOST_CHARGES), delta),
        room=fits,
        noise=None if limit is None else _noise(history, whole, delta, limit),
        before=_spent_curve(now),
        curve=(Point(charged, now.spent), *(Point(charged + rounds, found[rounds]) for rounds in sorted(found))),
    )


def whole_of(charter: Charter) -> Mechanism:
    """All steps of all rounds of a charter, each once."""
    privacy, steps = charter.privacy, sum(task.rounds * task.local_steps for task in charter.tasks)
    return Mechanism(privacy.noise_multiplier, privacy.sample_rate, steps)


def alone(charter: Charter, delta: float) -> float:
    """Epsilon of a charter alone at ``delta``, an upper bound; infinite without differential privacy."""
    return math.inf if charter.privacy.mode == "off" else epsilon_of([whole_of(charter)], delta)


def delta_for(node: Node, charter: Charter) -> float:
    """The delta at which a charter is judged here: that of the budget, else the charter's, else the default.

    Raises:
        RecordError: The ledger was altered.
    """
    budget = None if node.virtual else read_book(node.ledger(), None, data_set=node.site).budget
    return budget.delta if budget is not None else charter.privacy.delta or default_delta(1)


def at_two(one: Mechanism, *, shared: bool) -> Mechanism:
    """What ``one`` costs a patient whose images are at two of the hospitals, as an upper bound.

    With noise at each hospital the two compose. Shared noise hides both with one lot of it: the patient moves the sum
    by nothing, C or 2C, and to move it by 2C whenever it moves costs no less (each tail of a normal law grows with its
    mean), which is noise of sigma / 2 and a chance of 1 - (1 - q)^2.
    """
    if not shared:
        return one._replace(steps=2 * one.steps)
    return Mechanism(one.noise_multiplier / 2, 1 - (1 - one.sample_rate) ** 2, one.steps)


def promise(charter: Charter) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the guarantee under a charter covers, and what it does not."""
    if charter.privacy.mode == "distributed":
        return shared_accounting.covers(charter), shared_accounting.not_covered(charter)
    return COVERS, NOT_COVERED


def _spent_curve(now: Standing) -> tuple[Point, ...]:
    mechanisms = [charge.mechanism for charge in now.book.charges]
    return (
        Point(0, 0.0),
        *(
            Point(count, epsilon_of(merged(mechanisms[:count]), now.delta) if count < len(mechanisms) else now.spent)
            for count in _spread(len(mechanisms), MOST_POINTS // 2)
        ),
    )


def _spread(last: int, count: int = MOST_POINTS) -> list[int]:
    """At most ``count`` numbers from 1 to ``last``, denser at the start, where epsilon rises fastest."""
    return sorted({max(1, round(last * (index / count) ** 2)) for index in range(1, count + 1)}) if last else []


def _noise(history: Sequence[Mechanism], whole: Mechanism, delta: float, limit: float) -> float | None:
    """The least noise multiplier, to a hundredth, with which ``whole`` fits; the charter's own where that does."""

    def fits(noise: float) -> bool:
        return accounting.within([*history, whole._replace(noise_multiplier=noise)], delta, limit)

    low = high = whole.noise_multiplier
    while not fits(high):
        low, high = high, 2 * high
        if high > MOST_NOISE:
            return None
    while high - low > _FINE * high and high > whole.noise_multiplier:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    rounded = math.ceil(high * 100) / 100
    return rounded if high > whole.noise_multiplier else high
