"""What an honest hospital refuses; nothing leaves it then."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from shared.errors import FedwardError, PolicyError, ProtocolError
from shared.secagg.federation import Federation
from shared.secagg.ledger import MemoryLedger
from shared.secagg.member import Member
from shared.secagg.round_messages import Confirmation, ConfirmRequest, RoundTask, UnmaskRequest
from shared.secagg.setup_messages import Advert, ShareRequest
from shared.secagg.signing import signed
from shared.secagg.tally import Tally
from tests.shared.secagg.world import MODEL, World, federation, identity, update

SIZE = 50


def trained(n: int = 5, absent: tuple[int, ...] = (), number: int = 1) -> tuple[World, RoundTask, Tally]:
    world = World.of(n)
    world.begin()
    task = world.task(number, SIZE)
    tally = world.tally(task)
    there = [index for index in world.everyone if index not in absent]
    world.upload(tally, task, {i: update(i, SIZE) for i in there}, dict.fromkeys(there, 500))
    return world, task, tally


def mask(world: World, task: RoundTask, index: int = 1) -> None:
    world.member(index).mask(task, update(7, SIZE), 500, {"loss": 1.0})


# --- the key must be the charter's ------------------------------------------------------------------------------------


def test_a_member_needs_the_identity_that_the_charter_names() -> None:
    with pytest.raises(PolicyError, match="not that of hospital-2"):
        Member(federation(3), 2, identity(1), MemoryLedger())


# --- set-up -----------------------------------------------------------------------------------------------------------


def adverts_of(world: World) -> list[bytes]:
    return [world.member(index).advertise(1) for index in world.everyone]


def evil_advert(world: World, index: int, signer: int, fed: Federation | None = None, epoch: int = 1) -> bytes:
    fed = fed or world.federation
    return signed(Advert(fed.fingerprint, epoch, index, bytes(range(32)), b"").body(), identity(signer))


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda world, a: [*a[:2], evil_advert(world, 3, 99), *a[3:]], "signature of hospital-3 under its advert"),
        (lambda world, a: [*a, evil_advert(world, 6, 6)], "member 6 is not in the charter"),
        (lambda world, a: [*a, a[1]], "hospital-2 stands twice"),
        (lambda world, a: a[:3], "3 adverts are fewer than 4"),
        (lambda world, a: a[1:], "own advert is missing"),
        (lambda world, a: [evil_advert(world, 1, 1), *a[1:]], "own advert was altered"),
        (lambda world, a: [*a[:4], evil_advert(world, 5, 5, epoch=2)], "hospital-5 is of epoch 2, not 1"),
        (lambda world, a: [*a[:4], evil_advert(world, 5, 5, federation(5, threshold=5))], "under another charter"),
        (lambda world, a: [*a[:4], a[4][:-70]], "cannot be read|ends too early|not valid"),
        (lambda world, a: [*a[:4], b"x"], "ends too early"),
    ],
)
def test_a_hospital_shares_only_among_signed_members_of_its_own_charter(
    spoil: Callable[[World, list[bytes]], list[bytes]], what: str
) -> None:
    world = World.of(5)
    adverts = spoil(world, adverts_of(world))
    with pytest.raises(FedwardError, match=what):
        world.member(1).share(ShareRequest(1, 1, 1, tuple(adverts)).to_bytes())
    assert world.ledgers[1].state(1) is None


def test_a_public_key_of_small_order_is_refused_with_its_owner_named() -> None:
    world = World.of(4)
    adverts = adverts_of(world)
    bad = Advert(world.federation.fingerprint, 1, 3, bytes(32), b"")
    adverts[2] = signed(bad.body(), identity(3))
    with pytest.raises(ProtocolError, match="hospital-3 fails: its public key is of small order"):
        world.member(1).share(ShareRequest(1, 1, 1, tuple(adverts)).to_bytes())


def test_an_epoch_keeps_the_members_with_which_it_began() -> None:
    world = World.of(5)
    world.begin()
    adverts = world.epoch.adverts()
    with pytest.raises(ProtocolError, match="not those with which epoch 1 began"):
        world.member(1).share(ShareRequest(1, 2, 1, adverts[:4]).to_bytes())


def test_a_repeated_deal_is_the_same_bytes_also_after_a_restart() -> None:
    world = World.of(4, post_quantum=True)
    world.begin(rounds=2)
    request = world.epoch.share_request(2, 1, 2)
    assert world.member(2).share(request) == world.member(2).share(request)


def test_private_keys_are_gone_after_the_first_deal_and_with_an_older_epoch() -> None:
    world = World.of(3)
    world.begin()
    with pytest.raises(PolicyError, match="keys are in use"):
        world.member(1).advertise(1)
    world.begin(2)
    with pytest.raises(PolicyError, match="epoch 1 is over"):
        world.member(1).advertise(1)
    with pytest.raises(PolicyError, match="no keys for epoch 1"):
        mask(world, dataclasses.replace(world.task(1, SIZE), epoch=1))


def test_key_encapsulation_is_refused_where_the_charter_does_not_ask_for_it() -> None:
    world = World.of(3)
    with pytest.raises(PolicyError, match="does not ask for ML-KEM"):
        world.member(1).encapsulate(1, adverts_of(world))


# --- train ------------------------------------------------------------------------------------------------------------


def test_a_round_is_used_once_whatever_else_changes() -> None:
    world, task, _ = trained()
    for again in (task, dataclasses.replace(task, model=bytes(32)), dataclasses.replace(task, config=bytes(32))):
        with pytest.raises(PolicyError, match="round 1 of epoch 1 is used up"):
            mask(world, again)


def test_an_older_round_is_over_and_its_keys_are_forgotten() -> None:
    world, _, _ = trained(number=2)
    with pytest.raises(PolicyError, match="round 1 of epoch 1 is out of reach"):
        mask(world, world.task(1, SIZE))
    state = world.ledgers[1].state(1)
    assert state is not None
    assert state.round == 2


@pytest.mark.parametrize(
    ("participants", "what"),
    [((1, 2, 3), "3 members, fewer than 4"), ((2, 3, 4, 5), "leaves this hospital out"), ((1, 2, 3, 6), "member 6")],
)
def test_a_list_of_participants_that_does_not_protect_is_refused(participants: tuple[int, ...], what: str) -> None:
    world = World.of(5)
    world.begin()
    with pytest.raises(FedwardError, match=what):
        mask(world, world.task(1, SIZE, participants=participants))


@pytest.mark.parametrize(
    ("value", "weight", "metrics", "what"),
    [
        (np.nan, 500, {"loss": 1.0}, "not finite"),
        (np.inf, 500, {"loss": 1.0}, "not finite"),
        (-np.inf, 500, {"loss": 1.0}, "not finite"),
        (0.0, 0, {"loss": 1.0}, "weight is not"),
        (0.0, -1, {"loss": 1.0}, "weight is not"),
        (0.0, 1001, {"loss": 1.0}, "weight is not"),
        (0.0, True, {"loss": 1.0}, "weight is not"),
        (0.0, 500, {"loss": np.nan}, "metric 1"),
        (0.0, 500, {"loss": 1e12}, "metric 1"),
        (0.0, 500, {}, "the metrics loss"),
        (0.0, 500, {"loss": 1.0, "more": 1.0}, "the metrics loss"),
    ],
)
def test_a_bad_update_is_refused_before_the_round_is_used_up(
    value: float, weight: int, metrics: dict[str, float], what: str
) -> None:
    world = World.of(3)
    world.begin()
    task = world.task(1, SIZE)
    bad = update(1, SIZE)
    bad[7] = value
    with pytest.raises(PolicyError, match=what) as refusal:
        world.member(1).mask(task, bad, weight, metrics)
    assert "1001" not in str(refusal.value)  # what is refused is not told either
    mask(world, task)


def test_what_is_clipped_is_counted() -> None:
    world = World.of(3)
    world.begin()
    big = update(1, SIZE)
    big[:5] = 3.0
    assert world.member(1).mask(world.task(1, SIZE), big, 500, {"loss": 0.0}).clipped == 5


# --- confirm ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("included", "what"),
    [
        ((1, 2, 3), "3 members, fewer than 4"),
        ((2, 3, 4, 5), "leaves this hospital out"),
        ((1, 2, 3, 4, 6), "member 6"),
    ],
)
def test_an_included_set_that_does_not_protect_is_not_signed(included: tuple[int, ...], what: str) -> None:
    world, task, _ = trained()
    context = task.context(world.epoch.transcript, world.member(1)._codec)
    with pytest.raises(FedwardError, match=what):
        world.member(1).confirm(ConfirmRequest(1, 1, context, included).to_bytes())


def test_a_second_included_set_is_not_signed_and_the_first_one_is_signed_again() -> None:
    world, _, tally = trained()
    request = tally.confirm_request()
    first = world.member(1).confirm(request)
    assert world.member(1).confirm(request) == first
    other = dataclasses.replace(ConfirmRequest.read(request), included=(1, 3, 4, 5))
    with pytest.raises(PolicyError, match="has signed another included set"):
        world.member(1).confirm(other.to_bytes())


@pytest.mark.parametrize("change", [{"context": bytes(32)}, {"round": 2}, {"epoch": 2}])
def test_a_set_of_a_round_in_which_this_hospital_sent_nothing_is_not_signed(change: dict[str, object]) -> None:
    world, _, tally = trained()
    request = ConfirmRequest.read(tally.confirm_request())
    with pytest.raises(PolicyError, match=r"no vector under that context|no keys"):
        world.member(1).confirm(dataclasses.replace(request, **change).to_bytes())  # type: ignore[arg-type]


# --- unmask -----------------------------------------------------------------------------------------------------------


def asked(absent: tuple[int, ...] = ()) -> tuple[World, UnmaskRequest]:
    world, _, tally = trained(absent=absent)
    world.confirm(tally)
    return world, UnmaskRequest.read(tally.unmask_request(1))


def signature(world: World, request: UnmaskRequest, signer: int, **changes: object) -> bytes:
    body = Confirmation(world.epoch.transcript, request.round, request.context, signer, request.included)
    return identity(signer).sign(dataclasses.replace(body, **changes).body())  # type: ignore[arg-type]


def test_of_each_member_one_share_is_given_and_never_both() -> None:
    world, request = asked(absent=(2,))
    first = world.member(1).unmask(request.to_bytes())
    assert world.member(1).unmask(request.to_bytes()) == first
    other = dataclasses.replace(request, included=(1, 2, 3, 4, 5), signers=(1, 2, 3, 4))
    forged = tuple(signature(world, other, signer) for signer in other.signers)
    with pytest.raises(PolicyError, match="not the one that this hospital signed"):
        world.member(1).unmask(dataclasses.replace(other, signatures=forged).to_bytes())


def test_too_few_confirmations() -> None:
    world, request = asked()
    few = dataclasses.replace(request, signers=request.signers[:3], signatures=request.signatures[:3])
    with pytest.raises(PolicyError, match="3 confirmations are fewer than 4"):
        world.member(1).unmask(few.to_bytes())


@pytest.mark.parametrize(
    "change",
    [{"round": 2}, {"context": bytes(32)}, {"included": (1, 2, 3, 4)}, {"transcript": bytes(32)}, {"index": 2}],
)
def test_a_confirmation_of_anything_else_does_not_count(change: dict[str, object]) -> None:
    world, request = asked()
    wrong = signature(world, request, 3, **change)
    bad = dataclasses.replace(request, signatures=(*request.signatures[:2], wrong, *request.signatures[3:]))
    with pytest.raises(ProtocolError, match="hospital-3 under its confirmation"):
        world.member(1).unmask(bad.to_bytes())


def test_a_confirmation_counts_once() -> None:
    world, request = asked()
    twice = dataclasses.replace(request, signers=(2, 2, 2, 2), signatures=(request.signatures[1],) * 4)
    with pytest.raises(ProtocolError, match="do not rise"):
        world.member(1).unmask(twice.to_bytes())


def test_boxes_that_were_swapped_flipped_or_left_out_are_refused() -> None:
    world, request = asked()
    flipped = bytes([request.boxes[0][0] ^ 1]) + request.boxes[0][1:]
    for boxes, what in (
        ((request.boxes[1], request.boxes[0], *request.boxes[2:]), "box of hospital-2"),
        ((flipped, *request.boxes[1:]), "box of hospital-2"),
        (request.boxes[1:], "not one box for each"),
    ):
        with pytest.raises(ProtocolError, match=what):
            world.member(1).unmask(dataclasses.replace(request, boxes=boxes).to_bytes())


def test_nothing_is_revealed_before_the_set_is_signed() -> None:
    world, _, tally = trained()
    world.confirm(tally, silent={5})
    with pytest.raises(PolicyError, match="not the one that this hospital signed"):
        world.member(5).unmask(tally.unmask_request(5))


def test_nothing_is_revealed_of_a_round_that_is_over() -> None:
    world, request = asked()
    mask(world, world.task(2, SIZE))
    with pytest.raises(PolicyError, match="no vector under that context"):
        world.member(1).unmask(request.to_bytes())


def test_no_error_shows_a_secret() -> None:
    world = World.of(3)
    world.begin()
    state = world.ledgers[1].state(1)
    assert state is not None
    assert state.own.hex() not in repr(state)
    assert repr(state.own) not in repr(state)
    assert MODEL.hex() not in repr(state)
