"""How many rounds a budget still covers, with few questions to the exact accountant, which takes its time."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from client.training import accounting
from client.training.accounting import Mechanism
from shared.errors import BudgetError

MOST_ROUNDS: Final = 100_000
"""More rounds than a charter has; nobody needs to know how many more would fit."""
MOST_ASKED: Final = 20
"""Questions to the exact accountant, each of which takes 0.03 s and more for each pair of settings."""
_NEAR: Final = 1.15


@dataclass(frozen=True)
class Room:
    """How much fits.

    Attributes:
        rounds: So many rounds do.
        exact: Whether one more does not; where False, nobody has found that out.
    """

    rounds: int
    exact: bool = True


def room(after: Callable[[int], Sequence[Mechanism]], delta: float, limit: float, most: int = MOST_ROUNDS) -> Room:
    """The largest number of rounds, in [0, ``most``], with which epsilon stays within ``limit`` at ``delta``.

    The cheap bound says how many surely fit and how many surely do not. In between the exact accountant is asked where
    the cheap one, brought down by the ratio of the two at the last question, expects the limit.

    Args:
        after: The whole history with so many of the rounds; epsilon must not fall with them.
        delta: Of both accountants.
        limit: Largest epsilon.
        most: No more is of interest.

    Raises:
        UsageError: ``delta`` is not in (0, 1).
    """

    def cheap(value: float) -> int:
        return most_that(lambda rounds: accounting.bound(after(rounds), delta) <= value, most)

    low, high = cheap(limit), cheap(max(limit, accounting.FAR)) + 1
    guess, stride, held = cheap(_NEAR * limit), 1, None
    for _ in range(MOST_ASKED):
        guess = min(max(guess, low + 1), high - 1)
        if guess <= low:
            break
        value = _exact(after(guess), delta)
        stride = 2 * stride if held is (value <= limit) else 1
        held = value <= limit
        low, high = (guess, high) if held else (low, guess)
        if not math.isfinite(value):
            guess = (low + high) // 2
            continue
        expected = cheap(limit * accounting.bound(after(guess), delta) / value) if value else high
        guess = max(expected, low + stride) if held else min(expected, high - stride)
    return Room(low, exact=high - low <= 1)


def room_for(history: Sequence[Mechanism], one: Mechanism, delta: float, limit: float, most: int = MOST_ROUNDS) -> Room:
    """As :func:`room`, for rounds that are all like ``one`` on top of ``history``."""
    return room(
        lambda rounds: [*history, *([one._replace(steps=rounds * one.steps)] if rounds else [])], delta, limit, most
    )


def _exact(history: Sequence[Mechanism], delta: float) -> float:
    try:
        return accounting.epsilon(history, delta)[0]
    except BudgetError:
        return math.inf


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
