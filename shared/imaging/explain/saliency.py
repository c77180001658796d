"""Which input pixels an output pixel comes from: integrated gradients, and the effective receptive field.

By ``captum`` (BSD-3-Clause), which is loaded when it is needed.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.errors import UsageError
from shared.imaging.explain.network import Forward, forward_of, only_inputs, tensor_of

REGION: Final = 2
"""Pixels on each side of the one that is explained: five by five of the output."""
STEPS: Final = 64
"""Points of the path that gradients are integrated along."""
_AT_ONCE: Final = 8


@dataclass(frozen=True)
class Field:
    """The effective receptive field of a network (Luo et al. 2016, arXiv:1701.04128).

    Attributes:
        half: Radius, in input pixels, of the disc that half of the gradient of an output pixel falls into.
        most: Radius for 90 %.
        inputs: So many slices were looked at.
        map: Mean absolute gradient around the pixel, ``[2 r + 1, 2 r + 1]``, over its greatest value.
    """

    half: float
    most: float
    inputs: int
    map: NDArray[np.float32]


def captum(part: str) -> Any:
    """A module of captum.

    Raises:
        UsageError: It is not installed.
    """
    import importlib  # noqa: PLC0415

    try:
        return importlib.import_module(f"captum.{part}")
    except ImportError as error:
        raise UsageError(
            "explaining a model needs captum, which is not installed", hint="pip install 'fedward[explain]'"
        ) from error


def attribution(
    network: nn.Module, image: NDArray[np.float32], place: tuple[int, int], *, scale: int = 1, channel: int = 0
) -> NDArray[np.float32]:
    """Integrated gradients (Sundararajan, Taly and Yan 2017, arXiv:1703.01365) of a small region of the output.

    How much each input pixel, come from black to what it is, adds to the mean output of the five by five pixels around
    ``place``. The values sum up to the difference between the output for the image and that for an all-black one, whose
    value is the least of the image (of two contrasts each one's own).

    Args:
        network: Left in evaluation mode.
        image: What the network sees, ``[h, w]``, or ``[k, h, w]``.
        place: Row and column of the output.
        scale: Output pixels to one input pixel.
        channel: Which output: the class that is asked about; 0 for images.

    Returns:
        Of the shape of ``image``, in the unit of the output.

    Raises:
        UsageError: captum is not installed.
    """
    inputs = tensor_of(network, image[None])
    forward = forward_of(network, scale=scale)
    row, column = (slice(max(at - REGION, 0), at + REGION + 1) for at in place)

    def region(images: Tensor) -> Tensor:
        return forward(images)[:, channel, row, column].mean(dim=(1, 2))

    with only_inputs(network):
        found = captum("attr").IntegratedGradients(region)
        parts = found.attribute(
            inputs, inputs.amin(dim=(2, 3), keepdim=True).expand_as(inputs), n_steps=STEPS, internal_batch_size=_AT_ONCE
        )
    return np.asarray(parts.detach().cpu().numpy(), np.float32).reshape(image.shape)


def receptive_field(network: nn.Module, images: NDArray[np.float32], *, scale: int = 1, channel: int = 0) -> Field:
    """The effective receptive field at the centre of some slices: mean of absolute gradients over them.

    Those of two contrasts are summed. Group normalisation lets every pixel of a slice move every other a little; that
    is counted too, since it is so.

    Args:
        network: Left in evaluation mode.
        images: ``[n, h, w]`` or ``[n, k, h, w]``, n at least 1.
        scale: Output pixels to one input pixel.
        channel: Which output.

    Raises:
        UsageError: captum is not installed.
    """
    height, width = images.shape[-2:]
    forward, total = forward_of(network, scale=scale), np.zeros((height, width))
    row, column = height // 2, width // 2
    with only_inputs(network):
        saliency = captum("attr").Saliency(_at(forward, row * scale, column * scale, channel))
        for image in images:
            total += saliency.attribute(tensor_of(network, image[None]))[0].sum(dim=0).cpu().numpy()
    distance = np.hypot(*np.mgrid[-row : height - row, -column : width - column])
    order = np.argsort(distance, axis=None)
    share = np.cumsum(total.ravel()[order]) / max(total.sum(), 1e-30)
    half, most = (
        float(distance.ravel()[order[min(int(np.searchsorted(share, at)), len(order) - 1)]]) for at in (0.5, 0.9)
    )
    reach = min(32, row, column, height - row - 1, width - column - 1)
    window = total[row - reach : row + reach + 1, column - reach : column + reach + 1]
    return Field(half, most, len(images), (window / max(window.max(), 1e-30)).astype(np.float32))


def _at(forward: Forward, row: int, column: int, channel: int) -> Forward:
    return lambda images: forward(images)[:, channel, row, column]
