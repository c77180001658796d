"""What rounds under shared noise guarantee, and against whom.

Their epsilon is that of sigma by :func:`client.training.accounting.epsilon`, with nothing to add: shares are so large
that sigma is exact (:mod:`shared.noise_shares`), and drawn as exactly (:mod:`client.training.rounded_normal`).
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from client.training.accounting import Mechanism, PrivacyStatement, statement
from shared.charter import Charter
from shared.noise_shares import NoisePlan

NOT_COVERED: Final = (
    "an upload whose masks were taken off: it has one hospital's share of the noise only",
    "a patient whose images are also at another hospital: such a patient moves one sum by up to twice the bound, "
    "which costs more than both together",
    "the agreed number of patients, a public constant that divides every sum",
    "whether the hospital takes part: it does not where fewer patients than the charter's least number are in training",
    "metrics on held-out patients, and choices made by looking at them (tuning)",
    "how long the hospital takes to answer",
    "runs charged elsewhere on the same patients: their costs add up",
    "which patients are held out: that follows from how many there are, and the guarantee takes it as given",
)


def shared_statement(charter: Charter, history: Sequence[Mechanism]) -> PrivacyStatement:
    """What the charged ``history`` of a hospital, all of it under shared noise, guarantees to each of its patients.

    Args:
        charter: With privacy mode ``distributed``; its delta, or that of its number of patients, is stated.
        history: The charged mechanisms of this hospital, repeated rounds included.

    Raises:
        CharterError: The charter shares no noise.
        BudgetError: No finite epsilon can be shown.
    """
    alone = statement(history, charter.privacy.delta, patients=charter.privacy.patients or 1)
    return replace(
        alone,
        relation="add or remove one patient of one hospital",
        covers=covers(charter),
        not_covered=not_covered(charter),
    )


def covers(charter: Charter) -> tuple[str, ...]:
    """What the guarantee of shared noise holds for, and against whom."""
    noise, federation = NoisePlan.of(charter), charter.federation
    known = max(federation.colluding, 1)
    others = f"{known} other hospital{'s' * (known > 1)}"
    whom = (
        f"the coordinator with up to {others} that tell it all that they know"
        if federation.colluding
        else f"the coordinator, or {others}"
    )
    return (
        "the sums of these rounds, and all models that are computed from them",
        "every slice and study of a patient at this hospital, together",
        f"against {whom}, and against whoever sees the models",
        f"as long as the masks hold and {noise.honest} of every {federation.quorum} hospitals in a sum, this one "
        f"among them, add their share: noise of {noise.noise_multiplier / math.sqrt(noise.honest):.4g} times the "
        "bound on a patient's gradient",
    )


def not_covered(charter: Charter) -> tuple[str, ...]:
    """What it does not hold for."""
    known = max(charter.federation.colluding, 1)
    return (
        f"more than {known} hospitals that work against the others; one that adds less noise than agreed counts as "
        "if it did",
        *NOT_COVERED,
    )
