"""Weights find the network that they are of."""

import pytest

from client.released import network_with
from shared.errors import DataError
from shared.imaging.tasks import get_task, task_names
from shared.weights import weights_of


@pytest.mark.parametrize("name", task_names())
def test_weights_of_every_network_of_a_task_find_their_own(name: str) -> None:
    task = get_task(name)
    for which in task.networks:
        network = task.network(3, which)
        found = network_with(task, weights_of(network))
        assert type(found) is type(network)
        assert not found.training
        assert all((array == weights_of(network)[key]).all() for key, array in weights_of(found).items())


def test_weights_of_another_task_find_none() -> None:
    with pytest.raises(DataError, match="not those of a network for superres"):
        network_with(get_task("superres"), weights_of(get_task("denoise").network(0)))
