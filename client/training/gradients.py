"""Gradients of a batch: the one way in which training, ordinary or private, looks at images."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from client.training.patient_dp import PatientDPOptimizer
from shared.charter import PrivacyPlan, TaskPlan
from shared.charter_plans import Precision
from shared.errors import DataError
from shared.imaging.images import PatientImages
from shared.imaging.tasks import Batch, Task

UNUSABLE: Final = (
    *(ArithmeticError, AttributeError, LookupError, MemoryError, OSError),
    *(RuntimeError, TypeError, ValueError, DataError),
)
"""What images may cause in whoever computes with them. Where an answer would tell of one patient by failing, it does
not fail: such a patient counts as nothing, as one whose gradient is not finite does."""


def trained(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that train, in the order in which their gradients stand."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def gradients(
    task: Task, network: nn.Module, batch: Batch, *, precision: Precision = "float32"
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The gradient of each of the task's objectives with respect to what that objective trains, and nothing else.

    Args:
        task: What is learnt.
        network: Nothing of it is changed, ``p.grad`` included.
        batch: Moved to the network's device.
        precision: ``bfloat16`` runs the forward pass under autocast (its backward follows the types of the forward);
            parameters and gradients are float32 in any case.

    Returns:
        The loss of the first objective, detached, and one tensor for each of :func:`trained`: zeros where no
        objective depends on it.

    Raises:
        ValueError: A loss is not a scalar.
    """
    parameters = trained(network)
    device = parameters[0].device
    inputs, targets = batch
    with torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bfloat16" else nullcontext():
        objectives = task.objectives(network, (inputs.to(device), targets.to(device)))
    found: dict[nn.Parameter, Tensor] = {}
    for position, (loss, part) in enumerate(objectives, start=1):
        if loss.numel() != 1:
            raise ValueError(f"the loss of a batch must be a scalar, not of shape {tuple(loss.shape)}")
        own = trained(part)
        if not own or not loss.requires_grad:
            continue
        shared = position < len(objectives)  # later objectives may go through the same graph
        parts = torch.autograd.grad(
            loss.reshape(()), own, retain_graph=shared, allow_unused=True, materialize_grads=True
        )
        for parameter, gradient in zip(own, parts, strict=True):
            found[parameter] = found[parameter] + gradient if parameter in found else gradient
    whole = tuple(found[p] if p in found else torch.zeros_like(p) for p in parameters)
    return objectives[0].loss.detach(), whole


def accumulate_step(
    task: Task,
    network: nn.Module,
    people: Sequence[PatientImages],
    chosen: Iterable[int],
    optimizer: PatientDPOptimizer,
    *,
    plan: TaskPlan,
    privacy: PrivacyPlan,
    rng: np.random.Generator,
) -> int:
    """Start a private step afresh: put the sum of the clipped gradients of the drawn patients into ``optimizer``.

    Afterwards ``optimizer.lattice_sum`` is that sum, without noise; ``optimizer.step()`` adds noise and uses it up.

    Args:
        task: What is learnt.
        network: Its :func:`trained` parameters are those of ``optimizer``.
        people: The patients of this site.
        chosen: Who was drawn, as indices into ``people``; may be empty.
        optimizer: Holds the bound and the way of clipping.
        plan: Its precision counts here.
        privacy: Its patches of a patient count here.
        rng: Chooses patches; costs no privacy.

    Returns:
        How many of the drawn patients could not be used and added nothing: for this hospital alone.
    """
    optimizer.zero_grad()
    unusable = 0
    for index in chosen:
        try:
            batch = task.draw(people[index], privacy.slices_per_patient, rng)
            _, found = gradients(task, network, batch, precision=plan.precision)
        except torch.OutOfMemoryError:
            raise  # tells of the machine, and would befall every patient
        except UNUSABLE:
            unusable += 1
            continue
        optimizer.accumulate(found)
    return unusable
