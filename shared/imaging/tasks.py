"""The tasks that hospitals can train together: what each one needs, shows its network, and is judged by.

A task is one class in one file of this folder, registered by :func:`register`. Everything that differs between
denoising, super-resolution and segmentation is behind :class:`Task`; training, privacy and the federation know no task
by name.
"""

import difflib
import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from shared.errors import UsageError
from shared.imaging.images import PatientImages, StudyImages
from shared.imaging.metrics import Sums, summarise
from shared.imaging.networks import seeded

__all__ = [
    "Batch",
    "Method",
    "Networks",
    "Objective",
    "OneLoss",
    "Predictions",
    "Sums",
    "Task",
    "get_task",
    "register",
    "summarise",
    "task_names",
]

# Inputs [n, k, h, w] float32 (k is 1 but where a task says otherwise), and what the network should have made of them.
Batch = tuple[Tensor, Tensor]
# Images [n, h, w] float32 in [0, 1], or classes [n, h, w] uint8.
Predictions = NDArray[Any]
# Networks that can do a task, by the name that a charter gives; the first one is meant where it gives none.
Networks = Mapping[str, Callable[[], nn.Module]]
# A classical method: no training, one study in, predictions out.
Method = Callable[[StudyImages], Predictions]


class Objective(NamedTuple):
    """A scalar to make small, and the part of the network whose parameters are to do so; no others follow it."""

    loss: Tensor
    trains: nn.Module


# One module a task, in the order of tables.
_MODULES = (
    "denoise",
    "denoise_volume",
    "denoise_self",
    "denoise_pair",
    "superres",
    "superres_gan",
    "superres4",
    "superres4_gan",
    "segment",
    "segment_pair",
    "masked",
)


class Task(Protocol):
    """One thing that a network can learn to do with a study.

    Attributes:
        name: What charters and commands call it.
        title: What people call it.
        modalities: DICOM modalities (C.7.3.1.1.1) it is for.
        main_metric: The figure of :func:`~shared.imaging.metrics.summarise` that decides; more is better.
        sums: Names of the sums of :meth:`score`, in the order in which they are masked.
        networks: The networks that can do it; no two of them have parameters of the same names and shapes.
    """

    name: str
    title: str
    modalities: frozenset[str]
    main_metric: str
    sums: tuple[str, ...]
    networks: Networks

    def network(self, seed: int, name: str | None = None) -> nn.Module:
        """A fresh network whose weights depend on ``seed`` alone: one of :attr:`networks`, by default the first.

        Raises:
            UsageError: There is none of that name.
        """

    def eligible(self, study: StudyImages) -> bool:
        """Whether the study has the modality, and the reference and the labels where they are needed."""

    def judged(self, study: StudyImages) -> bool:
        """Whether an eligible study has what predictions are judged by; its score is all zeros where it has not."""

    def draw(self, patient: PatientImages, count: int, rng: np.random.Generator) -> Batch:
        """``count`` augmented patches of one patient, of one size whatever the size of the images.

        Raises:
            DataError: No study of this patient is eligible.
        """

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """A scalar: the mean over the rows of a loss that depends on that row alone.

        Patient-level privacy rests on this: the loss of a patient must not depend on another one's patches.
        """

    def objectives(self, network: nn.Module, batch: Batch) -> tuple[Objective, ...]:
        """What a batch asks of the network, one or more; the first one's loss is the one that is reported.

        Runs where the batch and the network are, perhaps under autocast. Each loss is as :meth:`loss` says.
        """

    def inputs(self, study: StudyImages) -> NDArray[np.float32]:
        """What the network sees of a study, ``[n, h, w]``; ``[n, k, h, w]`` where it sees k images of each slice."""

    def shown(self, study: StudyImages) -> NDArray[np.float32]:
        """What people are shown of that, ``[n, h, w]``."""

    def predict(self, network: nn.Module, study: StudyImages) -> Predictions:
        """What the network makes of a study of any size; the network's mode is left as it was."""

    def truth(self, study: StudyImages) -> NDArray[Any]:
        """What it should have made of it, same shape as the predictions."""

    def score(self, predictions: Predictions, study: StudyImages) -> Sums:
        """How well it did, as sums that can be added over studies."""

    def classical(self) -> Mapping[str, Method]:
        """The methods without training that stand beside the network, by key, in the order of tables."""


class OneLoss:
    """For tasks whose whole network follows :meth:`loss`, as most do."""

    name: str
    networks: Networks = MappingProxyType({})

    def network(self, seed: int, name: str | None = None) -> nn.Module:
        """As :meth:`Task.network`."""
        chosen = name or next(iter(self.networks))
        if chosen not in self.networks:
            near = difflib.get_close_matches(chosen, self.networks, n=1)
            hint = f"did you mean {near[0]}?" if near else "it has: " + ", ".join(self.networks)
            raise UsageError(f"the task {self.name} has no network called {chosen!r}", hint=hint)
        return seeded(self.networks[chosen], seed)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """As :meth:`Task.loss`."""
        raise NotImplementedError

    def judged(self, study: StudyImages) -> bool:
        """What can be learnt from can be judged by."""
        del study
        return True

    def inputs(self, study: StudyImages) -> NDArray[np.float32]:
        """As :meth:`Task.inputs`."""
        raise NotImplementedError

    def shown(self, study: StudyImages) -> NDArray[np.float32]:
        """All of it."""
        return self.inputs(study)

    def objectives(self, network: nn.Module, batch: Batch) -> tuple[Objective, ...]:
        """The loss of the network's outputs; of float32 ones, since sums over pixels need its precision."""
        inputs, targets = batch
        return (Objective(self.loss(network(inputs).float(), targets), network),)


_tasks: dict[str, Task] = {}

Registered = TypeVar("Registered", bound=Task)


def register(task: type[Registered]) -> type[Registered]:
    """Make a task known under its name (a class decorator).

    Raises:
        ValueError: Another task has the name.
    """
    if task.name in _tasks:
        raise ValueError(f"two tasks are called {task.name}")
    _tasks[task.name] = task()
    return task


def task_names() -> tuple[str, ...]:
    """The names of all tasks, in the order of tables."""
    return tuple(_all())


def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
        UsageError: There is none; the hint names the nearest, or all.
    """
    tasks = _all()
    if name not in tasks:
        near = difflib.get_close_matches(name, tasks, n=1)
        hint = f"did you mean {near[0]}?" if near else "known tasks: " + ", ".join(tasks)
        raise UsageError(f"there is no task called {name!r}", hint=hint)
    return tasks[name]


def _all() -> dict[str, Task]:
    """All tasks. Their modules import this one, so they are loaded on first use."""
    for module in _MODULES:
        importlib.import_module(f"shared.imaging.{module}")
    return {module: _tasks[module] for module in _MODULES} | _tasks
