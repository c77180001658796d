"""Scores on held-out patients, such that no patient's images and no model make this hospital speak out of turn.

A refusal is read in the clear. Were a score that is no number, or too great for the masks, a reason for one, a
coordinator that chooses the model could read one hospital's scores off who refuses. So nothing about patients is: what
cannot be scored counts as nothing, and what is too great as the greatest, inside the masks.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from torch import nn

from client.training.gradients import UNUSABLE
from shared.imaging.images import PatientImages
from shared.imaging.tasks import Sums, Task
from shared.secagg.codec import MAX_METRIC

LARGEST: Final = float(MAX_METRIC)


def score(task: Task, network: nn.Module, patients: Sequence[PatientImages]) -> Mapping[str, float]:
    """The sums of ``task.sums`` over ``patients``, as they may leave; every name is there, every value is finite."""
    total = Sums(dict.fromkeys(task.sums, 0.0))
    for patient in patients:
        total = total + _one(task, network, patient)
    return bounded(total.values)


def bounded(values: Mapping[str, float]) -> dict[str, float]:
    """``values`` with zero for what is no number, and the bound of the masks for what is beyond it."""
    return {name: 0.0 if math.isnan(value) else max(-LARGEST, min(LARGEST, value)) for name, value in values.items()}


def _one(task: Task, network: nn.Module, patient: PatientImages) -> Sums:
    total = Sums.zero()
    try:
        for study in patient.studies:
            total = total + task.score(task.predict(network, study), study)
    except UNUSABLE:
        return Sums.zero()
    return total if all(math.isfinite(value) for value in total.values.values()) else Sums.zero()
