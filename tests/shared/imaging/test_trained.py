"""Which parameters train: chosen by name and shape, the same at both ends."""

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import nn

from shared.charter_plans import Trained
from shared.imaging.networks import EDSR, FCN, DnCNN, UNet
from shared.imaging.trained import freeze

# Network, parameters of: all, biases_norms_head, head.
COUNTS: dict[str, tuple[Callable[[], nn.Module], int, int, int]] = {
    "denoising U-Net": (lambda: UNet(1, (16, 32, 64), residual=True), 109_713, 1_025, 17),
    "segmenting U-Net": (lambda: UNet(4, (8, 16, 32, 64)), 113_348, 1_148, 36),
    "DnCNN": (DnCNN, 56_097, 513, 289),
    "EDSR": (EDSR, 148_577, 833, 289),
    "FCN": (lambda: FCN(4), 74_440, 1_216, 496),
}


def trainable(network: nn.Module) -> list[str]:
    return [name for name, parameter in network.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize("name", COUNTS)
def test_how_many_parameters_train(name: str) -> None:
    build, *expected = COUNTS[name]
    counts = []
    for which in get_args(Trained):
        network = build()
        freeze(network, which)
        counts.append(sum(p.numel() for p in network.parameters() if p.requires_grad))
    assert counts == expected


def test_only_the_weights_of_inner_convolutions_are_frozen() -> None:
    network = UNet(4, (8, 16))
    freeze(network, "biases_norms_head")
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    convolutions = {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    assert frozen == convolutions - {"head.weight"}


def test_the_last_layer_is_found_at_any_depth() -> None:
    pair = nn.ModuleDict({"generator": EDSR(8, 1), "critic": UNet(1, (8, 16))})
    freeze(pair, "head")
    assert trainable(pair) == [f"{part}.head.{kind}" for part in ("generator", "critic") for kind in ("weight", "bias")]


def test_every_scale_of_the_fcn_has_a_last_layer() -> None:
    network = FCN(4, (8, 16))
    freeze(network, "head")
    assert trainable(network) == ["score.0.weight", "score.0.bias", "score.1.weight", "score.1.bias"]


def test_the_choice_can_be_made_again() -> None:
    network = DnCNN(3, 8)
    freeze(network, "head")
    freeze(network, "all")
    assert len(trainable(network)) == len(list(network.parameters()))


@pytest.mark.parametrize("which", [which for which in get_args(Trained) if which != "all"])
def test_a_step_moves_what_trains_and_nothing_else(which: Trained) -> None:
    network = UNet(1, (8, 16))
    freeze(network, which)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network(torch.rand(2, 1, 16, 16)).pow(2).mean().backward()
    optimizer.step()
    moved = {name for name, parameter in network.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved <= set(trainable(network))
    assert "head.weight" in moved


def test_a_network_without_a_last_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="no layer called head"):
        freeze(nn.Sequential(nn.Conv2d(1, 1, 3)), "head")
