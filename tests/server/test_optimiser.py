"""The coordinator's optimiser: SGD at rate 1 is federated averaging, exactly; the others are those of torch."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from server.optimiser import OPTIMISERS, ServerOptimiser
from shared.charter import TaskPlan
from shared.errors import CharterError
from shared.vector import Vector

vectors = hnp.arrays(np.float32, 5, elements=st.floats(-100, 100, width=32))


@settings(deadline=None)
@given(model=vectors, average=vectors)
def test_sgd_at_rate_one_adds_the_average_update_and_rounds_once(model: Vector, average: Vector) -> None:
    optimiser = ServerOptimiser(model, name="SGD", rate=1.0)
    assert optimiser.step(average).tobytes() == (model + average).tobytes()


def test_sgd_at_rate_one_gives_the_weighted_average_of_the_local_models() -> None:
    start = np.array([1.0, -2.0], np.float32)
    local, weights = np.array([[2.0, 0.0], [4.0, -4.0]], np.float32), [1.0, 3.0]
    average = sum(weight * (model - start) for weight, model in zip(weights, local, strict=True)) / sum(weights)
    moved = ServerOptimiser(start, name="SGD", rate=1.0).step(average.astype(np.float32))
    assert moved.tolist() == (np.average(local, axis=0, weights=weights)).tolist()


@pytest.mark.parametrize("name", OPTIMISERS)
def test_each_optimiser_takes_the_negative_average_for_a_gradient(name: str) -> None:
    model, averages = np.array([1.0, 2.0], np.float32), np.array([[0.5, -0.25], [0.1, 0.2]], np.float32)
    expected = torch.nn.Parameter(torch.from_numpy(model.copy()))
    reference = getattr(torch.optim, name)([expected], lr=0.1)
    optimiser = ServerOptimiser(model, name=name, rate=0.1)
    for average in averages:
        expected.grad = torch.from_numpy(-average)
        reference.step()
        found = optimiser.step(average)
    assert found.tolist() == expected.detach().tolist()
    assert model.tolist() == [1.0, 2.0], "the caller's model is not touched"


def test_the_rate_falls_along_a_half_cosine_to_a_twentieth() -> None:
    one = np.array([1.0], np.float32)
    optimiser = ServerOptimiser(np.zeros(1, np.float32), name="SGD", rate=2.0, rounds=4)
    places = [float(optimiser.step(one)[0]) for _ in range(4)]
    steps = np.diff([0.0, *places])
    assert steps[0] == 2.0
    assert all(later < earlier for earlier, later in itertools.pairwise(steps))
    assert steps[2] == pytest.approx(2.0 * (0.05 + 0.95 * 0.5))


def plan(optimiser: str) -> TaskPlan:
    return TaskPlan("denoise", rounds=10, local_steps=1, server_optimizer=optimiser, server_lr=1.0)


def test_federated_averaging_stays_so_in_every_round_of_a_plan() -> None:
    optimiser = ServerOptimiser.of(plan("SGD"), np.zeros(1, np.float32))
    assert [float(optimiser.step(np.ones(1, np.float32))[0]) for _ in range(10)] == list(range(1, 11))


def test_an_adaptive_optimiser_of_a_plan_slows_down() -> None:
    optimiser = ServerOptimiser.of(plan("Adam"), np.zeros(1, np.float32))
    places = [float(optimiser.step(np.ones(1, np.float32))[0]) for _ in range(10)]
    assert places[-1] - places[-2] < 0.2 * places[0]


@pytest.mark.parametrize("name", ["LBFGS", "SparseAdam", "Optimizer", "lr_scheduler", "__name__", "adam"])
def test_another_name_is_refused_with_those_that_are_known(name: str) -> None:
    with pytest.raises(CharterError, match=f"'{name}'") as caught:
        ServerOptimiser(np.zeros(1, np.float32), name=name, rate=1.0)
    assert "Adam" in caught.value.hint
