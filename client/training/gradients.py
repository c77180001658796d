"""Gradients of a batch: the one way in which training, ordinary or private, looks at images."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from client.training.craft import Craft
from client.training.device import DeviceError
from client.training.patient_dp import PatientDPOptimizer
from shared.charter import PrivacyPlan, TaskPlan
from shared.charter_plans import Precision
from shared.errors import DataError
from shared.imaging.dropping import dropping
from shared.imaging.images import PatientImages
from shared.imaging.tasks import Batch, Task

UNUSABLE: Final = (
    *(ArithmeticError, AttributeError, LookupError, MemoryError, OSError),
    *(RuntimeError, TypeError, ValueError, DataError),
)
"""What images may cause in whoever computes with them. Where an answer would tell of one patient by failing, it does
not fail: such a patient counts as nothing, as one whose gradient is not finite does."""


Made = TypeVar("Made")


@dataclass
class MicroBatch:
    """How many patches go through the network at once: all of them, until the device's memory does not hold them.

    Then half as many, as often as it takes, for as long as this is kept (a round). What is computed stays the same up
    to rounding: each loss is a mean over rows that do not know of each other (:meth:`shared.imaging.tasks.Task.loss`).

    Attributes:
        size: So many at once; 0 for all.
    """

    size: int = 0

    def fit(self, rows: int, work: Callable[[], Made]) -> Made:
        """What ``work`` makes of ``rows`` patches, done again from its start with fewer of them at once where it must.

        Raises:
            DeviceError: The memory does not even hold one.
        """
        while True:
            try:
                return work()
            except torch.OutOfMemoryError:
                pass  # the next try is made after this block: until then the error holds on to what filled the memory
            held = min(self.size or rows, rows)
            if held <= 1:
                raise DeviceError(
                    "the memory of the device does not hold one patch and this network",
                    hint="end what else uses it, or say use = 'cpu' in the [device] table of policy.toml",
                )
            self.size = (held + 1) // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def trained(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that train, in the order in which their gradients stand."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def gradients(
    task: Task,
    network: nn.Module,
    batch: Batch,
    *,
    precision: Precision = "float32",
    at_once: int = 0,
    adversarial: float | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The gradient of each of the task's objectives with respect to what that objective trains, and nothing else.

    Args:
        task: What is learnt.
        network: Nothing of it is changed, ``p.grad`` included.
        batch: Moved to the network's device.
        precision: ``bfloat16`` runs the forward pass under autocast (its backward follows the types of the forward);
            parameters and gradients are float32 in any case.
        at_once: So many rows go through the network at a time; 0 for all.
        adversarial: Rows are first changed :func:`against` the network, by so much; None leaves them.

    Returns:
        The loss of the first objective, detached, and one tensor for each of :func:`trained`: zeros where no
        objective depends on it.

    Raises:
        ValueError: A loss is not a scalar.
    """
    rows = len(batch[0])
    if not 0 < at_once < rows:
        return _of_rows(task, network, batch, precision, adversarial)
    loss, total = torch.zeros(()), list[Tensor]()
    for inputs, targets in zip(*(torch.split(part, at_once) for part in batch), strict=True):
        own, found = _of_rows(task, network, (inputs, targets), precision, adversarial)
        share = len(inputs) / rows
        loss = loss.to(own) + own * share
        if total:
            for sum_, part in zip(total, found, strict=True):
                sum_.add_(part, alpha=share)
        else:
            total = [part * share for part in found]
    return loss, tuple(total)


def against(task: Task, network: nn.Module, batch: Batch, size: float, *, precision: Precision = "float32") -> Batch:
    """The rows of a batch, each changed so that its loss grows: one step of the fast gradient sign method.

    Goodfellow, Shlens and Szegedy 2015, arXiv:1412.6572; enough for training (Wong, Rice and Kolter 2020,
    arXiv:2001.03994). Safe under patient-level privacy: a loss is a mean over rows that do not know of each other
    (:meth:`shared.imaging.tasks.Task.loss`), so the sign of a row's gradient depends on that row and on the weights
    that everybody knows. The changed row is one more augmentation of its patient, whose gradient is clipped
    as any other.

    Args:
        task: Its first objective is what grows.
        network: Nothing of it is changed.
        batch: Where the network is.
        size: Greatest change of a pixel, as a share of the range of its row.
        precision: As in :func:`gradients`.
    """
    inputs, targets = batch
    asked = inputs.detach().clone().requires_grad_()
    with _arithmetic(precision, inputs.device):
        loss = task.objectives(network, (asked, targets))[0].loss
    if not loss.requires_grad:
        return inputs, targets  # a loss that no pixel moves cannot be made to grow
    (slope,) = torch.autograd.grad(loss.reshape(()), asked, allow_unused=True, materialize_grads=True)
    low, high = inputs.flatten(1).aminmax(dim=1)
    reach = size * (high - low).reshape(-1, *(1,) * (inputs.ndim - 1))
    return (inputs + reach * slope.sign()).detach(), targets


def _arithmetic(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bfloat16" else nullcontext()


def _of_rows(
    task: Task, network: nn.Module, batch: Batch, precision: Precision, adversarial: float | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """As :func:`gradients`, of all rows at once."""
    parameters = trained(network)
    device = parameters[0].device
    inputs, targets = (part.to(device) for part in batch)
    if adversarial is not None:
        inputs, targets = against(task, network, (inputs, targets), adversarial, precision=precision)
    with _arithmetic(precision, device):
        objectives = task.objectives(network, (inputs, targets))
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
    micro: MicroBatch | None = None,
) -> int:
    """Start a private step afresh: put the sum of the clipped gradients of the drawn patients into ``optimizer``.

    Afterwards ``optimizer.lattice_sum`` is that sum, without noise; ``optimizer.step()`` adds noise and uses it up.

    Where the device's memory gives out, the *whole* step is done again, of the same patches, with fewer at once. All
    patients of a step are computed the same way: else who was drawn would decide how the gradients of the others are
    rounded, and one patient would move the sum by more than the bound. That a step is done again tells nothing, since
    every patient has the same number of patches of the same size.

    Args:
        task: What is learnt.
        network: Its :func:`trained` parameters are those of ``optimizer``.
        people: The patients of this site.
        chosen: Who was drawn, as indices into ``people``; may be empty.
        optimizer: Holds the bound and the way of clipping.
        plan: Its precision, craft and whether patches are changed against the network count here.
        privacy: Its patches of a patient count here.
        rng: Chooses and alters patches, and what is dropped; costs no privacy.
        micro: How many patches at once; kept from step to step.

    Returns:
        How many of the drawn patients could not be used and added nothing: for this hospital alone.

    Raises:
        DeviceError: The memory of the device does not hold one patch.
    """
    size, drawn, before = micro or MicroBatch(), tuple(chosen), rng.bit_generator.state
    craft = Craft.of(plan)
    look = partial(gradients, task, network, precision=plan.precision, adversarial=plan.adversarial)

    def step() -> int:
        optimizer.zero_grad()
        rng.bit_generator.state = before
        unusable = 0
        for index in drawn:
            try:
                batch = craft.draw(task, people[index], privacy.slices_per_patient, rng)
                _, found = look(batch, at_once=size.size)
            except torch.OutOfMemoryError:
                raise  # tells of the machine, and would befall every patient
            except UNUSABLE:
                unusable += 1
                continue
            optimizer.accumulate(found)
        return unusable

    with dropping(network, craft.dropout, rng):
        return size.fit(privacy.slices_per_patient, step)
