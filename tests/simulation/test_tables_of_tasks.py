"""No task is left out of the tables of a simulation."""

import pytest

from shared.imaging import classical_volume, tasks
from simulation.report.words import TASKS, is_stronger, is_untouched
from simulation.tables import ALONE_RATE


@pytest.mark.parametrize("name", tasks._MODULES)
def test_every_task_is_explained_and_has_a_rate_of_ordinary_training(name: str) -> None:
    assert TASKS[name].endswith(".")
    assert 0 < ALONE_RATE[name] < 0.1


def test_what_later_tasks_are_compared_with_is_not_said_to_be_of_the_survey() -> None:
    assert is_untouched("masked")
    assert all(is_stronger(name) for name in (*classical_volume.METHODS, "interpolated"))
