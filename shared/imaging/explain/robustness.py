"""What a small change of the input does to the answer: changes made to do harm, and random ones of the same size.

The fast gradient sign method (Goodfellow, Shlens and Szegedy 2015, arXiv:1412.6572) and projected gradient descent
(Madry et al. 2018, arXiv:1706.06083), both by ``captum.robust``. They know the network and the truth, as no scanner
does: close to the worst within so small a change, and no forecast of what happens in a hospital.
"""

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.imaging.explain.network import forward_of, only_inputs, scale_of, tensor_of
from shared.imaging.explain.saliency import captum
from shared.imaging.tasks import Task

SIZES: Final = (0.005, 0.01, 0.02)
"""Greatest change of a pixel, as shares of the range of the input."""
STEPS: Final = 10
KINDS: Final = {
    "random": "random sign at every pixel",
    "fgsm": "one step along the gradient's sign (FGSM)",
    "pgd": f"{STEPS} steps within the same bound (PGD)",
}
"""By name, in the order of tables; all three change every pixel by no more than the size."""


def perturbed(
    task: Task,
    network: nn.Module,
    inputs: NDArray[np.float32],
    truth: NDArray[Any],
    *,
    kind: str,
    size: float,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Inputs changed by no more than ``size`` of their range at any pixel, within that range.

    Args:
        task: Its loss is what gradients make larger.
        network: Left in evaluation mode.
        inputs: What the network sees, ``[n, h, w]``; of two contrasts ``[n, 2, h, w]``, and both are changed.
        truth: What it should make of it, ``[n, H, W]``.
        kind: One of :data:`KINDS`.
        size: Share of the range.
        seed: Of random signs.

    Raises:
        UsageError: captum is not installed.
    """
    low, high = float(inputs.min()), float(inputs.max())
    step = size * (high - low)
    if kind == "random":
        signs = np.random.default_rng(seed).choice(np.array([-1.0, 1.0], np.float32), size=inputs.shape)
        return np.clip(inputs + np.float32(step) * signs, low, high)
    images = tensor_of(network, inputs)
    forward, height, width = forward_of(network, scale=scale_of(inputs, truth)), truth.shape[1], truth.shape[2]
    targets = torch.from_numpy(truth.astype(np.int64)) if truth.dtype == np.uint8 else torch.from_numpy(truth)[:, None]

    def answer(given: Tensor) -> Tensor:
        return forward(given)[..., :height, :width]

    def loss(answered: Tensor, wanted: Tensor) -> Tensor:
        return task.loss(answered, wanted).reshape(1)

    robust, targets = captum("robust"), targets.to(images.device)
    with only_inputs(network):
        if kind == "fgsm":
            found = robust.FGSM(answer, loss, low, high).perturb(images, step, targets)
        else:
            found = robust.PGD(answer, loss, low, high).perturb(images, step, 2.5 * step / STEPS, STEPS, targets)
    return np.asarray(found.detach().cpu().numpy(), np.float32).reshape(inputs.shape)
