"""What the coordinator finds wrong, and whom it names."""

import dataclasses

import numpy as np
import pytest

from shared.errors import ProtocolError
from shared.secagg.epoch import Epoch
from shared.secagg.keys import EpochState
from shared.secagg.round_messages import Reveal
from shared.secagg.setup_messages import Deal
from shared.secagg.signing import signed
from tests.shared.secagg.test_member import trained
from tests.shared.secagg.world import World, identity, update, weighted

SIZE = 50


def reveal(world: World, raw: bytes, member: int, share: bytes) -> bytes:
    read = Reveal.read(raw, world.federation)
    shares = dict(zip(read.members, read.shares, strict=True)) | {member: share}
    return signed(dataclasses.replace(read, shares=tuple(shares.values())).body(), identity(read.index))


def test_a_wrong_share_is_discarded_and_the_two_who_may_have_lied_are_named() -> None:
    world, _, tally = trained()
    world.confirm(tally)
    for index in tally.included:
        raw = world.member(index).unmask(tally.unmask_request(index))
        tally.reveal(reveal(world, raw, 2, bytes(32)) if index == 1 else raw)
    outcome = tally.finish()
    updates = {index: update(index, SIZE) for index in world.everyone}
    assert np.allclose(outcome.average, weighted(updates, dict.fromkeys(world.everyone, 500)), atol=1e-7)
    assert len(outcome.faults) == 1
    assert "hospital-1 revealed a share of hospital-2" in outcome.faults[0]


def test_too_many_wrong_shares_end_the_round() -> None:
    world, _, tally = trained()
    world.confirm(tally)
    for index in tally.included:
        raw = world.member(index).unmask(tally.unmask_request(index))
        tally.reveal(reveal(world, raw, 2, bytes(32)) if index in {1, 3} else raw)
    with pytest.raises(ProtocolError, match="3 right shares of hospital-2 are fewer than 4: hospital-1 revealed"):
        tally.finish()


def test_a_vector_that_was_masked_wrongly_is_seen_by_the_canary() -> None:
    world = World.of(5)
    world.begin()
    task = world.task(1, SIZE)
    tally = world.tally(task)
    for index in world.everyone:
        masked = world.member(index).mask(task, update(index, SIZE), 1, {"loss": 0.0}).upload
        if index == 4:
            masked[100] ^= 1  # a lane
        tally.absorb(index, masked)
    world.confirm(tally)
    world.unmask(tally)
    with pytest.raises(ProtocolError, match="masks did not cancel"):
        tally.finish()


def test_a_vector_of_another_round_model_or_list_is_not_added() -> None:
    world = World.of(5)
    world.begin()
    task = world.task(2, SIZE)
    tally = world.tally(task)
    others = (world.task(1, SIZE), world.task(2, SIZE, model=bytes(32)), world.task(3, SIZE, participants=(1, 2, 3, 4)))
    for index, other in enumerate(others, 1):
        masked = world.member(index).mask(other, update(1, SIZE), 1, {"loss": 0.0}).upload
        with pytest.raises(ProtocolError, match=f"vector of hospital-{index} is of another round"):
            tally.absorb(index, masked)
    assert tally.included == ()


def test_a_vector_counts_once_under_its_own_name_and_in_time() -> None:
    world = World.of(5)
    world.begin()
    task = world.task(1, SIZE)
    tally = world.tally(task)
    uploads = {
        index: world.member(index).mask(task, update(index, SIZE), 1, {"loss": 0.0}).upload for index in world.everyone
    }
    for index in (1, 2, 3, 4):
        tally.absorb(index, uploads[index])
    with pytest.raises(ProtocolError, match="hospital-1 is late or came twice"):
        tally.absorb(1, uploads[1])
    with pytest.raises(ProtocolError, match="hospital-5 sends a vector that is not its own"):
        tally.absorb(5, uploads[4])
    tally.confirm_request()
    with pytest.raises(ProtocolError, match="hospital-5 is late"):
        tally.absorb(5, uploads[5])
    assert tally.included == (1, 2, 3, 4)


@pytest.mark.parametrize("cut", [0, 10, 139, 143, 200])
def test_a_vector_of_another_length_is_not_added(cut: int) -> None:
    world = World.of(3)
    world.begin()
    task = world.task(1, SIZE)
    masked = bytes(world.member(1).mask(task, update(1, SIZE), 1, {"loss": 0.0}).upload)
    for raw in (masked[:cut], masked + bytes(4)):
        with pytest.raises(ProtocolError, match="cannot be read"):
            world.tally(task).absorb(1, raw)


def test_shares_that_do_not_make_the_signed_secret_name_their_dealer() -> None:
    world = World.of(4)
    world.begin()
    deals = world.epoch._deals[2]
    false = dataclasses.replace(deals[0].rounds[0], secrets=(bytes(32), bytes(32)))
    deals[0] = dataclasses.replace(deals[0], rounds=(false, *deals[0].rounds[1:]))
    task = world.task(1, SIZE)
    updates = {index: update(index, SIZE) for index in world.everyone}
    with pytest.raises(ProtocolError, match="hospital-2 dealt shares that do not make the secret"):
        world.run(task, updates, dict.fromkeys(updates, 1))


def test_a_vault_with_other_seeds_names_its_owner() -> None:
    world = World.of(4)
    world.begin()
    deals = world.epoch._deals[2]
    false = dataclasses.replace(deals[0].rounds[0], vault=bytes(len(deals[0].rounds[0].vault)))
    deals[0] = dataclasses.replace(deals[0], rounds=(false, *deals[0].rounds[1:]))
    updates = {index: update(index, SIZE) for index in (1, 3, 4)}
    with pytest.raises(ProtocolError, match="the vault of hospital-2 does not hold what hospital-2 signed"):
        world.run(world.task(1, SIZE), updates, dict.fromkeys(updates, 1))


def test_a_pair_that_does_not_hold_the_same_secret_is_found_before_any_round() -> None:
    world = World.of(3)
    for index in world.everyone:
        world.epoch.advert(world.member(index).advertise(1))
    for index in (1, 2):
        world.epoch.deal(world.member(index).share(world.epoch.share_request(index, 1, 1)))
    request = world.epoch.share_request(3, 1, 1)
    world.member(3).share(request)
    honest = world.ledgers[3].state(1)
    assert honest is not None
    liar: EpochState = dataclasses.replace(honest, pairs=((1, bytes(32)), honest.pairs[1]))
    world.ledgers[3].memory = dataclasses.replace(world.ledgers[3].memory, state=liar.to_bytes())
    with pytest.raises(ProtocolError, match="hospital-3 and hospital-1 do not hold the same secret for round 1"):
        world.epoch.deal(world.member(3).share(request))
    assert world.epoch.ready(1) == (1, 2)


def test_a_deal_is_signed_by_its_dealer_and_not_replaced() -> None:
    world = World.of(3)
    world.begin(rounds=2)
    raw = world.member(1).share(world.epoch.share_request(1, 1, 2))
    assert world.epoch.deal(raw) == 1  # the same again
    with pytest.raises(ProtocolError, match="hospital-1 under its shares"):
        world.epoch.deal(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(ProtocolError, match="hospital-1 deals one round twice"):
        world.epoch.deal(world.member(1).share(world.epoch.share_request(1, 2, 2)))


def test_a_restarted_coordinator_builds_its_book_from_the_same_messages() -> None:
    world = World.of(4)
    world.begin()
    adverts = world.epoch.adverts()
    deals = [world.member(i).share(world.epoch.share_request(i, 1, 3)) for i in world.everyone]
    again = Epoch(world.federation, 1)
    for raw in adverts:
        again.advert(raw)
    again.adverts()
    for raw in deals:
        again.deal(raw)
    world.epoch = again
    updates = {index: update(index, SIZE) for index in world.everyone}
    assert world.run(world.task(1, SIZE), updates, dict.fromkeys(updates, 1)).included == (1, 2, 3, 4)


def test_an_advert_that_is_late_doubled_or_copied_is_not_taken() -> None:
    world = World.of(4)
    adverts = {index: world.member(index).advertise(1) for index in world.everyone}
    for index in (1, 2, 3):
        assert world.epoch.advert(adverts[index]) == index
    lost = World.of(4)
    with pytest.raises(ProtocolError, match="hospital-1 advertises two keys in epoch 1"):
        world.epoch.advert(lost.member(1).advertise(1))
    world.epoch.adverts()
    with pytest.raises(ProtocolError, match="hospital-4 is late"):
        world.epoch.advert(adverts[4])


def test_a_round_without_a_deal_cannot_begin() -> None:
    world = World.of(4)
    world.begin(rounds=1)
    with pytest.raises(ProtocolError, match="hospital-1 has dealt no shares for round 2"):
        world.tally(world.task(2, SIZE, participants=world.everyone))


def test_a_deal_reads_back() -> None:
    world = World.of(3)
    world.begin(rounds=2)
    raw = world.member(1).share(world.epoch.share_request(1, 1, 2))
    deal = Deal.read(raw, world.federation)
    assert signed(deal.body(), identity(1)) == raw
