"""The gradients of patients: of the right objectives, of the right parameters, and of one patient at a time."""

import copy
import math
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss

from client.training.device import device
from client.training.gradients import accumulate_step, against, gradients, trained
from client.training.loop import _private_round, train_round
from client.training.patient_dp import Clipping, PatientDPOptimizer
from client.training.secure_noise import SecureNoise
from shared.charter import TaskPlan
from shared.charter_plans import Precision
from shared.imaging.networks import EDSR, FCN, AdversarialPair, DnCNN, UNet, seeded
from shared.imaging.superres_gan import DISCRIMINATOR_WEIGHT, WEIGHT
from shared.imaging.tasks import Batch, Objective, Task, get_task
from tests.client.training.toys import PLAN, PRIVACY, ToyTask, paid, people, weights

torch.set_num_threads(1)

NAMES = ("denoise", "superres", "superres_gan", "segment")
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
CLIP = 0.7


def awake(network: nn.Module) -> nn.Module:
    """The network with weights in the layers that start at zero, so that every parameter has a gradient."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if not parameter.detach().any():
            nn.init.normal_(parameter, std=0.05, generator=generator)
    return network


def optimizer_for(network: nn.Module, *, noise: float = 0.0, clipping: str = "automatic") -> PatientDPOptimizer:
    return PatientDPOptimizer(
        torch.optim.SGD(trained(network), lr=1.0),
        noise_multiplier=noise,
        max_grad_norm=CLIP,
        expected_batch_size=2.0,
        clipping=Clipping(clipping),
    )


def flat(tensors: list[nn.Parameter] | tuple[torch.Tensor, ...]) -> NDArray[np.float64]:
    return np.concatenate([tensor.detach().double().flatten().numpy() for tensor in tensors])


def plain_gradient(task: Task, network: nn.Module, batch: Batch, precision: Precision) -> NDArray[np.float64]:
    """By the book: an ordinary backward per loss on fresh copies, the losses of the adversaries written out again."""
    inputs, targets = batch
    half = torch.autocast("cpu", dtype=torch.bfloat16) if precision == "bfloat16" else nullcontext()
    alone = copy.deepcopy(network)
    if not isinstance(alone, AdversarialPair):
        with half:
            loss = task.loss(alone(inputs).float(), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        return np.concatenate([p.grad.double().flatten().numpy() for p in alone.parameters() if p.grad is not None])
    judge = copy.deepcopy(alone)
    yes, no = torch.ones(len(inputs)), torch.zeros(len(inputs))
    with half:
        fake = alone.generator(inputs).float()
        deceived = binary_cross_entropy_with_logits(alone.discriminator(fake).float(), yes)
        generators = l1_loss(fake, targets) + WEIGHT * deceived
        told = binary_cross_entropy_with_logits(judge.discriminator(targets).float(), yes)
        told = told + binary_cross_entropy_with_logits(judge.discriminator(fake.detach()).float(), no)
    generators.backward()
    (DISCRIMINATOR_WEIGHT * told).backward()
    found = (*alone.generator.parameters(), *judge.discriminator.parameters())
    return np.concatenate([p.grad.double().flatten().numpy() for p in found if p.grad is not None])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", NAMES)
def test_the_sum_of_a_step_equals_brute_force(name: str, precision: Precision) -> None:
    task, patients, seed = get_task(name), people(3, slices=2, size=64), 4
    network = awake(task.network(3))
    plan, privacy = TaskPlan(name, rounds=1, local_steps=1, precision=precision), replace(PRIVACY, clip=CLIP)
    rng, expected = np.random.default_rng(seed), np.zeros(sum(p.numel() for p in network.parameters()))
    for index in (0, 2):
        batch = task.draw(patients[index], privacy.slices_per_patient, rng)
        gradient = plain_gradient(task, network, batch, precision)
        expected += gradient * CLIP / (np.linalg.norm(gradient) + 0.01)

    optimizer = optimizer_for(network)
    again = np.random.default_rng(seed)
    accumulate_step(task, network, patients, [0, 2], optimizer, plan=plan, privacy=privacy, rng=again)
    summed = (optimizer.lattice_sum * optimizer.unit).numpy()
    assert np.abs(summed - expected).max() <= 1e-6 * np.abs(expected).max()

    before = weights(network).double().numpy()
    optimizer.step()
    assert before - weights(network).double().numpy() == pytest.approx(expected / 2.0, abs=1e-6)


def test_the_adversaries_gradients_are_those_of_each_alone_and_are_clipped_as_one() -> None:
    task, patient = get_task("superres_gan"), people(1, size=64)[0]
    network = awake(task.network(0))
    assert isinstance(network, AdversarialPair)
    batch = task.draw(patient, 3, np.random.default_rng(0))
    both = gradients(task, network, batch)[1]
    own = plain_gradient(task, network, batch, "float32")
    size = sum(p.numel() for p in network.generator.parameters())
    for part in (slice(None, size), slice(size, None)):
        assert np.abs(flat(both)[part] - own[part]).max() <= 1e-6 * np.abs(own[part]).max()

    optimizer = optimizer_for(network)
    optimizer.accumulate(both)
    clipped = (optimizer.lattice_sum * optimizer.unit).numpy()
    factor = CLIP / (np.linalg.norm(own) + 0.01)  # one bound for the two, and not one each
    for part in (slice(None, size), slice(size, None)):
        assert np.linalg.norm(clipped[part]) == pytest.approx(factor * np.linalg.norm(own[part]), rel=1e-5)


def test_the_loss_that_is_reported_is_the_first() -> None:
    task = get_task("superres_gan")
    network, batch = task.network(0), task.draw(people(1, size=64)[0], 2, np.random.default_rng(0))
    loss, _ = gradients(task, network, batch)
    assert float(loss) == float(task.objectives(network, batch)[0].loss.detach())
    assert not loss.requires_grad


class Coupled(ToyTask):
    """Batch-wise Dice: the loss of a row depends on all rows of the batch."""

    def objectives(self, network: nn.Module, batch: Batch) -> tuple[Objective, ...]:
        likely = torch.sigmoid(network(batch[0]))
        dice = 2 * (likely * batch[1]).sum() / (likely + batch[1]).sum()
        return (Objective(1 - dice, network),)

    def draw(self, patient: object, count: int, rng: np.random.Generator) -> Batch:
        del rng  # the same patches whoever was drawn before
        return super().draw(patient, count, np.random.default_rng(0))  # type: ignore[arg-type]


def test_a_loss_that_couples_its_rows_cannot_couple_patients() -> None:
    task, patients = Coupled(), people(2)
    network, rng = task.network(0), np.random.default_rng(0)

    def total(*chosen: int) -> torch.Tensor:
        optimizer = optimizer_for(network)
        accumulate_step(task, network, patients, chosen, optimizer, plan=PLAN, privacy=PRIVACY, rng=rng)
        return optimizer.lattice_sum

    assert torch.equal(total(0, 1) - total(1), total(0))


def test_a_step_begins_afresh() -> None:
    task, patients, rng = ToyTask(), people(2), np.random.default_rng(0)
    network = task.network(0)
    optimizer = optimizer_for(network)
    for _ in range(2):
        accumulate_step(task, network, patients, [0, 1], optimizer, plan=PLAN, privacy=PRIVACY, rng=rng)
    accumulate_step(task, network, patients, [], optimizer, plan=PLAN, privacy=PRIVACY, rng=rng)
    assert not optimizer.lattice_sum.any()


def test_the_ways_of_clipping_differ_as_the_charter_says() -> None:
    """With a bound that no gradient reaches, flat clipping leaves them as they are and automatic makes them longer."""
    task, patients = ToyTask(), people(2, slices=1)
    plan, privacy = replace(PLAN, local_steps=1), replace(PRIVACY, sample_rate=1.0, clip=1e6, noise_multiplier=1e-9)
    moved = {}
    for clipping in ("automatic", "flat"):
        network = task.network(0)
        chosen = replace(privacy, clipping=clipping)
        receipt = paid(task, patients, plan, chosen)
        _private_round(task, network, patients, plan, rate=1.0, privacy=chosen, receipt=receipt, noise=SecureNoise())
        moved[clipping] = float((weights(network) - weights(task.network(0))).norm())
    assert moved["flat"] < 10
    assert moved["automatic"] > 1e5


# --- some parameters only, and every network --------------------------------------------------------------------------

NETWORKS = {
    "UNet": ("denoise", lambda: UNet(1, (16, 32, 64), residual=True)),
    "DnCNN": ("denoise", DnCNN),
    "EDSR": ("superres", EDSR),
    "AdversarialPair": ("superres_gan", lambda: AdversarialPair(EDSR())),
    "FCN": ("segment", lambda: FCN(4)),
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_private_step_changes_what_trains_and_nothing_else(kind: str, precision: Precision) -> None:
    name, build = NETWORKS[kind]
    task, patients = get_task(name), people(2, slices=2, size=64)
    network: nn.Module = seeded(build, 0)
    network.register_buffer("counter", torch.tensor([3.0]))
    for key, parameter in network.named_parameters():
        parameter.requires_grad_(key.endswith("bias"))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    plan = TaskPlan(name, rounds=1, local_steps=1, local_lr=0.01, precision=precision)
    privacy = replace(PRIVACY, sample_rate=1.0)
    receipt = paid(task, patients, plan, privacy)
    train_round(task, network, patients, plan, round_number=1, privacy=privacy, seed=None, receipt=receipt)
    for key, value in network.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.isfinite(value).all()
        assert torch.equal(value, before[key]) is not key.endswith("bias"), key
    assert all(p.grad is None for p in network.parameters() if not p.requires_grad)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradients_of_a_part_are_that_part_of_the_whole(name: str) -> None:
    task, batch = get_task(name), get_task(name).draw(people(1, size=64)[0], 2, np.random.default_rng(0))
    network = awake(task.network(1))
    whole = gradients(task, network, batch)[1]
    kept = [index % 3 == 0 for index in range(len(whole))]
    for parameter, keep in zip(network.parameters(), kept, strict=True):
        parameter.requires_grad_(keep)
    for part, complete in zip(
        gradients(task, network, batch)[1], (g for g, keep in zip(whole, kept, strict=True) if keep), strict=True
    ):
        torch.testing.assert_close(part, complete)


def test_with_one_adversary_frozen_the_other_still_learns() -> None:
    task = get_task("superres_gan")
    network, batch = task.network(0), task.draw(people(1, size=64)[0], 2, np.random.default_rng(0))
    assert isinstance(network, AdversarialPair)
    network.discriminator.requires_grad_(requires_grad=False)
    assert len(gradients(task, network, batch)[1]) == len(list(network.generator.parameters()))


def test_what_no_objective_needs_gets_zeros_and_the_network_is_left_as_it_was() -> None:
    class Idle(ToyTask):
        def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return targets.mean()

    task = Idle()
    network, batch = task.network(0), task.draw(people(1)[0], 2, np.random.default_rng(0))
    assert all(not part.any() for part in gradients(task, network, batch)[1])
    gradients(ToyTask(), network, batch)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_losses_of_the_same_parameters_add_up() -> None:
    class Twice(ToyTask):
        def objectives(self, network: nn.Module, batch: Batch) -> tuple[Objective, ...]:
            return super().objectives(network, batch) * 2

    task = ToyTask()
    network, batch = task.network(0), task.draw(people(1)[0], 2, np.random.default_rng(0))
    for one, two in zip(gradients(task, network, batch)[1], gradients(Twice(), network, batch)[1], strict=True):
        torch.testing.assert_close(2 * one, two)


def test_a_loss_that_is_no_scalar_is_refused() -> None:
    class Rows(ToyTask):
        def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return (outputs - targets).square()

    with pytest.raises(ValueError, match="scalar"):
        gradients(Rows(), Rows().network(0), Rows().draw(people(1)[0], 2, np.random.default_rng(0)))


# --- precision and device ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_gradients_are_float32_and_near_those_of_float32(name: str) -> None:
    task, batch = get_task(name), get_task(name).draw(people(1, size=64)[0], 4, np.random.default_rng(0))
    network = awake(task.network(1))
    exact, rough = (gradients(task, network, batch, precision=precision)[1] for precision in PRECISIONS)
    assert {part.dtype for part in rough} == {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    distance = float(np.linalg.norm(flat(rough) - flat(exact)) / np.linalg.norm(flat(exact)))
    assert 1e-5 < distance < 0.2


@pytest.mark.parametrize("private", [False, True])
def test_the_plans_precision_holds_in_training_and_nowhere_else(private: bool) -> None:
    seen: list[bool] = []

    class Watched(ToyTask):
        def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            seen.append(torch.is_autocast_enabled("cpu"))
            assert outputs.dtype == torch.float32  # sums over pixels need it
            return super().loss(outputs, targets)

    task, patients = Watched(), people(4)
    for precision in PRECISIONS:
        plan, network = replace(PLAN, precision=precision), task.network(0)
        privacy = replace(PRIVACY, sample_rate=1.0) if private else None
        receipt = paid(task, patients, plan, privacy) if privacy else None
        seed = None if private else 0
        train_round(task, network, patients, plan, round_number=1, privacy=privacy, seed=seed, receipt=receipt)
        assert set(seen) == {precision == "bfloat16"}
        assert weights(network).dtype == torch.float32
        seen.clear()
    assert not torch.is_autocast_enabled("cpu")


def test_a_batch_goes_to_where_the_network_is() -> None:
    task = get_task("superres_gan")
    batch = task.draw(people(1, size=64)[0], 2, np.random.default_rng(0))
    found = gradients(task, task.network(0).to("meta"), batch)[1]
    assert {part.device.type for part in found} == {"meta"}


@pytest.mark.parametrize(
    ("gpu", "virtual", "kind"), [(True, False, "cuda"), (True, True, "cpu"), (False, False, "cpu")]
)
def test_a_hospital_uses_its_gpu_and_a_virtual_one_does_not(
    gpu: bool, virtual: bool, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert device(virtual=virtual).type == kind


# --- the noise of a real network --------------------------------------------------------------------------------------


def test_what_a_step_adds_to_the_sum_of_a_real_network_is_normal_with_the_promised_deviation() -> None:
    """A million draws, taken from the gradients as the optimiser hands them on: no part of a network goes without."""
    noise_multiplier, expected, task, patients = 1.3, 2.0, get_task("superres_gan"), people(1, slices=2, size=64)
    network = task.network(0)
    plan = TaskPlan("superres_gan", rounds=1, local_steps=1)
    optimizer, drawn = optimizer_for(network, noise=noise_multiplier), []
    while sum(map(len, drawn)) < 1_000_000:
        rng = np.random.default_rng(0)
        accumulate_step(task, network, patients, [0], optimizer, plan=plan, privacy=PRIVACY, rng=rng)
        true_sum = (optimizer.lattice_sum * optimizer.unit).numpy()
        optimizer.step()
        noisy = np.concatenate([p.grad.double().flatten().numpy() for p in network.parameters() if p.grad is not None])
        drawn.append((noisy * expected - true_sum) / (noise_multiplier * CLIP))
        end = 0
        for parameter in network.parameters():
            begin, end = end, end + parameter.numel()
            part = drawn[-1][begin:end]
            assert abs((part**2).mean() - 1) < 6.5 * math.sqrt(2 / len(part)) + 20 / len(part)
    noise = np.concatenate(drawn)
    assert noise.std() == pytest.approx(1.0, rel=0.01)
    # Each bound fails by chance less than once in a million runs.
    assert abs(noise.mean()) < 5 / math.sqrt(len(noise))
    assert stats.kstest(noise, "norm").pvalue > 1e-6
    assert abs(stats.kurtosis(noise)) < 5 * math.sqrt(24 / len(noise))


# --- patches changed against the network ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_patch_stays_within_its_bound_and_is_harder(name: str) -> None:
    task, network = get_task(name), awake(get_task(name).network(0))
    batch = task.draw(people(1, size=64)[0], 3, np.random.default_rng(0))
    before = weights(network)
    changed, targets = against(task, network, batch, 0.01)
    moved = (changed - batch[0]).abs().flatten(1).amax(dim=1)
    reach = 0.01 * (batch[0].flatten(1).amax(dim=1) - batch[0].flatten(1).amin(dim=1))
    assert torch.allclose(moved, reach, rtol=1e-3)
    assert torch.equal(targets, batch[1])
    assert not changed.requires_grad
    losses = [float(task.objectives(network, one)[0].loss.detach()) for one in (batch, (changed, targets))]
    assert losses[1] > losses[0]
    assert torch.equal(before, weights(network))


@pytest.mark.parametrize("name", NAMES)
def test_how_a_patch_is_changed_depends_on_that_patch_alone(name: str) -> None:
    task, network = get_task(name), awake(get_task(name).network(0))
    inputs, targets = task.draw(people(1, size=64)[0], 3, np.random.default_rng(0))
    together, _ = against(task, network, (inputs, targets), 0.01)
    spoilt = inputs.clone()
    spoilt[1:] = math.nan
    for others in (inputs[:1], spoilt):
        alone, _ = against(task, network, (others, targets[: len(others)]), 0.01)
        # Where a slope is almost nothing, its sign may be that of a rounding error.
        assert float((alone[0] == together[0]).double().mean()) > 0.99


@pytest.mark.parametrize("clipping", Clipping)
def test_changed_patches_leave_the_bound_on_a_patient(clipping: Clipping) -> None:
    task, patients = get_task("denoise"), people(3, slices=2, size=64)
    network, privacy = awake(task.network(3)), replace(PRIVACY, clip=CLIP)
    plan, sums = TaskPlan("denoise", rounds=1, local_steps=1, adversarial=0.02), []
    for chosen in ([0, 1], [0]):
        optimizer, rng = optimizer_for(network, clipping=clipping.value), np.random.default_rng(1)
        accumulate_step(task, network, patients, chosen, optimizer, plan=plan, privacy=privacy, rng=rng)
        sums.append((optimizer.lattice_sum * optimizer.unit).numpy())
    assert 0 < np.linalg.norm(sums[0] - sums[1]) <= CLIP * (1 + 1e-9)
    plain = optimizer_for(network, clipping=clipping.value)
    easier = replace(plan, adversarial=None)
    rng = np.random.default_rng(1)
    accumulate_step(task, network, patients, [0], plain, plan=easier, privacy=privacy, rng=rng)
    assert not np.allclose((plain.lattice_sum * plain.unit).numpy(), sums[1])


def test_an_ordinary_round_trains_on_changed_patches_where_the_charter_says_so() -> None:
    task, patients = ToyTask(), people(3)
    found = []
    for size in (None, 0.05):
        network = task.network(0)
        train_round(task, network, patients, replace(PLAN, adversarial=size), round_number=1, privacy=None, seed=1)
        found.append(weights(network))
    assert not torch.equal(*found)
