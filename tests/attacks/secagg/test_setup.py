"""Attempts to be one of the hospitals, to sit between two of them, or to set up an epoch with weaker rules."""

import itertools
from dataclasses import replace
from typing import Any

import pytest

from shared.errors import CharterError, PolicyError, ProtocolError
from shared.secagg import keys
from shared.secagg.epoch import Epoch
from shared.secagg.federation import Peer
from shared.secagg.member import Member
from shared.secagg.setup_messages import Advert, KemOffer, ShareRequest
from shared.secagg.signing import signed
from tests.attacks.secagg.arena import (
    REFUSALS,
    advert_of,
    arena,
    ask_confirm,
    data,
    refused,
    send,
    share_request,
    task_of,
)
from tests.attacks.secagg.attacker import Attacker
from tests.shared.secagg.world import World, federation, identity

POST_QUANTUM = pytest.mark.parametrize("post_quantum", [False, True], ids=["x25519", "ml-kem"])
SEED = bytes(range(32))
LOW_ORDER = [
    bytes(32),
    bytes([1]) + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


def fresh(n: int = 4, **changes: Any) -> tuple[World, list[bytes]]:
    """A federation before its first deal, and the adverts."""
    world = arena(n, begun=False, **changes)
    return world, [world.member(index).advertise(1) for index in world.everyone]


def attempts(world: World, adverts: list[bytes]) -> None:
    """Deal, encapsulate and book: everything that takes adverts must refuse these."""
    with refused(world, ProtocolError):
        world.member(1).share(share_request(world, adverts))
    if world.federation.post_quantum:
        with refused(world, ProtocolError):
            world.member(1).encapsulate(1, adverts)
    assert world.ledgers[1].state(1) is None


def kem_of(world: World) -> bytes:
    return keys.kem_key(SEED).public_key().public_bytes_raw() if world.federation.post_quantum else b""


@POST_QUANTUM
@pytest.mark.parametrize("signer", [99, 4], ids=["stranger", "colluder"])
def test_a_replaced_public_key(signer: int, post_quantum: bool) -> None:
    """Coordinator and a hospital put a key of their own under a peer's name, to know its masks: refused."""
    world, adverts = fresh(post_quantum=post_quantum)
    mine = keys.exchange_key(SEED).public_key().public_bytes_raw()
    false = advert_of(world, 2, 1, mine, kem_of(world), key=signer)
    attempts(world, [adverts[0], false, *adverts[2:]])
    with pytest.raises(ProtocolError):
        world.epoch.advert(false)


@POST_QUANTUM
def test_the_victims_own_key_replaced(post_quantum: bool) -> None:
    """A coordinator shows the victim another advert under the victim's own name, properly signed once: refused."""
    world, adverts = fresh(post_quantum=post_quantum)
    mine = keys.exchange_key(SEED).public_key().public_bytes_raw()
    for shown in ([advert_of(world, 1, 1, mine, kem_of(world)), *adverts[1:]], adverts[1:]):
        with refused(world, ProtocolError):
            world.member(1).share(share_request(world, shown))


@POST_QUANTUM
def test_a_sybil(post_quantum: bool) -> None:
    """A coordinator adds hospitals of its own, with new numbers or a second time under one: refused."""
    world, adverts = fresh(post_quantum=post_quantum)
    mine = keys.exchange_key(SEED).public_key().public_bytes_raw()
    for index in (5, 100, 1000):
        sybil = advert_of(world, index, 1, mine, kem_of(world))
        attempts(world, [*adverts, sybil])
        with pytest.raises(ProtocolError):
            world.epoch.advert(sybil)
    attempts(world, [*adverts, adverts[3]])
    attempts(world, [*adverts, advert_of(world, 4, 1, mine, kem_of(world))])


def test_an_epoch_of_colluders_and_the_victim() -> None:
    """A coordinator shows the victim an epoch without the other honest hospitals: below the quorum, refused."""
    for n in (4, 5, 7):
        world, adverts = fresh(n)
        for size in range(world.federation.quorum):
            attempts(world, adverts[:size])


def test_two_epochs_under_one_number() -> None:
    """A coordinator deals an epoch with all, then the same number with fewer members or another colluder's key."""
    world, adverts = fresh(5)
    first = world.member(1).share(share_request(world, adverts))
    second = advert_of(world, 5, 1, keys.exchange_key(SEED).public_key().public_bytes_raw())
    for shown in (adverts[:4], [*adverts[:4], second]):
        with refused(world, ProtocolError):
            world.member(1).share(share_request(world, shown))
    assert world.member(1).share(share_request(world, adverts)) == first
    with refused(world, PolicyError):
        world.member(1).advertise(1)


@POST_QUANTUM
def test_a_colluder_who_shows_two_keys(post_quantum: bool) -> None:
    """A colluder shows each honest hospital another key: the transcripts differ, nothing is confirmed, nothing read."""
    world, adverts = fresh(4, post_quantum=post_quantum)
    shown = {1: adverts, 2: adverts}
    mine = advert_of(world, 4, 1, keys.exchange_key(SEED).public_key().public_bytes_raw(), kem_of(world))
    shown[3] = [*adverts[:3], mine]
    books: dict[int, Epoch] = {}
    for index, one in shown.items():
        books[index] = Epoch(world.federation, 1)
        for raw in one:
            books[index].advert(raw)
    assert books[1].transcript == books[2].transcript != books[3].transcript
    if post_quantum:
        return  # offers are bound to the transcript; see the next tests
    for index, one in shown.items():
        world.member(index).share(share_request(world, one))
    updates = data(world)
    task = replace(task_of(arena(4)), epoch=1)
    uploads = {index: send(world, task, index, updates[index]) for index in shown}
    attacker = Attacker(world)
    attacker.saw(task, uploads.values())
    sums = attacker.sums()
    assert not sums
    assert not attacker.reads(1, updates[1])
    world.epoch = books[3]
    with refused(world, REFUSALS):
        ask_confirm(world, task, 1, (1, 2, 3))


@pytest.mark.parametrize("point", LOW_ORDER, ids=lambda one: one.hex()[:6])
def test_a_key_of_low_order(point: bytes) -> None:
    """A colluder advertises a point of low order, so that the secret with it is zero for everybody: refused."""
    world, adverts = fresh()
    false = advert_of(world, 4, 1, point)
    attempts(world, [*adverts[:3], false])


def test_a_colluder_who_copies_the_victims_key() -> None:
    """A colluder advertises the public key of another hospital as its own, to be sealed for by mistake: refused."""
    world, adverts = fresh()
    copied = advert_of(world, 4, 1, Advert.read(adverts[1], world.federation).exchange)
    attempts(world, [*adverts[:3], copied])
    for raw in adverts[:3]:
        world.epoch.advert(raw)
    with pytest.raises(ProtocolError):
        world.epoch.advert(copied)


@pytest.mark.parametrize(
    "weaker",
    [{"threshold": 4}, {"min_included": 4}, {"clip": 8.0}, {"w_max": 2000}, {"ring_bits": 16}, {"apps": ("0" * 64,)},
     {"colluding": 0}, {"post_quantum": True}],
    ids=lambda one: next(iter(one)),
)  # fmt: skip
def test_a_lowered_threshold_or_any_other_altered_rule(weaker: dict[str, object]) -> None:
    """A coordinator plays a charter with weaker rules: hospitals that pinned another one do not see its adverts."""
    world, adverts = fresh(5, threshold=5)
    elsewhere = World(federation(5, **{"threshold": 5, **weaker}), world.ledgers, world.epoch)
    assert elsewhere.federation.fingerprint != world.federation.fingerprint
    theirs = [advert_of(elsewhere, index, 1, keys.exchange_key(SEED).public_key().public_bytes_raw()) for index in (2,)]
    attempts(world, [adverts[0], *theirs, *adverts[2:]])


def test_a_charter_that_protects_nobody() -> None:
    """Whoever writes a charter with a threshold that c colluders beat: no hospital can load it."""
    for n, threshold, colluding in itertools.product(range(3, 9), range(9), range(9)):
        safe = threshold <= n and 2 * threshold > n + colluding and threshold - colluding >= 2
        if safe:
            federation(n, threshold=threshold, colluding=colluding)
        else:
            with pytest.raises(CharterError):
                federation(n, threshold=threshold, colluding=colluding)
    for bad in ({"min_included": 2}, {"min_included": 0}, {"clip": 0.0}, {"clip": float("nan")},
                {"clip": float("inf")}, {"w_max": 0}, {"ring_bits": 8}, {"ring_bits": 64}):  # fmt: skip
        with pytest.raises(CharterError):
            federation(4, **bad)


def test_a_charter_with_one_hospital_twice() -> None:
    """Whoever writes a charter gives two members one identity key, so that one hospital counts as two: refused."""
    made = federation(4)
    twice = replace(made.peers[3], identity=made.peers[2].identity)
    with pytest.raises(CharterError):
        replace(made, peers=(*made.peers[:3], twice))
    with pytest.raises(CharterError):
        replace(made, peers=(*made.peers[:3], Peer(3, "again", identity(9).public_key().public_bytes_raw())))


def test_a_process_with_the_key_of_another_hospital() -> None:
    """A hospital starts with an identity that is not the one of its index in the charter: refused."""
    world = arena(4)
    with pytest.raises(PolicyError):
        Member(world.federation, 1, identity(2), world.ledgers[1])


@pytest.mark.parametrize("number", [-1, 0, 2**63, 2**64, 2**70])
def test_epoch_numbers_that_are_none(number: int) -> None:
    """A coordinator asks for the keys of an epoch that no message can carry: refused, and the next one still works."""
    world, adverts = fresh()
    with refused(world, REFUSALS):
        world.member(1).advertise(number)
    assert world.member(1).advertise(1) == adverts[0]


@pytest.mark.parametrize("number", [-1, 2**63, 2**64, 2**70])
def test_key_encapsulation_for_epoch_numbers_that_are_none(number: int) -> None:
    """A coordinator asks for ML-KEM secrets in an epoch that no message can carry: refused, the next one works."""
    world, adverts = fresh(post_quantum=True)
    with refused(world, REFUSALS):
        world.member(1).encapsulate(number, adverts)
    assert world.member(1).advertise(1) == adverts[0]


@pytest.mark.parametrize(("first", "count"), [(0, 1), (1, 0), (1, 2**20), (2**32, 2), (2**63, 1), (5000, 1)])
def test_deals_for_rounds_that_are_none(first: int, count: int) -> None:
    """A coordinator asks for deals of no rounds, of too many or too far ahead: refused."""
    world, adverts = fresh()
    with refused(world, REFUSALS):
        world.member(1).share(ShareRequest(1, first, count, tuple(adverts)).to_bytes())


def offers() -> tuple[World, list[bytes], dict[int, bytes]]:
    world, adverts = fresh(4, post_quantum=True)
    return world, adverts, {index: world.member(index).encapsulate(1, adverts) for index in world.everyone}


def test_a_replaced_ml_kem_ciphertext() -> None:
    """A coordinator puts a ciphertext of its own into an offer, under a new signature of its own or none: refused."""
    world, adverts, made = offers()
    one = KemOffer.read(made[1], world.federation)
    _, ciphertext = keys.kem_key(SEED).public_key().encapsulate()
    swapped = replace(one, ciphertexts=(ciphertext, *one.ciphertexts[1:]))
    crossed = replace(one, ciphertexts=one.ciphertexts[::-1])
    for false in (swapped, crossed, replace(one, signature=bytes(64)), replace(one, transcript=bytes(32))):
        kems = [false.to_bytes(), *(made[index] for index in (2, 3, 4))]
        with refused(world, ProtocolError):
            world.member(2).share(share_request(world, adverts, kems=kems))
    resigned = replace(swapped, signature=signed(swapped.body(), identity(4))[-64:])
    with refused(world, ProtocolError):
        world.member(2).share(share_request(world, adverts, kems=[resigned.to_bytes(), made[2], made[3], made[4]]))


def test_ml_kem_left_out() -> None:
    """A coordinator forgets the offers, or some of them, to fall back to X25519 alone: refused."""
    world, adverts, made = offers()
    for some in ((), (1,), (2,), (2, 3, 4), (1, 3, 4)):
        with refused(world, ProtocolError):
            world.member(2).share(share_request(world, adverts, kems=[made[index] for index in some]))
    plain, others = fresh(4)
    with refused(plain, REFUSALS):
        plain.member(1).encapsulate(1, others)
    bare = advert_of(world, 4, 1, keys.exchange_key(SEED).public_key().public_bytes_raw())
    attempts(world, [*adverts[:3], bare])


def test_two_offers_of_one_hospital_shown_to_two() -> None:
    """A coordinator shows the dealer and its peer two offers of the dealer: their seeds differ, the book says so."""
    world, adverts, made = offers()
    again = world.member(1).encapsulate(1, adverts)
    assert again != made[1]
    for raw in adverts:
        world.epoch.advert(raw)
    rest = [made[index] for index in (2, 3, 4)]
    world.epoch.deal(world.member(1).share(share_request(world, adverts, kems=[made[1], *rest])))
    try:
        deal = world.member(2).share(share_request(world, adverts, kems=[again, *rest]))
    except ProtocolError:
        return
    with pytest.raises(ProtocolError):
        world.epoch.deal(deal)
