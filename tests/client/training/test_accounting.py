"""The price of a run: the accountant's own figure, never less than the truth."""

import json
import math

import numpy as np
import pytest
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy.optimize import brentq
from scipy.stats import norm

from client.training import accountants
from client.training.accounting import Mechanism, bound, default_delta, epsilon, merged, statement, within
from shared.errors import BudgetError, UsageError


@pytest.mark.control("GDPR-25-patient-dp")
@pytest.mark.parametrize(("noise", "rate", "steps"), [(1.0, 0.05, 1000), (2.0, 0.05, 1000), (1.0, 0.5, 40)])
def test_epsilon_is_that_of_opacus_prv(noise: float, rate: float, steps: int) -> None:
    accountant = PRVAccountant()
    accountant.history = [(noise, rate, steps)]
    value, name = epsilon([Mechanism(noise, rate, steps)], 1e-5)
    assert name == "prv"
    assert value == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)
    assert value >= accountant.get_epsilon(1e-5) - 1e-9  # the cap's share of delta makes it no smaller


def test_the_figures_that_were_published_with_the_method() -> None:
    assert epsilon([Mechanism(2.0, 0.05, 1000)], 1e-5)[0] == pytest.approx(3.70, abs=0.015)


def loss_distribution(noise: float, rate: float, *, remove: bool, width: float, bins: int) -> np.ndarray:
    """Chances of the privacy loss of one step, by quadrature and from first principles, on a grid of ``bins`` cells.

    Removing a patient compares the mixture (1-q) N(0, s^2) + q N(1, s^2) with N(0, s^2); adding compares the other way.
    """
    x = np.linspace(-12 * noise, 1 + 12 * noise, 400_001)
    without = norm.pdf(x, 0, noise)
    mixture = (1 - rate) * without + rate * norm.pdf(x, 1, noise)
    loss = np.log1p(rate * np.expm1((2 * x - 1) / (2 * noise**2)))
    loss, chance = (loss, mixture) if remove else (-loss, without)
    cells = np.rint(loss / width).astype(int) + bins // 2
    return np.bincount(np.clip(cells, 0, bins - 1), weights=chance * (x[1] - x[0]), minlength=bins)


@pytest.mark.parametrize(("noise", "rate", "steps"), [(1.0, 0.2, 10), (2.0, 0.5, 20)])
def test_epsilon_holds_for_adding_a_patient_as_well_as_for_removing_one(noise: float, rate: float, steps: int) -> None:
    """Opacus composes one direction only; here both are composed independently of it."""
    delta, width, bins = 1e-5, 2e-3, 1 << 16
    stated, _ = epsilon([Mechanism(noise, rate, steps)], delta)
    losses = (np.arange(bins) - bins // 2) * width
    found = {}
    for remove in (True, False):
        one = np.fft.rfft(np.roll(loss_distribution(noise, rate, remove=remove, width=width, bins=bins), -bins // 2))
        composed = np.roll(np.fft.irfft(one**steps, bins), bins // 2)

        def excess(value: float, chances: np.ndarray = composed) -> float:
            over = losses > value
            return float((chances[over] * -np.expm1(value - losses[over])).sum()) - delta

        found[remove] = brentq(excess, 0.0, losses[-1] / 2)
    assert found[False] <= found[True] + 1e-3
    assert found[True] <= stated
    assert stated == pytest.approx(found[True], abs=0.05)  # and it is tight


def test_without_sampling_epsilon_is_that_of_the_gaussian_mechanism() -> None:
    """Balle and Wang 2018, theorem 8: the exact curve of the Gaussian mechanism."""
    noise, steps, delta = 8.0, 20, 1e-5
    mu = math.sqrt(steps) / noise
    exact = brentq(
        lambda e: norm.cdf(mu / 2 - e / mu) - math.exp(e) * norm.cdf(-mu / 2 - e / mu) - delta, 0.0, 50.0, xtol=1e-9
    )
    value, _ = epsilon([Mechanism(noise, 1.0, steps)], delta)
    assert exact <= value <= exact + 0.03


def test_renyi_dp_stands_in_where_prv_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    history = [Mechanism(1.5, 0.1, 50)]
    renyi = RDPAccountant()
    renyi.history = [tuple(history[0])]
    tight, _ = epsilon(history, 1e-5)

    for failure in (RuntimeError("Cannot compute epsilon"), None):

        def fails(_: PRVAccountant, delta: float, failure: RuntimeError | None = failure) -> float:
            if failure:
                raise failure
            return math.nan

        monkeypatch.setattr(PRVAccountant, "get_epsilon", fails)
        value, name = epsilon(history, 1e-5)
        assert name == "rdp"
        assert value == pytest.approx(renyi.get_epsilon(1e-5), rel=1e-3)
        assert value > tight


@pytest.mark.parametrize("distance", [-1.0, -0.02, 0.02, 1.0])
def test_within_says_the_same_as_epsilon(distance: float) -> None:
    history = [Mechanism(2.0, 0.3, 40)]
    value, _ = epsilon(history, 1e-5)
    assert within(history, 1e-5, value + distance) == (distance > 0)


def test_nothing_is_within_any_limit_without_noise_or_with_more_steps_than_delta_can_bear() -> None:
    assert not within([Mechanism(0.0, 0.3, 1)], 1e-5, 1e9)
    assert not within([Mechanism(1000.0, 1e-6, 10**9)], 1e-5, 1e9)
    assert within([], 1e-5, 0.0)


def test_far_below_the_limit_the_cheap_bound_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> float:
        raise AssertionError("the slow accountant was asked")

    monkeypatch.setattr(PRVAccountant, "get_epsilon", never)
    assert within([Mechanism(2.0, 0.3, 40)], 1e-5, 20.0)


def test_an_epsilon_beyond_all_use_does_not_keep_anybody_waiting() -> None:
    value, name = epsilon([Mechanism(0.5, 0.5, 1000)], 1e-5)
    assert name == "rdp"
    assert 100 < value < math.inf


def test_equal_settings_are_composed_together_and_order_does_not_matter() -> None:
    one, two = Mechanism(1.0, 0.1, 3), Mechanism(2.0, 0.1, 4)
    assert merged([one, two, one]) == (Mechanism(1.0, 0.1, 6), two)
    assert epsilon([one, two], 1e-5)[0] == pytest.approx(epsilon([two, one], 1e-5)[0], rel=1e-3)
    assert epsilon([one, two], 1e-5)[0] > epsilon([one], 1e-5)[0]


def test_nothing_trained_costs_nothing() -> None:
    assert epsilon([], 1e-5) == (0.0, "prv")


@pytest.mark.parametrize(("patients", "delta"), [(1, 1e-5), (10_000, 1e-5), (1_000_000, 1e-7)])
def test_delta_is_a_tenth_of_one_patients_share_and_never_above_1e_5(patients: int, delta: float) -> None:
    assert default_delta(patients) == pytest.approx(delta)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_a_delta_that_makes_no_sense_is_refused(delta: float) -> None:
    with pytest.raises(UsageError, match="delta"):
        epsilon([Mechanism(1.0, 0.1, 1)], delta)


def test_no_finite_epsilon_is_stated_without_noise_or_with_a_delta_below_the_caps_share() -> None:
    with pytest.raises(BudgetError):
        epsilon([Mechanism(0.0, 0.1, 1)], 1e-5)
    with pytest.raises(BudgetError):
        epsilon([Mechanism(1.0, 0.1, 1000)], 1e-9)


def test_a_statement_says_whose_privacy_against_what_and_what_it_leaves_out() -> None:
    told = statement([Mechanism(2.0, 0.5, 20), Mechanism(1.5, 0.25, 10)], patients=40)
    assert (told.unit, told.relation, told.accountant) == ("patient", "add or remove one patient", "prv")
    assert (told.delta, told.steps, told.patients) == (1e-5, 30, 40)
    assert (told.noise_multiplier, told.sample_rate) == (1.5, 0.5)  # the worse of each
    assert any("another hospital" in text for text in told.not_covered)
    assert any("number of patients" in text for text in told.not_covered)
    assert any("metrics" in text for text in told.not_covered)
    assert json.loads(json.dumps(told.to_json()))["epsilon"] == told.epsilon


def test_what_is_remembered_of_settings_changes_no_figure() -> None:
    """The grid of the exact accountant is that of Opacus, for many settings at once and asked again."""
    history = [Mechanism(1.0 + index / 4, 0.1 + index / 20, 3 + index) for index in range(4)]
    accountant = PRVAccountant()
    accountant.history = [tuple(one) for one in history]
    for _ in range(2):
        assert accountants.prv(history, 1e-5) == accountant.get_epsilon(1e-5)


@pytest.mark.parametrize("noise", [5e-324, 1e-300, 1e-160, 1e-5, 0.01, 1e154, 1e155, 1e300])
@pytest.mark.parametrize("rate", [5e-324, 1e-300, 0.5, 1 - 2.0**-53, 1.0])
def test_at_the_edge_of_floats_there_is_an_epsilon_or_none_and_no_other_error(noise: float, rate: float) -> None:
    history = [Mechanism(noise, rate, 10)]
    assert bound(history, 1e-5) >= 0
    try:
        assert epsilon(history, 1e-5)[0] >= 0
    except BudgetError as error:
        assert "no finite epsilon" in error.message
        assert not within(history, 1e-5, 1e300)


def test_a_grid_that_would_take_minutes_is_not_made() -> None:
    """Renyi DP stands in: four million steps at a noise at which their epsilon is small."""
    value, name = epsilon([Mechanism(2000.0, 1.0, 4_000_000)], 1e-5)
    assert name == "rdp"
    assert 1.0 < value < 10.0
