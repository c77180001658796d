"""Attempts with hospitals that vanish: to shrink the sum, or to read whoever vanished."""

import numpy as np
import pytest

from shared.errors import ProtocolError
from shared.secagg.tally import Tally
from tests.attacks.secagg.arena import (
    REFUSALS,
    arena,
    ask_confirm,
    ask_unmask,
    data,
    flat,
    forge_confirmation,
    refused,
    send,
    send_all,
    task_of,
)
from tests.attacks.secagg.attacker import Attacker
from tests.attacks.secagg.coordinator import Liar
from tests.shared.secagg.world import World, weighted

POST_QUANTUM = pytest.mark.parametrize("post_quantum", [False, True], ids=["x25519", "ml-kem"])


def opened(world: World, present: tuple[int, ...]) -> Tally:
    """A round to which only ``present`` sent their vectors."""
    task = task_of(world)
    tally = world.tally(task)
    updates = data(world)
    world.upload(tally, task, {index: updates[index] for index in present}, flat(world))
    return tally


@pytest.mark.parametrize(("n", "present"), [(3, (1, 2)), (4, (1, 2)), (5, (1, 2, 3)), (10, (1, 2, 3, 4, 5, 6, 7))])
def test_below_the_threshold_at_train(n: int, present: tuple[int, ...]) -> None:
    """Too many vectors do not come: the honest coordinator cannot go on, and no hospital signs so small a set."""
    world = arena(n)
    tally = opened(world, present)
    with pytest.raises(ProtocolError):
        tally.confirm_request()
    for index in present:
        with refused(world, REFUSALS):
            ask_confirm(world, task_of(world), index, present)


@pytest.mark.parametrize(("n", "signers"), [(3, (1, 2)), (4, (1, 2)), (5, (1, 2, 3))])
def test_below_the_threshold_at_confirm(n: int, signers: tuple[int, ...]) -> None:
    """Too many hospitals are silent at ``confirm``: the honest coordinator cannot go on, a lying one gets no share."""
    world = arena(n)
    updates, task = data(world), task_of(world)
    tally = opened(world, world.everyone)
    request = tally.confirm_request()
    for index in signers:
        tally.confirmation(world.member(index).confirm(request))
    with pytest.raises(ProtocolError):
        tally.unmask_request(1)
    world = arena(n)
    liar = Liar.at(world, task, updates, ())
    liar.confirm(world.everyone, signers)
    liar.unmask(world.everyone)
    assert len(liar.refusals) == n
    assert not any(liar.attacker.shares.values())
    assert not liar.attacker.reads(1, updates[1])


@pytest.mark.parametrize(("n", "answers"), [(3, (1, 2)), (4, (1, 2)), (5, (1, 2, 3))])
def test_below_the_threshold_at_unmask(n: int, answers: tuple[int, ...]) -> None:
    """Too many hospitals are silent at ``unmask``: the round ends without a result, and t - 1 shares say nothing."""
    world = arena(n)
    updates, task = data(world), task_of(world)
    tally = opened(world, world.everyone)
    world.confirm(tally)
    attacker = Attacker(world)
    for index in answers:
        raw = world.member(index).unmask(tally.unmask_request(index))
        tally.reveal(raw)
        attacker.got(raw, world.everyone)
    with pytest.raises(ProtocolError):
        tally.finish()
    world = arena(n)
    attacker.world = world
    attacker.saw(task, send_all(world, task, updates).values())
    assert not attacker.reads(1, updates[1])
    assert attacker.smallest_sum(1) is None


@POST_QUANTUM
def test_a_late_upload(post_quantum: bool) -> None:
    """Coordinator and c hospitals keep a vector that came after its sender was counted out: b still hides it."""
    world = arena(5, post_quantum=post_quantum)
    updates, task = data(world), task_of(world)
    on_time = (2, 3, 4, 5)
    tally = world.tally(task)
    attacker = Attacker(world, (4, 5))
    for index in on_time:
        raw = send(world, task, index, updates[index], 1000)
        attacker.saw(task, [raw])
        tally.absorb(index, raw)
    request = tally.confirm_request()
    late = send(world, task, 1, updates[1], 1000)
    attacker.saw(task, [late])
    with pytest.raises(ProtocolError):
        tally.absorb(1, late)
    for index in on_time:
        tally.confirmation(world.member(index).confirm(request))
    for index in on_time:
        raw = world.member(index).unmask(tally.unmask_request(index))
        attacker.got(raw, on_time)
        tally.reveal(raw)
    wanted = weighted({index: updates[index] for index in on_time}, flat(world))
    assert np.abs(tally.finish().average - wanted).max() < 1e-8
    assert attacker.secret(1, 1, "R") is not None
    assert not attacker.reads(1, updates[1])
    with refused(world, ProtocolError):
        world.member(1).confirm(request)


@POST_QUANTUM
@pytest.mark.parametrize("late_step", ["confirm", "unmask"])
def test_one_early_and_one_late_drop(late_step: str, post_quantum: bool) -> None:
    """One hospital vanishes before its vector and one after it: the round is right, and neither of them can be read."""
    world = arena(10, post_quantum=post_quantum)
    updates, task = data(world), task_of(world)
    present = world.everyone[:-1]
    tally = opened(world, present)
    attacker = Attacker(world, (5, 6, 7, 8, 9))
    world.confirm(tally, silent=(1,) if late_step == "confirm" else ())
    for index in present[1:]:
        raw = world.member(index).unmask(tally.unmask_request(index))
        attacker.got(raw, present)
        tally.reveal(raw)
    outcome = tally.finish()
    assert outcome.included == present
    assert np.abs(outcome.average - weighted({i: updates[i] for i in present}, flat(world))).max() < 1e-8
    late = send(world, task, 10, updates[10])  # the early one comes back with its vector
    attacker.saw(task, [late])
    assert not attacker.reads(10, updates[10])
    assert attacker.secret(1, 10, "R") is not None
    assert attacker.secret(1, 10, "b") is None


def test_with_three_hospitals_a_drop_ends_the_round() -> None:
    """One of three vanishes, so that the other two could read each other: no honest party goes on."""
    world = arena(3)
    updates, task = data(world), task_of(world)
    attacker = Attacker(world, (2,))
    attacker.saw(task, [send(world, task, index, updates[index]) for index in (1, 2)])
    for included in ((1, 2), (1,), (1, 2, 3)):
        if len(included) == 3:
            ask_confirm(world, task, 1, included)
            continue
        with refused(world, REFUSALS):
            ask_confirm(world, task, 1, included)
    assert not attacker.reads(1, updates[1])


def test_dropping_a_different_one_each_round() -> None:
    """Coordinator and c hospitals leave another honest one out in each round: b of that one stays closed."""
    world = arena(5, rounds=4)
    updates = data(world)
    for number, left_out in enumerate((1, 2, 3), start=1):
        included = tuple(one for one in world.everyone if one != left_out)
        liar = Liar.at(world, task_of(world, number), updates, (4, 5))
        liar.tell({index: included for index in (1, 2, 3) if index != left_out})
        assert not liar.attacker.reads(left_out, updates[left_out])
        others = [index for index in (1, 2, 3) if index != left_out]
        assert liar.attacker.smallest_sum(others[0]) == 2


def test_a_vector_that_never_came_is_declared_included() -> None:
    """Coordinator and c hospitals have b of a hospital that sent nothing, and then its vector: pair masks hide it."""
    world = arena(5)
    updates, task = data(world), task_of(world)
    attacker = Attacker(world, (4, 5))
    attacker.saw(task, [send(world, task, index, updates[index]) for index in (2, 3)])
    confirmations = {index: ask_confirm(world, task, index, world.everyone) for index in (2, 3)}
    confirmations |= {index: forge_confirmation(world, task, index, world.everyone) for index in (4, 5)}
    for index in (2, 3):
        attacker.got(ask_unmask(world, task, index, world.everyone, confirmations), world.everyone)
    assert attacker.smallest_sum(2) is None
    assert attacker.secret(1, 1, "b") is not None
    attacker.saw(task, [send(world, task, 1, updates[1])])
    assert attacker.smallest_sum(1) == 3
    assert not attacker.reads(1, updates[1])


def test_uploads_that_are_not_the_senders() -> None:
    """A link delivers vectors twice, under other names, cut, of strangers, or with another index inside: refused."""
    world = arena(4)
    task = task_of(world)
    raw = send_all(world, task, data(world), 1000)
    tally = world.tally(task)
    tally.absorb(1, raw[1])
    bad = [(1, raw[1]), (2, raw[1]), (9, raw[2]), (0, raw[2]), (2, raw[2][:-4]), (2, raw[2] + bytes(4)), (2, b"")]
    for sender, one in bad:
        with pytest.raises(ProtocolError):
            tally.absorb(sender, one)
    for index in (2, 3, 4):
        tally.absorb(index, raw[index])
    world.confirm(tally)
    world.unmask(tally)
    assert np.abs(tally.finish().average - weighted(data(world), flat(world))).max() < 1e-8
