"""What is paid, with what, and what was bought: a round's charge, a hospital's budget, and the leave to train."""

from dataclasses import dataclass
from typing import Final, Literal

from client.training.accounting import Mechanism
from shared.errors import BudgetError, UsageError

ChargeMode = Literal["patient", "distributed"]
_END: Final = 2**53
"""Figures are below: up to here a JSON number has one canonical form, and is whole where it should be (RFC 8785)."""


@dataclass(frozen=True)
class Charge:
    """The cost of one round of one task.

    Attributes:
        run: Id of the run.
        federation: Id of the federation, or empty.
        task: Name of the task.
        round: Round of the run, from 1.
        mode: ``patient``: this hospital adds all of the noise. ``distributed``: it adds a share, and the guarantee is
            that of the sum over the hospitals (:class:`shared.charter_plans.PrivacyPlan`).
        noise_multiplier: Standard deviation of the noise in units of the clipping bound, above 0; under ``distributed``
            that of the sum of the honest hospitals' shares.
        sample_rate: Chance of each patient to be in a step, in (0, 1].
        steps: Optimiser steps that it pays for, at least 1.
        patients: The public constant N: a noisy sum is divided by ``sample_rate`` * N. It is not the number of patients
            who are there, so that the divisor tells nothing of anybody's presence.
    """

    run: str
    federation: str
    task: str
    round: int
    mode: ChargeMode
    noise_multiplier: float
    sample_rate: float
    steps: int
    patients: int

    def __post_init__(self) -> None:
        """Refuse a charge that pays for nothing, or that no epsilon belongs to."""
        if not (
            0 < self.noise_multiplier < _END
            and 0 < self.sample_rate <= 1
            and all(map(_counts, (self.round, self.steps, self.patients)))
            and self.mode in {"patient", "distributed"}
        ):
            raise UsageError(
                f"cannot charge {self}",
                hint="noise must be above 0, the rate in (0, 1], round, steps and patients whole and at least 1",
            )

    @property
    def mechanism(self) -> Mechanism:
        """The charge as the accountant takes it."""
        return Mechanism(self.noise_multiplier, self.sample_rate, self.steps)


@dataclass(frozen=True)
class Budget:
    """How much of its patients' privacy a hospital is ready to spend, on everything that is ever trained on them.

    Attributes:
        epsilon: Largest epsilon of all charges together, above 0.
        delta: The delta at which it is computed, in (0, 1).
        patients: The public constant N that divides noisy sums, at least 1; a number of about the size of the
            training cohort. It is declared, and public from then on.
    """

    epsilon: float
    delta: float
    patients: int

    def __post_init__(self) -> None:
        """Refuse figures that no budget has."""
        if not (0 < self.epsilon < _END and 0 < self.delta < 1 and _counts(self.patients)):
            raise UsageError(
                f"an epsilon of {self.epsilon:g} at delta {self.delta:g} for {self.patients} patients is no budget",
                hint="epsilon must be above 0, delta in (0, 1), patients at least 1",
            )


def _counts(value: object) -> bool:
    """Whether it is a whole number from 1; True, which equals 1, is none."""
    return type(value) is int and 1 <= value < _END


class Receipt:
    """Leave to take the steps of one charge, each of them once. Made by :meth:`client.ledger.Ledger.reserve` only."""

    def __init__(self, charge: Charge) -> None:
        self.charge = charge
        self._left = charge.steps

    @property
    def left(self) -> int:
        """Steps that are paid for and not taken."""
        return self._left

    def take(self, noise_multiplier: float, sample_rate: float) -> None:
        """Use up one step; called by the optimiser before its parameters change.

        Raises:
            BudgetError: All paid steps are taken, or the step differs from what was paid for.
        """
        if (noise_multiplier, sample_rate) != (self.charge.noise_multiplier, self.charge.sample_rate):
            raise BudgetError(
                f"the step (noise {noise_multiplier}, rate {sample_rate}) is not the one that was charged",
                hint="charge the settings that are used",
            )
        if self._left < 1:
            raise BudgetError("all steps that were charged are taken", hint="charge another round first")
        self._left -= 1
