"""Attempts to foresee the noise or the sampled patients by fixing every seed that can be fixed."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from client.training.patient_dp import PatientDPOptimizer
from client.training.sampling import PatientSampler


def fix_all_seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(mode=True)


@pytest.fixture(autouse=True)
def _as_before() -> object:
    yield
    torch.use_deterministic_algorithms(mode=False)


def noise(size: int = 4000) -> np.ndarray:
    parameter = nn.Parameter(torch.zeros(size))
    optimizer = PatientDPOptimizer(
        torch.optim.SGD([parameter], lr=1.0), noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=1.0
    )
    optimizer.step()
    return -parameter.detach().numpy()


def test_fixed_seeds_do_not_repeat_the_noise() -> None:
    fix_all_seeds()
    first = noise()
    fix_all_seeds()
    second = noise()
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1


def test_the_noise_is_not_that_of_torch_or_numpy() -> None:
    fix_all_seeds()
    found = noise()
    fix_all_seeds()
    guesses = [torch.randn(4000).numpy(), np.random.default_rng(0).standard_normal(4000), np.random.randn(4000)]
    assert max(abs(np.corrcoef(found, guess)[0, 1]) for guess in guesses) < 0.1


def test_fixed_seeds_do_not_repeat_who_is_drawn() -> None:
    fix_all_seeds()
    first = list(PatientSampler(100, 0.5, 10))
    fix_all_seeds()
    assert list(PatientSampler(100, 0.5, 10)) != first
