"""Attempts to train under the name of differential privacy without paying for it, or for less than is taken."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from client.charge import Charge, Receipt
from client.ledger import Ledger
from client.training.loop import price, train_round
from shared.charter import PrivacyPlan, TaskPlan
from shared.errors import BudgetError
from tests.client.training.toys import PLAN, PRIVACY, ToyTask, people, weights

torch.set_num_threads(1)


def attempt(receipt: Receipt | None, *, plan: TaskPlan = PLAN, privacy: PrivacyPlan = PRIVACY) -> None:
    """Train, and make sure that a refusal came before anything was read or changed."""
    task, patients = ToyTask(), people(6)
    network = task.network(0)
    try:
        train_round(task, network, patients, plan, round_number=1, privacy=privacy, seed=None, receipt=receipt)
    except BudgetError:
        assert task.drawn == []
        assert torch.equal(weights(network), weights(task.network(0)))
        raise


def charge() -> Charge:
    return price(ToyTask(), people(6), PLAN, PRIVACY, round_number=1)


def test_without_a_receipt() -> None:
    with pytest.raises(BudgetError):
        attempt(None)


def test_with_a_receipt_that_was_used() -> None:
    receipt = Receipt(charge())
    attempt(receipt)
    with pytest.raises(BudgetError):
        attempt(receipt)


@pytest.mark.parametrize(
    "cheaper",
    [{"steps": 1}, {"noise_multiplier": 100.0}, {"sample_rate": 0.01}],
    ids=lambda change: next(iter(change)),
)
def test_with_the_receipt_of_something_cheaper(cheaper: dict[str, float]) -> None:
    with pytest.raises(BudgetError):
        attempt(Receipt(replace(charge(), **cheaper)))  # type: ignore[arg-type]


def test_with_more_steps_less_noise_or_more_patients_per_step_than_paid_for() -> None:
    for plan, privacy in (
        (replace(PLAN, local_steps=6), PRIVACY),
        (PLAN, replace(PRIVACY, noise_multiplier=0.5)),
        (PLAN, replace(PRIVACY, sample_rate=1.0)),
    ):
        with pytest.raises(BudgetError):
            attempt(Receipt(charge()), plan=plan, privacy=privacy)


def test_what_was_charged_and_not_taken_is_not_given_back(tmp_path: Path) -> None:
    """A round that fails after its charge stays charged; trying again costs again."""

    class CrashError(BaseException):
        pass

    class Failing(ToyTask):
        def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            raise CrashError

    everybody = replace(PRIVACY, sample_rate=1.0)
    with Ledger(tmp_path / "run.jsonl") as ledger:
        task, patients = Failing(), people(6)
        receipt = ledger.reserve(price(task, patients, PLAN, everybody, round_number=1))
        with pytest.raises(CrashError):
            train_round(
                task,
                task.network(0),
                patients,
                PLAN,
                round_number=1,
                privacy=everybody,
                seed=None,
                receipt=receipt,
            )
    with Ledger(tmp_path / "run.jsonl") as ledger:
        ledger.reserve(price(ToyTask(), people(6), PLAN, everybody, round_number=1))
        assert [mechanism.steps for mechanism in ledger.history()] == [2 * PLAN.local_steps]
