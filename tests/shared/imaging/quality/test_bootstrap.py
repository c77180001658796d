"""Intervals over patients: none from too few, the same every time, and as wide as they must be."""

import numpy as np
import pytest

from shared.imaging.quality.bootstrap import FEWEST, Estimate, estimate


def test_below_five_patients_there_is_a_mean_and_no_interval() -> None:
    found = estimate([1.0, 2.0, 3.0, 6.0])
    assert found == Estimate(4, 3.0, None, None, 1.0, 6.0)
    assert FEWEST == 5


def test_over_nobody_there_is_nothing_and_what_is_no_number_is_nobody() -> None:
    assert estimate([]) is None
    assert estimate([float("nan"), float("inf")]) is None
    assert estimate([1.0, float("inf")]) == Estimate(1, 1.0, None, None, 1.0, 1.0)


def test_patients_who_are_all_alike_leave_no_doubt() -> None:
    assert estimate([2.5] * 6) == Estimate(6, 2.5, 2.5, 2.5, 2.5, 2.5)


def test_the_same_patients_give_the_same_interval() -> None:
    values = list(np.random.default_rng(1).normal(30, 2, 12))
    assert estimate(values) == estimate(values)


def test_the_interval_of_many_normal_values_is_that_of_students_t() -> None:
    values = np.random.default_rng(4).normal(30, 2, 200)
    found = estimate(list(values))
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    half = 1.972 * values.std(ddof=1) / np.sqrt(200)
    assert found.low == pytest.approx(values.mean() - half, abs=0.05)
    assert found.high == pytest.approx(values.mean() + half, abs=0.05)


def test_it_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(8), 0
    for _ in range(100):
        found = estimate(list(rng.exponential(1.0, 30)))
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 1.0 <= found.high
    assert 86 <= covered <= 100
