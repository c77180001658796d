"""The streaming sum is the float64 sum, and a body that does not belong in it leaves it as it was."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from server.tally import PlainTally
from shared.errors import ProtocolError
from shared.wire import PlainBody

D = 7
updates = hnp.arrays(np.float32, D, elements=st.floats(-1e6, 1e6, width=32))
bodies = st.lists(st.tuples(updates, st.floats(1e-3, 1e4)), min_size=1, max_size=8)


@settings(max_examples=80, deadline=None)
@given(replies=bodies)
def test_the_average_is_that_of_a_float64_reference(replies: list[tuple[Any, float]]) -> None:
    tally = PlainTally(D, max_weight=1e4)
    for update, weight in replies:
        tally.add(PlainBody(update, weight))
    total = np.zeros(D)
    for update, weight in replies:
        total += update.astype(np.float64) * weight
    expected = total / sum(weight for _, weight in replies)
    aggregate = tally.close()
    assert aggregate.average.dtype == np.float32
    assert aggregate.average.tobytes() == expected.astype(np.float32).tobytes()
    assert aggregate.norm == pytest.approx(np.linalg.norm(expected))


def test_small_updates_beside_a_large_one_are_not_lost_as_they_are_in_float32() -> None:
    tally = PlainTally(1, max_weight=1.0)
    for value in [2.0**24, 1.0, 1.0, -(2.0**24)]:
        tally.add(PlainBody(np.array([value], np.float32), 1.0))
    assert tally.close().average.tolist() == [0.5]


def test_metrics_are_added_by_name() -> None:
    tally = PlainTally(1, max_weight=9)
    one = np.ones(1, np.float32)
    tally.add(PlainBody(one, 2.0, {"loss": 1.0}))
    tally.add(PlainBody(one, 3.0, {"loss": 0.5, "samples": 8.0}))
    aggregate = tally.close()
    assert (aggregate.weight, dict(aggregate.metrics)) == (5.0, {"loss": 1.5, "samples": 8.0})


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (PlainBody(np.ones(D + 1, np.float32), 1.0), "8 numbers, not 7"),
        (PlainBody(np.ones(1, np.float32), 1.0), "1 numbers, not 7"),
        (PlainBody(np.ones(D, np.float32), 11.0), "above 10"),
    ],
)
def test_a_body_of_another_length_or_a_huge_weight_adds_nothing(body: PlainBody, says: str) -> None:
    tally = PlainTally(D, max_weight=10.0)
    tally.add(PlainBody(np.full(D, 3.0, np.float32), 1.0, {"loss": 1.0}))
    with pytest.raises(ProtocolError, match=says):
        tally.add(body)
    assert tally.close().average.tolist() == [3.0] * D


def test_under_differential_privacy_every_weight_is_the_same() -> None:
    tally = PlainTally(D, max_weight=10.0, fixed_weight=1.0)
    with pytest.raises(ProtocolError, match="not 1"):
        tally.add(PlainBody(np.ones(D, np.float32), 2.0))


def test_a_sum_over_nobody_is_no_average() -> None:
    with pytest.raises(ProtocolError, match="nobody"):
        PlainTally(D, max_weight=1.0).close()
