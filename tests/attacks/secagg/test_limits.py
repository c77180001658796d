"""Limits, shown by attacks that do succeed: what docs/secure-aggregation.md lists under "Not covered"."""

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.errors import PolicyError, ProtocolError
from shared.secagg.codec import Codec
from shared.secagg.masks import Ring
from shared.secagg.round_messages import RoundTask, Upload
from tests.attacks.secagg.arena import arena, context_of, data, flat, other, refused, send, send_all, task_of, twin
from tests.attacks.secagg.attacker import Attacker, correlate
from tests.attacks.secagg.coordinator import Liar
from tests.shared.secagg.world import World, weighted

SIZE = 4096


def rewritten(world: World, task: RoundTask, raw: bytes, body: Ring) -> bytes:
    """An upload with the same header and another body."""
    upload = Upload.read(raw, task, Codec.of(world.federation))
    head = Upload.head(upload.index, upload.context, upload.lanes)
    return head.ljust(len(raw) - body.nbytes, b"\0") + body.tobytes()


def test_limit_a_restored_ledger_masks_two_vectors_with_one_key() -> None:
    """Whoever restores a hospital's ledger behind its back gets two vectors of one round: their difference shows it."""
    world = arena(4)
    updates, task = data(world), task_of(world)
    backup = twin(world.ledgers[1])
    attacker = Attacker(world)
    attacker.saw(task, [send(world, task, 1, updates[1])])
    world.ledgers[1] = backup
    attacker.saw(task, [send(world, task, 1, np.zeros(SIZE, np.float32))])
    assert attacker.reads(1, updates[1])


def test_limit_restored_ledgers_confirm_two_sets() -> None:
    """Whoever restores the ledgers of honest hospitals after ``confirm`` gets both shares of the victim from them."""
    world = arena(4)
    updates, task = data(world), task_of(world)
    liar = Liar.at(world, task, updates, ())
    backup = {index: twin(ledger) for index, ledger in world.ledgers.items()}
    liar.tell(dict.fromkeys(world.everyone, world.everyone))
    assert not liar.attacker.reads(1, updates[1])
    world.ledgers = backup
    liar.tell(dict.fromkeys((2, 3, 4), (2, 3, 4)))
    assert liar.attacker.reads(1, updates[1])


def test_limit_a_restored_ledger_is_safe_in_a_new_epoch() -> None:
    """The way out of a lost or restored ledger: in a new epoch neither vector is any use for the other."""
    world = arena(4)
    updates, task = data(world), task_of(world)
    backup = twin(world.ledgers[1])
    old = Attacker(world)
    old.saw(task, [send(world, task, 1, updates[1])])
    world.ledgers[1] = backup
    world.begin(2)
    fresh = task_of(world)
    old.saw(fresh, [send(world, fresh, 1, np.zeros(SIZE, np.float32))])
    first, second = (upload.body for _, _, upload in old.uploads)
    assert correlate(old.decode(first - second), updates[1]) < 0.1


def test_limit_a_hospital_poisons_its_own_update() -> None:
    """A hospital that does not clip adds any number to the average: no share, canary or signature speaks against it."""
    world = arena(4)
    updates, task = data(world), task_of(world)
    raw = send_all(world, task, updates, 1000)
    body = Upload.read(raw[4], task, Codec.of(world.federation)).body.copy()
    body += body.dtype.type(2**30)
    raw[4] = rewritten(world, task, raw[4], body)
    outcome = finish(world, task, raw)
    assert np.abs(outcome - weighted(updates, flat(world))).min() > 0.4
    honest = finish(arena(4), task, send_all(arena(4), task, updates, 1000))
    assert np.abs(honest - weighted(updates, flat(world))).max() < 1e-8


def finish(world: World, task: RoundTask, raw: dict[int, bytes]) -> NDArray[np.float64]:
    tally = world.tally(task)
    for index in task.participants:
        if world.ledgers[index].claimed(task.epoch, task.round) is None:
            send(world, task, index, data(world)[index], 1000)
        tally.absorb(index, raw[index])
    world.confirm(tally)
    world.unmask(tally)
    return tally.finish().average


def test_limit_a_hospital_claims_more_weight_than_the_cap() -> None:
    """A hospital that writes its own header outweighs the others: only the sum of the weights is bounded."""
    world = arena(4)
    updates, task = data(world), task_of(world)
    raw = send_all(world, task, updates)
    upload = Upload.read(raw[4], task, Codec.of(world.federation))
    lanes = upload.lanes.copy()
    lanes[1] += np.uint64(2000)
    head = Upload.head(4, upload.context, lanes)
    raw[4] = head.ljust(len(raw[4]) - upload.body.nbytes, b"\0") + upload.body.tobytes()
    tally = world.tally(task)
    for index in world.everyone:
        tally.absorb(index, raw[index])
    world.confirm(tally)
    world.unmask(tally)
    assert tally.finish().weight == 40 + 2000


def test_limit_a_coordinator_publishes_another_average() -> None:
    """A coordinator alters its own result after the round: nothing that a hospital has seen says otherwise."""
    world = arena(4)
    updates, task = data(world), task_of(world)
    honest = finish(world, task, send_all(world, task, updates, 1000))
    published = honest + 1.0
    claims = [world.ledgers[index].claimed(1, 1) for index in world.everyone]
    assert all(one is not None and one.revealed for one in claims)
    assert not np.allclose(published, honest)
    follow_up = task_of(world, 2, model=bytes(32))  # the next round begins from whatever model it says
    assert send(world, follow_up, 1, updates[1])


def test_limit_a_body_tampered_with_on_the_link() -> None:
    """Whoever writes to a hospital's link alters a body and no header: the round completes with a wrong average."""
    world = arena(4)
    updates, task = data(world), task_of(world)
    raw = send_all(world, task, updates, 1000)
    body = Upload.read(raw[1], task, Codec.of(world.federation)).body.copy()
    body[7] ^= body.dtype.type(1 << 29)
    raw[1] = rewritten(world, task, raw[1], body)
    error = np.abs(finish(world, task, raw) - weighted(updates, flat(world)))
    assert error[7] > 0.1
    assert np.delete(error, 7).max() < 1e-8


def test_limit_a_wrong_canary_names_nobody() -> None:
    """Whoever spoils one vector altogether ends the round: the canary sees it and cannot say whose it was."""
    world = arena(4)
    updates, task = data(world), task_of(world)
    raw = send_all(world, task, updates, 1000)
    head = Upload.head(1, context_of(world, task), np.zeros(8, np.uint64))
    raw[1] = head.ljust(144, b"\0") + bytes(4 * SIZE)
    with pytest.raises(ProtocolError, match="canary") as caught:
        finish(world, task, raw)
    assert not any(f"hospital-{index}" in str(caught.value) for index in world.everyone)


def test_limit_collusion_of_more_than_c() -> None:
    """Coordinator and n - 1 hospitals subtract what they know from an honest sum: the rest is the victim's update."""
    world = arena(4)
    updates, task = data(world), task_of(world)
    average = finish(world, task, send_all(world, task, updates, 1000))
    known = sum(updates[index].astype(np.float64) for index in (2, 3, 4))
    rest = average * 4 - known
    assert np.abs(rest - updates[1]).max() < 1e-7
    liar = Liar.at(arena(4), task, updates, (2, 3, 4))
    assert liar.attacker.reads(1, updates[1])


def test_limit_differences_over_two_rounds() -> None:
    """A coordinator takes the same sum with and without the victim in two rounds: the difference is its update."""
    world = arena(5, rounds=2)
    updates = data(world)
    first = finish(world, task_of(world, 1), send_all(world, task_of(world, 1), updates, 1000))
    task = task_of(world, 2, participants=(2, 3, 4, 5))
    second = finish(world, task, send_all(world, task, updates, 1000))
    assert np.abs(first * 5 - second * 4 - updates[1]).max() < 1e-7


def test_limit_one_configuration_for_all_that_nobody_signed() -> None:
    """A coordinator alters the configuration for everybody alike: the round completes, and still shows a sum only."""
    world = arena(4)
    updates = data(world)
    task = other(task_of(world), "config")
    attacker = Attacker(world, (4,))
    raw = send_all(world, task, updates, 1000)
    attacker.saw(task, raw.values())
    average = finish(world, task, raw)
    assert np.abs(average - weighted(updates, flat(world))).max() < 1e-8
    assert not attacker.reads(1, updates[1])


def test_limit_one_hospital_can_end_every_round() -> None:
    """One hospital, fewer than may drop, spoils its vector in each round: none has a result, and none leaks."""
    world = arena(5)
    updates = data(world)
    for number in (1, 2, 3):
        task = task_of(world, number)
        raw = send_all(world, task, updates, 1000)
        head = Upload.head(5, context_of(world, task), np.zeros(8, np.uint64))
        raw[5] = head.ljust(144, b"\0") + bytes(4 * SIZE)
        with pytest.raises(ProtocolError):
            finish(world, task, raw)


def test_limit_a_coordinator_uses_up_the_rounds_of_an_epoch() -> None:
    """A coordinator asks for a late round first: the earlier ones are gone, and nothing but service is lost."""
    world = arena(4)
    updates = data(world)
    send(world, task_of(world, 3), 1, updates[1])
    for number in (1, 2, 3):
        with refused(world, PolicyError):
            send(world, task_of(world, number), 1, updates[1])
    world.begin(2)
    assert send(world, task_of(world), 1, updates[1])


def test_limit_a_coordinator_uses_up_the_epochs_for_good() -> None:
    """A coordinator asks once for the keys of the last epoch that there is: the hospital can never begin another."""
    world = arena(4, begun=False)
    world.member(1).advertise(2**63 - 1)
    for number in (1, 2, 2**62, 2**63 - 2):
        with pytest.raises(PolicyError):
            world.member(1).advertise(number)
