"""The audit of the training code: its statistics hold, it finds a planted fault, and it does not accuse honest code."""

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.stats import beta, binom
from torch import nn
from typer.testing import CliRunner

from client.training import loop
from client.training.patient_dp import PatientDPOptimizer
from shared.charter import PrivacyPlan, TaskPlan
from shared.cli import build
from shared.errors import FedwardError, UsageError
from shared.imaging.networks import seeded
from simulation.audit_privacy import PrivacyAudit, audit
from simulation.privacy_bound import guessed, lower_bound, most_telling, p_value
from tests.client.training.toys import ToyTask

torch.set_num_threads(1)

CHARTER = """
[federation]
id = "audited"
purpose = "research"

[privacy]
mode = "patient"
sample_rate = 0.5
noise_multiplier = 5.5

[[task]]
name = "denoise"
rounds = 2
local_steps = 1
"""


# --- what guesses say ---


def test_without_delta_the_p_value_is_a_binomial_tail() -> None:
    assert p_value(10, 10, 8, 0.0, 0.0) == pytest.approx(56 / 1024)  # 45 + 10 + 1 ways of 8, 9 and 10 heads
    assert p_value(10, 10, 10, math.log(3), 0.0) == pytest.approx(0.75**10)
    assert p_value(10, 4, 0, 1.0, 0.0) == 1.0


def test_delta_adds_twice_the_canaries_times_the_steepest_slope_of_the_tail() -> None:
    # Two fair coins, both right: the tail is 1/4, and 1/2 or (1/2 + 1/4) / 2 more one or two guesses below.
    assert p_value(10, 2, 2, 0.0, 1e-3) == pytest.approx(1 / 4 + 2 * 10 * 1e-3 * 1 / 2)
    # One of two right: the tail is 3/4, and 1/4 more one guess below.
    assert p_value(5, 2, 1, 0.0, 1e-2) == pytest.approx(3 / 4 + 2 * 5 * 1e-2 * 1 / 4)
    # Nine of ten at epsilon ln 3: by hand, the steepest slope is one guess further down.
    tail = partial(binom.pmf, n=10, p=0.75)
    slopes = [sum(tail(9 - k) for k in range(1, i + 1)) / i for i in range(1, 10)]
    assert p_value(100, 10, 9, math.log(3), 1e-4) == pytest.approx(tail(9) + tail(10) + 0.02 * max(slopes))


@given(
    guesses=st.integers(1, 300),
    correct=st.integers(0, 300),
    spare=st.integers(0, 300),
    epsilon=st.floats(0, 6),
    more=st.floats(0, 2),
    delta=st.floats(0, 1e-3),
)
@settings(max_examples=150, deadline=None)
def test_more_correct_guesses_are_less_likely_and_more_epsilon_or_canaries_make_them_likelier(
    guesses: int, correct: int, spare: int, epsilon: float, *, more: float, delta: float
) -> None:
    correct = min(correct, guesses)
    canaries = guesses + spare
    here = p_value(canaries, guesses, correct, epsilon, delta)
    assert 0 <= here <= 1
    assert here <= p_value(canaries, guesses, max(correct - 1, 0), epsilon, delta) + 1e-12
    assert here <= p_value(canaries + 1, guesses, correct, epsilon, delta) + 1e-12
    assert here <= p_value(canaries, guesses, correct, epsilon, 2 * delta) + 1e-12
    assert p_value(canaries, guesses, correct, epsilon, 0) <= p_value(canaries, guesses, correct, epsilon + more, 0)


def test_without_delta_the_bound_is_that_of_clopper_and_pearson() -> None:
    for guesses, correct in ((100, 90), (500, 300), (1000, 1000)):
        least = beta.ppf(0.05, correct, guesses - correct + 1)
        exact = math.log(least / (1 - least))
        assert exact - 0.002 <= lower_bound(2000, guesses, correct, 0.0, 0.05) <= exact


def test_guesses_no_better_than_coins_bound_nothing() -> None:
    assert lower_bound(1000, 500, 250, 1e-5, 0.05) == 0.0
    assert lower_bound(1000, 500, 0, 1e-5, 0.05) == 0.0


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0])
def test_the_bound_holds_for_randomised_response_of_a_known_epsilon(epsilon: float) -> None:
    """The tight case: each answer is right with chance 1 / (1 + e**-epsilon). It may be exceeded 5 times in 100."""
    trials, canaries = 2000, 300
    correct = np.random.default_rng(1).binomial(canaries, 1 / (1 + math.exp(-epsilon)), trials)
    over = sum(lower_bound(canaries, canaries, int(v), 0.0, 0.05) > epsilon for v in correct)
    assert 0.02 * trials <= over <= binom.ppf(1 - 1e-6, trials, 0.05)


def test_the_choice_among_several_numbers_of_guesses_is_paid_for() -> None:
    """Without a union bound, the best of three looks at pure noise would exceed its 5 percent."""
    rng, over, trials = np.random.default_rng(2), 0, 1000
    for _ in range(trials):
        inside, scores = rng.random(200) < 0.5, rng.random(200)
        right = [(r, guessed(scores, inside, r)) for r in (10, 50, 200)]
        over += most_telling(200, right, 0.0, 0.05)[0] > 0
    assert over <= binom.ppf(1 - 1e-6, trials, 0.05)


def test_the_highest_scores_are_guessed_in_and_the_lowest_out() -> None:
    scores, inside = np.array([0.1, 5.0, -3.0, 2.0]), np.array([True, True, False, False])
    assert [guessed(scores, inside, r) for r in (0, 2, 4)] == [0, 2, 2]


@pytest.mark.parametrize("numbers", [(5, 6, 1, 0.0, 0.0), (5, 5, 6, 0.0, 0.0), (5, 5, 5, -1.0, 0.0), (5, 5, 5, 0, 2)])
def test_numbers_that_make_no_sense_are_refused(numbers: tuple[int, int, int, float, float]) -> None:
    with pytest.raises(ValueError, match="p-value"):
        p_value(*numbers)


# --- the audit of the code that trains ---


class WideToy(ToyTask):
    """Enough parameters for the canaries, and still milliseconds a gradient."""

    def network(self, seed: int, name: str | None = None) -> nn.Module:
        return seeded(lambda: nn.Sequential(nn.Conv2d(1, 40, 3, padding=1), nn.Conv2d(40, 1, 3, padding=1)), seed)


PLAN = TaskPlan("toy", rounds=4, local_steps=5)
PRIVACY = PrivacyPlan("patient", sample_rate=0.5, slices_per_patient=8, noise_multiplier=5.5)


def audited(canaries: int = 400, *, others: int = 1) -> PrivacyAudit:
    return audit(WideToy(), PLAN, PRIVACY, canaries=canaries, others=others)


def test_honest_code_is_not_accused() -> None:
    found = audited()
    assert [look.steps for look in found.looks][-1] == 20
    assert not found.violated
    for look in found.looks:
        assert look.lower <= look.claim < look.ceiling
        assert look.expected < look.claim
    assert found.statement.epsilon == found.looks[-1].claim
    assert found.statement.steps == 20
    assert 130 < found.canaries_in < 270


def test_clipping_slices_instead_of_patients_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault of engines whose unit is the slice: each of a patient's k slices is clipped, and all are added."""
    whole = PatientDPOptimizer.accumulate

    def slice_by_slice(optimizer: PatientDPOptimizer, gradients: Sequence[torch.Tensor]) -> None:
        for _ in range(PRIVACY.slices_per_patient):
            whole(optimizer, gradients)  # a canary's slices have the same gradient, and all are above the bound

    monkeypatch.setattr(PatientDPOptimizer, "accumulate", slice_by_slice)
    found = audited()
    assert found.violated
    assert found.looks[-1].lower > 1.3 * found.looks[-1].claim


def test_canaries_pass_through_clipping(monkeypatch: pytest.MonkeyPatch) -> None:
    """A canary's slope is far above the bound: without clipping every guess would be right."""
    monkeypatch.setattr(PatientDPOptimizer, "_factor", lambda optimizer, norm: 1.0)
    found = audited(canaries=200, others=0)
    assert found.violated
    assert found.looks[-1].correct == found.looks[-1].guesses == 100


def test_without_privacy_or_with_too_few_canaries_there_is_no_audit() -> None:
    with pytest.raises(UsageError, match="no differential privacy"):
        audit(WideToy(), PLAN, PrivacyPlan())
    with pytest.raises(UsageError, match="canaries"):
        audit(ToyTask(), PLAN, PRIVACY)  # ten parameters


def test_an_audit_that_cannot_show_a_fault_says_so() -> None:
    found = audit(WideToy(), TaskPlan("toy", rounds=1, local_steps=2), PrivacyPlan("patient"), canaries=60)
    assert found.looks[-1].blind
    assert found.to_json()["looks"][-1]["blind"]  # type: ignore[index]


# --- the command ---


def test_the_command_tells_bound_and_claim_and_writes_them(tmp_path: Path) -> None:
    (tmp_path / "charter.toml").write_text(CHARTER)
    given = ["simulate", str(tmp_path / "charter.toml"), "--audit-privacy", "--out", str(tmp_path / "out")]
    told = CliRunner().invoke(build(), given, catch_exceptions=False)
    assert told.exit_code == 0, told.output
    assert "claimed epsilon" in told.output
    assert "no proof" in told.output
    written = json.loads((tmp_path / "out" / "audit.json").read_bytes())
    assert written["looks"][-1]["lower"] <= written["statement"]["epsilon"]
    assert not (tmp_path / "out" / "report.html").exists()


def test_the_command_fails_where_the_claim_is_refuted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "charter.toml").write_text(CHARTER)
    monkeypatch.setattr(PatientDPOptimizer, "_factor", lambda optimizer, norm: 1.0)
    given = ["simulate", str(tmp_path / "charter.toml"), "--audit-privacy", "--out", str(tmp_path / "out")]
    told = CliRunner().invoke(build(), given)
    assert isinstance(told.exception, FedwardError)
    assert "ABOVE the claim" in told.output
    assert json.loads((tmp_path / "out" / "audit.json").read_bytes())["violated"]


def test_the_audit_trains_through_the_loop_of_a_hospital(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charge, receipt, sampler, noise and all: without a receipt for every step, nothing would have been trained."""
    steps = []
    sampler = loop.PatientSampler

    class Counted(sampler):  # type: ignore[valid-type,misc]
        def __init__(self, patients: int, rate: float, count: int) -> None:
            steps.append((patients, rate, count))
            super().__init__(patients, rate, count)

    monkeypatch.setattr(loop, "PatientSampler", Counted)
    found = audited(canaries=50)
    assert steps == [(found.canaries_in + found.others, 0.5, 5)] * 4
