"""Smaller networks are smaller, keep their form, and learn."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from client.export.fitting import _softened, fit, pruned, student_of
from client.export.graph import channels_in, deployed, parameters
from shared.errors import UsageError
from shared.imaging.networks import EDSR, FCN, DnCNN, UNet, UNet25D
from shared.imaging.public import load_public
from shared.imaging.tasks import get_task
from shared.weights import load_weights
from tests.client.export.test_graph import stirred
from tests.shared.imaging.phantoms import patient, study

SHIPPED = [UNet(1, (16, 32, 64), residual=True), UNet(4, (8, 16, 32, 64)), DnCNN(), EDSR(), EDSR(4), FCN(4), UNet25D()]


@pytest.mark.parametrize("network", SHIPPED, ids=lambda one: f"{type(one).__name__}-{parameters(one)}")
def test_a_pruned_network_is_smaller_and_of_the_same_form(network: nn.Module) -> None:
    whole = deployed(stirred(copy.deepcopy(network)))
    before = copy.deepcopy(whole.state_dict())
    small = pruned(whole, 0.5)
    assert parameters(small) < 0.6 * parameters(whole)  # the layers before a pixel shuffle keep their outputs
    image = torch.rand(1, channels_in(network), 32, 40)
    assert small(image).shape == whole(image).shape
    for name, one in small.named_modules():
        if isinstance(one, nn.GroupNorm):
            assert one.num_groups == whole.get_submodule(name).num_groups
            assert one.num_channels % one.num_groups == 0
    torch.testing.assert_close(whole.state_dict(), before)


def test_the_weakest_channels_go() -> None:
    network = DnCNN(3, 4)
    with torch.no_grad():
        for number in range(4):
            network.body[0].weight[number].fill_(number + 1)
        network.body[1].weight.fill_(1)
        network.head.weight.fill_(1)
    assert pruned(deployed(network), 0.5).body[0].weight[:, 0, 0, 0].tolist() == [3, 4]  # type: ignore[union-attr, index]


@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.8, 1.0, -1.0, float("nan")])
def test_a_share_out_of_range_is_refused(ratio: float) -> None:
    with pytest.raises(UsageError, match="share to prune"):
        pruned(DnCNN(3, 4), ratio)


def test_a_network_without_convolutions_is_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match="cannot be pruned"):
        pruned(nn.Identity(), 0.5)
    with pytest.raises(UsageError, match="no smaller Identity"):
        student_of(nn.Identity(), 0)


@pytest.mark.parametrize("network", SHIPPED, ids=lambda one: f"{type(one).__name__}-{parameters(one)}")
def test_a_student_has_half_the_channels(network: nn.Module) -> None:
    small = student_of(network, 3)
    assert type(small) is type(network)
    assert parameters(small) < 0.4 * parameters(network)
    image = torch.rand(1, channels_in(network), 32, 40)
    assert small(image).shape == network(image).shape


@pytest.mark.parametrize("task_name", ["denoise", "segment"])
def test_a_student_comes_nearer_to_its_teacher(task_name: str) -> None:
    task = get_task(task_name)
    teacher = task.network(0)
    load_weights(teacher, load_public("public-1", task_name))
    small = student_of(deployed(teacher), 1)
    people = [patient(study(96, 96, slices=1, seed=number)) for number in range(2)]
    images = torch.from_numpy(task.inputs(people[0].studies[0]))[:, None]

    def apart() -> float:
        with torch.inference_mode():
            ours, theirs = small(images), teacher(images)
            return float(F.l1_loss(ours, theirs) if task_name == "denoise" else _softened(ours, theirs))

    before, frozen, steps = apart(), copy.deepcopy(teacher.state_dict()), list[int]()
    fit(task, small, teacher.eval(), people, steps=5, rate=5e-3, seed=0, on_step=steps.append)
    assert apart() < 0.9 * before
    assert steps == list(range(1, 6))
    assert not small.training
    torch.testing.assert_close(teacher.state_dict(), frozen)


def test_softened_classes_are_compared_as_hinton_does() -> None:
    ours, theirs = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    p, q = (theirs / 2).softmax(1), (ours / 2).softmax(1)
    assert float(_softened(ours, theirs)) == pytest.approx(float(4 * (p * (p / q).log()).sum(1).mean()), rel=1e-4)
    assert float(_softened(ours, ours)) == pytest.approx(0, abs=1e-6)
