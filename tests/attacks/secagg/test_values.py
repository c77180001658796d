"""Attempts with numbers: to leak through one that is not finite, to weigh too much, or to make the ring overflow."""

import numpy as np
import pytest

from shared.errors import PolicyError, ProtocolError
from shared.secagg.round_messages import RoundTask
from shared.vector import Vector
from tests.attacks.secagg.arena import REFUSALS, arena, data, flat, refused, send, task_of
from tests.shared.secagg.world import World, weighted

BOTH_RINGS = pytest.mark.parametrize("bits", [32, 16])


@BOTH_RINGS
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 2047, 4095])
def test_an_update_that_is_not_finite(value: float, place: int, bits: int) -> None:
    """A model of the coordinator makes one gradient NaN or infinite: refused before the claim, no value is named."""
    world = arena(4, ring_bits=bits)
    update = data(world)[1]
    update[place] = value
    with refused(world, PolicyError) as caught:
        send(world, task_of(world), 1, update)
    assert not any(str(one) in str(caught.value) for one in update[:50])
    update[place] = 0.0
    assert send(world, task_of(world), 1, update)


@pytest.mark.parametrize("weight", [0, -1, 1001, 2**32, 2**63, 2**64, -(2**63)])
def test_a_weight_that_no_hospital_may_have(weight: int) -> None:
    """A hospital is led to weigh 0, less, or above the cap, which would scale its update out of the sum: refused."""
    world = arena(4)
    with refused(world, PolicyError):
        send(world, task_of(world), 1, data(world)[1], weight)


@pytest.mark.parametrize("metric", [float("nan"), float("inf"), -float("inf"), 2.0**36 * 1.01, -(2.0**40), 1e308])
def test_a_metric_that_does_not_fit(metric: float) -> None:
    """A metric overflows its lane into its neighbours' sums: refused before the claim."""
    world = arena(4)
    with refused(world, PolicyError):
        world.member(1).mask(task_of(world), data(world)[1], 10, {"loss": metric})


@pytest.mark.parametrize("metrics", [{}, {"accuracy": 1.0}, {"loss": 1.0, "accuracy": 1.0}], ids=str)
def test_other_metrics_than_the_task_has(metrics: dict[str, float]) -> None:
    """A hospital's code adds or lacks a metric: refused before the claim, no lane is filled with something else."""
    world = arena(4)
    with refused(world, REFUSALS):
        world.member(1).mask(task_of(world), data(world)[1], 10, metrics)


@pytest.mark.parametrize(
    "update",
    [np.zeros(4096, np.float64), np.zeros((64, 64), np.float32), np.zeros(4096, np.int32), np.zeros(4096, np.float16)],
    ids=lambda one: f"{one.dtype}{one.shape}",
)
def test_an_update_of_another_type(update: Vector) -> None:
    """A task of the coordinator returns another type or shape, which would be read as other numbers: refused."""
    world = arena(4)
    with refused(world, PolicyError):
        send(world, task_of(world), 1, update)


def extremes(world: World, value: float, size: int = 500) -> dict[int, Vector]:
    return {index: np.full(size, value, np.float32) for index in world.everyone}


@BOTH_RINGS
@pytest.mark.parametrize(("n", "value"), [(3, 1.0), (3, -1.0), (7, 3.4e38), (7, -1e30), (16, -1.0), (16, 3.4e38)])
def test_overflow_at_full_scale(n: int, value: float, bits: int) -> None:
    """All hospitals send the greatest element at the greatest weight, to wrap the sum: it comes out as the clip."""
    world = arena(n, ring_bits=bits, rounds=1)
    task = task_of(world, size=500)
    outcome = world.run(task, extremes(world, value), flat(world))
    step = 1.0 / (2 ** (bits - 1) // n - 1)
    assert np.abs(outcome.average - np.sign(value)).max() <= 4 * step
    assert outcome.weight == n * 1000


@BOTH_RINGS
def test_one_at_full_scale_among_small_ones(bits: int) -> None:
    """One hospital sends the extremes with the least weight, to shift the others' bits: the average is right."""
    world = arena(5, ring_bits=bits)
    updates = data(world, 500)
    updates[1] = np.where(np.arange(500) % 2, 1.0, -1.0).astype(np.float32)
    weights = {1: 1, 2: 1000, 3: 1000, 4: 999, 5: 500}
    outcome = world.run(task_of(world, size=500), updates, weights)
    step = 1000 / (sum(weights.values()) * (2 ** (bits - 1) // 5 - 1))
    assert np.abs(outcome.average - weighted(updates, weights)).max() < 5 * 1.01 * step


def test_tiny_and_negative_zero_elements() -> None:
    """A hospital sends subnormal numbers and negative zeros: they are zeros of the ring, not the top of it."""
    world = arena(4)
    updates = {index: np.array([1e-45, -1e-45, -0.0, 0.0] * 10, np.float32) for index in world.everyone}
    outcome = world.run(task_of(world, size=40), updates, flat(world))
    assert not outcome.average.any()


def test_sixteen_bits_do_not_lean() -> None:
    """A coordinator averages many rounds of the 16-bit ring: the rounding has no bias by which values would show."""
    world = arena(3, ring_bits=16, rounds=24)
    updates = extremes(world, 0.3000123, 400)
    total = np.zeros(400)
    for number in range(1, 25):
        total += world.run(task_of(world, number, 400), updates, flat(world)).average
    step = 1.0 / (2**15 // 3 - 1)
    assert abs(total.mean() / 24 - 0.3000123) < 0.05 * step


def test_metrics_at_the_limit_do_not_touch_each_other() -> None:
    """All hospitals send the greatest metrics with both signs: every sum is its own, up to the fixed point."""
    world = arena(7)
    task: RoundTask = task_of(world, size=4, metrics=("a", "b", "c"))
    tally = world.tally(task)
    limit = 2.0**36
    for index in world.everyone:
        metrics = {"a": limit, "b": -limit, "c": 2.0**-20 * index}
        tally.absorb(index, world.member(index).mask(task, data(world, 4)[index], 1000, metrics).upload)
    world.confirm(tally)
    world.unmask(tally)
    assert tally.finish().metrics == {"a": 7 * limit, "b": -7 * limit, "c": 28 * 2.0**-20}


@BOTH_RINGS
def test_a_header_that_was_tampered_with(bits: int) -> None:
    """A link adds to any lane of a masked header: canary, weight or unused lane give it away."""
    world = arena(4, ring_bits=bits, rounds=9)
    for lane in range(8):
        task = task_of(world, lane + 1, 50)
        tally = world.tally(task)
        for index in world.everyone:
            raw = bytearray(send(world, task, index, data(world, 50)[index]))
            if index == 1:
                raw[header_start(raw) + 8 * lane + 7] ^= 0x40
            tally.absorb(index, raw)
        world.confirm(tally)
        world.unmask(tally)
        if lane == 2:
            assert tally.finish().metrics["loss"] != 10.0
            continue
        with pytest.raises(ProtocolError):
            tally.finish()


def header_start(raw: bytearray) -> int:
    """Where the lanes begin: behind the encoding of the domain, the index and the context."""
    return raw.index(b"masked") + 6 + 9 + 37 + 5
