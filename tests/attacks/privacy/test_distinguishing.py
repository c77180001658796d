"""The attack that differential privacy is about: was this patient in the step? Through the real code, many times over.

The attacker knows everything but the patient's presence: the model, the others, the direction in which the patient
moves the step, all settings. The best that can be done is a threshold on the movement in that direction (Neyman and
Pearson 1933), and what is found is held against every epsilon of the curve, and against the exact best.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.stats import beta, norm
from torch import nn

from client.charge import Receipt
from client.training.accounting import Mechanism, epsilon
from client.training.loop import price, train_round
from client.training.shared_sum import shared_sum
from shared.charter import PrivacyPlan
from shared.imaging.images import PatientImages, StudyImages
from shared.noise_shares import NoisePlan
from shared.vector import Layout
from shared.weights import travelling
from tests.attacks.privacy.test_shared_noise_attacks import charter
from tests.client.training.toys import PLAN, ToyTask

torch.set_num_threads(1)

TRIALS = 1000
SURE = 1e-6
STEP = replace(PLAN, local_steps=1, local_lr=1.0)


class OneWeight(ToyTask):
    """Its gradient is the sum of the pixels: the white patient stands at the bound, the black ones add nothing."""

    def network(self, seed: int, name: str | None = None) -> nn.Module:
        network = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.constant_(network.weight, float(seed))
        return network

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.sum() + 0 * targets.sum()


def patient(key: str, value: float) -> PatientImages:
    images = np.full((1, 4, 4), value, np.float32)
    return PatientImages(key, (StudyImages("MR", images, images, None, (1.0, 1.0)),))


OTHERS = [patient("A", 0.0), patient("B", 0.0)]
EXTREME = patient("X", 1e4)
TASK = OneWeight()


def alone(privacy: PrivacyPlan, people: list[PatientImages]) -> float:
    """What a hospital that adds all of the noise answers, as the movement of the sum in multiples of C."""
    network = TASK.network(0)
    receipt = Receipt(price(TASK, people, STEP, privacy, round_number=1, constant=3))
    train_round(TASK, network, people, STEP, round_number=1, privacy=privacy, seed=None, receipt=receipt)
    (weight,) = network.parameters()
    return -float(weight.detach()) * privacy.sample_rate * 3 / privacy.clip


RULES = charter(sample_rate=1.0, noise_multiplier=1.0)


def together(privacy: PrivacyPlan, people: list[PatientImages]) -> float:
    """What is left of a sum over three hospitals for one of them, which takes off its own share."""
    noise, total = NoisePlan.of(RULES), np.zeros(1, np.uint32)
    for members in (people, OTHERS):  # the third one's words are known to it
        receipt = Receipt(price(TASK, members, STEP, RULES.privacy, round_number=1))
        network = TASK.network(0)
        layout = Layout.of(travelling(network))
        options = {"privacy": RULES.privacy, "noise": noise, "layout": layout, "receipt": receipt}
        total += shared_sum(TASK, network, members, STEP, **options).words  # type: ignore[arg-type]
    return float(total.view(np.int32)[0]) * noise.unit / privacy.clip


@dataclass(frozen=True)
class Found:
    """What the attacker saw in many steps without and with the patient."""

    without: np.ndarray
    with_: np.ndarray

    @classmethod
    def of(cls, act: Callable[[PrivacyPlan, list[PatientImages]], float], privacy: PrivacyPlan) -> "Found":
        runs = [[act(privacy, people) for _ in range(TRIALS)] for people in (OTHERS, [*OTHERS, EXTREME])]
        return cls(*map(np.array, runs))

    def rates(self, threshold: float) -> tuple[int, int]:
        return int((self.with_ > threshold).sum()), int((self.without > threshold).sum())


def at_least(count: int) -> float:
    """Clopper and Pearson 1934: with less than this chance, so many hits would be luck of one in a million."""
    return float(beta.ppf(SURE, count, TRIALS - count + 1)) if count else 0.0


def at_most(count: int) -> float:
    return float(beta.ppf(1 - SURE, count + 1, TRIALS - count)) if count < TRIALS else 1.0


SETTINGS = [
    (alone, PrivacyPlan("patient", clipping="flat", sample_rate=1.0, slices_per_patient=1, noise_multiplier=1.0)),
    (alone, PrivacyPlan("patient", clipping="flat", sample_rate=0.5, slices_per_patient=1, noise_multiplier=0.5)),
    (together, PrivacyPlan("patient", clipping="automatic", sample_rate=1.0, noise_multiplier=1.0)),
]


@pytest.mark.parametrize(("act", "privacy"), SETTINGS, ids=["everybody in the step", "every other one", "shared noise"])
def test_nobody_is_told_apart_better_than_epsilon_allows_nor_much_worse(
    act: Callable[[PrivacyPlan, list[PatientImages]], float], privacy: PrivacyPlan
) -> None:
    found = Found.of(act, privacy)
    mechanism = [Mechanism(privacy.noise_multiplier, privacy.sample_rate, 1)]
    curve = [(epsilon(mechanism, delta)[0], delta) for delta in (1e-5, 0.01, 0.05, 0.1, 0.2, 0.3)]
    for threshold in (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0):
        hits, alarms = found.rates(threshold)
        for value, delta in curve:
            assert at_least(hits) <= math.exp(value) * at_most(alarms) + delta
            assert at_least(TRIALS - alarms) <= math.exp(value) * at_most(TRIALS - hits) + delta
    hits, alarms = found.rates(0.5)
    sigma = privacy.noise_multiplier
    best = privacy.sample_rate * (2 * norm.cdf(0.5 / sigma) - 1)
    assert (hits - alarms) / TRIALS == pytest.approx(best, abs=5 / math.sqrt(2 * TRIALS)), "the attack is the best one"


def test_the_attack_would_find_half_of_the_noise() -> None:
    """The power of the test above: a step that has half the noise that it is said to have is caught."""
    weak = PrivacyPlan("patient", clipping="flat", sample_rate=1.0, slices_per_patient=1, noise_multiplier=0.5)
    found = Found.of(alone, weak)
    hits, alarms = found.rates(0.5)
    curve = [(epsilon([Mechanism(1.0, 1.0, 1)], delta)[0], delta) for delta in (0.05, 0.1, 0.2, 0.3)]
    assert any(at_least(hits) > math.exp(value) * at_most(alarms) + delta for value, delta in curve)
