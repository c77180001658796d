"""What a training run costs in privacy, stated so that nobody has to guess: whose privacy, which epsilon, and what not.

Epsilon comes from the PRV accountant (Gopi, Lee and Wutschitz 2021) as an upper bound. Where it fails, or where epsilon
is so large that its grid would take minutes, Renyi DP (Mironov, Talwar and Zhang 2019) gives a looser upper bound.
Gaussian DP is never used: it is a limit, not a bound, and understates.

Opacus brings torch, whose import takes seconds; it is loaded where an epsilon is asked for, and not before.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Final, NamedTuple

from client.training.sampling import OVERFLOW
from shared.errors import BudgetError, UsageError

LARGEST_DELTA: Final = 1e-5
SMALLEST_DELTA: Final = 1e-9
"""Of a budget: half of it pays for 500 steps, each of which uses up 1e-12."""
FAR: Final = 100.0
"""Epsilon by Renyi DP above which PRV is not asked: it takes seconds to minutes, and tells nobody anything."""

COVERS: Final = (
    "the model updates of these training steps, and whatever is computed from them",
    "every slice and study of a patient at this site, together",
)
NOT_COVERED: Final = (
    "the number of patients that the hospital has declared: a public constant, which divides every noisy sum",
    "whether the site takes part: it does not where fewer patients than the charter's least number are in training",
    "training losses, metrics on held-out patients, and choices made by looking at them (tuning)",
    "how long the site takes to answer",
    "a patient whose images are also at another hospital: the costs of both add up",
    "runs charged elsewhere on the same patients: their costs add up",
    "which patients are held out: that follows from how many there are, and the guarantee takes it as given",
)


class Mechanism(NamedTuple):
    """Steps of the Poisson-subsampled Gaussian mechanism with the same settings, in the order that Opacus expects."""

    noise_multiplier: float
    sample_rate: float
    steps: int


@dataclass(frozen=True)
class PrivacyStatement:
    """The guarantee of one site's run, with everything that is needed to check it.

    Attributes:
        unit: Whose presence is hidden.
        relation: Which data sets cannot be told apart.
        epsilon: Upper bound; e**epsilon bounds how much likelier any outcome becomes.
        delta: Chance mass that the bound may miss, the cap on patients per step included.
        accountant: ``prv`` or ``rdp``.
        sample_rate: Chance of a patient to be in a step; the largest where it varied.
        noise_multiplier: Standard deviation of the noise in units of the clipping bound; the smallest where it varied.
        steps: Steps charged.
        patients: The public number that the noisy sums were divided by, declared by the site or by the charter; the
            largest where it varied.
        history: All charged mechanisms, which epsilon is computed from.
        covers: What the guarantee holds for.
        not_covered: What it does not hold for.
    """

    unit: str
    relation: str
    epsilon: float
    delta: float
    accountant: str
    sample_rate: float
    noise_multiplier: float
    steps: int
    patients: int
    history: tuple[Mechanism, ...]
    covers: tuple[str, ...] = COVERS
    not_covered: tuple[str, ...] = NOT_COVERED

    def to_json(self) -> dict[str, object]:
        """The statement as plain values for the run's record."""
        values = asdict(self)
        values["history"] = [mechanism._asdict() for mechanism in self.history]
        return values


def default_delta(patients: int) -> float:
    """min(1e-5, 1/(10 N)) for N patients: far below the chance of publishing one of them outright."""
    return min(LARGEST_DELTA, 1.0 / (10 * max(patients, 1)))


def merged(history: Iterable[Mechanism]) -> tuple[Mechanism, ...]:
    """The history with equal settings taken together; the order of mechanisms does not matter for composition."""
    steps: dict[tuple[float, float], int] = {}
    for noise_multiplier, sample_rate, count in history:
        steps[noise_multiplier, sample_rate] = steps.get((noise_multiplier, sample_rate), 0) + count
    return tuple(Mechanism(*settings, count) for settings, count in steps.items())


def epsilon(history: Iterable[Mechanism], delta: float) -> tuple[float, str]:
    """The smallest epsilon that can be shown for ``history`` at ``delta``, and the accountant that showed it.

    Costs about 0.1 s for each pair of noise multiplier and sampling rate that is new, and 0.03 s for each other one.

    Raises:
        UsageError: ``delta`` is not in (0, 1).
        BudgetError: No finite epsilon can be shown.
    """
    mechanisms = merged(history)
    left = _left(mechanisms, delta)
    if not mechanisms:
        return 0.0, "prv"
    if left <= 0:
        raise BudgetError(
            f"no finite epsilon at delta {delta:g} for {sum(m.steps for m in mechanisms)} steps",
            hint="use noise, fewer steps or a larger delta",
        )
    loose = _rdp(mechanisms, left)
    tight = _prv(mechanisms, left) if loose <= FAR else math.inf
    value, accountant = (tight, "prv") if tight <= loose else (loose, "rdp")
    if not math.isfinite(value):
        raise BudgetError(f"no finite epsilon at delta {delta:g}", hint="use more noise or fewer steps")
    return value, accountant


def within(history: Iterable[Mechanism], delta: float, limit: float) -> bool:
    """Whether an epsilon of ``limit`` or less can be shown for ``history`` at ``delta``.

    The cheap bound is asked first: far from the limit no other is needed.

    Raises:
        UsageError: ``delta`` is not in (0, 1).
    """
    mechanisms = merged(history)
    left = _left(mechanisms, delta)
    if not mechanisms:
        return limit >= 0
    loose = _rdp(mechanisms, left) if left > 0 else math.inf
    return loose <= limit or (loose <= FAR and _prv(mechanisms, left) <= limit)


def bound(history: Iterable[Mechanism], delta: float) -> float:
    """The cheap upper bound on epsilon, by Renyi DP: 0.1 s once for each pair of settings, then next to nothing.

    Infinite where no finite one can be shown.

    Raises:
        UsageError: ``delta`` is not in (0, 1).
    """
    mechanisms = merged(history)
    left = _left(mechanisms, delta)
    if not mechanisms:
        return 0.0
    return _rdp(mechanisms, left) if left > 0 else math.inf


def _left(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """What is left of ``delta`` after the steps' share for full steps; 0 where it is less than half, or without noise.

    Raises:
        UsageError: ``delta`` is not in (0, 1).
    """
    if not 0 < delta < 1:
        raise UsageError(f"delta must lie between 0 and 1, not {delta}", hint="1e-5 or less is usual")
    left = delta - OVERFLOW * sum(mechanism.steps for mechanism in mechanisms)
    return left if left > delta / 2 and all(m.noise_multiplier > 0 for m in mechanisms) else 0.0


def _rdp(history: Sequence[Mechanism], delta: float) -> float:
    from client.training.accountants import renyi  # noqa: PLC0415

    return renyi(history, delta)


def _prv(history: Sequence[Mechanism], delta: float) -> float:
    from client.training.accountants import prv  # noqa: PLC0415

    return prv(history, delta)


def statement(history: Iterable[Mechanism], delta: float | None = None, *, patients: int) -> PrivacyStatement:
    """What ``history`` guarantees to each of ``patients`` patients.

    Args:
        history: The charged mechanisms.
        delta: The delta to state, or None for :func:`default_delta`.
        patients: Number of patients of the site.

    Raises:
        UsageError: ``delta`` is not in (0, 1).
        BudgetError: No finite epsilon can be shown.
    """
    mechanisms = merged(history)
    chosen = default_delta(patients) if delta is None else delta
    value, accountant = epsilon(mechanisms, chosen)
    return PrivacyStatement(
        unit="patient",
        relation="add or remove one patient",
        epsilon=value,
        delta=chosen,
        accountant=accountant,
        sample_rate=max((m.sample_rate for m in mechanisms), default=0.0),
        noise_multiplier=min((m.noise_multiplier for m in mechanisms), default=0.0),
        steps=sum(m.steps for m in mechanisms),
        patients=patients,
        history=mechanisms,
    )
