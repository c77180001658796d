"""A model made a hospital's own: never worse on who was kept back, and the federated one where nothing is gained."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from client.training.personal import KEPT_BACK, MIXES, Personal, mixed, personalise
from shared.errors import DataError
from shared.imaging.images import PatientImages, StudyImages
from shared.imaging.metrics import Sums, image_sums
from shared.imaging.tasks import Batch
from tests.client.training.toys import ToyTask, people, weights

torch.set_num_threads(1)


class ScoredToy(ToyTask):
    """The toy, scored as a task for images, under the name of one whose figures are known."""

    name = "denoise"

    def __init__(self) -> None:
        super().__init__()
        self.scored: list[StudyImages] = []
        self.before: set[str] = set()  # who had been trained on when the first was scored

    def predict(self, network: nn.Module, study: StudyImages) -> NDArray[np.float32]:
        self.before = self.before or {key for key, _ in self.drawn}
        self.scored.append(study)
        with torch.inference_mode():
            images: NDArray[np.float32] = network(torch.from_numpy(study.noisy)[:, None])[:, 0].numpy()
        return images

    def score(self, predictions: NDArray[np.float32], study: StudyImages) -> Sums:
        return image_sums(predictions, study.reference)


def run(
    task: ScoredToy, network: nn.Module, patients: list[PatientImages], *, lr: float = 0.02, steps: int = 40
) -> Personal:
    return personalise(task, network, patients, steps=steps, batch=6, lr=lr, seed=3)


def test_a_model_that_does_not_fit_the_hospital_goes_most_of_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    patients, task = people(8, size=16), ScoredToy()
    network = task.network(0)
    before = weights(network)
    found = run(task, network, patients)
    assert found.mix >= 0.75
    assert (found.patients, found.kept_back) == (8, round(8 * KEPT_BACK))
    assert found.scores[found.mix] == max(found.scores.values()) > found.scores[0.0] + 3
    assert not torch.equal(weights(network), before)


class Lenient(ScoredToy):
    """As a task that trains without references does it."""

    def judged(self, study: StudyImages) -> bool:
        return study.paired


def alone(patient: PatientImages) -> PatientImages:
    """The same patient without references."""
    return replace(patient, studies=tuple(replace(one, reference=one.noisy[:0]) for one in patient.studies))


class Unread(Lenient):
    def draw(self, patient: PatientImages, count: int, rng: np.random.Generator) -> Batch:
        assert patient.studies
        return super().draw(people(1, size=16)[0], count, rng)


def test_patients_without_references_are_trained_on_and_decide_nothing() -> None:
    task, paired = Unread(), people(8, size=16)
    patients = [*map(alone, paired[:6]), *paired[6:]]
    assert run(task, task.network(0), patients, steps=2).kept_back == 2
    assert {id(one) for one in task.scored} == {id(study) for one in paired[6:] for study in one.studies}
    assert run(task, task.network(0), patients[:7], steps=2).kept_back == 1


def test_nobody_with_a_reference_is_told_before_any_training() -> None:
    task = Lenient()
    with pytest.raises(DataError, match="a patient with a reference"):
        run(task, task.network(0), [alone(one) for one in people(4)])
    assert not task.drawn


def test_who_decides_on_the_mix_was_not_trained_on() -> None:
    task = ScoredToy()
    patients = people(8, size=16)
    whose = {id(patient.studies[0]): patient.key for patient in patients}
    found = run(task, task.network(0), patients)
    decided = {whose[id(study)] for study in task.scored}
    assert len(decided) == found.kept_back
    assert task.before
    assert not decided & task.before
    assert {key for key, _ in task.drawn} == {patient.key for patient in patients}


def test_where_training_only_harms_the_model_stays_as_it_was() -> None:
    task = ScoredToy()
    network = task.network(0)
    with torch.no_grad():  # the filter that made the reference
        network.weight.zero_()
        network.bias.zero_()
        network.weight[0, 0, 1, 1] = 0.4
        network.weight[0, 0, 0, 1] = 0.1
    before = weights(network)
    found = run(task, network, people(8, size=16), lr=1.0)
    assert found.mix == 0.0
    assert torch.equal(weights(network), before)


def test_the_same_seed_gives_the_same_model_and_the_network_that_was_given_begins_it() -> None:
    one, other = ScoredToy().network(0), ScoredToy().network(0)
    found, again = run(ScoredToy(), one, people(5, size=16)), run(ScoredToy(), other, people(5, size=16))
    assert found == again
    assert torch.equal(weights(one), weights(other))


def test_mixing_is_linear_and_leaves_both_as_they_were() -> None:
    here, there = ScoredToy().network(0), ScoredToy().network(1)
    a, b = weights(here), weights(there)
    for mix in MIXES:
        torch.testing.assert_close(weights(mixed(here, there, mix)), (1 - mix) * a + mix * b)
    assert torch.equal(weights(mixed(here, there, 0.0)), a)
    assert torch.equal(weights(here), a)
    assert torch.equal(weights(there), b)


def test_what_counts_images_is_taken_from_the_federated_model() -> None:
    here = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    there = copy.deepcopy(here)
    there[1].num_batches_tracked += 5  # type: ignore[operator]
    assert int(mixed(here, there, 0.5)[1].num_batches_tracked) == 0  # type: ignore[arg-type,index]


def test_one_patient_is_too_few() -> None:
    task = ScoredToy()
    with pytest.raises(DataError, match="takes two patients at least, and 1 can be used") as refused:
        run(task, task.network(0), people(1))
    assert "fedward node basis set" in refused.value.hint
