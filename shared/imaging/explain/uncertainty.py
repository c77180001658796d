"""How sure a model is of each pixel, from how much several answers to the same question differ.

Several answers come from views of the image (mirrored and turned: Wang et al. 2019, "Aleatoric uncertainty estimation
with test-time augmentation"), which any model has; from several models (Lakshminarayanan, Pritzel and Blundell 2017,
arXiv:1612.01474); or from dropout that stays on (Gal and Ghahramani 2016, arXiv:1506.02142), where a network has it.
None of them is the chance of an error; :mod:`shared.imaging.explain.calibration` says how far they point to errors.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from shared.imaging.explain.network import outputs

TURNS: Final = 8
"""The symmetries of a square: mirrored left to right (1), top to bottom (2), rows and columns exchanged (4)."""
PASSES: Final = 16
"""Passes with dropout."""
_DROPOUT: Final = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_LEAST: Final = 1e-12  # of a probability, before its logarithm


@dataclass(frozen=True, eq=False)
class Spread:
    """Several answers as one.

    Attributes:
        mean: Their mean ``[n, channels, h, w]``: images, or probabilities of classes.
        uncertainty: ``[n, h, w]``. Of images the standard deviation of the answers, on intensities from 0 to 1; of
            classes the entropy of the mean probabilities over its greatest possible value, from 0 to 1.
        members: How many answers.
    """

    mean: NDArray[np.float32]
    uncertainty: NDArray[np.float32]
    members: int

    @property
    def predictions(self) -> NDArray[Any]:
        """The mean image ``[n, h, w]``, or the most likely class of each pixel, uint8."""
        if self.mean.shape[1] == 1:
            return self.mean[:, 0]
        return np.asarray(self.mean.argmax(axis=1), np.uint8)


def spread(members: Iterable[NDArray[np.float32]]) -> Spread:
    """The mean of several answers ``[n, channels, h, w]`` and how much they differ; one is held at a time.

    Raises:
        ValueError: There is none.
    """
    count = 0
    mean: NDArray[np.float64] = np.zeros((1, 1, 1, 1))
    squares: NDArray[np.float64] = np.zeros((1, 1, 1, 1))
    for count, member in enumerate(members, start=1):
        change = member.astype(np.float64) - mean  # Welford 1962: no difference of large sums
        mean = mean + change / count
        squares = squares + change * (member - mean)
    if not count:
        raise ValueError("the spread of no answers")
    if mean.shape[1] == 1:
        found = np.sqrt(squares[:, 0] / max(count - 1, 1))
    else:
        found = -(mean * np.log(np.maximum(mean, _LEAST))).sum(axis=1) / np.log(mean.shape[1])
    return Spread(mean.astype(np.float32), np.maximum(found, 0.0).astype(np.float32), count)


def turned(images: NDArray[Any], turn: int) -> NDArray[Any]:
    """One of the :data:`TURNS` symmetries of arrays ``[..., h, w]``; 0 leaves them as they are."""
    if turn & 1:
        images = images[..., ::-1]
    if turn & 2:
        images = images[..., ::-1, :]
    return images.swapaxes(-1, -2) if turn & 4 else images


def back(images: NDArray[Any], turn: int) -> NDArray[Any]:
    """The inverse of :func:`turned`."""
    if turn & 4:
        images = images.swapaxes(-1, -2)
    if turn & 2:
        images = images[..., ::-1, :]
    return images[..., ::-1] if turn & 1 else images


def views(
    network: nn.Module, images: NDArray[np.float32], *, size: tuple[int, int], classes: bool, turns: int = TURNS
) -> Iterator[NDArray[np.float32]]:
    """What a network makes of the first ``turns`` symmetries of slices, each turned back.

    Args:
        network: Left in the mode in which it came.
        images: ``[n, h, w]`` or ``[n, k, h, w]``.
        size: Rows and columns of the truth.
        classes: Whether the outputs are scores of classes.
        turns: From 1 to :data:`TURNS`; 2 are the image and its mirror image left to right.
    """
    scale = -(-size[0] // images.shape[-2])
    whole = (images.shape[-2] * scale, images.shape[-1] * scale)
    for turn in range(turns):
        shape = whole[::-1] if turn & 4 else whole
        made = outputs(network, np.ascontiguousarray(turned(images, turn)), size=shape, classes=classes)
        yield np.ascontiguousarray(back(made, turn)[:, :, : size[0], : size[1]])


def has_dropout(network: nn.Module) -> bool:
    """Whether a network has dropout that :func:`dropped` can leave on."""
    return any(isinstance(one, _DROPOUT) and one.p > 0 for one in network.modules())


def dropped(
    network: nn.Module,
    images: NDArray[np.float32],
    *,
    size: tuple[int, int],
    classes: bool,
    passes: int = PASSES,
    seed: int = 0,
) -> Iterator[NDArray[np.float32]]:
    """What a network makes of slices with its dropout left on; the same draws for the same seed.

    Args:
        network: Put into evaluation mode but for its dropout; afterwards all of it is in evaluation mode.
        images: ``[n, h, w]`` or ``[n, k, h, w]``.
        size: Rows and columns of the truth.
        classes: Whether the outputs are scores of classes.
        passes: How many answers.
        seed: Of the draws; torch's global generator is left as it was.
    """
    for number in range(passes):
        with torch.random.fork_rng(), _Dropping(network):
            torch.manual_seed(seed + number)
            made = outputs(network, images, size=size, classes=classes)
        yield made


class _Dropping:
    """Within the block dropout is on though :func:`inference.run` puts the whole network into evaluation mode."""

    def __init__(self, network: nn.Module) -> None:
        self._hooks = [one for one in network.modules() if isinstance(one, _DROPOUT)]
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> None:
        self._handles = [one.register_forward_pre_hook(lambda layer, _: _train(layer)) for one in self._hooks]

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        for one in self._hooks:
            one.eval()


def _train(layer: nn.Module) -> None:
    layer.train()
