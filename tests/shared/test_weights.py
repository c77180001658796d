"""What of a network's state travels: what trains, and nothing that both ends have already."""

import numpy as np
import torch

from shared.imaging.tasks import get_task
from shared.imaging.trained import freeze
from shared.weights import load_weights, travelling, weights_of


def test_everything_travels_where_everything_trains() -> None:
    network = get_task("segment").network(0)
    assert travelling(network).keys() == weights_of(network).keys()


def test_frozen_parameters_stay_and_are_not_touched_by_what_arrives() -> None:
    network, other = get_task("segment").network(0), get_task("segment").network(1)
    freeze(network, "biases_norms_head")
    freeze(other, "biases_norms_head")
    before, arriving = weights_of(network), travelling(other)
    assert 0 < len(arriving) < len(before)
    load_weights(network, arriving)
    after = weights_of(network)
    for name in before:
        assert np.array_equal(after[name], arriving.get(name, before[name])), name


def test_buffers_travel_also_where_little_trains() -> None:
    class Counted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
            self.register_buffer("rounds", torch.tensor(3))

    network = Counted()
    freeze(network, "head")
    assert set(travelling(network)) == {"head.weight", "head.bias", "rounds"}
