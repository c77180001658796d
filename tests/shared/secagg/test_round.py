"""The masked average is the average, whoever drops out and whenever, and nobody else can tell what was in it."""

import numpy as np
import pytest

from tests.shared.secagg.world import World, update, weighted

SIZE = 70_001  # more than one chunk, and odd


@pytest.mark.parametrize("bits", [32, 16])
@pytest.mark.parametrize("post_quantum", [False, True])
@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_masked_average_is_the_average(n: int, bits: int, post_quantum: bool) -> None:
    world = World.of(n, ring_bits=bits, post_quantum=post_quantum)
    world.begin(rounds=2)
    weights = {index: 100 * index for index in world.everyone}
    for number in (1, 2):
        updates = {index: update(10 * number + index, SIZE) for index in world.everyone}
        outcome = world.run(world.task(number, SIZE), updates, weights)
        step = world.federation.clip * 1000 * n / ((2 ** (bits - 1) - 1) // n * sum(weights.values()))
        assert np.abs(outcome.average - weighted(updates, weights)).max() <= step * (1.01 if bits == 16 else 0.51)
        assert outcome.weight == sum(weights.values())
        assert outcome.metrics == {"loss": 0.5 * sum(world.everyone)}
        assert outcome.included == world.everyone
        assert not outcome.faults


def test_a_million_parameters_of_ten_hospitals_come_out_to_1e_8_of_the_clip() -> None:
    world = World.of(10)
    world.begin(rounds=1)
    weights = {index: 550 + 45 * (index - 5) for index in world.everyone}
    updates = {index: update(index, 10**6) for index in world.everyone}
    outcome = world.run(world.task(1, 10**6), updates, weights, workers=2)
    error = outcome.average - weighted(updates, weights)
    assert np.abs(error).max() <= 1e-8 * world.federation.clip
    plain = np.zeros(10**6, np.float32)
    for index in world.everyone:
        plain += updates[index] * np.float32(weights[index])
    assert np.abs(error).max() < np.abs(plain / np.float32(sum(weights.values())) - weighted(updates, weights)).max()
