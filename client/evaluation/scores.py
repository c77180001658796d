"""Apply every model and every classical method to every study, and keep sums; images are read and let go again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from client.evaluation.data import Facts, Site, studies_of
from client.evaluation.models import Model
from client.policy_file import policy_of
from client.training.device import computing, device
from shared.imaging import inference
from shared.imaging.images import StudyImages
from shared.imaging.metrics import Sums
from shared.imaging.quality.measures import Judge, Scored, figures, is_image_task
from shared.imaging.tasks import Task

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class StudyScore:
    """One study under every method.

    Attributes:
        site: Name of the hospital.
        patient: Pseudonym; it is written nowhere.
        place: Which of the patient's usable studies, from 0.
        modality: ``MR`` or ``CT``.
        slices: How many.
        facts: What its headers say.
        scored: By method: the label of a model, or the key of a classical method.
    """

    site: str
    patient: str
    place: int
    modality: str
    slices: int
    facts: Facts
    scored: Mapping[str, Scored]


def score_all(
    task: Task, models: Sequence[Model], sites: Sequence[Site], on_progress: Progress = lambda _, __: None
) -> list[StudyScore]:
    """The scores of all studies of all patients, hospital by hospital.

    Raises:
        DataError: A cached file is gone or damaged.
    """
    total, done, found = sum(len(site.patients) for site in sites), 0, []
    for site in sites:
        for patient in site.patients:
            for place, (study, facts) in enumerate(studies_of(site, patient, task)):
                scored = dict(_scored(task, models, site, study, facts))
                found.append(StudyScore(site.name, patient, place, study.modality, len(study), facts, scored))
            done += 1
            on_progress(done, total)
    return found


def _scored(
    task: Task, models: Sequence[Model], site: Site, study: StudyImages, facts: Facts
) -> Iterator[tuple[str, Scored]]:
    judge = Judge(task, study, facts.slice_distance)
    for model in models:
        yield model.label, judge.score(*predicted(model, site, study))
    for name, method in task.classical().items():
        yield name, judge.score(method(study))


def predicted(model: Model, site: Site, study: StudyImages) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """What a model makes of a study: images and nothing, or classes and their probabilities ``[n, classes, h, w]``.

    It runs where the hospital's policy says.
    """
    plan = policy_of(site.node).device
    network = model.network.to(device(plan, virtual=site.node.virtual))
    with computing(plan):
        if is_image_task(model.task):
            return model.task.predict(network, study), None
        scores = torch.from_numpy(inference.run(network, model.task.inputs(study)))
        probabilities: NDArray[np.float32] = scores.softmax(dim=1).numpy()
    return np.asarray(probabilities.argmax(axis=1), np.uint8), probabilities


def by_patient(task: Task, scores: Sequence[StudyScore], method: str) -> dict[tuple[str, str], dict[str, float]]:
    """The figures of each patient, by hospital and pseudonym, from all of his studies in ``scores``."""
    return {key: figures(task, sums) for key, sums in patient_sums(scores, method).items()}


def patient_sums(scores: Sequence[StudyScore], method: str) -> dict[tuple[str, str], Sums]:
    """The sums of each patient."""
    total: dict[tuple[str, str], Sums] = {}
    for one in scores:
        key = (one.site, one.patient)
        total[key] = total.get(key, Sums.zero()) + one.scored[method].sums
    return total
