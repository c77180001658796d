"""Poisson sampling of patients: the right rate, independent coins, and a cap that costs nothing."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from client.training.key_stream import KeyStream
from client.training.sampling import OVERFLOW, PatientSampler, cap
from shared.errors import DataError, UsageError


@pytest.mark.control("GDPR-25-patient-dp")
@pytest.mark.parametrize(("patients", "rate"), [(40, 0.1), (16, 0.5), (200, 0.03)])
def test_every_patient_is_in_a_step_with_the_chance_q_independently(patients: int, rate: float) -> None:
    steps = 4000
    present = np.zeros((steps, patients))
    for step, chosen in enumerate(PatientSampler(patients, rate, steps)):
        present[step, chosen] = 1

    error = math.sqrt(rate * (1 - rate) / steps)
    assert np.abs(present.mean(axis=0) - rate).max() < 6 * error
    assert present.mean() == pytest.approx(rate, abs=5 * error / math.sqrt(patients))
    # The number of patients is binomial, not fixed: fixed batches have another privacy analysis.
    sizes = present.sum(axis=1)
    assert sizes.var() == pytest.approx(patients * rate * (1 - rate), rel=5 * math.sqrt(2 / steps))
    correlations = np.corrcoef(present.T)[np.triu_indices(patients, 1)]
    assert np.abs(correlations).max() < 6.5 / math.sqrt(steps)


def test_a_rate_of_one_takes_everybody_and_a_small_rate_leaves_steps_empty() -> None:
    assert list(PatientSampler(3, 1.0, 2)) == [[0, 1, 2], [0, 1, 2]]
    assert [] in list(PatientSampler(3, 0.01, 20))
    assert len(PatientSampler(3, 0.01, 20)) == len(list(PatientSampler(3, 0.01, 20))) == 20


@pytest.mark.parametrize(("patients", "rate"), [(1, 0.5), (16, 0.25), (60, 0.5), (300, 0.05), (2000, 0.1), (20, 1.0)])
def test_the_cap_is_twice_the_expected_number_or_more_and_is_reached_with_less_than_the_promised_chance(
    patients: int, rate: float
) -> None:
    """The binomial tail term by term, in logarithms."""
    most, others = cap(patients, rate), patients - 1

    def chance(k: int) -> float:
        ways = math.lgamma(others + 1) - math.lgamma(k + 1) - math.lgamma(others - k + 1)
        return (
            math.exp(ways + k * math.log(rate) + (others - k) * math.log1p(-rate)) if rate < 1 else float(k == others)
        )

    assert most >= min(patients, 2 * patients * rate)
    assert math.fsum(chance(k) for k in range(most, patients)) <= OVERFLOW * (1 + 1e-6)


def test_the_cap_of_a_large_site_is_twice_the_expected_number() -> None:
    assert cap(2000, 0.1) == 400
    assert cap(16, 0.25) > 8  # and a small site needs more: 8 would be exceeded in 1.7% of the steps


def test_a_step_that_is_too_large_keeps_a_random_subset(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, draw = PatientSampler(300, 0.05, 2), KeyStream.integers

    def everybody_comes(stream: KeyStream, count: int) -> NDArray[np.uint64]:
        drawn = draw(stream, count)
        everybody = not asked
        asked.append(count)
        return np.zeros_like(drawn) if everybody else drawn

    kept = []
    monkeypatch.setattr(KeyStream, "integers", everybody_comes)
    for _ in range(2):
        asked: list[int] = []
        kept.append(next(iter(sampler)))
    assert [len(set(chosen)) for chosen in kept] == [sampler.cap, sampler.cap]
    assert sampler.cap < 300
    assert kept[0] != kept[1]
    assert kept[0] == sorted(kept[0])


def test_a_sampler_without_patients_steps_or_a_possible_rate_is_refused() -> None:
    with pytest.raises(DataError):
        PatientSampler(0, 0.5, 1)
    for rate, steps in ((0.0, 1), (1.5, 1), (math.nan, 1), (0.5, 0)):
        with pytest.raises(UsageError):
            PatientSampler(10, rate, steps)
