"""Numbers as people read them, and never more favourable than they are."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation.report import words


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("psnr", 33.456, "33.46"),
        ("psnr", math.inf, "∞"),
        ("ssim", 0.92349, "0.923"),
        ("ssim", -0.02, "\N{MINUS SIGN}0.020"),
        ("mse", 0.000412, "0.412"),
        ("miou", None, "\N{EN DASH}"),
        ("miou", math.nan, "\N{EN DASH}"),
    ],
)
def test_a_metric_has_its_digits(metric: str, value: float | None, text: str) -> None:
    assert words.number(metric, value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.35, "0.35"), (1e-5, "10⁻⁵"), (8.33e-6, "8.33 × 10⁻⁶"), (0.0, "0"), (math.inf, "∞")]
)
def test_very_small_figures_use_powers_of_ten(value: float, text: str) -> None:
    assert words.plain(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(48.2, "48 s"), (312.4, "5 min 12 s"), (3780, "1 h 03 min")])
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(("octets", "text"), [(999, "999 B"), (441_092, "441.1 kB"), (3_000_000_000_000, "3000.0 GB")])
def test_sizes(octets: int, text: str) -> None:
    assert words.size(octets) == text


@given(st.floats(0, 60))
def test_epsilon_is_rounded_up(epsilon: float) -> None:
    assert float(words.bound(epsilon)) >= epsilon - 1e-9


@given(st.floats(0, 30), st.floats(0, 1e-3))
def test_a_guess_is_never_better_than_certain_nor_worse_than_a_coin(epsilon: float, delta: float) -> None:
    assert 0.5 <= words.certainty(epsilon, delta) <= 1.0


def test_the_bound_on_a_guess_for_known_cases() -> None:
    assert words.certainty(0.0, 0.0) == 0.5
    assert words.certainty(math.log(3), 0.0) == pytest.approx(0.75)
    assert words.percent(0.75) == "75.0 %"
    assert words.percent(0.99961) == "99.97 %", "rounded up, and not to certainty"
    assert words.percent(1.0) == "100 %"


def test_methods_are_sorted_into_the_survey_and_what_is_stronger() -> None:
    assert not words.is_stronger("median")
    assert words.is_stronger("nlm_rician")
    assert words.is_untouched("noisy")
    assert words.method_title("federated_dp") == "Public, tuned under DP, local noise"
    assert words.method_title("never_heard_of") == "Never heard of"


def test_every_metric_says_what_it_is_and_in_which_range() -> None:
    for note in words.METRICS.values():
        assert len(note.definition) > 30
    assert "data range 1" in words.METRICS["psnr"].definition
    assert "scikit-image" in words.METRICS["ssim"].definition
