"""The drawings: dots lie where the figures say, and a calibrated bin ends on the diagonal."""

import pytest

from client.evaluation.charts import BOTTOM, LEFT, RIGHT, TOP, reliability, scatter
from shared.imaging.quality.calibration import Bin


def test_a_patient_whom_the_model_serves_better_lies_above_the_diagonal() -> None:
    plot = scatter("psnr", [(30.0, 32.0), (31.0, 30.0), (33.0, 33.0)])
    assert plot is not None
    sides = [(BOTTOM - y) / (BOTTOM - TOP) - (x - LEFT) / (RIGHT - LEFT) for x, y in plot.dots]
    assert sides[0] > 0 > sides[1]
    assert sides[2] == pytest.approx(0, abs=0.01)
    assert all(LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for x, y in plot.dots)
    assert [tick.label for tick in plot.up] == ["30", "31", "32", "33"]


def test_patients_who_are_all_alike_and_no_patients_at_all() -> None:
    plot = scatter("miou", [(0.5, 0.5)])
    assert plot is not None
    assert plot.dots == ((171.0, 131.0),)
    assert scatter("psnr", []) is None


def test_a_calibrated_bin_ends_where_it_should_and_another_does_not() -> None:
    found = reliability([None, Bin(10, 0.6, 0.6), Bin(5, 0.9, 0.5)])
    first, second = found.bars
    assert first[1] == first[4]
    assert second[1] > second[4]
    assert first[1] + first[3] == BOTTOM
