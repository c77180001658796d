"""Attempts with wrong shares, boxes and vaults: to learn something from the answer, or to spoil a round unnamed."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.errors import ProtocolError
from shared.secagg import field, keys
from shared.secagg.encoding import encode
from shared.secagg.keys import Digest, EpochState
from shared.secagg.round_messages import Reveal, UnmaskRequest
from shared.secagg.setup_messages import Deal
from shared.secagg.signing import signed
from shared.secagg.tally import Tally
from tests.attacks.secagg.arena import (
    REFUSALS,
    arena,
    ask_unmask,
    data,
    flat,
    read_reveal,
    redealt,
    refused,
    share_request,
    task_of,
    unmask_request,
)
from tests.attacks.secagg.coordinator import Liar
from tests.shared.secagg.world import World, identity, weighted

POST_QUANTUM = pytest.mark.parametrize("post_quantum", [False, True], ids=["x25519", "ml-kem"])
SIZE = 300
Change = Callable[[Deal], Deal]


def flip(raw: bytes, place: int) -> bytes:
    return bytes(one ^ (place == at) for at, one in enumerate(raw))


@POST_QUANTUM
def test_a_flipped_share_box(post_quantum: bool) -> None:
    """A coordinator flips one bit of a box, anywhere in it, to see how the victim answers: refused."""
    world = arena(4, post_quantum=post_quantum)
    task = task_of(world)
    liar = Liar.at(world, task, data(world), (4,))
    liar.confirm(world.everyone, (1, 2, 3))
    asked = unmask_request(world, task, 1, world.everyone, liar.confirmed[world.everyone])
    for place in range(0, len(asked.boxes[0]), 5):
        boxes = (flip(asked.boxes[0], place), *asked.boxes[1:])
        with refused(world, ProtocolError):
            world.member(1).unmask(replace(asked, boxes=boxes).to_bytes())


@POST_QUANTUM
def test_swapped_share_boxes(post_quantum: bool) -> None:
    """A coordinator gives the reader boxes of another source, reader, round or epoch, too few or too many: refused."""
    world = arena(4, post_quantum=post_quantum)
    task = task_of(world)
    liar = Liar.at(world, task, data(world), (4,))
    liar.confirm(world.everyone, (1, 2, 3))
    asked = unmask_request(world, task, 1, world.everyone, liar.confirmed[world.everyone])
    elsewhere = arena(4, "another", post_quantum=post_quantum)
    two, three, four = asked.boxes
    swaps: list[tuple[bytes, ...]] = [
        (three, two, four),
        (two, two, four),
        (*world.epoch.boxes(2, [3], 1), three, four),
        world.epoch.boxes(1, [2, 3, 4], 2),
        elsewhere.epoch.boxes(1, [2, 3, 4], 1),
        (two, three),
        (two, three, four, four),
        (),
        (b"", b"", b""),
    ]
    for boxes in swaps:
        with refused(world, ProtocolError):
            world.member(1).unmask(replace(asked, boxes=boxes).to_bytes())
    assert world.member(1).unmask(asked.to_bytes())


def started(world: World, absent: tuple[int, ...] = ()) -> Tally:
    """An honest round in which all but ``absent`` sent their vectors and confirmed."""
    tally = world.tally(task_of(world, size=SIZE))
    updates = {index: one for index, one in data(world, SIZE).items() if index not in absent}
    task = task_of(world, size=SIZE)
    world.upload(tally, task, updates, flat(world))
    world.confirm(tally)
    return tally


def lie(world: World, raw: bytes, member: int, share: bytes) -> bytes:
    """A reveal with another share of one member, signed by the hospital that lies."""
    told = Reveal.read(raw, world.federation)
    shares = tuple(share if one == member else true for one, true in zip(told.members, told.shares, strict=True))
    false = replace(told, shares=shares)
    return signed(false.body(), identity(told.index))


@POST_QUANTUM
@pytest.mark.parametrize("share", [bytes(32), field.to_bytes(12345), b"\xff" * 32], ids=["zero", "other", "no element"])
@pytest.mark.parametrize(("member", "absent"), [(2, ()), (5, (5,))], ids=["b-share", "R-share"])
def test_a_lying_share(member: int, absent: tuple[int, ...], share: bytes, post_quantum: bool) -> None:
    """A hospital reveals a wrong share: with t true ones left the round completes, and holder and dealer are named."""
    world = arena(5, threshold=4, post_quantum=post_quantum) if not absent else arena(7, threshold=5, colluding=2)
    tally = started(world, absent)
    for index in tally.included:
        raw = world.member(index).unmask(tally.unmask_request(index))
        tally.reveal(lie(world, raw, member, share) if index == 3 else raw)
    outcome = tally.finish()
    assert [one for one in outcome.faults if "hospital-3" in one and f"hospital-{member}" in one]
    updates = {index: one for index, one in data(world, SIZE).items() if index not in absent}
    wanted = weighted(updates, flat(world))
    assert np.abs(outcome.average - wanted).max() < 1e-8


def test_more_lies_than_the_threshold_allows() -> None:
    """More hospitals lie than may drop: the round ends without a result, and the first to be asked is named."""
    world = arena(4)
    tally = started(world)
    for index in tally.included:
        raw = world.member(index).unmask(tally.unmask_request(index))
        tally.reveal(lie(world, raw, 1, bytes(32)) if index in {3, 4} else raw)
    with pytest.raises(ProtocolError, match=r"hospital-[134]"):
        tally.finish()


def test_reveals_that_are_not_of_this_round() -> None:
    """A link replays, forges, doubles or renames reveals: the tally refuses and still finishes with the true ones."""
    world = arena(5)
    first = started(world)
    old = world.member(2).unmask(first.unmask_request(2))
    task = task_of(world, 2, SIZE)
    tally = world.tally(task)
    updates = data(world, SIZE)
    world.upload(tally, task, updates, flat(world))
    world.confirm(tally)
    true = {index: world.member(index).unmask(tally.unmask_request(index)) for index in world.everyone}
    told = read_reveal(world, true[2])
    renamed = signed(replace(told, index=3).body(), identity(2))
    fewer = signed(replace(told, members=told.members[1:], shares=told.shares[1:]).body(), identity(2))
    for raw in (old, flip(true[2], 40), flip(true[2], len(true[2]) - 1), true[2][:-1], b"", renamed, fewer):
        with pytest.raises(ProtocolError):
            tally.reveal(raw)
    for raw in true.values():
        tally.reveal(raw)
    with suppress(ProtocolError):
        tally.reveal(true[2])
    with suppress(ProtocolError):
        tally.reveal(lie(world, true[3], 1, bytes(32)))
    assert np.abs(tally.finish().average - weighted(updates, flat(world))).max() < 1e-8


def place(deal: Deal, number: int) -> tuple[bytes, int, int]:
    return (deal.transcript, number, deal.index)


def sealed(state: EpochState, peer: int, b: bytes, r: bytes) -> bytes:
    """A box as its dealer seals it, with any content."""
    key = keys.box_key(state.chain(peer), state.index, peer)
    return AESGCM(key).encrypt(bytes(12), b + r, encode("box", state.transcript, state.round, state.index, peer))


def wrong_boxes(state: EpochState, signs: bool) -> Change:
    """All boxes of round 1 hold other shares; with ``signs``, the hashes are of those."""

    def change(deal: Deal) -> Deal:
        here = state.at(1)
        false = {peer: (field.to_bytes(1000 + peer), field.to_bytes(2000 + peer)) for peer in deal.peers}
        boxes = tuple(
            (sealed(here, peer, *false[peer]), *row[1:]) for peer, row in zip(deal.peers, deal.boxes, strict=True)
        )
        shares = tuple(
            (
                keys.digest(Digest.SELF_SHARE, *place(deal, 1), x, false[x][0]),
                keys.digest(Digest.VAULT_SHARE, *place(deal, 1), x, false[x][1]),
            )
            if x in false
            else old
            for x, old in zip(deal.members, deal.rounds[0].shares, strict=True)
        )
        one = replace(deal.rounds[0], shares=shares) if signs else deal.rounds[0]
        return replace(deal, rounds=(one, *deal.rounds[1:]), boxes=boxes)

    return change


def garbage_boxes(deal: Deal) -> Deal:
    """Boxes of round 1 that nobody can open."""
    return replace(deal, boxes=tuple((bytes(len(row[0])), *row[1:]) for row in deal.boxes))


def garbage_vault(deal: Deal) -> Deal:
    one = replace(deal.rounds[0], vault=flip(deal.rounds[0].vault, 3))
    return replace(deal, rounds=(one, *deal.rounds[1:]))


def dealt_wrongly(change: Change | None, signs: bool = False, n: int = 5) -> World:
    """A federation whose hospital 5 deals wrongly; everyone else is honest."""
    world = arena(n, begun=False)
    for index in world.everyone:
        world.epoch.advert(world.member(index).advertise(1))
    adverts = world.epoch.adverts()
    for index in world.everyone:
        raw = world.member(index).share(share_request(world, adverts))
        if index == 5:
            state = world.ledgers[5].state(1)
            assert state is not None
            raw = redealt(raw, world, change or wrong_boxes(state, signs))
        world.epoch.deal(raw)
    return world


def test_a_dealer_whose_shares_are_not_those_it_signed() -> None:
    """A hospital seals other shares than it signed hashes of: the round ends without a result, and it is named."""
    world = dealt_wrongly(None)
    tally = started(world)
    world.unmask(tally)
    with pytest.raises(ProtocolError, match="hospital-5"):
        tally.finish()


def test_a_dealer_whose_shares_make_another_secret() -> None:
    """A hospital deals shares of nothing and signs their hashes: the round ends without a result, and it is named."""
    world = dealt_wrongly(None, signs=True)
    tally = started(world)
    world.unmask(tally)
    with pytest.raises(ProtocolError, match="hospital-5"):
        tally.finish()


def test_a_dealer_whose_vault_holds_nothing() -> None:
    """A hospital deals a broken vault and drops out: the round ends without a result, and it is named."""
    world = dealt_wrongly(garbage_vault)
    tally = started(world, absent=(5,))
    world.unmask(tally)
    with pytest.raises(ProtocolError, match="hospital-5"):
        tally.finish()


def test_a_dealer_whose_boxes_do_not_open() -> None:
    """One hospital deals boxes that nobody can open: every reader refuses to answer and names it; nothing leaves."""
    world = dealt_wrongly(garbage_boxes)
    tally = started(world)
    for index in (1, 2, 3, 4):
        with pytest.raises(ProtocolError, match="hospital-5"):
            world.member(index).unmask(tally.unmask_request(index))
    with pytest.raises(ProtocolError):
        tally.finish()


def test_a_dealer_of_another_seed_than_its_peer_has() -> None:
    """A hospital signs a false hash of the seed it has with the victim: the book names the pair before any round."""
    world = arena(5, begun=False)

    def change(deal: Deal) -> Deal:
        one = replace(deal.rounds[0], seeds=(bytes(32), *deal.rounds[0].seeds[1:]))
        return replace(deal, rounds=(one, *deal.rounds[1:]))

    for index in world.everyone:
        world.epoch.advert(world.member(index).advertise(1))
    adverts = world.epoch.adverts()
    for index in (1, 2, 3, 4):
        world.epoch.deal(world.member(index).share(share_request(world, adverts)))
    with pytest.raises(ProtocolError, match=r"hospital-[15]"):
        world.epoch.deal(redealt(world.member(5).share(share_request(world, adverts)), world, change))


def test_a_deal_that_nobody_signed() -> None:
    """A link alters a deal in any place, or signs it with another key: the book refuses it."""
    world = arena(4, begun=False)
    for index in world.everyone:
        world.epoch.advert(world.member(index).advertise(1))
    raw = world.member(1).share(share_request(world, world.epoch.adverts()))
    for at in range(0, len(raw), 97):
        with pytest.raises(ProtocolError):
            world.epoch.deal(flip(raw, at))
    with pytest.raises(ProtocolError):
        world.epoch.deal(signed(raw[:-64], identity(2)))


def test_any_flipped_bit_of_a_request() -> None:
    """A coordinator alters any byte of ``share``, ``confirm`` and ``unmask``: refused, or the same answer as before."""
    world = arena(4)
    task = task_of(world, size=SIZE)
    liar = Liar.at(world, task, data(world, SIZE), ())
    share = world.epoch.share_request(1, 1, 3)
    answers = {world.member(1).share(share)}
    for at in range(len(share)):
        with suppress(*REFUSALS):
            answers.add(world.member(1).share(flip(share, at)))
    # A flipped number may ask for other rounds, as any coordinator may; never with other members or keys.
    assert {Deal.read(one, world.federation).transcript for one in answers} == {world.epoch.transcript}
    liar.confirm(world.everyone, world.everyone)
    asked: UnmaskRequest = unmask_request(world, task, 1, world.everyone, liar.confirmed[world.everyone])
    raw = asked.to_bytes()
    for at in range(0, len(raw), 7):
        with refused(world, REFUSALS):
            world.member(1).unmask(flip(raw, at))
    assert ask_unmask(world, task, 1, world.everyone, liar.confirmed[world.everyone])
