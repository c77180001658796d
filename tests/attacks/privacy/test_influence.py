"""Attempts of one patient to move a step by more than the bound, through images, slices or losses."""

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from client.training.gradients import accumulate_step
from client.training.loop import train_round
from client.training.patient_dp import Clipping, PatientDPOptimizer
from shared.charter import TaskPlan
from shared.charter_plans import Precision
from shared.imaging.images import PatientImages, StudyImages
from shared.imaging.tasks import Batch, get_task
from tests.client.training.toys import PLAN, PRIVACY, ToyTask, paid, people, study, weights

torch.set_num_threads(1)

CLIP = 0.8


def optimizer_for(network: nn.Module, clipping: Clipping = Clipping.AUTOMATIC) -> PatientDPOptimizer:
    return PatientDPOptimizer(
        torch.optim.SGD(network.parameters(), lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=CLIP,
        expected_batch_size=1.0,
        clipping=clipping,
    )


def length_squared(optimizer: PatientDPOptimizer) -> Fraction:
    return Fraction(sum(value * value for value in optimizer.lattice_sum.tolist())) * Fraction(optimizer.unit) ** 2


def images(value: float, slices: int = 2) -> PatientImages:
    rng = np.random.default_rng(0)
    plain = study(rng, slices)
    noisy = plain.noisy.copy()
    noisy[0, 4, 4] = value
    return PatientImages("attacker", (StudyImages("MR", noisy, plain.reference, None, (1.0, 1.0)),))


def duplicated(times: int) -> PatientImages:
    one = study(np.random.default_rng(0), 1)
    copies = StudyImages("MR", *(np.repeat(x, times, axis=0) for x in (one.noisy, one.reference)), None, (1.0, 1.0))
    return PatientImages("attacker", (copies,))


@pytest.mark.parametrize("clipping", Clipping)
@pytest.mark.parametrize(
    ("patient", "count"),
    [
        (images(math.nan), 2),
        (images(math.inf), 2),
        (images(-3e38), 2),
        (images(1e20), 2),
        (images(1e-44), 2),
        (duplicated(500), 500),
        (people(1, slices=500)[0], 500),
    ],
    ids=[
        "NaN pixel",
        "infinite pixel",
        "largest pixel",
        "huge pixel",
        "tiny pixel",
        "duplicated slices",
        "many slices",
    ],
)
def test_no_image_moves_the_sum_by_more_than_the_bound(patient: PatientImages, count: int, clipping: Clipping) -> None:
    task = ToyTask()
    network = task.network(0)
    optimizer = optimizer_for(network, clipping)
    inputs, targets = task.draw(patient, count, np.random.default_rng(0))
    optimizer.backward(task.loss(network(inputs), targets))
    assert length_squared(optimizer) <= Fraction(CLIP) ** 2


Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
LOSSES: dict[str, Loss] = {
    "scaled up": lambda o, t: 1e30 * (o - t).square().sum(),
    "scaled to overflow": lambda o, t: 1e38 * (o - t).square().sum() * 1e10,
    "scaled down": lambda o, t: 1e-30 * (o - t).square().sum(),
    "not a number": lambda o, t: (o - t).sum() * math.nan,
    "NaN in the gradient only": lambda o, t: (o * 0).sqrt().sum(),
    "infinite": lambda o, t: (o - t).square().sum() / 0.0,
    "a constant": lambda o, t: t.sum(),
    "cut off from the network": lambda o, t: (o.detach() - t).square().sum(),
    "summed, not averaged": lambda o, t: (o - t).abs().sum(),
}


@pytest.mark.parametrize("clipping", Clipping)
@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_moves_the_sum_by_more_than_the_bound(name: str, clipping: Clipping) -> None:
    task = ToyTask()
    network = task.network(0)
    optimizer = optimizer_for(network, clipping)
    inputs, targets = task.draw(people(1)[0], 3, np.random.default_rng(0))
    optimizer.backward(LOSSES[name](network(inputs), targets))
    assert length_squared(optimizer) <= Fraction(CLIP) ** 2


def test_a_gradient_that_was_left_in_the_network_does_not_leave_with_the_step() -> None:
    """An ordinary backward beside the private one fills p.grad, past any clipping."""
    task = ToyTask()
    network = task.network(0)
    optimizer = optimizer_for(network)
    inputs, targets = task.draw(people(1)[0], 3, np.random.default_rng(0))
    (1e6 * task.loss(network(inputs), targets)).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    assert torch.equal(weights(network), weights(task.network(0)))


def test_a_patient_full_of_nan_does_not_destroy_the_model_of_the_others() -> None:
    task, patients = ToyTask(), [*people(5), images(math.nan)]
    network = task.network(0)
    train_round(task, network, patients, PLAN, round_number=1, privacy=PRIVACY, seed=None, receipt=paid(task, patients))
    assert torch.isfinite(weights(network)).all()


@pytest.mark.parametrize("clipping", Clipping)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["denoise", "superres", "superres_gan", "segment"])
def test_one_patient_more_changes_the_sum_of_a_real_task_by_at_most_the_bound_exactly(
    name: str, precision: Precision, clipping: Clipping, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The patient is like the others, or ten thousand times as bright; and stands in the middle of the sum."""
    task = get_task(name)
    network = task.network(1)
    one, other, third, hostile = people(4, slices=2, size=64)
    plain, bright = hostile.studies[0], np.float32(1e4)
    loud = replace(plain, noisy=plain.noisy * bright, reference=plain.reference * bright)
    everybody = [one, other, third, replace(hostile, studies=(loud,))]
    draw = task.draw  # the patches of a patient, which are chance, must not differ between the two sums

    def repeatable(patient: PatientImages, count: int, _: np.random.Generator) -> Batch:
        return draw(patient, count, np.random.default_rng(list(patient.key.encode())))

    monkeypatch.setattr(task, "draw", repeatable)
    plan, rng = TaskPlan(name, rounds=1, local_steps=1, precision=precision), np.random.default_rng()

    def total(*chosen: int) -> torch.Tensor:
        accumulate_step(task, network, everybody, chosen, optimizer, plan=plan, privacy=PRIVACY, rng=rng)
        return optimizer.lattice_sum.clone()

    optimizer = optimizer_for(network, clipping)
    without = total(1, 0)
    for added in (2, 3):
        change = (total(0, added, 1) - without).tolist()
        assert any(change)
        assert Fraction(sum(value * value for value in change)) * Fraction(optimizer.unit) ** 2 <= Fraction(CLIP) ** 2
