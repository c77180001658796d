"""No task is left out of the tables of a simulation."""

import pytest

from client.training.personal import rate_of
from shared.charter_plans import TaskPlan
from shared.imaging import classical_volume, tasks
from simulation.alone import rate_alone
from simulation.report.words import TASKS, is_stronger, is_untouched
from simulation.tables import ALONE_RATE


@pytest.mark.parametrize("name", tasks._MODULES)
def test_every_task_is_explained_and_has_a_rate_of_ordinary_training(name: str) -> None:
    assert TASKS[name].endswith(".")
    assert 0 < ALONE_RATE[name] < 0.1


def test_what_later_tasks_are_compared_with_is_not_said_to_be_of_the_survey() -> None:
    assert is_untouched("masked")
    assert all(is_stronger(name) for name in (*classical_volume.METHODS, "interpolated"))


def test_training_alone_is_as_careful_with_good_weights_as_a_personal_model() -> None:
    """With the rate for random weights it would end worse, and what it is compared with would look better."""
    for name in ("denoise", "superres", "segment"):
        fresh, good = TaskPlan(name, 1, 1), TaskPlan(name, 1, 1, start="public-1")
        assert rate_alone(fresh) == ALONE_RATE[name] > rate_alone(good) == rate_of(name)
