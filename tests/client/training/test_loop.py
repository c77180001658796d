"""A round of training at a hospital: what it repeats, what it never repeats, and what it refuses."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from client.charge import Receipt
from client.training.accounting import Mechanism
from client.training.loop import _private_round, price, train_centrally, train_round, usable
from client.training.secure_noise import SecureNoise, SeededNoiseForTests
from shared.charter import TaskPlan
from shared.errors import BudgetError, CharterError, DataError, PolicyError, UsageError
from shared.imaging.images import PatientImages
from shared.imaging.tasks import get_task
from shared.schedule import cosine
from tests.client.training.toys import PLAN, PRIVACY, ToyTask, paid, people, study, weights

torch.set_num_threads(1)


def trained(plan: TaskPlan = PLAN, *, seed: int | None = 7, round_number: int = 1, patients: int = 6) -> torch.Tensor:
    task = ToyTask()
    network = task.network(0)
    train_round(task, network, people(patients), plan, round_number=round_number, privacy=None, seed=seed)
    return weights(network)


def test_training_learns() -> None:
    task = ToyTask()
    network, patients = task.network(0), people(6)
    plan = replace(PLAN, rounds=10, local_steps=20)
    losses = []
    for number in range(1, 11):
        outcome = train_round(task, network, patients, plan, round_number=number, privacy=None, seed=1)
        assert outcome.loss_sum is not None
        losses.append(outcome.loss_sum / outcome.samples)
    assert losses[-1] < 0.2 * losses[0]


def test_a_round_is_the_same_for_the_same_seed_and_differs_for_another_seed_or_round() -> None:
    assert torch.equal(trained(), trained())
    assert not torch.equal(trained(), trained(seed=8))
    constant = replace(PLAN, rounds=10**9)  # the same rate in both rounds
    assert not torch.equal(trained(constant), trained(constant, round_number=2))
    assert not torch.equal(trained(seed=None), trained(seed=None))


@pytest.mark.parametrize("private", [False, True])
def test_the_global_random_states_are_neither_read_nor_changed(private: bool) -> None:
    task, patients = ToyTask(), people(4)
    network = task.network(0)
    torch.manual_seed(0)
    np.random.seed(0)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    train_round(
        task,
        network,
        patients,
        PLAN,
        round_number=1,
        privacy=PRIVACY if private else None,
        seed=None if private else 1,
        receipt=paid(task, patients) if private else None,
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # type: ignore[index]


def test_the_rate_falls_from_the_first_round_along_a_half_cosine() -> None:
    assert cosine(0.0) == 1.0
    assert cosine(0.5) == pytest.approx(0.525)
    assert cosine(1.0) == pytest.approx(0.05)
    start = weights(ToyTask().network(0))
    one_step = replace(PLAN, local_steps=1, rounds=4, batch=1)
    patients = people(1, slices=1)  # a single slice: every batch is the same
    moved = []
    for number in (1, 3):
        task = ToyTask()
        network = task.network(0)
        train_round(task, network, patients, one_step, round_number=number, privacy=None, seed=0)
        moved.append((weights(network) - start).norm().item())
    assert moved[1] / moved[0] == pytest.approx(cosine(0.5), rel=1e-4)


def test_the_optimiser_is_the_plans() -> None:
    start = weights(ToyTask().network(0))
    adam = trained(replace(PLAN, local_optimizer="Adam", local_lr=0.01, local_steps=1))
    assert (adam - start).abs().max().item() == pytest.approx(0.01, rel=1e-2)
    with pytest.raises(CharterError, match="Adamm"):
        trained(replace(PLAN, local_optimizer="Adamm"))


def test_a_gradient_is_at_most_five_long() -> None:
    start = weights(ToyTask().network(0))

    class Steep(ToyTask):
        def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return 1e6 * super().loss(outputs, targets)

    network = Steep().network(0)
    plan = replace(PLAN, local_steps=1, local_lr=0.1)
    train_round(Steep(), network, people(2), plan, round_number=1, privacy=None, seed=0)
    assert (weights(network) - start).norm().item() == pytest.approx(0.5, rel=1e-3)


def test_a_batch_without_a_usable_gradient_changes_nothing() -> None:
    broken = study(np.random.default_rng(0), 2)
    broken.noisy[:] = np.nan
    task = ToyTask()
    network = task.network(0)
    outcome = train_round(task, network, [PatientImages("P", (broken,))], PLAN, round_number=1, privacy=None, seed=0)
    assert torch.equal(weights(network), weights(task.network(0)))
    assert outcome.loss_sum == 0.0


def test_the_proximal_term_holds_the_weights_near_the_rounds_start() -> None:
    start = weights(ToyTask().network(0))
    plan = replace(PLAN, local_steps=40)
    free, held = (trained(replace(plan, proximal=mu)) for mu in (0.0, 5.0))
    assert (held - start).norm() < 0.5 * (free - start).norm()
    by_hand, network, task, mu = replace(plan, local_steps=2, proximal=0.3), ToyTask().network(0), ToyTask(), 0.3
    patients, rate = people(1, slices=1), plan.local_lr
    rows = task.draw(patients[0], plan.batch, np.random.default_rng(0))
    for _ in range(2):
        network.zero_grad()
        pulled = sum(
            ((p - a).square().sum() for p, a in zip(network.parameters(), task.network(0).parameters(), strict=True)),
            torch.zeros(()),
        )
        (task.loss(network(rows[0]), rows[1]) + mu / 2 * pulled).backward()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.sub_(parameter.grad, alpha=rate)
    found = task.network(0)
    train_round(task, found, patients, by_hand, round_number=1, privacy=None, seed=0)
    assert torch.allclose(weights(found), weights(network), atol=1e-6)


def test_batches_take_patients_in_proportion_to_their_slices() -> None:
    rng = np.random.default_rng(0)
    patients = [PatientImages("small", (study(rng, 1),)), PatientImages("large", (study(rng, 3), study(rng, 6)))]
    task = ToyTask()
    train_round(task, task.network(0), patients, replace(PLAN, local_steps=300), round_number=1, privacy=None, seed=0)
    drawn = {key: sum(count for name, count in task.drawn if name == key) for key in ("small", "large")}
    assert sum(drawn.values()) == 300 * PLAN.batch
    assert drawn["small"] / sum(drawn.values()) == pytest.approx(0.1, abs=0.03)


def test_only_studies_that_the_task_can_use_take_part() -> None:
    rng = np.random.default_rng(0)
    mixed = PatientImages("mixed", (study(rng, 2), study(rng, 5, modality="CT")))
    other = PatientImages("other", (study(rng, 5, modality="CT"),))
    assert [(p.key, p.slices) for p in usable(ToyTask(), [mixed, other])] == [("mixed", 2)]
    with pytest.raises(DataError, match="toy"):
        train_round(ToyTask(), ToyTask().network(0), [other], PLAN, round_number=1, privacy=None, seed=0)


@pytest.mark.parametrize("number", [0, 5])
def test_rounds_are_counted_from_one_to_the_plans_last(number: int) -> None:
    with pytest.raises(UsageError, match="round"):
        trained(round_number=number)


# --- with differential privacy ----------------------------------------------------------------------------------------


def test_a_private_round_accounts_for_every_step_and_says_nothing_of_who_was_drawn() -> None:
    task, patients = ToyTask(), people(8)
    receipt = paid(task, patients)
    network = task.network(0)
    outcome = train_round(task, network, patients, PLAN, round_number=1, privacy=PRIVACY, seed=None, receipt=receipt)
    assert outcome.history == (Mechanism(PRIVACY.noise_multiplier, PRIVACY.sample_rate, PLAN.local_steps),)
    assert receipt.left == 0
    assert outcome.loss_sum is None
    assert (outcome.samples, outcome.steps, outcome.patients) == (5 * 4 * 2, 5, 8)
    assert outcome.noise == SecureNoise.kind
    assert torch.isfinite(weights(network)).all()
    assert not torch.equal(weights(network), weights(task.network(0)))
    assert {count for _, count in task.drawn} <= {PRIVACY.slices_per_patient}


def test_two_private_rounds_never_repeat() -> None:
    task, patients, found = ToyTask(), people(4), []
    for _ in range(2):
        network = task.network(0)
        train_round(
            task, network, patients, PLAN, round_number=1, privacy=PRIVACY, seed=None, receipt=paid(task, patients)
        )
        found.append(weights(network))
    assert not torch.equal(*found)


@pytest.mark.parametrize("declared", [3, 12])
def test_a_private_step_is_the_noisy_clipped_sum_over_the_declared_number(declared: int) -> None:
    """Everybody is drawn (q = 1), every patient has one slice, the noise is known: the step can be done by hand.

    The divisor is the number that the hospital declared, not the three patients who are there.
    """
    task, patients = ToyTask(), people(3, slices=1)
    plan, privacy = replace(PLAN, local_steps=1), replace(PRIVACY, sample_rate=1.0, clip=0.5)
    found = task.network(0)
    _private_round(
        task,
        found,
        patients,
        plan,
        rate=0.1,
        privacy=privacy,
        receipt=Receipt(price(task, patients, plan, privacy, round_number=1, constant=declared)),
        noise=SeededNoiseForTests(5),
    )
    total = 0.5 * SeededNoiseForTests(5).normal(10)
    for patient in patients:
        network = task.network(0)
        task.loss(*_outputs(task, network, patient)).backward()  # type: ignore[no-untyped-call]
        gradient = np.concatenate(
            [p.grad.double().flatten().numpy() for p in network.parameters() if p.grad is not None]
        )
        total += gradient * 0.5 / (np.linalg.norm(gradient) + 0.01)
    expected = weights(task.network(0)).numpy() - 0.1 * total / declared
    assert weights(found).numpy() == pytest.approx(expected, abs=1e-6)


def _outputs(task: ToyTask, network: nn.Module, patient: PatientImages) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = task.draw(patient, 2, np.random.default_rng(0))
    return network(inputs), targets


def test_under_privacy_the_proximal_term_is_added_after_the_noise() -> None:
    """It is neither clipped nor noised: with a bound of nearly nothing the pull on the second step remains exact."""
    task, patients = ToyTask(), people(3)
    privacy = replace(PRIVACY, clip=1e-6, noise_multiplier=5e4)
    found = []
    for mu in (0.0, 0.5):
        network, plan = task.network(0), replace(PLAN, local_steps=2, proximal=mu)
        _private_round(
            task,
            network,
            patients,
            plan,
            rate=1.0,
            privacy=privacy,
            receipt=paid(task, patients, plan, privacy),
            noise=SeededNoiseForTests(0),
        )
        found.append(weights(network).double().numpy())
    first_step = -1e-6 * 5e4 * SeededNoiseForTests(0).normal(10) / 1.5
    assert found[1] - found[0] == pytest.approx(-0.5 * first_step, abs=1e-5)


def test_seeded_noise_stands_in_the_record() -> None:
    task, patients = ToyTask(), people(3)
    outcome = _private_round(
        task,
        task.network(0),
        patients,
        PLAN,
        rate=0.1,
        privacy=PRIVACY,
        receipt=paid(task, patients),
        noise=SeededNoiseForTests(0),
    )
    assert "TESTS ONLY" in outcome.noise


def test_a_network_that_keeps_statistics_of_images_is_refused_and_forgets_them() -> None:
    task, patients = ToyTask(), people(6)
    network = nn.Sequential(task.network(0), nn.BatchNorm2d(1))
    before = copy.deepcopy(dict(network.named_buffers()))
    with pytest.raises(PolicyError, match="statistics"):
        train_round(
            task,
            network,
            patients,
            replace(PLAN, local_steps=20),
            round_number=1,
            privacy=PRIVACY,
            seed=None,
            receipt=paid(task, patients, replace(PLAN, local_steps=20)),
        )
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())


def test_a_seed_and_privacy_do_not_go_together() -> None:
    task, patients = ToyTask(), people(3)
    with pytest.raises(PolicyError, match="seed"):
        train_round(
            task,
            task.network(0),
            patients,
            PLAN,
            round_number=1,
            privacy=PRIVACY,
            seed=1,
            receipt=paid(task, patients),
        )


def test_privacy_off_is_ordinary_training() -> None:
    task, patients = ToyTask(), people(6)
    network = task.network(0)
    train_round(task, network, patients, PLAN, round_number=1, privacy=replace(PRIVACY, mode="off"), seed=7)
    assert torch.equal(weights(network), trained())


# --- the arms to compare with -----------------------------------------------------------------------------------------


def test_central_training_learns_and_repeats() -> None:
    task, sites = ToyTask(), {"A": people(3), "B": people(2, seed=1)}
    networks = [task.network(0) for _ in range(2)]
    outcomes = [train_centrally(task, net, sites, steps=150, batch=4, lr=0.05, seed=3) for net in networks]
    assert torch.equal(weights(networks[0]), weights(networks[1]))
    assert (outcomes[0].samples, outcomes[0].steps, outcomes[0].patients) == (600, 150, 5)
    inputs, targets = task.draw(people(1, seed=9)[0], 3, np.random.default_rng(0))
    before, after = (float(task.loss(net(inputs), targets).detach()) for net in (task.network(0), networks[0]))
    assert after < 0.1 * before


def test_central_training_draws_sites_in_proportion_to_their_slices() -> None:
    task = ToyTask()
    sites = {"A": people(1, slices=9), "B": [replace(person, key="B") for person in people(1, slices=1)]}
    train_centrally(task, task.network(0), sites, steps=300, batch=5, lr=0.01, seed=0)
    share = sum(count for key, count in task.drawn if key == "B") / 1500
    assert share == pytest.approx(0.1, abs=0.03)


def test_central_training_needs_a_patient() -> None:
    with pytest.raises(DataError):
        train_centrally(ToyTask(), ToyTask().network(0), {"A": []}, steps=1, batch=1, lr=0.1, seed=0)


# --- the real tasks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["denoise", "superres", "superres_gan", "segment"])
def test_each_task_trains_with_and_without_privacy_and_centrally(name: str) -> None:
    task, patients = get_task(name), people(3, slices=2, size=96)
    plan = TaskPlan(name, rounds=2, local_steps=2, batch=4, local_lr=0.01, local_optimizer="Adam")
    privacy = replace(PRIVACY, sample_rate=1.0, noise_multiplier=0.5)
    start = weights(task.network(0))
    for private in (False, True):
        network = task.network(0)
        outcome = train_round(
            task,
            network,
            patients,
            plan,
            round_number=1,
            privacy=privacy if private else None,
            seed=None if private else 0,
            receipt=paid(task, patients, plan, privacy) if private else None,
        )
        assert outcome.patients == 3
        assert torch.isfinite(weights(network)).all()
        assert not torch.equal(weights(network), start)
    network = task.network(0)
    train_centrally(task, network, {"A": patients}, steps=2, batch=4, lr=1e-3, seed=0)
    assert not torch.equal(weights(network), start)


def test_the_price_names_the_rounds_own_figures() -> None:
    charge = price(ToyTask(), people(5), PLAN, PRIVACY, round_number=3)
    assert (charge.task, charge.round, charge.steps, charge.patients) == ("toy", 3, PLAN.local_steps, 5)
    assert charge.mechanism == Mechanism(PRIVACY.noise_multiplier, PRIVACY.sample_rate, PLAN.local_steps)
    assert math.isfinite(charge.noise_multiplier)
    assert (charge.mode, charge.run, charge.federation) == ("patient", "", "")


def test_the_public_constant_is_that_of_the_budget_and_under_shared_noise_that_of_the_charter() -> None:
    task, patients = ToyTask(), people(5)
    assert price(task, patients, PLAN, PRIVACY, round_number=1, constant=40).patients == 40
    shared = replace(PRIVACY, mode="distributed", patients=900)
    charge = price(task, patients, PLAN, shared, round_number=1, constant=40, run="r", federation="f")
    assert (charge.mode, charge.patients, charge.run, charge.federation) == ("distributed", 900, "r", "f")


def test_what_is_not_private_has_no_price() -> None:
    with pytest.raises(UsageError, match="no price"):
        price(ToyTask(), people(5), PLAN, replace(PRIVACY, mode="off"), round_number=1)


def test_without_a_charge_no_patient_is_read() -> None:
    task, patients = ToyTask(), people(5)
    with pytest.raises(BudgetError, match="charge"):
        train_round(task, task.network(0), patients, PLAN, round_number=1, privacy=PRIVACY, seed=None)
    assert task.drawn == []
