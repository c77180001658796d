"""Early stopping: of the networks along a training, the one that is best on patients who were kept back from it.

For what stays at home alone. Under differential privacy a hospital of a federation cannot: when it stops, and which
weights it keeps, would depend on its validation patients without any noise, which no epsilon covers; and how many steps
it takes is charged beforehand.
"""

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from shared.imaging.images import PatientImages
from shared.imaging.metrics import Sums, summarise
from shared.imaging.tasks import Task


class EarlyStopping:
    """Scores a network every so many steps, keeps the best weights, and says when to give up.

    Args:
        task: What the network does.
        patients: Kept back from training, with studies that the task can use.
        every: Steps between two looks.
        patience: Looks without a better one, after which training ends; 0 never ends it, and only keeps the best.

    Attributes:
        best_step: The step of the best weights; 0 before the first look.
        scores: The task's main metric by step.

    Raises:
        ValueError: Nobody was kept back, or a number is out of its range.
    """

    def __init__(self, task: Task, patients: Sequence[PatientImages], *, every: int, patience: int = 0) -> None:
        if not patients or every < 1 or patience < 0:
            raise ValueError("early stopping takes patients, a look every step or less often, and patience from 0 up")
        self._task, self._patients, self._every, self._patience = task, patients, every, patience
        self._best: dict[str, Any] | None = None
        self.best_step, self.scores = 0, dict[int, float]()

    def enough(self, network: nn.Module, step: int) -> bool:
        """Look, where it is time to, and say whether training should end after ``step`` steps."""
        if step % self._every:
            return False
        found = quality(self._task, network, self._patients)
        self.scores[step] = found
        if self._best is None or found > self.scores[self.best_step]:
            self._best, self.best_step = copy.deepcopy(network.state_dict()), step
        looks = (step - self.best_step) // self._every
        return 0 < self._patience <= looks

    def restore(self, network: nn.Module) -> None:
        """Put the best weights back, if there was a look."""
        if self._best is not None:
            network.load_state_dict(self._best)


def quality(task: Task, network: nn.Module, patients: Sequence[PatientImages]) -> float:
    """The task's main metric over all slices of ``patients`` together; more is better."""
    studies = [study for patient in patients for study in patient.studies]
    total = sum((task.score(task.predict(network, study), study) for study in studies), Sums.zero())
    return summarise(task.name, total)[task.main_metric]
