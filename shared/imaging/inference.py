"""Run a network over whole slices of any size."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

BATCH = 8
# The coarsest scale of the deepest network that the house ships: three halvings.
MULTIPLE = 8


def run(network: nn.Module, images: NDArray[np.float32], *, scale: int = 1) -> NDArray[np.float32]:
    """The network's outputs for whole slices.

    As :func:`outputs`, with 0 where that is no number: a network may be made to burst for some images alone, and a
    score that is missing would tell which.

    Returns:
        ``[n, channels, scale h, scale w]``, finite.
    """
    return np.asarray(np.nan_to_num(outputs(network, images, scale=scale), nan=0.0), np.float32)


def outputs(network: nn.Module, images: NDArray[np.float32], *, scale: int = 1) -> NDArray[np.float32]:
    """What the network says of whole slices, be it a number or not.

    Borders are repeated up to a multiple of eight pixels and cropped away afterwards. The network runs in evaluation
    mode and is left in the mode in which it came; it runs where its parameters are.

    Args:
        network: ``[n, 1, h, w]`` to ``[n, channels, scale h, scale w]``; or ``[n, k, h, w]``.
        images: ``[n, h, w]``, or ``[n, k, h, w]`` for a network that takes k channels.
        scale: Output pixels to one input pixel.

    Returns:
        ``[n, channels, scale h, scale w]``.
    """
    height, width = images.shape[-2:]
    channels = images if images.ndim == 4 else images[:, None]
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            made = _outputs(network, channels, device)
    finally:
        network.train(training)
    numbers: NDArray[np.float32] = made[:, :, : height * scale, : width * scale].cpu().numpy()
    return numbers


def _outputs(network: nn.Module, images: NDArray[np.float32], device: torch.device) -> torch.Tensor:
    """A few slices at a time, and fewer where the device's memory does not hold them."""
    at_once = BATCH
    while True:
        parts = (images[start : start + at_once] for start in range(0, len(images), at_once))
        try:
            return torch.cat([network(_padded(part).to(device)).cpu() for part in parts])
        except torch.OutOfMemoryError:
            if at_once == 1:
                raise
        at_once //= 2  # after the block: until then the error holds on to what filled the memory


def _padded(images: NDArray[np.float32]) -> torch.Tensor:
    """``[n, k, h, w]`` with its borders repeated; of a few slices at a time, since k slices may be views of each."""
    height, width = images.shape[-2:]
    padded = np.pad(images, ((0, 0), (0, 0), (0, -height % MULTIPLE), (0, -width % MULTIPLE)), mode="edge")
    return torch.from_numpy(np.ascontiguousarray(padded, dtype=np.float32))
