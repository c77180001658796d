"""Attempts to get two vectors under one key, or to use again what belongs to another round or epoch."""

import numpy as np
import pytest

from shared.errors import PolicyError, ProtocolError
from shared.secagg.dealing import open_box
from shared.secagg.epoch import Epoch
from shared.secagg.keys import EpochState
from shared.secagg.round_messages import Upload
from shared.secagg.setup_messages import Deal, KemOffer, ShareRequest
from tests.attacks.secagg.arena import (
    arena,
    ask_confirm,
    ask_unmask,
    context_of,
    data,
    forge_confirmation,
    other,
    refused,
    send,
    send_all,
    task_of,
)
from tests.attacks.secagg.attacker import Attacker
from tests.attacks.secagg.coordinator import Liar

POST_QUANTUM = pytest.mark.parametrize("post_quantum", [False, True], ids=["x25519", "ml-kem"])
SAME_TASK = "same"


@POST_QUANTUM
@pytest.mark.parametrize("what", [SAME_TASK, "model", "config", "participants", "metrics", "more metrics", "size"])
def test_train_twice(what: str, post_quantum: bool) -> None:
    """A coordinator asks for a second vector of a round, same or altered, to subtract the two: refused, also later."""
    world = arena(4, post_quantum=post_quantum)
    task = task_of(world)
    again = task if what == SAME_TASK else other(task, what)
    updates = data(world)
    attacker = Attacker(world, (4,))
    attacker.saw(task, [send(world, task, 1, updates[1])])
    with refused(world, PolicyError):
        send(world, again, 1, data(world, again.size)[2])
    ask_confirm(world, task, 1, world.everyone)
    with refused(world, PolicyError):
        send(world, again, 1, data(world, again.size)[2])
    assert not attacker.reads(1, updates[1])


@POST_QUANTUM
def test_train_of_an_old_round(post_quantum: bool) -> None:
    """A coordinator goes back to a round that the hospital skipped, or one that it served: refused."""
    world = arena(4, post_quantum=post_quantum)
    updates = data(world)
    send(world, task_of(world, 2), 1, updates[1])
    for number in (1, 2):
        with refused(world, PolicyError):
            send(world, task_of(world, number), 1, updates[1])


def test_confirm_and_unmask_of_an_old_round() -> None:
    """A coordinator asks for the shares of a past round after the next was claimed: its secrets are erased, refused."""
    world = arena(4)
    updates = data(world)
    liar = Liar.at(world, task_of(world, 1), updates, (4,))
    liar.confirm(world.everyone, (1, 2))
    send(world, task_of(world, 2), 1, updates[1])
    with refused(world, PolicyError):
        ask_confirm(world, liar.task, 1, world.everyone)
    confirmations = {one: forge_confirmation(world, liar.task, one, world.everyone) for one in world.everyone}
    with refused(world, PolicyError):
        ask_unmask(world, liar.task, 1, world.everyone, confirmations)


def test_confirm_of_a_round_that_was_never_claimed() -> None:
    """A coordinator asks for a signature before the hospital has sent its vector: refused."""
    world = arena(4)
    for number in (1, 2, 3, 7):
        with refused(world, PolicyError):
            ask_confirm(world, task_of(world, number, participants=world.everyone), 1, world.everyone)


def test_train_of_an_old_epoch() -> None:
    """A coordinator that has begun a new epoch goes back to the old one, whose adverts and deals it kept: refused."""
    world = arena(4)
    updates, old = data(world), task_of(world)
    adverts = world.epoch.adverts()
    world.begin(2)
    with refused(world, PolicyError):
        send(world, old, 1, updates[1])
    with refused(world, PolicyError):
        world.member(1).advertise(1)
    with refused(world, PolicyError):
        world.member(1).share(ShareRequest(1, 1, 3, adverts).to_bytes())


@POST_QUANTUM
def test_a_masked_vector_replayed_into_another_round(post_quantum: bool) -> None:
    """A coordinator adds the victim's vector of round 1 to round 2, with its context altered: the canary sees it."""
    world = arena(3, post_quantum=post_quantum)
    updates = data(world)
    first, second = task_of(world, 1), task_of(world, 2)
    old = send_all(world, first, updates)[1]
    tally = world.tally(second)
    with pytest.raises(ProtocolError):
        tally.absorb(1, old)
    codec = Attacker(world).codec
    upload = Upload.read(old, first, codec)
    head = Upload.head(1, context_of(world, second), upload.lanes)
    patched = head.ljust(len(old) - upload.body.nbytes, b"\0") + upload.body.tobytes()
    fresh = send_all(world, second, updates)
    tally = world.tally(second)
    for index, raw in {**fresh, 1: patched}.items():
        tally.absorb(index, raw)
    world.confirm(tally)
    world.unmask(tally)
    with pytest.raises(ProtocolError, match="canary"):
        tally.finish()
    attacker = Attacker(world, (3,))
    attacker.saw(first, [old])
    attacker.saw(second, [*fresh.values(), patched])
    assert not attacker.reads(1, updates[1])


def test_one_update_in_two_rounds() -> None:
    """A coordinator subtracts two vectors of a hospital that did not change its update: nothing but noise is left."""
    world = arena(4)
    updates = data(world)
    attacker = Attacker(world, (4,))
    for number in (1, 2):
        task = task_of(world, number)
        attacker.saw(task, [send(world, task, 1, updates[1])])
    codec = attacker.codec
    one, two = (upload.body.astype(np.float64) for _, _, upload in attacker.uploads)
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.1
    assert codec.bits == 32
    assert not attacker.reads(1, updates[1])


def test_advert_of_another_epoch() -> None:
    """A coordinator shows the victim an old advert of a peer in a new epoch, whose key may have leaked: refused."""
    world = arena(4)
    old = world.epoch.adverts()
    fresh = [world.member(index).advertise(2) for index in world.everyone]
    for shown in ([fresh[0], *old[1:]], [*fresh[:3], old[3]], list(old)):
        with refused(world, ProtocolError):
            world.member(1).share(ShareRequest(2, 1, 3, tuple(shown)).to_bytes())
        with pytest.raises(ProtocolError):
            Epoch(world.federation, 2).advert(shown[-1])


def test_deal_of_another_epoch_or_hospital_at_the_coordinator() -> None:
    """A link replays a deal of the last epoch, or a deal under no epoch at all: the book refuses it."""
    world = arena(4, begun=False)
    world.begin(1)
    request = world.epoch.share_request(1, 1, 3)
    old = world.member(1).share(request)
    world.begin(2)
    for raw in (old, old[:-1], b"", old + b"\0"):
        with pytest.raises(ProtocolError):
            world.epoch.deal(raw)


def test_overlapping_deals_seal_the_same_text_under_the_same_key() -> None:
    """A coordinator asks for a round's deal many times, in other ranges, to see a key used twice: it never is."""
    world = arena(4, rounds=6)
    first, _ = world.epoch.dealt(1, 3)
    for start, count in ((3, 1), (2, 4), (1, 3), (3, 2)):
        deal = Deal.read(world.member(1).share(world.epoch.share_request(1, start, count)), world.federation)
        assert deal.rounds[3 - start] == first.rounds[3 - first.first]
        assert [row[3 - start] for row in deal.boxes] == [row[3 - first.first] for row in first.boxes]


def test_two_offers_of_ml_kem_secrets_are_not_sealed_under_one_key_and_nonce() -> None:
    """A coordinator has ML-KEM secrets drawn twice, to see two texts under one key: the streams differ."""
    world = arena(3, begun=False, post_quantum=True)
    adverts = [world.member(index).advertise(1) for index in world.everyone]
    offers = [KemOffer.read(world.member(1).encapsulate(1, adverts), world.federation) for _ in range(2)]
    one, two = (np.frombuffer(offer.sealed, np.uint8) for offer in offers)
    assert offers[0].hashes != offers[1].hashes
    assert not np.array_equal(one[:12], two[:12])
    assert np.count_nonzero(one[12:] ^ two[12:]) > 60


def test_boxes_of_the_two_directions_are_not_the_same() -> None:
    """A coordinator reflects the victim's own box to it as the peer's: refused, the two directions have two keys."""
    world = arena(4)
    state = world.ledgers[1].state(1)
    assert state is not None
    [own] = world.epoch.boxes(2, [1], 1)
    with pytest.raises(ProtocolError):
        open_box(state.at(1), 2, own, "hospital-2")


@POST_QUANTUM
def test_a_ledger_that_is_stolen_later(post_quantum: bool) -> None:
    """A thief gets all ledgers and identity keys after the next round was claimed: the past one stays closed."""
    for moment, succeeds in (("before", True), ("after", False)):
        world = arena(4, post_quantum=post_quantum)
        updates, task = data(world), task_of(world)
        liar = Liar.at(world, task, updates, ())
        if moment == "after":
            send_all(world, task_of(world, 2), updates)
        for ledger in world.ledgers.values():
            state = ledger.state(1)
            assert state is not None
            liar.attacker.steal(state)
        assert liar.attacker.reads(1, updates[1]) is succeeds


def test_a_ledger_that_is_stolen_after_the_last_round() -> None:
    """A thief gets all ledgers after the epoch was forgotten: nothing of its last round can be computed."""
    world = arena(4, rounds=1)
    updates, task = data(world), task_of(world)
    liar = Liar.at(world, task, updates, ())
    for ledger in world.ledgers.values():
        ledger.forget(1, 1)
        state = ledger.state(1)
        assert state is not None
        liar.attacker.steal(state)
    assert not liar.attacker.reads(1, updates[1])


def test_old_secrets_are_not_anywhere_in_the_ledger() -> None:
    """A thief searches the whole memory of a ledger for the chains of a past round: they are not in it."""
    world = arena(4)
    ledger = world.ledgers[1]
    before = ledger.state(1)
    assert before is not None
    seed_free = [before.own, *(chain for _, chain in before.pairs)]
    send(world, task_of(world, 2), 1, data(world)[1])
    dump = repr([vars(ledger), *(vars(one) for one in vars(ledger).values() if isinstance(one, EpochState))])
    assert not [one for one in seed_free if repr(one) in dump]
    with pytest.raises(PolicyError):
        ledger.seed(1)
