"""What guesses say about epsilon: the statistics of a privacy audit in one run.

Source: Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run" (arXiv:2305.08846), its main
theorem on (epsilon, delta) and the procedure of its appendix D. Of m canaries each is put in or left out by a fair
coin. Whoever sees the outcome guesses the coins of r of them and abstains on the rest. Against an (epsilon,
delta)-private training, v of these guesses are right no more often than v of r coins that show the truth with chance
1 / (1 + e**-epsilon) each, but for a share that grows with m * delta.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

_LARGEST: Final = 30_000  # thousandths of an epsilon
_COARSE: Final = 100
_FINE: Final = 1


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """The largest chance of at least so many correct guesses against any (epsilon, delta)-private training.

    With f(v) the chance that a binomial number W of ``guesses`` coins of 1/(1 + e**-epsilon) reaches v, it is
    f(v) + 2 m delta max_i (f(v - i) - f(v)) / i over i from 1 to v.

    Args:
        canaries: m, each put in by a coin of its own.
        guesses: r in [0, m]; how many canaries are guessed at must not depend on the outcome.
        correct: v in [0, r].
        epsilon: At least 0.
        delta: In [0, 1].

    Raises:
        ValueError: A number is out of its range.
    """
    if not (0 <= correct <= guesses <= canaries and epsilon >= 0 and 0 <= delta <= 1):
        raise ValueError(f"no p-value of {correct} of {guesses} of {canaries} at ({epsilon}, {delta})")
    if correct == 0:
        return 1.0
    chance = 1.0 / (1.0 + math.exp(-epsilon))
    below = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), guesses, chance))
    steepest = float((below / np.arange(1, correct + 1)).max())
    return min(1.0, float(binom.sf(correct - 1, guesses, chance)) + 2.0 * canaries * delta * steepest)


@cache
def lower_bound(canaries: int, guesses: int, correct: int, delta: float, significance: float) -> float:
    """The largest epsilon in [0, 30] up to which all are refuted by so many correct guesses, in steps of 0.001.

    A training that is (epsilon, delta)-private gives more than its epsilon with a chance of ``significance`` at most.
    """

    def refuted(thousandths: int) -> bool:
        return p_value(canaries, guesses, correct, thousandths / 1000, delta) <= significance

    found = 0
    if refuted(found):
        for step in (_COARSE, _FINE):
            while found + step <= _LARGEST and refuted(found + step):
                found += step
    return found / 1000


def most_telling(
    canaries: int, correct: Sequence[tuple[int, int]], delta: float, significance: float
) -> tuple[float, int, int]:
    """The largest lower bound over several numbers of guesses, with the guesses and how many were right.

    Args:
        canaries: As for :func:`p_value`.
        correct: Numbers of guesses and of correct ones; at least one pair.
        delta: As for :func:`p_value`.
        significance: Of all of them together: each gets an equal share (Bonferroni).
    """
    share = significance / len(correct)
    return max((lower_bound(canaries, r, v, delta, share), r, v) for r, v in correct)


def guessed(scores: NDArray[np.float64], inside: NDArray[np.bool_], guesses: int) -> int:
    """How many of ``guesses`` guesses are right: "in" for the highest scores, "out" for the lowest, half of each.

    The middle is abstained from.

    Args:
        scores: One number a canary, ``[canaries]``, higher for those that seem to be in.
        inside: Who was in, ``[canaries]``.
        guesses: Even, at most the number of canaries.
    """
    order, half = np.argsort(scores, kind="stable"), guesses // 2
    return int((~inside[order[:half]]).sum() + inside[order[len(order) - half :]].sum())
