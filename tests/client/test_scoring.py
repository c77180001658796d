"""What leaves of scores is always a number that the masks take: nobody's images make a hospital speak out of turn."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.scoring import LARGEST, bounded, score
from shared.imaging.images import PatientImages
from shared.imaging.tasks import Sums, get_task
from tests.client.training.toys import people
from tests.federation import toy  # registers the toy task

TASK = get_task(toy.charter().tasks[0].name)


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.floats()))
def test_every_value_becomes_one_that_the_masks_take(values: dict[str, float]) -> None:
    found = bounded(values)
    assert found.keys() == values.keys()
    for name, value in values.items():
        assert abs(found[name]) <= LARGEST
        assert found[name] == value or math.isnan(value) or abs(value) > LARGEST


def odd(patient: PatientImages, value: float) -> PatientImages:
    reference = patient.studies[0].reference.copy()
    reference[0, 0, 0] = value
    return replace(patient, studies=(replace(patient.studies[0], reference=reference),))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_patient_who_cannot_be_scored_counts_as_nothing(value: float) -> None:
    first, second = people(2)
    network = TASK.network(0)
    alone = score(TASK, network, [first])
    assert dict(score(TASK, network, [first, odd(second, value)])) == pytest.approx(dict(alone))


@pytest.mark.parametrize("error", [ValueError, ZeroDivisionError, RuntimeError])
def test_neither_does_an_error_of_one_patient_end_the_evaluation(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = people(2)
    network, alone = TASK.network(0), TASK.score

    def scored(predictions: np.ndarray, study: object) -> Sums:
        if study is second.studies[0]:
            raise error
        return alone(predictions, study)

    monkeypatch.setattr(type(TASK), "score", staticmethod(scored))
    assert dict(score(TASK, network, [first, second])) == pytest.approx(dict(score(TASK, network, [first])))


def test_with_nobody_every_sum_is_there_and_zero() -> None:
    assert dict(score(TASK, TASK.network(0), [])) == dict.fromkeys(TASK.sums, 0.0)
