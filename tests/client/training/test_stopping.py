"""Early stopping keeps the best network, gives up in time, and looks at nobody who was trained on."""

import numpy as np
import pytest
import torch
from torch import nn

from client.training.loop import train_centrally
from client.training.personal import personalise
from client.training.stopping import EarlyStopping
from shared.imaging.images import StudyImages
from tests.client.training.test_personal import ScoredToy
from tests.client.training.toys import people, weights

torch.set_num_threads(1)


class Scripted(ScoredToy):
    """A task whose network is as good as the script says, look by look."""

    def __init__(self, *scores: float) -> None:
        super().__init__()
        self.script = list(scores)
        self.looked = list[torch.Tensor]()

    def predict(self, network: nn.Module, study: StudyImages) -> np.ndarray:
        self.looked.append(weights(network))
        return study.reference + np.float32(self.script.pop(0))  # the error: less is better


def train(task: Scripted, network: nn.Module, stopping: EarlyStopping, steps: int = 10) -> int:
    patients = {"A": people(2)}
    return train_centrally(task, network, patients, steps=steps, batch=2, lr=0.01, seed=0, stopping=stopping).steps


def test_the_best_look_wins_and_the_rest_of_the_training_is_forgotten() -> None:
    task = Scripted(0.3, 0.1, 0.2, 0.25, 0.4)
    network, stopping = task.network(0), EarlyStopping(task, people(1, slices=1, size=16), every=2)
    assert train(task, network, stopping) == 10
    assert stopping.best_step == 4
    assert list(stopping.scores) == [2, 4, 6, 8, 10]
    assert torch.equal(weights(network), task.looked[1])


def test_training_ends_after_so_many_looks_without_a_better_one() -> None:
    task = Scripted(0.3, 0.1, 0.2, 0.25, 0.01)
    stopping = EarlyStopping(task, people(1, slices=1, size=16), every=2, patience=2)
    assert train(task, task.network(0), stopping) == 8
    assert stopping.best_step == 4


def test_of_equal_looks_the_earliest_wins() -> None:
    task = Scripted(0.1, 0.1, 0.1)
    stopping = EarlyStopping(task, people(1, slices=1, size=16), every=2)
    train(task, task.network(0), stopping, steps=6)
    assert stopping.best_step == 2


def test_looking_changes_nothing_of_the_training_itself() -> None:
    plain, watched = ScoredToy(), ScoredToy()
    ends = []
    for task, stopping in ((plain, None), (watched, EarlyStopping(watched, people(1, size=16, seed=9), every=4))):
        network = task.network(0)
        train_centrally(task, network, {"A": people(2, size=16)}, steps=4, batch=2, lr=0.01, seed=0, stopping=stopping)
        ends.append(weights(network))
    assert torch.equal(*ends)


def test_a_last_step_leaves_the_rate_as_if_all_followed() -> None:
    """The first steps of a longer training, not a shorter training with a schedule of its own."""
    task, patients = ScoredToy(), {"A": people(2)}
    seen = Scripted(*[0.1] * 6)
    stopping = EarlyStopping(seen, people(1, slices=1, size=16), every=1)
    train_centrally(seen, seen.network(0), patients, steps=6, batch=2, lr=0.01, seed=0, stopping=stopping)
    network = task.network(0)
    done = train_centrally(task, network, patients, steps=6, batch=2, lr=0.01, seed=0, last=3)
    assert done.steps == 3
    assert torch.equal(weights(network), seen.looked[2])


@pytest.mark.parametrize(("count", "every", "patience"), [(0, 1, 1), (1, 0, 1), (1, 1, -1)])
def test_what_makes_no_sense_is_refused(count: int, every: int, patience: int) -> None:
    with pytest.raises(ValueError, match="early stopping"):
        EarlyStopping(ScoredToy(), people(count), every=every, patience=patience)


def test_a_personal_model_is_trained_as_long_as_was_best_for_those_kept_back() -> None:
    task, patients = ScoredToy(), people(8, size=16)
    network = task.network(0)
    found = personalise(task, network, patients, steps=40, batch=6, lr=0.02, seed=3, look_every=10)
    assert found.steps in {10, 20, 30, 40}
    assert found.scores[found.mix] == max(found.scores.values())
    trained_on = {key for key, _ in task.drawn[: 3 * found.steps]}
    assert len(trained_on) <= 8
