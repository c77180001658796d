"""Patient-level DP-SGD: what one patient can do to a step, and the noise that hides it."""

import math
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from opacus.accountants import PRVAccountant
from scipy import stats
from torch import nn

from client.training.patient_dp import Clipping, PatientDPOptimizer
from client.training.secure_noise import NoiseSource

torch.set_num_threads(1)


def optimizer_for(
    parameters: list[nn.Parameter],
    *,
    clip: float = 1.0,
    noise_multiplier: float = 0.0,
    expected: float = 4.0,
    clipping: Clipping = Clipping.AUTOMATIC,
    noise: NoiseSource | None = None,
) -> PatientDPOptimizer:
    return PatientDPOptimizer(
        torch.optim.SGD(parameters, lr=1.0),
        noise_multiplier=noise_multiplier,
        max_grad_norm=clip,
        expected_batch_size=expected,
        clipping=clipping,
        noise=noise,
    )


def vector(size: int) -> list[nn.Parameter]:
    return [nn.Parameter(torch.zeros(size))]


def squared_norm(lattice: torch.Tensor, unit: float) -> Fraction:
    """The exact squared length of a lattice vector: no rounding anywhere."""
    return Fraction(sum(value * value for value in lattice.tolist())) * Fraction(unit) ** 2


any_float32 = st.floats(width=32, allow_nan=True, allow_infinity=True)
gradients = st.lists(any_float32, min_size=6, max_size=6)


@pytest.mark.control("GDPR-25-patient-dp")
@settings(max_examples=300, deadline=None)
@given(
    others=st.lists(gradients, max_size=4),
    mine=gradients,
    place=st.integers(0, 4),
    clip=st.floats(1e-6, 1e6),
    clipping=st.sampled_from(Clipping),
)
def test_one_patient_more_changes_the_sum_by_at_most_the_bound_exactly(
    others: list[list[float]], mine: list[float], place: int, clip: float, clipping: Clipping
) -> None:
    def total(patients: list[list[float]]) -> torch.Tensor:
        optimizer = optimizer_for(vector(6), clip=clip, clipping=clipping)
        for patient in patients:
            optimizer.accumulate([torch.tensor(patient, dtype=torch.float32)])
        return optimizer.lattice_sum

    place = min(place, len(others))
    unit = optimizer_for(vector(6), clip=clip).unit
    change = total([*others[:place], mine, *others[place:]]) - total(others)

    assert squared_norm(change, unit) <= Fraction(clip) ** 2


@pytest.mark.parametrize("clipping", Clipping)
@pytest.mark.parametrize("value", [0.1, 1e30, 3e-3])
def test_the_bound_holds_where_a_norm_is_the_sum_of_many_roundings(value: float, clipping: Clipping) -> None:
    optimizer = optimizer_for(vector(300_000), clip=0.3, clipping=clipping)
    optimizer.accumulate([torch.full((300_000,), value)])

    length = math.sqrt(squared_norm(optimizer.lattice_sum, optimizer.unit))
    assert squared_norm(optimizer.lattice_sum, optimizer.unit) <= Fraction(0.3) ** 2
    assert length == pytest.approx(0.3, rel=0.01)  # and it is no smaller than it must be


def test_flat_clipping_leaves_short_gradients_alone() -> None:
    optimizer = optimizer_for(vector(2), clip=5.0, clipping=Clipping.FLAT)
    optimizer.accumulate([torch.tensor([0.75, -2.0])])
    assert (optimizer.lattice_sum * optimizer.unit).tolist() == [0.75, -2.0]


def test_automatic_clipping_follows_bu_et_al() -> None:
    optimizer = optimizer_for(vector(2), clip=2.0)
    optimizer.accumulate([torch.tensor([0.3, -0.4])])
    expected = np.array([0.3, -0.4]) * 2.0 / (0.5 + 0.01)
    assert (optimizer.lattice_sum * optimizer.unit).numpy() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_adds_nothing(poison: float) -> None:
    optimizer = optimizer_for(vector(3))
    optimizer.accumulate([torch.tensor([1.0, poison, 0.0])])
    assert not optimizer.lattice_sum.any()


def test_an_empty_step_adds_noise_and_is_charged() -> None:
    parameters, accountant = vector(1000), PRVAccountant()
    optimizer = optimizer_for(parameters, noise_multiplier=1.0)
    optimizer.attach_step_hook(accountant.get_optimizer_hook_fn(sample_rate=0.25))
    for _ in range(3):
        optimizer.zero_grad()
        optimizer.step()
    assert parameters[0].detach().std() > 0.1
    assert accountant.history == [(1.0, 0.25, 3)]


@pytest.mark.control("GDPR-25-patient-dp")
@pytest.mark.parametrize(("noise_multiplier", "clip"), [(1.3, 0.7), (0.5, 20.0)])
def test_the_noise_is_normal_with_the_promised_deviation(noise_multiplier: float, clip: float) -> None:
    count, expected = 200_000, 10.0
    parameters = vector(count)
    optimizer = optimizer_for(parameters, clip=clip, noise_multiplier=noise_multiplier, expected=expected)
    optimizer.step()
    assert parameters[0].grad is not None
    noise = parameters[0].grad.double().numpy() * expected / (noise_multiplier * clip)

    # Each bound fails by chance less than once in a million runs (five standard errors).
    assert abs(noise.mean()) < 5 / math.sqrt(count)
    assert abs(noise.std() - 1) < 5 / math.sqrt(2 * count)
    assert stats.kstest(noise, "norm").pvalue > 1e-6
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 5 / math.sqrt(count)


def test_the_noise_is_new_in_every_step() -> None:
    parameters = vector(1000)
    optimizer = optimizer_for(parameters, noise_multiplier=1.0)
    steps = []
    for _ in range(2):
        optimizer.step()
        assert parameters[0].grad is not None
        steps.append(parameters[0].grad.clone())
    assert abs(np.corrcoef(*steps)[0, 1]) < 0.2


def test_what_leaves_is_on_a_lattice_that_does_not_depend_on_the_patients() -> None:
    """Mironov 2012: the lowest bits of a noisy float tell of the summands, unless all outcomes share one lattice."""
    parameters = [nn.Parameter(torch.zeros(500, dtype=torch.float64))]
    optimizer = optimizer_for(parameters, noise_multiplier=1.0, clip=0.3, expected=1.0)
    optimizer.accumulate([torch.rand(500, dtype=torch.float64)])
    optimizer.step()
    assert parameters[0].grad is not None
    multiples = parameters[0].grad / optimizer.unit
    assert torch.equal(multiples, multiples.round())
    assert math.log2(optimizer.unit) == round(math.log2(optimizer.unit))


def test_the_sum_is_divided_by_the_expected_number_and_not_by_who_came() -> None:
    moved = []
    for patients in (1, 3):
        parameters = vector(1)
        optimizer = optimizer_for(parameters, expected=5.0)
        for _ in range(patients):
            optimizer.accumulate([torch.tensor([100.0])])
        optimizer.step()
        moved.append(-parameters[0].item())
    assert moved == pytest.approx([1 / 5, 3 / 5], rel=1e-3)


def test_a_sum_is_used_once() -> None:
    parameters = vector(1)
    optimizer = optimizer_for(parameters)
    optimizer.accumulate([torch.tensor([3.0])])
    optimizer.step()
    after = parameters[0].item()
    optimizer.step()
    assert parameters[0].item() == after

    optimizer.accumulate([torch.tensor([3.0])])
    optimizer.zero_grad()
    optimizer.step()
    assert parameters[0].item() == after


def test_only_parameters_that_require_a_gradient_move() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1))
    network[0].requires_grad_(False)
    frozen = [p.clone() for p in network[0].parameters()]
    optimizer = optimizer_for(list(network.parameters()), noise_multiplier=1.0)
    optimizer.backward(network(torch.rand(1, 1, 4, 4)).mean())
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(frozen, network[0].parameters(), strict=True))


@pytest.mark.parametrize(
    "settings",
    [
        {"clip": 0.0},
        {"clip": math.nan},
        {"noise_multiplier": -1.0},
        {"noise_multiplier": math.nan},
        {"expected": 0.0},
        {"expected": math.inf},
    ],
)
def test_numbers_that_make_no_sense_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        optimizer_for(vector(1), **settings)  # type: ignore[arg-type]


def test_gradients_of_another_network_and_losses_per_row_are_refused() -> None:
    parameters = vector(3)
    optimizer = optimizer_for(parameters)
    with pytest.raises(ValueError, match="match"):
        optimizer.accumulate([torch.zeros(2)])
    with pytest.raises(ValueError, match="scalar"):
        optimizer.backward(parameters[0] * 2)
    with pytest.raises(ValueError, match="no parameter"):
        optimizer_for([nn.Parameter(torch.zeros(1), requires_grad=False)])


def test_a_coordinate_is_rounded_towards_zero_and_a_long_gradient_ends_just_below_the_bound() -> None:
    """The two margins of the exact bound, each of which would hide the loss of the other."""
    optimizer = optimizer_for(vector(2), clipping=Clipping.FLAT)
    optimizer.accumulate([torch.tensor([2.7, -2.7]) * optimizer.unit])
    assert optimizer.lattice_sum.tolist() == [2, -2]

    optimizer.zero_grad()
    optimizer.accumulate([torch.tensor([3.0, 0.0])])
    assert 1 - 2.0**-21 < optimizer.lattice_sum[0].item() * optimizer.unit < 1 - 2.0**-23
