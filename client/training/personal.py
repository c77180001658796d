"""A federated model made a hospital's own: trained on at home, and mixed with the model that it began from.

One model for all scanners pays for what it knows of the others; a few steps on the hospital's own patients bring that
back (Yu, Bagdasaryan and Shmatikov 2020, "Salvaging federated learning by local adaptation", arXiv:2002.04758). The
weights are then interpolated between the federated model and the trained one (Wortsman et al. 2022, "Robust fine-tuning
of zero-shot models", arXiv:2109.01903); how far is decided on patients of the hospital that were kept back from the
training, so that a hospital whose patients are too few to learn from stays with the federated model.

Nothing of this leaves the hospital, so it takes no privacy budget and no masks, and a federation under either is
personalised as any other. The personal model has no differential privacy: it must not leave.
"""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from torch import nn

from client.training.craft import Craft
from client.training.loop import train_centrally, usable
from client.training.stopping import EarlyStopping, quality
from shared.errors import DataError
from shared.imaging.images import PatientImages
from shared.imaging.tasks import Task

MIXES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
"""How far to go from the federated model towards the one that was trained on at home."""
RATES: Final = MappingProxyType({"segment": 1.5e-3, "segment_pair": 1.5e-3})
"""Learning rates of the first step by task: half of what training from nothing takes."""
PATIENCE: Final = 5
"""Looks without a better one, after which the training that decides ends."""
KEPT_BACK: Final = 0.25
"""Share of the patients on which that is decided."""


@dataclass(frozen=True)
class Personal:
    """What personalising came to.

    Attributes:
        mix: One of :data:`MIXES`; 0 is the federated model as it was.
        scores: The task's main metric on the patients that were kept back, by mix.
        patients: Patients that the task can use.
        kept_back: So many of them decided on the mix.
        steps: Optimiser steps of each of the two trainings, or of the one that decided for mix 0; where looks were
            taken on the way, those up to the best one.
    """

    mix: float
    scores: Mapping[float, float]
    patients: int
    kept_back: int
    steps: int


def personalise(
    task: Task,
    network: nn.Module,
    patients: Sequence[PatientImages],
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    craft: Craft = Craft(),  # noqa: B008  # it is frozen
    look_every: int | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Personal:
    """Make ``network`` this hospital's own, in place.

    First a copy is trained on three quarters of the patients, and each mix of it with ``network`` is tried on the
    others. Then a copy is trained on all of them, and mixed as was found best; of equal mixes the smallest.

    Args:
        task: What the network does.
        network: The federated model.
        patients: The hospital's training patients; never those that are held out for evaluation.
        steps: Optimiser steps of each training.
        batch: Patches in a step.
        lr: Learning rate of the first step.
        seed: Decides who is kept back, and the training.
        craft: How patches are chosen and altered, dropout and weight decay.
        look_every: Look at the copy on those who are kept back every so many steps, keep its best weights, and give up
            after :data:`PATIENCE` looks without better ones (early stopping); the training on all then takes as many
            steps as were best. None takes all steps.
        on_step: Called with the steps done, of at most twice ``steps``.

    Raises:
        DataError: Fewer than two patients have a study that the task can use, or none has one to judge by.
    """
    people, count, order = _shares(task, patients, seed)
    kept, others = [people[i] for i in order[:count]], [people[i] for i in order[count:]]
    stopping = EarlyStopping(task, kept, every=look_every, patience=PATIENCE) if look_every else None
    train = functools.partial(train_centrally, task, steps=steps, batch=batch, lr=lr, seed=seed, craft=craft)

    candidate = copy.deepcopy(network)
    train(candidate, {"here": others}, stopping=stopping, on_step=on_step)
    best_step = (stopping.best_step if stopping else 0) or steps
    scores = {mix: quality(task, mixed(network, candidate, mix), kept) for mix in MIXES}
    best = max(MIXES, key=lambda mix: (scores[mix], -mix))
    if best > 0:
        own, report = copy.deepcopy(network), (lambda done: on_step(steps + done)) if on_step else None
        train(own, {"here": people}, last=best_step, on_step=report)
        network.load_state_dict(mixed(network, own, best).state_dict())
    return Personal(mix=best, scores=scores, patients=len(people), kept_back=count, steps=best_step)


def _shares(task: Task, patients: Sequence[PatientImages], seed: int) -> tuple[list[PatientImages], int, list[int]]:
    """The patients, how many of them are kept back, and their order: those first."""
    people = usable(task, patients)
    if len(people) < 2:
        raise DataError(
            f"personalising for {task.name} takes two patients at least, and {len(people)} can be used",
            hint="use the federated model as it is; those without a lawful basis today do not count "
            "('fedward node basis set', docs/consent.md)",
        )
    order = np.random.default_rng([seed, 1]).permutation(len(people))
    # Those by whom nothing can be judged are trained on, and decide nothing.
    order = np.array(sorted(order, key=lambda i: not any(map(task.judged, people[i].studies))))
    able = sum(any(map(task.judged, one.studies)) for one in people)
    if not able:
        raise DataError(
            f"personalising for {task.name} takes a patient with a reference, who says what is better",
            hint="use the federated model as it is",
        )
    count = min(max(1, round(KEPT_BACK * len(people))), able)
    return people, count, [int(i) for i in order]


def rate_of(task_name: str) -> float:
    """The learning rate of a task's first step; 0.001 for a task that is not in :data:`RATES`."""
    return RATES.get(task_name, 1e-3)


def mixed(here: nn.Module, there: nn.Module, share: float) -> nn.Module:
    """A network whose weights lie ``share`` of the way from ``here`` to ``there``; neither of them is changed."""
    result = copy.deepcopy(here)
    towards = there.state_dict()
    result.load_state_dict(
        {
            name: tensor.lerp(towards[name], share) if tensor.is_floating_point() else tensor
            for name, tensor in here.state_dict().items()
        }
    )
    return result
