"""Attempts to make an epsilon look smaller than it is: delta, settings at the edge, and training nobody counted."""

import math
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from client.app import close_sessions
from client.charge import Budget
from client.cli import app as commands
from client.ledger import Ledger
from client.ledger_file import read_book
from client.node import Node
from client.training.accounting import Mechanism, epsilon
from shared.errors import FedwardError, UsageError
from tests.attacks.privacy.forging import charge
from tests.attacks.privacy.hospital import header, set_budget, train, trained
from tests.federation import toy
from tests.federation.members import command

# --- delta ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delta", ["0.999", "0.5", "0.011", "1e-4", "0", "1", "nan", "-1e-9"])
def test_a_delta_at_which_everything_is_free_is_no_budget(real: Path, delta: str) -> None:
    """With delta above 1/N, publishing one of N patients outright would be within the budget."""
    who = ("--who", "Ada", "--why", "a test")
    with pytest.raises(UsageError):
        command(commands, "budget", "set", real, "--epsilon", 3, "--delta", delta, "--patients", 100, *who)
    assert read_book(real / "privacy" / "ledger.jsonl").budget is None


def test_epsilon_falls_with_delta_and_never_to_less_than_nothing(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        ledger.reserve(charge(noise_multiplier=1.0))
        found = [ledger.epsilon(delta) for delta in (1e-10, 1e-8, 1e-5, 1e-2, 0.1)]
    assert found == sorted(found, reverse=True)
    assert found[-1] >= 0


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, 2.0, math.nan, math.inf])
def test_a_delta_that_is_none(tmp_path: Path, delta: float) -> None:
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        ledger.reserve(charge())
        with pytest.raises(UsageError):
            ledger.epsilon(delta)
        with pytest.raises(UsageError):
            ledger.statement(delta)


# --- is it an upper bound? --------------------------------------------------------------------------------------------


def least(mu: float, delta: float) -> float:
    """The exact epsilon of a Gaussian mechanism with sensitivity mu (Balle and Wang 2018, theorem 8)."""
    low, high = 0.0, 1000.0
    for _ in range(80):
        middle = (low + high) / 2
        left = norm.cdf(mu / 2 - middle / mu) - math.exp(middle + norm.logcdf(-mu / 2 - middle / mu))
        low, high = (middle, high) if left > delta else (low, middle)
    return low


@pytest.mark.parametrize(("sigma", "steps"), [(8.0, 10), (1.0, 1), (0.5, 1), (2.0, 30), (40.0, 3000)])
@pytest.mark.parametrize("delta", [1e-7, 1e-5, 1e-2])
def test_with_everybody_in_every_step_epsilon_is_at_least_the_exact_one(sigma: float, steps: int, delta: float) -> None:
    found, _ = epsilon([Mechanism(sigma, 1.0, steps)], delta)
    exact = least(math.sqrt(steps) / sigma, delta)
    assert exact <= found <= 1.1 * exact + 0.05


@pytest.mark.parametrize(("sigma", "rate"), [(1.0, 0.5), (1.0, 0.01), (0.6, 0.9), (3.0, 0.25), (0.8, 1e-6)])
def test_one_sampled_step_costs_at_least_what_a_test_of_hypotheses_finds(sigma: float, rate: float) -> None:
    """Delta of one step, by integration, for adding and for removing the patient (Abadi et al. 2016, section 3.1)."""
    x = np.linspace(-15 * sigma, 15 * sigma + 1, 400_001)
    without = norm.pdf(x, 0, sigma)
    with_ = (1 - rate) * without + rate * norm.pdf(x, 1, sigma)
    width = x[1] - x[0]
    for delta in (1e-8, 1e-5, 1e-2):
        found, _ = epsilon([Mechanism(sigma, rate, 1)], delta)
        for one, other in ((with_, without), (without, with_)):
            assert np.maximum(one - math.exp(found) * other, 0).sum() * width <= delta * (1 + 1e-3)


def test_the_same_steps_in_pieces_cost_no_less(tmp_path: Path) -> None:
    """The same steps as one charge, as many, over runs, federations and tasks."""
    costs = []
    for pieces in (1, 3, 6):
        with Ledger(tmp_path / f"{pieces}.jsonl") as ledger:
            for number in range(1, pieces + 1):
                changes = {"run": f"r{number}", "federation": f"f{number % 2}", "task": f"t{number % 3}"}
                ledger.reserve(charge(1, steps=6 // pieces, noise_multiplier=2.0, **changes))
            costs.append(ledger.epsilon(1e-5))
    assert costs == [costs[0]] * 3


# --- settings at the edge ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"noise_multiplier": 1e-300},
        {"noise_multiplier": 5e-324},
        {"noise_multiplier": 10_000.0, "sample_rate": 5e-324},
        {"noise_multiplier": 1e-5},
        {"sample_rate": 5e-324},
        {"sample_rate": 1e-300, "noise_multiplier": 1e-3},
        {"sample_rate": 1.0, "noise_multiplier": 0.01},
        {"steps": 2**53 - 1},
    ],
    ids=repr,
)
@pytest.mark.parametrize("limit", [3.0, None], ids=["with a budget", "without"])
def test_settings_at_the_edge_are_charged_or_refused_and_never_another_error(
    tmp_path: Path, settings: dict[str, float], limit: float | None
) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        if limit is not None:
            ledger.set_budget(Budget(limit, 1e-5, 10), who="Ada", why="a test")
        before = path.read_bytes()
        try:
            ledger.reserve(charge(**settings))
        except FedwardError:
            assert path.read_bytes() == before
        try:
            assert ledger.spent() >= 0
        except FedwardError:
            assert limit is None, "what was admitted under a budget has an epsilon"
    read_book(path)


@pytest.mark.parametrize(
    "settings",
    [
        *[{"noise_multiplier": value} for value in (0.0, -1.0, math.nan, math.inf)],
        *[{"sample_rate": value} for value in (0.0, -0.1, 1.0000001, math.nan)],
        *[{"steps": value} for value in (0, -1, math.nan)],
        *[{"patients": value} for value in (0, -1)],
        *[{"mode": value} for value in ("off", "")],
    ],
    ids=repr,
)
def test_a_charge_of_no_possible_step_cannot_be_made(settings: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        charge(**settings)


def test_many_different_settings_are_decided_in_bounded_time(tmp_path: Path) -> None:
    """Every pair costs the exact accountant 0.2 s; far from the limit it is not asked. In seconds of this process."""
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        ledger.set_budget(Budget(100.0, 1e-5, 10), who="Ada", why="a test")
        epsilon([Mechanism(2.0, 0.1, 1)], 1e-5)  # brings torch
        started = time.process_time()
        for number in range(1, 21):
            ledger.reserve(charge(number, noise_multiplier=2.0 + number / 10, sample_rate=0.1 + number / 100))
        assert time.process_time() - started < 5.0


def test_a_refusal_after_many_different_settings_comes_in_bounded_time(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        for number in range(1, 7):
            ledger.reserve(charge(number, noise_multiplier=2.0 + number / 10, sample_rate=0.1 + number / 100))
        ledger.set_budget(Budget(ledger.spent() + 0.001, 1e-5, 10), who="Ada", why="a test")
        started = time.process_time()
        with pytest.raises(FedwardError):
            ledger.reserve(charge(9, noise_multiplier=1.0, steps=40))
        assert time.process_time() - started < 10.0


# --- training that no account sees ------------------------------------------------------------------------------------


def test_training_without_privacy_before_the_budget_is_not_passed_over_in_silence(real: Path) -> None:
    """No epsilon bounds what the first model told; "0.00 is spent" of the same patients would be a false sentence."""
    without = toy.charter(privacy={"mode": "off", "scores": "open"})
    Node.open(real).pin(without)
    assert trained(train(real, header(without)))
    close_sessions()
    try:
        set_budget(real, 3.0)
    except FedwardError:
        return  # an honest way out as well
    said = command(commands, "budget", "show", real)
    assert "without differential privacy" in said
