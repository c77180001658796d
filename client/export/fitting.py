"""Smaller networks: a pruned one that is tuned again, and a student that learns from its teacher."""

import copy
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from client.export.graph import channels_in, parameters
from shared.errors import UsageError
from shared.imaging.images import PatientImages
from shared.imaging.inference import MULTIPLE
from shared.imaging.networks import EDSR, FCN, DnCNN, UNet, UNet25D, seeded
from shared.imaging.networks.blocks import DoubleConv
from shared.imaging.quality.measures import is_image_task
from shared.imaging.tasks import Task
from shared.imaging.trained import HEADS
from shared.schedule import cosine

RATIOS: Final = (0.1, 0.75)
"""Smallest and largest share of channels that are pruned away."""
TEMPERATURE: Final = 2.0
BATCH: Final = 8
TUNING_RATE, STUDENT_RATE = 1e-3, 2e-3
_SHUFFLED: Final = frozenset({"expand", "further"})
"""The layers before a pixel shuffle, whose channels are pixels: they go together in fours."""


def check_ratio(ratio: float) -> None:
    """Refuse a share that leaves nearly everything, or nearly nothing.

    Raises:
        UsageError: It is out of range.
    """
    low, high = RATIOS
    if not low <= ratio <= high:
        raise UsageError(f"the share to prune must be from {low} to {high}, not {ratio:g}", hint="choose another one")


def pruned(network: nn.Module, ratio: float) -> nn.Module:
    """A copy of ``network`` without the weakest ``ratio`` of its channels; they are gone, not zero.

    Filters of the smallest L1 norm go (Li et al. 2017, arXiv:1608.08710), with all that follows from it in other layers
    (Fang et al. 2023, arXiv:2301.12900, whose library does it). Of a normalised layer the groups stay, each with fewer
    channels. The last layer and the one before a pixel shuffle keep their outputs.

    Raises:
        UsageError: The ratio is out of range, or the network cannot be pruned so.
    """
    import torch_pruning  # noqa: PLC0415  an extra

    check_ratio(ratio)
    result = copy.deepcopy(network).requires_grad_(True)
    example = torch.zeros(1, channels_in(network), 8 * MULTIPLE, 8 * MULTIPLE)
    layers = {name: one for name, one in result.named_modules() if isinstance(one, nn.Conv2d)}
    kept = [one for name, one in layers.items() if (HEADS | _SHUFFLED) & set(name.split("."))]
    try:
        importance = torch_pruning.importance.GroupMagnitudeImportance(p=1)
        torch_pruning.pruner.BasePruner(
            result, example, importance=importance, pruning_ratio=ratio, ignored_layers=kept
        ).step()
        with torch.inference_mode():
            same = result.eval()(example).shape == network(example).shape
    except (RuntimeError, IndexError, KeyError, ValueError, AttributeError, AssertionError) as error:
        raise _unprunable(network) from error
    if not same or parameters(result) >= parameters(network):
        raise _unprunable(network)
    return result


def student_of(network: nn.Module, seed: int) -> nn.Module:
    """A fresh network of the same kind with half the channels, and half the depth where that is a number.

    Raises:
        UsageError: There is no smaller one of its kind.
    """

    def half(width: int) -> int:
        return max(4, width // 2)

    match network:
        case UNet25D():
            wide = tuple(half(one.second.out_channels) for one in network.encode if isinstance(one, DoubleConv))
            return seeded(lambda: UNet25D(network.slices, wide), seed)
        case UNet():
            wide = tuple(half(one.second.out_channels) for one in network.encode if isinstance(one, DoubleConv))
            outputs, residual = network.head.out_channels, network.residual
            seen = channels_in(network)
            return seeded(lambda: UNet(outputs, wide, residual=residual, inputs=seen), seed)
        case FCN():
            wide = tuple(half(one.second.out_channels) for one in network.encode if isinstance(one, DoubleConv))
            (classes,) = {one.out_channels for one in network.score if isinstance(one, nn.Conv2d)}
            return seeded(lambda: FCN(classes, wide), seed)
        case DnCNN():
            depth, width = max(2, (len(network.body) + 1) // 2), half(network.head.in_channels)
            return seeded(lambda: DnCNN(depth, width), seed)
        case EDSR():
            blocks, width = max(1, len(network.body) // 2), half(network.lift.out_channels)
            return seeded(lambda: EDSR(network.factor, width, blocks), seed)
    raise UsageError(f"there is no smaller {type(network).__name__} to teach", hint="leave out --distil")


def fit(
    task: Task,
    network: nn.Module,
    teacher: nn.Module,
    people: Sequence[PatientImages],
    *,
    steps: int,
    rate: float,
    seed: int,
    on_step: Callable[[int], None] = lambda _: None,
) -> None:
    """Train ``network`` in place to do as ``teacher`` does, and to be right: the mean of both losses.

    Of images the first is the mean absolute difference of both outputs; of classes the divergence of both distributions
    at a temperature of 2 (Hinton, Vinyals and Dean 2015, arXiv:1503.02531). Adam, its rate on a half cosine.

    Args:
        task: Draws patches, and says what is right.
        network: To be trained.
        teacher: In evaluation mode.
        people: Their patches are drawn in proportion to their slices.
        steps: Optimiser steps.
        rate: Learning rate at the first step.
        seed: Of the patches; the same seed gives the same network.
        on_step: Called with the steps done.
    """
    rng = np.random.default_rng([seed, 2])
    weights = np.array([one.slices for one in people], dtype=float)
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    alike = _alike if is_image_task(task) else _softened
    network.train()
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = rate * cosine(step / steps)
        drawn = rng.choice(len(people), size=min(BATCH, len(people)), p=weights / weights.sum(), replace=False)
        batches = [task.draw(people[index], -(-BATCH // len(drawn)), rng) for index in drawn]
        inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
        with torch.no_grad():
            taught = teacher(inputs)
        outputs = network(inputs)
        loss = 0.5 * task.loss(outputs, targets) + 0.5 * alike(outputs, taught)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        on_step(step + 1)
    network.eval()


def _alike(outputs: Tensor, taught: Tensor) -> Tensor:
    return F.l1_loss(outputs, taught)


def _softened(outputs: Tensor, taught: Tensor) -> Tensor:
    """Divergence of the softened distributions, for each pixel; the square of the temperature keeps its gradient."""
    ours, theirs = ((one / TEMPERATURE).log_softmax(dim=1) for one in (outputs, taught))
    divergence = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1).mean()
    return TEMPERATURE**2 * divergence


def _unprunable(network: nn.Module) -> UsageError:
    return UsageError(f"a {type(network).__name__} cannot be pruned so", hint="choose another share, or leave it out")
