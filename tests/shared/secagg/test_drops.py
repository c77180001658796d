"""Hospitals that drop out at every stage: the round finishes with the others, or ends with a message that says why."""

import numpy as np
import pytest

from shared.errors import ProtocolError
from tests.shared.secagg.world import World, update, weighted

SIZE = 300


def updates_of(members: tuple[int, ...]) -> tuple[dict[int, np.ndarray], dict[int, int]]:
    return {index: update(index, SIZE) for index in members}, {index: 100 + index for index in members}


def close(world: World, average: np.ndarray, expected: np.ndarray) -> bool:
    steps = 4 if world.federation.ring_bits == 16 else 1
    return bool(
        np.abs(average - expected).max()
        <= steps * 10 * world.federation.clip / (2 ** (world.federation.ring_bits - 1) / 100)
    )


@pytest.mark.parametrize("post_quantum", [False, True])
@pytest.mark.parametrize("bits", [32, 16])
@pytest.mark.parametrize("stage", ["advert", "share", "train", "confirm", "unmask"])
def test_a_hospital_that_drops_out_at_any_stage_costs_itself_only(stage: str, bits: int, post_quantum: bool) -> None:
    world = World.of(5, ring_bits=bits, post_quantum=post_quantum)
    world.begin(absent={2} if stage == "advert" else (), mute={2} if stage == "share" else ())
    task = world.task(1, SIZE)
    there = tuple(index for index in world.everyone if index != 2 or stage in {"confirm", "unmask"})
    updates, weights = updates_of(there)
    silent = ({2} if stage == "confirm" else (), {2} if stage == "unmask" else ())
    outcome = world.run(task, updates, weights, silent=silent)
    assert outcome.included == there
    assert outcome.weight == sum(weights.values())
    assert outcome.metrics == {"loss": 0.5 * sum(there)}
    assert close(world, outcome.average, weighted(updates, weights))


def test_two_drop_outs_before_the_vector_and_none_later() -> None:
    world = World.of(10)
    world.begin()
    updates, weights = updates_of((1, 2, 4, 5, 6, 7, 9, 10))
    outcome = world.run(world.task(1, SIZE), updates, weights)
    assert np.allclose(outcome.average, weighted(updates, weights), atol=1e-7)


def test_one_early_and_one_late_drop_out() -> None:
    world = World.of(10)
    world.begin()
    updates, weights = updates_of(tuple(index for index in world.everyone if index != 2))
    outcome = world.run(world.task(1, SIZE), updates, weights, silent=({5}, ()))
    assert outcome.included == tuple(updates)
    assert np.allclose(outcome.average, weighted(updates, weights), atol=1e-7)


@pytest.mark.parametrize(
    ("there", "silent", "what"),
    [
        ((1, 2, 3), ((), ()), "3 vectors are fewer than 4"),
        ((1, 2, 3, 4), ({1}, ()), "3 confirmations are fewer than 4"),
        ((1, 2, 3, 4), ((), {1}), "3 answers with shares are fewer than 4"),
    ],
)
def test_below_the_threshold_the_round_ends(
    there: tuple[int, ...], silent: tuple[set[int], set[int]], what: str
) -> None:
    world = World.of(5)
    world.begin()
    updates, weights = updates_of(there)
    with pytest.raises(ProtocolError, match=what):
        world.run(world.task(1, SIZE), updates, weights, silent=silent)
    updates, weights = updates_of(world.everyone)
    again = world.run(world.task(2, SIZE), updates, weights)
    assert np.allclose(again.average, weighted(updates, weights), atol=1e-7)


def test_with_three_a_drop_out_ends_the_round() -> None:
    world = World.of(3)
    world.begin()
    updates, weights = updates_of((1, 2))
    with pytest.raises(ProtocolError, match="2 vectors are fewer than 3"):
        world.run(world.task(1, SIZE), updates, weights)


def test_a_hospital_that_sent_no_key_encapsulation_costs_the_epoch_and_not_the_next() -> None:
    world = World.of(5, post_quantum=True)
    for index in world.everyone:
        world.epoch.advert(world.member(index).advertise(1))
    adverts = world.epoch.adverts()
    for index in (1, 2, 4, 5):
        world.epoch.kem(world.member(index).encapsulate(1, adverts))
    with pytest.raises(ProtocolError, match="hospital-3 has sent no key encapsulation"):
        world.epoch.share_request(1, 1, 2)
    world.begin(2, absent={3})
    updates, weights = updates_of((1, 2, 4, 5))
    outcome = world.run(world.task(1, SIZE), updates, weights)
    assert np.allclose(outcome.average, weighted(updates, weights), atol=1e-7)


def test_rounds_are_dealt_further_within_an_epoch() -> None:
    world = World.of(4)
    world.begin(rounds=2)
    updates, weights = updates_of(world.everyone)
    world.run(world.task(2, SIZE), updates, weights)
    assert world.epoch.ready(3) == ()
    world.deal(3, 4)
    outcome = world.run(world.task(5, SIZE), updates, weights)
    assert np.allclose(outcome.average, weighted(updates, weights), atol=1e-7)


def test_a_round_of_metrics_alone_has_no_body() -> None:
    world = World.of(4)
    world.begin()
    names = tuple(f"sum_{place}" for place in range(20))
    outcome = world.run(
        world.task(1, 0, names), {i: update(i, 0) for i in world.everyone}, dict.fromkeys(world.everyone, 1)
    )
    assert outcome.average.size == 0
    assert outcome.metrics == dict.fromkeys(names, 5.0)
