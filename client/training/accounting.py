"""What a training run costs in privacy, stated so that nobody has to guess: whose privacy, which epsilon, and what not.

Epsilon comes from the PRV accountant (Gopi, Lee and Wutschitz 2021) as an upper bound. Where it fails, or where epsilon
is so large that its grid would take minutes, Renyi DP (Mironov, Talwar and Zhang 2019) gives a looser upper bound.
Gaussian DP is never used: it is a limit, not a bound, and understates.
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Final, NamedTuple

from opacus.accountants import PRVAccountant, RDPAccountant

from client.training.sampling import OVERFLOW
from shared.errors import BudgetError, UsageError

LARGEST_DELTA: Final = 1e-5
_PRV_LIMIT: Final = 100.0  # epsilon above which PRV takes seconds to minutes, and its precision tells nobody anything

COVERS: Final = (
    "the model updates of these training steps, and whatever is computed from them",
    "every slice and study of a patient at this site, together",
)
NOT_COVERED: Final = (
    "the number of patients of the site, which divides the noisy sum and may weight the site's update",
    "training losses, metrics on held-out patients, and choices made by looking at them (tuning)",
    "how long the site takes to answer",
    "a patient whose images are also at another hospital: the costs of both add up",
    "runs charged elsewhere on the same patients: their costs add up",
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
        patients: Patients of the site that took part; the largest number where it varied.
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

    Costs about 0.2 s for each distinct pair of noise multiplier and sampling rate.

    Raises:
        UsageError: ``delta`` is not in (0, 1).
        BudgetError: No finite epsilon can be shown.
    """
    if not 0 < delta < 1:
        raise UsageError(f"delta must lie between 0 and 1, not {delta}", hint="1e-5 or less is usual")
    mechanisms = merged(history)
    left = delta - OVERFLOW * sum(mechanism.steps for mechanism in mechanisms)
    if not mechanisms:
        return 0.0, "prv"
    if left <= delta / 2 or any(m.noise_multiplier <= 0 for m in mechanisms):
        raise BudgetError(
            f"no finite epsilon at delta {delta:g} for {sum(m.steps for m in mechanisms)} steps",
            hint="use noise, fewer steps or a larger delta",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus warns that its Renyi orders are few: a looser bound, still a bound
        loose = _rdp(mechanisms, left)
        tight = _prv(mechanisms, left) if loose <= _PRV_LIMIT else math.inf
    value, accountant = (tight, "prv") if tight < math.inf else (loose, "rdp")
    if not math.isfinite(value):
        raise BudgetError(f"no finite epsilon at delta {delta:g}", hint="use more noise or fewer steps")
    return value, accountant


def _rdp(history: Sequence[Mechanism], delta: float) -> float:
    accountant = RDPAccountant()
    accountant.history = [tuple(mechanism) for mechanism in history]
    value = float(accountant.get_epsilon(delta))
    return value if value >= 0 else math.inf


def _prv(history: Sequence[Mechanism], delta: float) -> float:
    accountant = PRVAccountant()
    accountant.history = [tuple(mechanism) for mechanism in history]
    try:
        value = float(accountant.get_epsilon(delta))
    except (ValueError, RuntimeError, ArithmeticError, MemoryError):
        return math.inf
    return value if value >= 0 else math.inf


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
