"""A device whose memory gives out: fewer patches at once, the same result, and the bound of patient-level privacy."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from client.training import loop
from client.training.device import DeviceError
from client.training.gradients import MicroBatch, accumulate_step, gradients
from client.training.loop import _private_round, train_round
from client.training.secure_noise import SecureNoise
from shared.imaging import inference
from shared.imaging.tasks import Batch, Objective, Task, get_task
from tests.client.training.test_gradients import CLIP, NAMES, awake, flat, optimizer_for
from tests.client.training.toys import PLAN, PRIVACY, ToyTask, paid, people, weights

torch.set_num_threads(1)


class Narrow(ToyTask):
    """A device whose memory holds so many patches at once; every try is written down."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.tries = room, list[int]()

    def objectives(self, network: nn.Module, batch: Batch) -> tuple[Objective, ...]:
        self.tries.append(len(batch[0]))
        if len(batch[0]) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().objectives(network, batch)


def private_sum(task: Task, chosen: list[int], micro: MicroBatch | None = None, seed: int = 5) -> torch.Tensor:
    network = awake(task.network(0))
    optimizer = optimizer_for(network)
    privacy, rng = replace(PRIVACY, slices_per_patient=6), np.random.default_rng(seed)
    accumulate_step(task, network, people(4), chosen, optimizer, plan=PLAN, privacy=privacy, rng=rng, micro=micro)
    return optimizer.lattice_sum.double() * optimizer.unit


@pytest.mark.parametrize(("room", "size"), [(5, 3), (3, 3), (2, 2), (1, 1)])
def test_where_memory_gives_out_the_same_sum_is_made_of_fewer_patches_at_once(room: int, size: int) -> None:
    micro, task = MicroBatch(), Narrow(room)
    found, whole = private_sum(task, [0, 2, 3], micro), private_sum(ToyTask(), [0, 2, 3])
    assert micro.size == size
    assert float((found - whole).abs().max()) < 1e-6 * float(whole.abs().max())
    assert max(task.tries[-3 * math.ceil(6 / size) :]) <= room, "every patient of the step was computed the same way"


def test_memory_that_gives_out_in_the_middle_begins_the_step_again_for_all_its_patients() -> None:
    """Else who was drawn before would decide how the others are rounded."""

    class Filling(ToyTask):
        calls = 0

        def objectives(self, network: nn.Module, batch: Batch) -> tuple[Objective, ...]:
            self.calls += 1
            if self.calls == 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().objectives(network, batch)

    late = private_sum(Filling(), [0, 2, 3])
    assert torch.equal(late, private_sum(ToyTask(), [0, 2, 3], MicroBatch(3)))


@pytest.mark.parametrize("size", [0, 1, 3])
def test_one_patient_moves_the_sum_by_the_bound_at_most_whatever_goes_through_at_once(size: int) -> None:
    class Fixed(ToyTask):
        def draw(self, patient: object, count: int, rng: np.random.Generator) -> Batch:
            del rng  # the same patches whoever was drawn before
            return super().draw(patient, count, np.random.default_rng(0))  # type: ignore[arg-type]

    def total(*chosen: int) -> torch.Tensor:
        return private_sum(Fixed(), list(chosen), MicroBatch(size))

    for gone in range(4):
        rest = [index for index in range(4) if index != gone]
        assert float(torch.linalg.vector_norm(total(0, 1, 2, 3) - total(*rest))) <= CLIP
        assert torch.equal(total(0, 1, 2, 3) - total(*rest), total(gone)), "and the others by nothing"


def test_memory_that_does_not_hold_one_patch_ends_the_round_and_says_so() -> None:
    task, micro = Narrow(0), MicroBatch()
    with pytest.raises(DeviceError, match="does not hold one patch"):
        private_sum(task, [1, 2], micro)
    assert task.tries == [6, 3, 2, 1]


def test_what_was_found_out_holds_for_the_rest_of_the_round() -> None:
    task, plan = Narrow(2), replace(PLAN, local_steps=5, batch=4)
    outcome = train_round(task, task.network(0), people(4), plan, round_number=1, privacy=None, seed=0)
    assert task.tries == [4, 2, 2, *[2, 2] * 4]
    assert outcome.micro_batch == 2


@pytest.mark.parametrize("mode", ["off", "patient"])
def test_a_round_in_little_memory_learns_what_one_in_much_memory_does(mode: str) -> None:
    learnt = []
    for task in (ToyTask(), Narrow(1)):
        network, plan = task.network(0), replace(PLAN, local_steps=3)
        privacy = replace(PRIVACY, mode=mode, sample_rate=1.0, noise_multiplier=1e-9)  # type: ignore[arg-type]
        if mode == "off":
            outcome = train_round(task, network, people(4), plan, round_number=1, privacy=None, seed=0)
        else:
            receipt = paid(task, people(4), plan, privacy)
            given = {"rate": 0.1, "privacy": privacy, "receipt": receipt, "noise": SecureNoise()}
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(loop, "_generator", lambda *_: np.random.default_rng(7))
                outcome = _private_round(task, network, people(4), plan, **given)  # type: ignore[arg-type]
        learnt.append(weights(network))
    assert outcome.micro_batch == 1
    torch.testing.assert_close(learnt[0], learnt[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_a_batch_is_the_mean_of_its_parts_for_every_task(name: str) -> None:
    task = get_task(name)
    network, batch = awake(task.network(1)), task.draw(people(1, size=64)[0], 5, np.random.default_rng(0))
    loss, whole = gradients(task, network, batch)
    for at_once in (1, 2, 4):
        own, parts = gradients(task, network, batch, at_once=at_once)
        assert float(own) == pytest.approx(float(loss), rel=1e-5)
        assert np.abs(flat(parts) - flat(whole)).max() <= 1e-4 * np.abs(flat(whole)).max()


class Small(nn.Module):
    """A network on a device that holds so many slices at once."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.tries, self.own = room, list[int](), nn.Conv2d(1, 1, 3, padding=1)
        nn.init.constant_(self.own.weight, 0.1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.tries.append(len(inputs))
        if len(inputs) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        found: torch.Tensor = self.own(inputs)
        return found


def test_whole_slices_are_looked_at_in_fewer_at_once_too() -> None:
    images = np.random.default_rng(0).random((11, 16, 16), dtype=np.float32)
    small, large = Small(2), Small(99)
    small.load_state_dict(large.state_dict())
    found = inference.run(small, images)
    assert np.allclose(found, inference.run(large, images), atol=1e-6)
    assert small.tries == [8, 4, 2, 2, 2, 2, 2, 1]
    with pytest.raises(torch.OutOfMemoryError):
        inference.run(Small(0), images)
