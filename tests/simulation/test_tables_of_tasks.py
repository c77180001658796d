"""No task is left out of the tables of a simulation."""

import pytest

from shared.imaging import tasks
from simulation.report.words import TASKS
from simulation.tables import ALONE_RATE


@pytest.mark.parametrize("name", tasks._MODULES)
def test_every_task_is_explained_and_has_a_rate_of_ordinary_training(name: str) -> None:
    assert TASKS[name].endswith(".")
    assert 0 < ALONE_RATE[name] < 0.1
