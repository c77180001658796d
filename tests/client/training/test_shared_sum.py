"""A hospital's part of a step under shared noise, and what such steps cost."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from client.charge import Charge, Receipt
from client.training.accounting import Mechanism, epsilon
from client.training.loop import price, train_round
from client.training.shared_accounting import shared_statement
from client.training.shared_sum import shared_sum
from shared.charter import Charter, MaskingPlan, PrivacyPlan
from shared.errors import BudgetError, PolicyError
from shared.noise_shares import NoisePlan
from shared.vector import Layout
from shared.weights import weights_of
from tests.client.training import toys
from tests.federation import toy
from tests.federation.members import invented

PLAN = replace(toys.PLAN, local_steps=1)
PRIVACY = PrivacyPlan("distributed", sample_rate=1.0, slices_per_patient=2, noise_multiplier=2.0, patients=20)


def charter(colluding: int = 1, **privacy: Any) -> Charter:
    masking = MaskingPlan(threshold=4, colluding=colluding)
    settings = {"mode": "distributed", "noise_multiplier": 2.0, "patients": 20, **privacy}
    return toy.charter(members=invented(5), masking=masking, privacy=settings, plan={"local_steps": 1})


NOISE = NoisePlan.of(charter())


def receipt(**changes: Any) -> Receipt:
    paid = {"noise_multiplier": 2.0, "sample_rate": 1.0, "steps": 1, "patients": 20, **changes}
    return Receipt(Charge(run="r", federation="test", task="toy", round=1, mode="distributed", **paid))


def made(network: nn.Module | None = None, **changes: Any) -> np.ndarray:
    network = network if network is not None else toys.ToyTask().network(0)
    options: dict[str, Any] = {
        "privacy": PRIVACY,
        "noise": NOISE,
        "layout": Layout.of(weights_of(network)),
        "receipt": receipt(),
        **changes,
    }
    found = shared_sum(toys.ToyTask(), network, toys.people(3), PLAN, **options)
    assert found.outcome.loss_sum is None
    assert found.outcome.history == (Mechanism(2.0, 1.0, 1),)
    return found.words


def test_it_is_the_gradient_and_a_share_of_noise_modulo_the_ring_and_the_network_stays() -> None:
    network = toys.ToyTask().network(0)
    before = weights_of(network)
    quiet = replace(NOISE, noise_multiplier=2.0, clip=1.0)
    sums = []
    for _ in range(50):
        words = made(network, noise=quiet)
        assert words.dtype == np.uint32
        sums.append(words.view(np.int32) * NOISE.unit)
    assert all(np.array_equal(value, before[name]) for name, value in weights_of(network).items())
    spread = np.std(np.concatenate(sums))
    assert spread == pytest.approx(2.0 / math.sqrt(NOISE.honest), rel=0.25)


def test_no_step_is_taken_that_was_not_paid_for() -> None:
    for unpaid in (None, receipt(noise_multiplier=3.0), receipt(sample_rate=0.5), receipt(steps=2)):
        with pytest.raises(BudgetError):
            made(receipt=unpaid)
    once = receipt()
    made(receipt=once)
    with pytest.raises(BudgetError):
        made(receipt=once)


def test_the_charge_names_the_agreed_number_of_patients() -> None:
    assert price(toys.ToyTask(), toys.people(3), PLAN, PRIVACY, round_number=1).patients == 20


def test_only_what_trains_may_travel() -> None:
    network = toys.ToyTask().network(0)
    layout = Layout.of(weights_of(network))
    network.bias.requires_grad_(False)  # type: ignore[union-attr]
    with pytest.raises(PolicyError, match="nothing travels but what trains, and here they differ in bias"):
        made(network, layout=layout)
    network = toys.ToyTask().network(0)
    network.register_buffer("mean", torch.zeros(3))
    with pytest.raises(PolicyError, match="differ in mean"):
        made(network)


def test_the_ordinary_loop_takes_no_step_of_shared_noise() -> None:
    with pytest.raises(PolicyError, match="taken by the coordinator"):
        train_round(
            toys.ToyTask(),
            toys.ToyTask().network(0),
            toys.people(3),
            PLAN,
            round_number=1,
            privacy=PRIVACY,
            seed=None,
            receipt=receipt(),
        )


# --- accounting -------------------------------------------------------------------------------------------------------

HISTORY = (Mechanism(5.5, 0.5, 320),)


def test_the_statement_says_whose_privacy_against_whom_and_what_not() -> None:
    rules = charter()
    told = shared_statement(rules, [Mechanism(2.0, 0.5, 1)] * 3)
    assert (told.unit, told.relation) == ("patient", "add or remove one patient of one hospital")
    assert (told.steps, told.patients, told.delta) == (3, 20, 1e-5)
    assert told.epsilon == epsilon([Mechanism(2.0, 0.5, 3)], 1e-5)[0]
    covers, not_covered = "\n".join(told.covers), "\n".join(told.not_covered)
    assert "the coordinator with up to 1 other hospital that tell" in covers
    assert "3 of every 4 hospitals in a sum" in covers
    assert f"{2 / math.sqrt(3):.4g} times the bound" in covers
    assert "at another hospital" in not_covered
    assert "adds less noise than agreed counts as if it did" in not_covered
    assert "the coordinator, or 1 other hospital, and against" in "\n".join(
        shared_statement(charter(colluding=0), HISTORY).covers
    )
    assert shared_statement(charter(delta=1e-7), HISTORY).delta == 1e-7
