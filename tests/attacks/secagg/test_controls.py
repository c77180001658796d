"""Positive controls: where the rules of the parameters are broken, the same attacker program does succeed.

Without these, a test in which it fails would say nothing.
"""

import numpy as np
import pytest

from shared.secagg import keys
from shared.secagg.codec import Quantiser
from shared.secagg.keys import EpochState
from shared.secagg.round_messages import Upload
from shared.vector import Vector
from tests.attacks.secagg.arena import arena, context_of, data, flat, send_all, task_of
from tests.attacks.secagg.attacker import Attacker
from tests.attacks.secagg.coordinator import Liar
from tests.shared.secagg.world import World

POST_QUANTUM = pytest.mark.parametrize("post_quantum", [False, True], ids=["x25519", "ml-kem"])


def exact(attacker: Attacker, victim: int, updates: dict[int, Vector]) -> bool:
    """Whether a guess is the victim's update to the last bit of the ring."""
    codec = attacker.codec
    words = np.zeros(updates[victim].size, codec.words)
    Quantiser(codec, 10, clips=True).quantise(updates[victim], words)
    return any(np.array_equal(guess, words) for guess in attacker.guesses(victim))


@POST_QUANTUM
def test_one_colluder_too_many_gets_both_shares_by_two_sets(post_quantum: bool) -> None:
    """Coordinator and c + 1 hospitals of four tell two honest ones two sets: both reach t, the victim is read."""
    world = arena(4, post_quantum=post_quantum)
    updates = data(world)
    liar = Liar.at(world, task_of(world), updates, colluding=(3, 4))
    liar.tell({1: (1, 2, 3, 4), 2: (2, 3, 4)})
    assert liar.attacker.reads(1, updates[1])
    assert exact(liar.attacker, 1, updates)


def test_one_colluder_too_many_is_alone_with_the_victim() -> None:
    """Coordinator and c + 1 hospitals of four leave one honest hospital out of a round: the sum is the other."""
    world = arena(4)
    updates = data(world)
    liar = Liar.at(world, task_of(world), updates, colluding=(3, 4))
    liar.tell({1: (1, 3, 4)})
    assert liar.attacker.smallest_sum(1) == 1
    assert liar.attacker.reads(1, updates[1])


def test_t_colluders_need_nobody() -> None:
    """Any t hospitals open their boxes: both secrets of everybody, without a single answer of the victim."""
    world = arena(4)
    updates = data(world)
    liar = Liar.at(world, task_of(world), updates, colluding=(2, 3, 4))
    assert exact(liar.attacker, 1, updates)


def test_both_secrets_of_the_victim_are_enough() -> None:
    """A bare coordinator that is given b and R of one hospital by magic reads it; with either alone it does not."""
    for given, succeeds in (((True, True), True), ((True, False), False), ((False, True), False)):
        world = arena(4)
        updates = data(world)
        liar = Liar.at(world, task_of(world), updates, colluding=())
        state = world.ledgers[1].state(1)
        assert state is not None
        liar.attacker.secrets_of(state.at(1), 1)
        for kind, kept in zip(("b", "R"), given, strict=True):
            if not kept:
                liar.attacker.shares[1, 1, kind].clear()
        assert liar.attacker.reads(1, updates[1]) is succeeds


@pytest.mark.parametrize("bits", [32, 16])
def test_an_honest_round_gives_the_sum_and_nothing_smaller(bits: int) -> None:
    """Coordinator and c hospitals in an honest round: the program finds the sum of the honest ones, as it may."""
    world = arena(5, ring_bits=bits)
    updates = data(world)
    liar = Liar.at(world, task_of(world), updates, colluding=(4, 5))
    liar.tell(dict.fromkeys((1, 2, 3), world.everyone))
    assert liar.attacker.smallest_sum(1) == 3
    assert not liar.attacker.reads(1, updates[1])
    [found] = [one for one in liar.attacker.sums() if one.honest]
    wanted = sum(updates[index] for index in (1, 2, 3))
    assert np.corrcoef(liar.attacker.decode(found.words), wanted)[0, 1] > 0.99


def quantum(world: World, index: int, secrets: dict[int, bytes]) -> EpochState:
    """The chains of a hospital as they follow from the X25519 keys alone, which a quantum computer finds."""
    t, numbers = world.epoch.transcript, world.epoch.members
    own = keys.exchange_key(secrets[index])
    chains = tuple(
        (
            peer,
            keys.pair_secret(
                own.exchange(keys.exchange_key(secrets[peer]).public_key()),
                b"",
                b"",
                t,
                (min(index, peer), max(index, peer)),
            ),
        )
        for peer in numbers
        if peer != index
    )
    return EpochState(index, world.epoch.number, t, 1, bytes(32), chains)


@POST_QUANTUM
def test_a_recording_is_opened_by_a_quantum_computer_only_without_ml_kem(post_quantum: bool) -> None:
    """A recorder who later finds all X25519 private keys: reads everybody where ML-KEM is off, and nobody else."""
    world = arena(4, begun=False, post_quantum=post_quantum)
    secrets = {index: world.ledgers[index].seed(1) for index in world.everyone}
    world.begin()
    updates, task = data(world), task_of(world)
    recorder = Attacker(world)
    recorder.saw(task, send_all(world, task, updates).values())
    for index in world.everyone:
        recorder.states[index] = quantum(world, index, secrets)
    recorder.secrets_of = lambda here, number: None  # type: ignore[method-assign]  # own chains are not X25519's
    assert recorder.reads(1, updates[1]) is not post_quantum


def test_the_victims_vector_is_what_the_attacker_thinks() -> None:
    """The program reads uploads of the very context that the hospitals used, so a failure is not a wrong context."""
    world = arena(4)
    task = task_of(world)
    raw = send_all(world, task, data(world))
    assert {Upload.read(one, task, Attacker(world).codec).context for one in raw.values()} == {context_of(world, task)}
    assert flat(world).keys() == raw.keys()
