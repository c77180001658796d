"""Attempts to get of one hospital both the b-shares and the R-shares of a round, which together are its update."""

import itertools
from collections.abc import Callable, Mapping

import pytest

from shared.errors import PolicyError, ProtocolError
from shared.secagg.round_messages import UnmaskRequest
from tests.attacks.secagg.arena import (
    arena,
    ask_confirm,
    ask_unmask,
    data,
    forge_confirmation,
    refused,
    send,
    task_of,
    unmask_request,
)
from tests.attacks.secagg.attacker import Attacker
from tests.attacks.secagg.coordinator import Liar
from tests.shared.secagg.world import World

POST_QUANTUM = pytest.mark.parametrize("post_quantum", [False, True], ids=["x25519", "ml-kem"])
Forger = Callable[[World, Liar], Mapping[int, bytes]]


@pytest.mark.control("GDPR-25-masks")
@POST_QUANTUM
@pytest.mark.parametrize(("n", "colluding"), [(4, (4,)), (5, (4, 5)), (7, (4, 5, 6, 7))])
def test_split_views_over_every_way_to_tell_two_sets(n: int, colluding: tuple[int, ...], post_quantum: bool) -> None:
    """Coordinator and c hospitals tell every honest one a set with or without the victim: never are both confirmed."""
    world = arena(n, post_quantum=post_quantum, rounds=32)
    updates, everyone = data(world), world.everyone
    without = everyone[1:]
    others = [one for one in everyone[1:] if one not in colluding]
    if n == 7:  # a quorum of six: the victim is the only one that may be left out
        assert len(without) == world.federation.quorum
    for number, told in enumerate(itertools.product([everyone, without], repeat=len(others)), start=1):
        liar = Liar.at(world, task_of(world, number), updates, colluding)
        liar.tell({1: everyone} | dict(zip(others, told, strict=True)))
        shares = {kind: len(liar.attacker.shares[number, 1, kind]) for kind in "bR"}
        assert not liar.attacker.reads(1, updates[1])
        assert min(shares.values()) < world.federation.threshold
        smallest = liar.attacker.smallest_sum(1)
        assert smallest is None or smallest >= world.federation.threshold - len(colluding) >= 2


def test_a_second_included_set_after_the_first() -> None:
    """A bare coordinator asks every hospital for the set without the victim after the one with it: all refuse."""
    world = arena(4)
    updates, task = data(world), task_of(world)
    liar = Liar.at(world, task, updates, ())
    liar.tell(dict.fromkeys(world.everyone, world.everyone))
    for index in (2, 3, 4):
        with refused(world, PolicyError):
            ask_confirm(world, task, index, (2, 3, 4))
        confirmations = {one: forge_confirmation(world, task, one, (2, 3, 4)) for one in (2, 3, 4)}
        with refused(world, PolicyError):
            ask_unmask(world, task, index, (2, 3, 4), confirmations)
    assert not liar.attacker.shares[1, 1, "R"]
    assert not liar.attacker.reads(1, updates[1])


def test_unmask_of_another_set_than_the_one_signed() -> None:
    """Coordinator with t valid confirmations of one set asks for the shares of another with them: all refuse."""
    world = arena(5)
    updates, task = data(world), task_of(world)
    liar = Liar.at(world, task, updates, (5,))
    liar.confirm(world.everyone, (1, 2, 3, 4))
    for included in itertools.combinations(world.everyone, 4):
        for index in set(included) - {5}:
            with refused(world, (PolicyError, ProtocolError)):
                ask_unmask(world, task, index, included, liar.confirmed[world.everyone])
    assert not liar.attacker.reads(1, updates[1])


def test_unmask_before_any_confirmation_of_its_own() -> None:
    """Coordinator skips ``confirm`` at the reader and brings signatures of all the others: refused."""
    world = arena(4)
    updates, task = data(world), task_of(world)
    Liar.at(world, task, updates, ())
    confirmations = {index: ask_confirm(world, task, index, world.everyone) for index in (2, 3, 4)}
    with refused(world, PolicyError):
        ask_unmask(world, task, 1, world.everyone, confirmations)


def forged(world: World, liar: Liar) -> Mapping[int, bytes]:
    """Signatures of the coordinator's own under the names of two hospitals."""
    return {one: forge_confirmation(world, liar.task, one, world.everyone, key=99) for one in (1, 2, 3, 4)}


def colluders_key(world: World, liar: Liar) -> Mapping[int, bytes]:
    """One colluder signs for everybody."""
    return {one: forge_confirmation(world, liar.task, one, world.everyone, key=4) for one in (1, 2, 3, 4)}


def of_another_set(world: World, liar: Liar) -> Mapping[int, bytes]:
    """True signatures of the others, of the set without the victim."""
    return {one: forge_confirmation(world, liar.task, one, (2, 3, 4)) for one in (2, 3, 4)} | {
        1: forge_confirmation(world, liar.task, 1, world.everyone)
    }


def of_another_round(world: World, liar: Liar) -> Mapping[int, bytes]:
    """True signatures of the same set, of the next round."""
    task = task_of(world, 2)
    return {one: forge_confirmation(world, task, one, world.everyone) for one in world.everyone}


def of_another_context(world: World, liar: Liar) -> Mapping[int, bytes]:
    """True signatures of the same set and round, of another configuration."""
    task = task_of(world, 1, config=bytes(32))
    return {one: forge_confirmation(world, task, one, world.everyone) for one in world.everyone}


def of_another_epoch(world: World, liar: Liar) -> Mapping[int, bytes]:
    """True signatures of the same set and round number, of an earlier epoch."""
    elsewhere = arena(4, "another")
    return {one: forge_confirmation(elsewhere, liar.task, one, world.everyone) for one in world.everyone}


def of_another_charter(world: World, liar: Liar) -> Mapping[int, bytes]:
    """True signatures of the same hospitals, under another charter of theirs."""
    elsewhere = arena(4, clip=2.0)
    return {one: forge_confirmation(elsewhere, liar.task, one, world.everyone) for one in world.everyone}


def of_another_message(world: World, liar: Liar) -> Mapping[int, bytes]:
    """True signatures of the hospitals under something else, such as their adverts."""
    adverts = world.epoch.adverts()
    return {index: adverts[index - 1] for index in world.everyone}


def too_few(world: World, liar: Liar) -> Mapping[int, bytes]:
    """True signatures, one fewer than t, the reader's own included."""
    return {one: forge_confirmation(world, liar.task, one, world.everyone) for one in (1, 4)}


def none_at_all(world: World, liar: Liar) -> Mapping[int, bytes]:
    """An empty list."""
    return {}


def one_false(world: World, liar: Liar) -> Mapping[int, bytes]:
    """One fewer than t true ones, filled up with a false one."""
    return {**too_few(world, liar), 3: forge_confirmation(world, liar.task, 3, world.everyone, key=4)}


FORGERS = [
    forged, colluders_key, of_another_set, of_another_round, of_another_context, of_another_epoch,
    of_another_charter, of_another_message, too_few, none_at_all, one_false,
]  # fmt: skip


@POST_QUANTUM
@pytest.mark.parametrize("forger", FORGERS, ids=lambda one: one.__name__)
def test_confirmations_that_do_not_count(forger: Forger, post_quantum: bool) -> None:
    """A coordinator brings forged, replayed or too few confirmations to a hospital that signed the set: refused."""
    world = arena(4, post_quantum=post_quantum)
    updates, task = data(world), task_of(world)
    liar = Liar.at(world, task, updates, (4,))
    ask_confirm(world, task, 1, world.everyone)
    with refused(world, PolicyError if forger in {too_few, none_at_all} else ProtocolError):
        ask_unmask(world, task, 1, world.everyone, forger(world, liar))
    assert not liar.attacker.reads(1, updates[1])


@pytest.mark.parametrize("signers", [(1, 1, 4), (4, 4, 4), (4, 1, 3), (1, 4, 9), (0, 1, 4)], ids=str)
def test_confirmations_that_are_counted_twice(signers: tuple[int, ...]) -> None:
    """A coordinator lists fewer than t signers several times, out of order, or under numbers of no member: refused."""
    world = arena(4)
    updates, task = data(world), task_of(world)
    Liar.at(world, task, updates, ())
    ask_confirm(world, task, 1, world.everyone)
    true = {one: forge_confirmation(world, task, one, world.everyone)[-64:] for one in (1, 4)}
    asked = unmask_request(world, task, 1, world.everyone, {})
    many = UnmaskRequest(
        asked.epoch, asked.round, asked.context, asked.included, signers,
        tuple(true.get(one, true[4]) for one in signers), asked.boxes,
    )  # fmt: skip
    with refused(world, ProtocolError):
        world.member(1).unmask(many.to_bytes())


def test_signers_outside_the_included_set_do_not_count() -> None:
    """A colluder that is not in the set confirms it all the same: it does not help to reach t."""
    world = arena(7, threshold=5, colluding=2)
    updates, task = data(world), task_of(world)
    liar = Liar.at(world, task, updates, (6, 7))
    included = (1, 2, 3, 4, 5)
    confirmations = {one: ask_confirm(world, task, one, included) for one in (1, 2, 3)}
    confirmations |= {one: forge_confirmation(world, task, one, included) for one in (6, 7)}
    with refused(world, ProtocolError):
        ask_unmask(world, task, 1, included, confirmations)
    assert not liar.attacker.reads(1, updates[1])


def test_an_included_set_with_strangers_or_without_oneself() -> None:
    """A coordinator asks for sets with non-participants, without the reader, below the quorum, or empty: refused."""
    world = arena(5)
    task = task_of(world, participants=(1, 2, 3, 4))
    updates = data(world)
    for index in task.participants:
        send(world, task, index, updates[index])
    for included in ((1, 2, 3, 5), (1, 2, 3, 4, 5), (2, 3, 4), (1, 2, 3), (1,), (), (1, 2, 3, 9)):
        with refused(world, (PolicyError, ProtocolError)):
            ask_confirm(world, task, 1, included)


@POST_QUANTUM
def test_a_vector_that_came_is_declared_dropped(post_quantum: bool) -> None:
    """Coordinator and c hospitals keep the victim's vector, call it dropped and open its vault: b still hides it."""
    world = arena(5, post_quantum=post_quantum)
    updates, task = data(world), task_of(world)
    liar = Liar.at(world, task, updates, (4, 5))
    liar.tell(dict.fromkeys((2, 3), (2, 3, 4, 5)))
    attacker: Attacker = liar.attacker
    assert not attacker.reads(1, updates[1])
    assert attacker.secret(1, 1, "R") is not None
    [(_, index, upload)] = [one for one in attacker.uploads if one[1] == 1]
    assert attacker.strip(task, index, upload)[1] == {(1, 1)}
    liar.confirm(world.everyone, (1, 2, 3))
    liar.unmask(world.everyone)
    assert liar.refusals.count("PolicyError") >= 2
    assert not attacker.reads(1, updates[1])


def test_a_reveal_replayed_from_another_round() -> None:
    """A coordinator asks in round 2 with the boxes of round 1, where the victim is to be dropped: refused."""
    world = arena(5)
    updates = data(world)
    first, second = task_of(world, 1), task_of(world, 2)
    old = unmask_request(world, first, 2, world.everyone, {})
    liar = Liar.at(world, second, updates, ())
    included = (2, 3, 4, 5)
    liar.confirm(included, included)
    asked = unmask_request(world, second, 2, included, liar.confirmed[included])
    mixed = UnmaskRequest(
        asked.epoch, asked.round, asked.context, asked.included, asked.signers, asked.signatures, old.boxes
    )
    with refused(world, ProtocolError):
        world.member(2).unmask(mixed.to_bytes())
    back = UnmaskRequest(
        asked.epoch, first.round, asked.context, asked.included, asked.signers, asked.signatures, old.boxes
    )
    with refused(world, (PolicyError, ProtocolError)):
        world.member(2).unmask(back.to_bytes())


def test_the_same_question_twice_gives_the_same_answer() -> None:
    """A coordinator repeats ``confirm`` and ``unmask``: not one bit more is learnt than from the first answer."""
    world = arena(4)
    updates, task = data(world), task_of(world)
    liar = Liar.at(world, task, updates, ())
    liar.confirm(world.everyone, world.everyone)
    assert ask_confirm(world, task, 1, world.everyone) == liar.confirmed[world.everyone][1]
    answers = {ask_unmask(world, task, 1, world.everyone, liar.confirmed[world.everyone]) for _ in range(3)}
    assert len(answers) == 1
