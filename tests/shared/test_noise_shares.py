"""Shared noise: what each hospital must add, and that the sum of rounded shares hides one patient as Gaussians do."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import ndtr

from shared.charter import Charter, MaskingPlan
from shared.errors import CharterError
from shared.noise_shares import LEAST_STEPS, NoisePlan, words
from tests.federation import toy
from tests.federation.members import invented


def charter(members: int = 4, threshold: int = 3, colluding: int = 1, **changes: Any) -> Charter:
    masking = MaskingPlan(threshold=threshold, colluding=colluding, **changes.pop("masks", {}))
    privacy = {"mode": "distributed", "patients": 60, "noise_multiplier": 2.0, **changes.pop("privacy", {})}
    return toy.charter(members=invented(members), masking=masking, privacy=privacy, plan={"local_steps": 1}, **changes)


# --- the guarantee, by brute force in one dimension -------------------------------------------------------------------


def rounded(std: float) -> NDArray[np.float64]:
    """The law of rint(N(0, std^2)) on -reach to reach."""
    reach = math.ceil(9 * std) + 2
    edges = (np.arange(-reach, reach + 2) - 0.5) / std
    # From the nearer tail, so that far out there is something left of it.
    return np.where(edges[:-1] < 0, ndtr(edges[1:]) - ndtr(edges[:-1]), ndtr(-edges[:-1]) - ndtr(-edges[1:]))


def summed(std: float, hospitals: int) -> NDArray[np.float64]:
    law = rounded(std)
    total = law
    for _ in range(hospitals - 1):
        total = np.convolve(total, law)
    return total


def missed(one: NDArray[np.float64], other: NDArray[np.float64], epsilon: float) -> float:
    """The delta that this epsilon needs between two laws: the hockey-stick divergence."""
    return float(np.maximum(one - math.exp(epsilon) * other, 0).sum())


def gaussian(shift: float, q: float, epsilon: float) -> tuple[float, float]:
    """The same, both ways, for a Poisson-subsampled Gaussian mechanism with noise 1 and a patient ``shift`` long."""
    grid = np.linspace(-40, 40, 100_001)
    density = np.exp(-grid * grid / 2) / math.sqrt(2 * math.pi)
    mixed = (1 - q) * density + q * np.exp(-((grid - shift) ** 2) / 2) / math.sqrt(2 * math.pi)
    step = grid[1] - grid[0]
    return missed(mixed, density, epsilon) * step, missed(density, mixed, epsilon) * step


@pytest.mark.parametrize("hospitals", [2, 3, 5])
@pytest.mark.parametrize("std", [1.5, 4.0, 16.0])
@pytest.mark.parametrize("q", [1.0, 0.3])
def test_rounded_shares_hide_a_patient_no_worse_than_the_gaussian_that_is_accounted_for(
    hospitals: int, std: float, q: float
) -> None:
    noise = summed(std, hospitals)
    for patient in (1, hospitals - 1, hospitals + 1, 4 * hospitals, round(3 * std)):
        rest = patient % hospitals
        distance = math.sqrt((patient**2 + rest * (hospitals - rest)) / hospitals) / std
        without = np.concatenate([noise, np.zeros(patient)])
        with_ = (1 - q) * without + q * np.concatenate([np.zeros(patient), noise])
        for epsilon in (0.0, 0.1, 0.5, 1.0, 2.0):
            allowed = gaussian(distance, q, epsilon)
            assert missed(with_, without, epsilon) <= allowed[0] * (1 + 1e-6) + 1e-9
            assert missed(without, with_, epsilon) <= allowed[1] * (1 + 1e-6) + 1e-9


@given(patient=st.lists(st.integers(-30, 30), min_size=1, max_size=6), hospitals=st.integers(2, 9))
def test_an_even_split_of_a_patient_is_within_the_distance_that_the_noise_is_made_for(
    patient: list[int], hospitals: int
) -> None:
    parts = [[(value + place) // hospitals for place in range(hospitals)] for value in patient]
    assert [sum(one) for one in parts] == patient
    squared = sum(value * value for one in parts for value in one)
    bound = sum(value * value for value in patient) + len(patient) * (hospitals * hospitals // 4)
    assert squared * hospitals <= bound


# --- what is added ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "threshold", "colluding", "masks", "honest"),
    [
        (3, 3, 1, {}, 2),
        (4, 3, 1, {}, 2),
        (10, 8, 5, {}, 3),
        (10, 8, 1, {}, 7),
        (10, 8, 5, {"min_included": 9}, 4),
        (5, 4, 0, {}, 3),  # one hospital sees the next model, and knows its own noise
    ],
)
def test_the_shares_of_those_who_cannot_be_subtracted_make_up_the_noise(
    members: int, threshold: int, colluding: int, masks: dict[str, Any], honest: int
) -> None:
    rules = charter(members, threshold, colluding, masks=masks)
    noise = NoisePlan.of(rules)
    assert noise.honest == honest
    assert noise.members == members
    for size in (1, 110_000):
        hidden = noise.share(size) * math.sqrt(honest)
        patient = math.sqrt((noise.clip / noise.unit) ** 2 + size * (honest**2 // 4))
        assert hidden >= noise.noise_multiplier * patient
        assert hidden == pytest.approx(noise.noise_multiplier * noise.clip / noise.unit, rel=1e-6)
    assert noise.spread(1, members) == pytest.approx(2.0 * math.sqrt(members / honest))


@settings(max_examples=60, deadline=None)
@given(
    sigma=st.floats(0.1, 100),
    clip=st.floats(1e-3, 100),
    patients=st.integers(2, 100_000),
    rate=st.floats(0.001, 1),
    shape=st.sampled_from([(3, 3, 1), (5, 4, 2), (10, 8, 5), (50, 45, 39)]),
)
def test_the_lattice_is_a_power_of_two_on_which_the_sum_does_not_leave_the_ring(
    sigma: float, clip: float, patients: int, rate: float, shape: tuple[int, int, int]
) -> None:
    privacy = {"noise_multiplier": sigma, "clip": clip, "patients": patients, "sample_rate": rate}
    try:
        noise = NoisePlan.of(charter(*shape, privacy=privacy))
    except CharterError as error:
        assert "fewer than 65536" in error.message  # nothing else may be wrong with these numbers
        return
    assert math.frexp(noise.unit)[0] == 0.5
    assert noise.share(1) >= LEAST_STEPS
    assert 12 * noise.spread(1, shape[0]) + 2 * rate * patients * clip <= noise.unit * 2**31
    assert noise.unit >= clip * 2.0**-41


def test_a_sum_that_is_too_large_for_its_noise_is_refused_with_what_to_do() -> None:
    with pytest.raises(CharterError, match="steps of a ring of 32 bits, fewer than 65536") as caught:
        charter(privacy={"noise_multiplier": 0.1, "patients": 1_000_000})
    assert "larger noise_multiplier or a smaller sample_rate" in caught.value.hint


def test_no_noise_is_shared_in_the_clear_in_sixteen_bits_or_by_another_charter() -> None:
    rules = charter()
    with pytest.raises(CharterError, match="protects a sum alone"):
        replace(rules, masking=None, members=())
    with pytest.raises(CharterError, match="32 bits"):
        charter(masks={"ring_bits": 16})
    with pytest.raises(CharterError, match="shares no noise"):
        NoisePlan.of(replace(rules, privacy=replace(rules.privacy, mode="patient")))
    with pytest.raises(CharterError, match=r"privacy\.patients"):
        replace(rules, privacy=replace(rules.privacy, patients=None))


def test_the_step_goes_down_the_gradient_by_the_rate_over_the_agreed_number() -> None:
    noise = NoisePlan.of(charter())  # q = 0.5 of 60 patients
    gradient = np.array([30.0, -15.0]) / noise.unit
    assert noise.update(gradient, 0.2).tolist() == pytest.approx([-0.2, 0.1])


@given(st.lists(st.integers(-(2**40), 2**40), min_size=2, max_size=6))
def test_reducing_the_summands_is_reducing_the_sum(values: list[int]) -> None:
    total = np.zeros(1, np.uint32)
    for value in values:
        total += words(np.array([value]))
    assert int(total[0]) == sum(values) % 2**32
