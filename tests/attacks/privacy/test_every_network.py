"""What no network of any task may break: one patient's bound, and the way of a model through the masks.

The cases come from the registry, so that a new task or network is tried here without being named.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from types import MappingProxyType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from client.training.gradients import MicroBatch, accumulate_step, gradients, trained
from client.training.patient_dp import Clipping, PatientDPOptimizer
from shared.charter import PrivacyPlan, TaskPlan
from shared.charter_plans import Precision, Trained
from shared.imaging import tasks
from shared.imaging.images import PatientImages, StudyImages
from shared.imaging.tasks import Batch, Task, get_task
from shared.imaging.trained import freeze
from shared.vector import Layout
from shared.weights import load_weights, travelling
from tests.client.training.toys import people
from tests.shared.secagg.world import World, weighted

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of what hostile images make of a threshold

EVERY = [(task, network) for task in tasks._MODULES for network in get_task(task).networks]
CLIP = 0.8
PRIVACY = PrivacyPlan("patient", clip=CLIP, slices_per_patient=2)
EDGE = 8  # pixels of a patch; every network takes multiples of it
EVERYTHING = {"zoom": 0.2, "rotation": 15.0, "input_noise": 0.05, "foreground": 0.5, "dropout": 0.2}
HOSTILE: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "like the others": lambda x: x,
    "huge": lambda x: x * np.float32(1e4),
    "close to overflow": lambda x: np.where(x > 0.5, np.float32(3e38), x),
    "not a number": lambda x: np.where(x > 0.9, np.float32(math.nan), x),
}


def changed(plain: StudyImages, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> StudyImages:
    """A study all of whose images a patient's enemy, or a broken scanner, has changed."""
    assert plain.second is not None
    parts = {"noisy": plain.noisy, "reference": plain.reference, "second": plain.second}
    return replace(plain, **{name: change(values) for name, values in parts.items()})


def small(batch: Batch) -> Batch:
    """A square of each patch: the first along its edge with something to learn."""
    rows = [_square(*(part[row : row + 1] for part in batch)) for row in range(len(batch[0]))]
    return torch.cat([inputs for inputs, _ in rows]), torch.cat([targets for _, targets in rows])


def _square(inputs: torch.Tensor, targets: torch.Tensor) -> Batch:
    scale = targets.shape[-1] // inputs.shape[-1]
    for left in range(0, inputs.shape[-1] - EDGE + 1, EDGE):
        part = targets[..., : EDGE * scale, left * scale : (left + EDGE) * scale]
        if targets.ndim < 4 or targets.shape[1] != 2 or bool(part[:, 1].any()):  # the second says what is hidden
            return inputs[..., :EDGE, left : left + EDGE], part
    raise AssertionError("no square with something hidden")


def awake(network: nn.Module) -> nn.Module:
    """The network with weights in the layers that start at zero, so that every parameter has a gradient."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if not parameter.detach().any():
            nn.init.normal_(parameter, std=0.05, generator=generator)
    return network


@pytest.fixture(params=EVERY, ids="-".join, name="case")
def _case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Task, nn.Module]:
    """A task that draws small patches, the same ones of a patient every time, and one of its networks."""
    name, which = request.param
    task = get_task(name)
    draw = task.draw

    def repeatable(patient: PatientImages, count: int, _: np.random.Generator) -> Batch:
        return small(draw(patient, count, np.random.default_rng(list(patient.key.encode()))))

    monkeypatch.setattr(task, "draw", repeatable)
    return task, awake(task.network(1, which))


def optimizer_for(network: nn.Module, clipping: Clipping = Clipping.AUTOMATIC) -> PatientDPOptimizer:
    return PatientDPOptimizer(
        torch.optim.SGD(trained(network), lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=CLIP,
        expected_batch_size=2.0,
        clipping=clipping,
    )


def accumulate(
    task: Task,
    network: nn.Module,
    patients: list[PatientImages],
    chosen: tuple[int, ...],
    optimizer: PatientDPOptimizer,
    *,
    precision: Precision = "float32",
    micro: MicroBatch | None = None,
    craft: Mapping[str, float] = MappingProxyType({}),
) -> torch.Tensor:
    rng = np.random.default_rng(0)
    plan = TaskPlan(task.name, rounds=1, local_steps=1, precision=precision, **craft)
    accumulate_step(task, network, patients, chosen, optimizer, plan=plan, privacy=PRIVACY, rng=rng, micro=micro)
    return optimizer.lattice_sum.clone()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("clipping", Clipping)
def test_one_patient_moves_the_sum_by_at_most_the_bound_exactly(
    case: tuple[Task, nn.Module], clipping: Clipping, precision: Precision
) -> None:
    task, network = case
    one, third = people(2, slices=3, size=4 * EDGE)
    plain = third.studies[0]
    loud = [replace(third, studies=(changed(plain, change),)) for change in HOSTILE.values()]
    everybody, optimizer = [one, *loud], optimizer_for(network, clipping)
    without = accumulate(task, network, everybody, (0,), optimizer, precision=precision)
    moved = []
    for added in range(1, len(everybody)):
        now = accumulate(task, network, everybody, (added, 0), optimizer, precision=precision)
        change = (now - without).tolist()
        moved.append(any(change))
        assert Fraction(sum(value * value for value in change)) * Fraction(optimizer.unit) ** 2 <= Fraction(CLIP) ** 2
    assert moved[0]  # the test would see a step that adds nothing


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_sum_of_a_step_is_that_of_each_patients_clipped_gradient(
    case: tuple[Task, nn.Module], precision: Precision
) -> None:
    """By the book: for every patient and objective a backward of its own, on a copy of the network."""
    task, network = case
    patients, names = people(2, slices=3, size=4 * EDGE), [name for name, _ in network.named_parameters()]
    expected = np.zeros(sum(parameter.numel() for parameter in network.parameters()))
    for patient in patients:
        batch, whole = task.draw(patient, PRIVACY.slices_per_patient, np.random.default_rng()), {}
        alone = copy.deepcopy(network)
        known = {parameter: name for name, parameter in alone.named_parameters()}
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            count = len(task.objectives(alone, batch))
        for index in range(count):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
                loss, part = task.objectives(alone, batch)[index]
            own = list(part.parameters())
            for parameter, found in zip(own, torch.autograd.grad(loss, own), strict=True):
                whole[known[parameter]] = found.double().flatten().numpy()
        gradient = np.concatenate([whole[name] for name in names])
        expected += gradient * CLIP / (np.linalg.norm(gradient) + 0.01)
    optimizer = optimizer_for(network)
    summed = accumulate(task, network, patients, (0, 1), optimizer, precision=precision).numpy() * optimizer.unit
    assert np.abs(summed - expected).max() <= 1e-6 * np.abs(expected).max()


def test_with_all_that_a_charter_may_ask_of_patches_a_patient_still_adds_at_most_the_bound(
    case: tuple[Task, nn.Module],
) -> None:
    task, network = case
    (one,) = people(1, slices=3, size=4 * EDGE)
    plain, optimizer = one.studies[0], optimizer_for(network)
    for change in HOSTILE.values():
        patient = replace(one, studies=(changed(plain, change),))
        added = accumulate(task, network, [patient], (0,), optimizer, craft=EVERYTHING).tolist()
        assert Fraction(sum(value * value for value in added)) * Fraction(optimizer.unit) ** 2 <= Fraction(CLIP) ** 2
        assert any(added) or change is not HOSTILE["like the others"]


def test_no_objective_of_a_row_knows_of_another_row(case: tuple[Task, nn.Module]) -> None:
    task, network = case
    inputs, targets = task.draw(people(1, slices=3, size=4 * EDGE)[0], 3, np.random.default_rng())
    together = [objective.loss for objective in task.objectives(network, (inputs, targets))]
    alone = [task.objectives(network, (inputs[i : i + 1], targets[i : i + 1])) for i in range(3)]
    for index, loss in enumerate(together):
        torch.testing.assert_close(loss, torch.stack([row[index].loss for row in alone]).mean())


def test_fewer_patches_at_once_give_the_same_sum_up_to_rounding(case: tuple[Task, nn.Module]) -> None:
    task, network = case
    patients, optimizer = people(1, slices=3, size=4 * EDGE), optimizer_for(network)
    whole = accumulate(task, network, patients, (0,), optimizer).double()
    parts = accumulate(task, network, patients, (0,), optimizer, micro=MicroBatch(1)).double()
    assert float((parts - whole).norm() / whole.norm()) < 1e-3


@pytest.mark.parametrize("which", ["biases_norms_head", "head"])
def test_a_part_trains_alone_and_as_it_does_within_the_whole(case: tuple[Task, nn.Module], which: Trained) -> None:
    task, network = case
    patients = people(1, slices=3, size=4 * EDGE)
    batch = task.draw(patients[0], 2, np.random.default_rng())
    whole = dict(zip(dict(network.named_parameters()), gradients(task, network, batch)[1], strict=True))
    freeze(network, which)
    few = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert 0 < len(few) < len(whole)
    assert list(travelling(network)) == few  # and nothing else leaves: no network has buffers
    for name, own in zip(few, gradients(task, network, batch)[1], strict=True):
        torch.testing.assert_close(own, whole[name])
    before, optimizer = copy.deepcopy(network.state_dict()), optimizer_for(network)
    accumulate(task, network, patients, (0,), optimizer)
    optimizer.step()
    changed = [name for name, value in network.state_dict().items() if not torch.equal(value, before[name])]
    assert set(changed) <= set(few)
    assert changed


@pytest.mark.parametrize(("name", "which"), EVERY, ids="-".join)
def test_models_come_out_of_the_masks_as_their_average(name: str, which: str) -> None:
    task, weights = get_task(name), {1: 300, 2: 100, 3: 600}
    states = {index: travelling(task.network(index, which)) for index in weights}
    layout = Layout.of(states[1])
    updates = {index: layout.flatten(state).vector for index, state in states.items()}
    world = World.of(3, clip=4.0)
    world.begin(rounds=1)
    outcome = world.run(world.task(1, layout.size), updates, weights)
    wanted, coded = weighted(updates, weights), (2**31 - 1) // 3
    assert np.abs(outcome.average - wanted).max() <= 0.51 * 4.0 * 1000 * 3 / (coded * 1000)  # C / M, n w_max / (2 sum)
    network = task.network(0, which)
    came = replace(layout.flatten(states[1]), vector=outcome.average.astype(np.float32))
    load_weights(network, layout.restore(came))
    assert np.abs(layout.flatten(travelling(network)).vector - wanted).max() <= 1e-6
