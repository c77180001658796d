"""What a charter asks of patches happens to each alone, to input and target alike, and to nothing without the keys."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from client.training.craft import CANDIDATES, Craft
from client.training.local_optimizer import local_optimizer
from client.training.loop import _private_round, train_round
from client.training.secure_noise import SeededNoiseForTests
from shared.charter import TaskPlan
from shared.imaging.tasks import Batch
from tests.client.training.toys import PLAN, PRIVACY, ToyTask, paid, people, weights

torch.set_num_threads(1)

EVERYTHING = {
    "zoom": 0.2,
    "rotation": 15.0,
    "input_noise": 0.05,
    "foreground": 0.5,
    "dropout": 0.3,
    "weight_decay": 0.1,
}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def waves(size: int, phase: float = 0.0) -> torch.Tensor:
    """A smooth picture ``[size, size]`` of the same thing at any resolution."""
    y, x = np.mgrid[:size, :size]
    place = (y + 0.5) / size + 2 * (x + 0.5) / size
    return torch.from_numpy((0.5 + 0.4 * np.sin(4 * place + phase)).astype(np.float32))


def picture(size: int) -> torch.Tensor:
    return torch.stack([waves(size, phase) for phase in (0.0, 1.0, 2.0)])[:, None]


class WithHead(nn.Module):
    """A network whose last layer has a name."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 6, 3, padding=1)
        self.head = nn.Conv2d(6, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(torch.relu(self.body(x)))
        return result


def headed() -> nn.Module:
    torch.manual_seed(0)
    return WithHead()


def test_without_keys_a_batch_is_the_tasks_own_and_no_number_is_drawn_for_it() -> None:
    task, patient, first, second = ToyTask(), people(1)[0], rng(), rng()
    plain, crafted = task.draw(patient, 5, first), Craft.of(PLAN).draw(task, patient, 5, second)
    assert all(torch.equal(a, b) for a, b in zip(plain, crafted, strict=True))
    assert first.bit_generator.state == second.bit_generator.state
    assert Craft.of(PLAN) == Craft()


def test_each_key_of_a_charter_has_its_place() -> None:
    assert Craft.of(replace(PLAN, **EVERYTHING)) == Craft(**EVERYTHING)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_input_and_target_are_moved_alike_at_any_two_resolutions(scale: int) -> None:
    coarse, fine = Craft(zoom=0.2, rotation=20).altered((picture(32), picture(32 * scale)), rng())
    assert coarse.shape == (3, 1, 32, 32)
    assert fine.shape == (3, 1, 32 * scale, 32 * scale)
    seen = torch.nn.functional.avg_pool2d(fine, scale)[..., 8:-8, 8:-8]  # away from what was mirrored in
    assert float((seen - coarse[..., 8:-8, 8:-8]).abs().max()) < 0.01
    assert float((coarse - picture(32)).abs().max()) > 0.05


def test_classes_stay_classes_and_lie_where_the_image_has_them() -> None:
    image = (picture(48) > 0.5).float()
    inputs, targets = Craft(zoom=0.2, rotation=20).altered((image, image[:, 0].long()), rng())
    assert targets.dtype == torch.int64
    assert set(targets.unique().tolist()) == {0, 1}
    assert float(((inputs[:, 0] > 0.5) == (targets > 0)).float().mean()) > 0.99


def test_every_patch_is_altered_by_numbers_of_its_own() -> None:
    same = waves(24).expand(4, 1, 24, 24)
    turned, _ = Craft(rotation=10).altered((same, same), rng())
    assert len({tuple(patch.flatten().tolist()) for patch in turned}) == 4


def test_rotation_and_zoom_keep_within_their_limits() -> None:
    moves = Craft(zoom=0.25, rotation=10)._moves(2000, rng()).numpy()
    angle = np.rad2deg(np.arctan2(moves[:, 1, 0], moves[:, 0, 0]))
    scale = 1 / np.hypot(moves[:, 0, 0], moves[:, 1, 0])
    assert 9.5 < np.abs(angle).max() <= 10 + 1e-3
    assert 1 / 1.25 - 1e-4 <= scale.min() < 0.82
    assert 1.23 < scale.max() <= 1.25 + 1e-4
    assert not moves[:, :, 2].any()


def test_noise_is_added_to_what_the_network_sees_alone() -> None:
    images = torch.zeros(200, 1, 16, 16)
    inputs, targets = Craft(input_noise=0.1).altered((images, images), rng())
    spread = inputs.std(dim=(1, 2, 3))
    assert not targets.any()
    assert 0.04 < float(spread.mean()) < 0.06
    assert float(spread.max()) < 0.12


class Numbered(ToyTask):
    """Patches whose brightness is the order in which they were drawn."""

    def draw(self, patient: object, count: int, rng: np.random.Generator) -> Batch:
        del patient, rng
        number = torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(count, 1, 4, 4)
        return number, number


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_foreground_is_chosen_for_the_share_that_was_asked_for(share: float) -> None:
    count = 400
    inputs, targets = Craft(foreground=share).draw(Numbered(), people(1)[0], count, rng())
    assert torch.equal(inputs, targets)
    chosen = inputs[:, 0, 0, 0].numpy()
    fullest = chosen >= (CANDIDATES - 1) * count
    assert abs(fullest.mean() - share) < 0.08
    assert (chosen[~fullest] == np.arange(count)[~fullest]).all()


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "NAdam", "RAdam", "Adamax"])
def test_every_optimiser_takes_the_weight_decay_and_else_has_its_own(name: str) -> None:
    network, kind = headed(), getattr(torch.optim, name)
    own = kind(network.parameters(), lr=0.1).defaults["weight_decay"]
    assert local_optimizer(name, network, 0.1).defaults["weight_decay"] == own
    assert local_optimizer(name, network, 0.1, 0.03).defaults["weight_decay"] == 0.03


def test_weight_decay_pulls_towards_zero_and_under_privacy_depends_on_the_weights_alone() -> None:
    """With a clip of next to nothing the step is next to nothing but decay: rate times decay times weights."""
    task, patients, ends = ToyTask(), people(3), []
    privacy = replace(PRIVACY, clip=1e-9)
    for decay in (None, 0.5):
        plan, network = replace(PLAN, local_steps=1, weight_decay=decay), task.network(0)
        receipt = paid(task, patients, plan, privacy)
        noise = SeededNoiseForTests(0)
        _private_round(task, network, patients, plan, rate=0.1, privacy=privacy, receipt=receipt, noise=noise)
        ends.append(weights(network))
    torch.testing.assert_close(ends[0] - ends[1], 0.1 * 0.5 * weights(task.network(0)), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("private", [False, True])
def test_a_round_with_everything_trains_and_an_ordinary_one_can_be_repeated(private: bool) -> None:
    task, patients, ends = ToyTask(), people(4, size=16), []
    plan = TaskPlan("toy", rounds=1, local_steps=3, batch=4, local_lr=0.05, **EVERYTHING)
    privacy = replace(PRIVACY, sample_rate=1.0) if private else None
    for _ in range(2):
        network = headed()
        receipt = paid(task, patients, plan, privacy) if privacy else None
        seed = None if private else 5
        train_round(task, network, patients, plan, round_number=1, privacy=privacy, seed=seed, receipt=receipt)
        assert torch.isfinite(weights(network)).all()
        assert not torch.equal(weights(network), weights(headed()))
        ends.append(weights(network))
    assert torch.equal(*ends) is not private
