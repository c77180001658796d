"""The moving average of models: what is released is post-processing of models that were sent already."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.averaging import MovingAverage

models = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20)


def vector(value: float) -> np.ndarray:
    return np.full(3, value, np.float32)


@given(models, st.floats(0.01, 0.99))
def test_it_is_the_weighted_mean_of_all_models_with_weights_that_fall_by_the_decay(
    values: list[float], decay: float
) -> None:
    averages = MovingAverage(decay)
    for value in values:
        found = averages.add(vector(value))
    weights = decay ** np.arange(len(values))[::-1]
    expected = float(np.dot(weights, np.float32(values)) / weights.sum())
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_first_model_is_its_own_average_and_nothing_before_it_counts() -> None:
    assert MovingAverage(0.9).add(vector(5.0)).tolist() == [5.0] * 3


@given(models)
def test_without_a_decay_it_is_the_last_model_bit_for_bit(values: list[float]) -> None:
    averages = MovingAverage(0.0)
    for value in values:
        model = vector(value)
        assert averages.add(model).tobytes() == model.tobytes()


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_a_decay_out_of_its_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay"):
        MovingAverage(decay)
