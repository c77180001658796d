"""A network over whole slices as something that gradients can go through, on the scale of what it predicts."""

import contextlib
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.errors import UsageError
from shared.imaging import inference
from shared.imaging.denoise_self import DenoiseSelf
from shared.imaging.denoise_volume import DenoiseVolume
from shared.imaging.images import StudyImages
from shared.imaging.inference import MULTIPLE
from shared.imaging.masked import Masked
from shared.imaging.tasks import Task

Forward = Callable[[Tensor], Tensor]
"""Inputs ``[n, k, h, w]``, k 1 or 2 for two contrasts, to outputs ``[n, channels, scale h, scale w]``."""


def scale_of(inputs: NDArray[np.float32], truth: NDArray[np.generic]) -> int:
    """Pixels of the truth ``[n, H, W]`` to one of the inputs ``[n, h, w]`` or ``[n, k, h, w]``, along both axes."""
    return -(-int(truth.shape[-2]) // int(inputs.shape[-2]))


def require_plain(task: Task) -> None:
    """See that what a task gives is what its network makes of one slice: all else here rests on that.

    Raises:
        UsageError: Its network sees more than one slice, or its answers are corrected or put together afterwards.
    """
    if isinstance(task, DenoiseVolume | DenoiseSelf | Masked):
        raise UsageError(f"models for {task.name} are not explained yet", hint="leave out --explain")


def inputs_of(task: Task, study: StudyImages) -> NDArray[np.float32]:
    """What the network sees of a study, ``[n, h, w]``, or ``[n, 2, h, w]`` for tasks of two contrasts.

    Raises:
        UsageError: As :func:`require_plain`.
    """
    require_plain(task)
    return task.inputs(study)


def forward_of(network: nn.Module, *, scale: int = 1) -> Forward:
    """The network in evaluation mode over slices of any size, padded and cropped as :func:`inference.run` does.

    Gradients go through it; the network is left in evaluation mode.
    """
    network.eval()

    def forward(images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")
        outputs: Tensor = network(padded)
        return outputs[..., : height * scale, : width * scale]

    return forward


def outputs(
    network: nn.Module, images: NDArray[np.float32], *, size: tuple[int, int], classes: bool
) -> NDArray[np.float32]:
    """What a network makes of slices: images in [0, 1], or the probability of each class.

    Args:
        network: Left in the mode in which it came.
        images: ``[n, h, w]`` or ``[n, k, h, w]``.
        size: Rows and columns of the truth.
        classes: Whether the outputs are scores of classes.

    Returns:
        ``[n, 1, H, W]`` or ``[n, classes, H, W]``.
    """
    scale = -(-size[0] // images.shape[-2])
    made = inference.run(network, images, scale=scale)[:, :, : size[0], : size[1]]
    if not classes:
        return np.clip(made, 0.0, 1.0)
    probabilities: NDArray[np.float32] = torch.from_numpy(made).softmax(dim=1).numpy()
    return probabilities


def tensor_of(network: nn.Module, images: NDArray[np.float32]) -> Tensor:
    """Slices ``[n, h, w]`` or ``[n, k, h, w]`` as inputs ``[n, k, h, w]`` where the network is."""
    found = torch.from_numpy(np.ascontiguousarray(images, np.float32))
    found = found if found.ndim == 4 else found[:, None]
    device = next((parameter.device for parameter in network.parameters()), found.device)
    return found.to(device)


@contextlib.contextmanager
def only_inputs(network: nn.Module) -> Iterator[None]:
    """Within the block no parameter of the network asks for a gradient, and captum does not say that inputs now do."""
    asked = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in asked:
        parameter.requires_grad_(False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Input Tensor .* did not already require gradients", UserWarning)
            yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)
