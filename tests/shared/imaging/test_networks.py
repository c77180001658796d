"""Rules that every shipped network keeps, because patient-level privacy and any image size rest on them."""

import inspect
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from shared.imaging import networks
from shared.imaging.networks import (
    EDSR,
    FCN,
    AdversarialPair,
    ConvGRU,
    DeepUNet,
    Discriminator,
    DnCNN,
    RelativisticPair,
    Restormer,
    RRDBNet,
    SRResNet,
    UNet,
    UNet25D,
    seeded,
)

SHIPPED: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "denoising U-Net": (lambda: UNet(1, (16, 32, 64), residual=True), 1, 1),
    "segmenting U-Net": (lambda: UNet(4, (8, 16, 32, 64)), 4, 1),
    "DnCNN": (DnCNN, 1, 1),
    "Restormer": (Restormer, 1, 1),
    "EDSR": (EDSR, 1, 2),
    "EDSR by four": (lambda: EDSR(4), 1, 4),
    "SRResNet": (SRResNet, 1, 2),
    "SRResNet by four": (lambda: SRResNet(4), 1, 4),
    "RRDBNet": (RRDBNet, 1, 2),
    "RRDBNet by four": (lambda: RRDBNet(4), 1, 4),
    "FCN": (lambda: FCN(4), 4, 1),
    "deeply supervised U-Net": (lambda: DeepUNet(4), 4, 1),
    "2.5-D U-Net": (UNet25D, 1, 1),
    "2.5-D U-Net of five slices": (lambda: UNet25D(5), 1, 1),
    "ConvGRU": (ConvGRU, 1, 1),
    "causal ConvGRU": (lambda: ConvGRU(causal=True), 1, 1),
}
PAIRS: tuple[Callable[[], nn.Module], ...] = (lambda: AdversarialPair(EDSR()), lambda: RelativisticPair(RRDBNet()))
LARGEST = 200_000


def images(network: nn.Module, count: int, height: int, width: int) -> torch.Tensor:
    """Random inputs: five slices each for the networks that see neighbours, else one."""
    return torch.rand(count, 5 if isinstance(network, UNet25D | ConvGRU) else 1, height, width)


@pytest.fixture(params=SHIPPED, name="shipped")
def _shipped(request: pytest.FixtureRequest) -> tuple[nn.Module, int, int]:
    build, channels, scale = SHIPPED[request.param]
    return seeded(build, 0), channels, scale


def test_the_list_above_is_complete() -> None:
    classes = {value for value in vars(networks).values() if inspect.isclass(value) and issubclass(value, nn.Module)}
    assert classes == {type(build()) for build, _, _ in SHIPPED.values()} | {
        Discriminator,
        *(type(build()) for build in PAIRS),
    }


@pytest.mark.parametrize("build", [*(build for build, _, _ in SHIPPED.values()), *PAIRS])
def test_layers_keep_the_house_rules(build: Callable[[], nn.Module]) -> None:
    network = build()
    for module in network.modules():
        assert not isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.instancenorm._InstanceNorm)
        assert not getattr(module, "inplace", False)
        assert getattr(module, "padding_mode", "zeros") == "zeros"
    assert not list(network.buffers())
    assert sum(parameter.numel() for parameter in network.parameters()) <= LARGEST


@pytest.mark.parametrize(("height", "width"), [(8, 8), (24, 40)])
def test_shapes(shipped: tuple[nn.Module, int, int], height: int, width: int) -> None:
    network, channels, scale = shipped
    assert network(images(network, 2, height, width)).shape == (2, channels, scale * height, scale * width)


def test_the_rows_of_a_batch_do_not_meet(shipped: tuple[nn.Module, int, int]) -> None:
    network = shipped[0].train()
    inputs = images(network, 3, 16, 16)
    alone = network(inputs[:1])
    torch.testing.assert_close(network(inputs)[:1], alone, atol=1e-5, rtol=1e-4)


def test_every_weight_learns(shipped: tuple[nn.Module, int, int]) -> None:
    network = shipped[0]
    for parameter in network.parameters():  # wake the layers that start at zero
        nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    given = images(network, 2, 16, 16)
    outputs = network.scales(given) if isinstance(network, DeepUNet) else (network(given),)
    torch.stack([scores.pow(2).sum() for scores in outputs]).sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters())


@pytest.mark.parametrize(("height", "width"), [(8, 8), (48, 48), (51, 33)])
def test_the_discriminator_gives_each_image_one_score_whoever_is_beside_it(height: int, width: int) -> None:
    network = seeded(Discriminator, 0)
    inputs = torch.rand(3, 1, height, width)
    assert network(inputs).shape == (3,)
    torch.testing.assert_close(network(inputs)[:1], network(inputs[:1]))


def test_every_weight_of_the_discriminator_learns() -> None:
    network = seeded(Discriminator, 0)
    network(torch.rand(2, 1, 16, 16)).pow(2).sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.parameters())


def test_residual_networks_start_as_the_identity_or_as_bicubic() -> None:
    image = torch.rand(1, 1, 16, 16)
    for network in (seeded(SHIPPED["denoising U-Net"][0], 3), seeded(DnCNN, 3), seeded(Restormer, 3)):
        torch.testing.assert_close(network(image), image)
    for factor in (2, 4):
        bicubic = nn.functional.interpolate(image, scale_factor=factor, mode="bicubic", align_corners=False)
        for kind in (EDSR, SRResNet, RRDBNet):
            torch.testing.assert_close(seeded(partial(kind, factor), 3)(image), bicubic)


@pytest.mark.parametrize("factor", [0, 1, 3, 6])
def test_images_are_made_finer_by_powers_of_two_alone(factor: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        EDSR(factor)


@pytest.mark.parametrize(
    ("build", "seen"),
    [
        (UNet25D, {1, 2, 3}),
        (lambda: UNet25D(5), {0, 1, 2, 3, 4}),
        (ConvGRU, {0, 1, 2, 3, 4}),
        (lambda: ConvGRU(causal=True), {0, 1, 2}),
    ],
)
def test_networks_of_neighbours_start_as_the_middle_slice_and_see_those_that_they_should(
    build: Callable[[], nn.Module], seen: set[int]
) -> None:
    network = seeded(build, 3)
    stack = torch.rand(1, 5, 16, 16, requires_grad=True)
    torch.testing.assert_close(network(stack), stack[:, 2:3])
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(network(stack).pow(2).sum(), stack)
    assert {index for index in range(5) if bool(gradient[0, index].any())} == seen
    assert sum(parameter.numel() for parameter in network.parameters()) <= 200_000


def test_the_seed_alone_decides_the_weights_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = seeded(FCN_4, 5)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    second, third = seeded(FCN_4, 5), seeded(FCN_4, 6)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), third.parameters(), strict=True))


def FCN_4() -> FCN:  # noqa: N802
    return FCN(4)
