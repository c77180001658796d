"""Key agreement of an epoch: what a lying coordinator or member may try with adverts and ML-KEM ciphertexts."""

import dataclasses

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.errors import ProtocolError
from shared.secagg import field
from shared.secagg.dealing import open_vault
from shared.secagg.encoding import encode
from shared.secagg.keys import vault_key, vault_secret
from shared.secagg.setup_messages import Advert, Deal, KemOffer, ShareRequest
from shared.secagg.signing import signed
from tests.shared.secagg.world import World, identity


def offered(epoch: int = 1) -> tuple[World, tuple[bytes, ...], dict[int, bytes]]:
    world = World.of(4, post_quantum=True)
    world.epoch.number = epoch
    for index in world.everyone:
        world.epoch.advert(world.member(index).advertise(epoch))
    adverts = world.epoch.adverts()
    return world, adverts, {index: world.member(index).encapsulate(epoch, adverts) for index in world.everyone}


def share(world: World, adverts: tuple[bytes, ...], offers: dict[int, bytes], index: int = 3) -> bytes:
    kems = tuple(raw for sender, raw in offers.items() if sender <= index)
    return world.member(index).share(ShareRequest(1, 1, 1, adverts, kems).to_bytes())


def test_two_adverts_of_one_hospital_are_refused_also_with_different_keys() -> None:
    world = World.of(4)
    adverts = [world.member(index).advertise(1) for index in world.everyone]
    second = signed(Advert(world.federation.fingerprint, 1, 3, bytes(range(32)), b"").body(), identity(3))
    with pytest.raises(ProtocolError, match="hospital-3 stands twice"):
        world.member(1).share(ShareRequest(1, 1, 1, (*adverts, second)).to_bytes())


def test_a_ciphertext_that_its_sender_did_not_sign_is_refused() -> None:
    world, adverts, offers = offered()
    read = KemOffer.read(offers[1], world.federation)
    place = read.peers.index(3)
    other = bytearray(read.ciphertexts[place])
    other[5] ^= 1
    changed = (*read.ciphertexts[:place], bytes(other), *read.ciphertexts[place + 1 :])
    offers[1] = dataclasses.replace(read, ciphertexts=changed).to_bytes()
    with pytest.raises(ProtocolError, match="hospital-1 is not the one that it signed"):
        share(world, adverts, offers)


def test_a_key_encapsulation_of_other_adverts_is_refused() -> None:
    world, adverts, offers = offered()
    read = KemOffer.read(offers[1], world.federation)
    foreign = dataclasses.replace(read, transcript=bytes(32))
    offers[1] = dataclasses.replace(foreign, signature=identity(1).sign(foreign.body())).to_bytes()
    with pytest.raises(ProtocolError, match="hospital-1 is of another epoch"):
        share(world, adverts, offers)
    with pytest.raises(ProtocolError, match="hospital-1 is of another epoch"):
        world.epoch.kem(offers[1])


def test_a_key_encapsulation_that_is_missing_forged_or_emptied_is_refused() -> None:
    world, adverts, offers = offered()
    read = KemOffer.read(offers[1], world.federation)
    emptied = dataclasses.replace(read, ciphertexts=(b"",) * len(read.peers)).to_bytes()
    forged = dataclasses.replace(read, signature=bytes(64)).to_bytes()
    without = {index: raw for index, raw in offers.items() if index != 1}
    for changed, what in (
        (without, "no key encapsulation with hospital-1"),
        ({**offers, 1: emptied}, "hospital-1 for this hospital is missing"),
        ({**offers, 1: forged}, "hospital-1 under its key encapsulation"),
    ):
        with pytest.raises(ProtocolError, match=what):
            share(world, adverts, changed)


def test_ones_own_sealed_secrets_are_opened_after_a_restart_and_not_when_altered() -> None:
    world, adverts, offers = offered()
    read = KemOffer.read(offers[2], world.federation)
    altered = dataclasses.replace(read, sealed=read.sealed[:-1] + bytes([read.sealed[-1] ^ 1]))
    altered = dataclasses.replace(altered, signature=identity(2).sign(altered.body()))
    with pytest.raises(ProtocolError, match="own key encapsulation was altered"):
        share(world, adverts, {**offers, 2: altered.to_bytes()}, index=2)
    assert share(world, adverts, offers, index=2)


def test_two_key_encapsulations_of_one_hospital_are_not_taken() -> None:
    world, adverts, offers = offered()
    world.epoch.kem(offers[1])
    world.epoch.kem(offers[1])
    with pytest.raises(ProtocolError, match="hospital-1 sends two key encapsulations"):
        world.epoch.kem(world.member(1).encapsulate(1, adverts))


def test_both_ends_of_a_hybrid_pair_hold_the_same_chain() -> None:
    world, adverts, offers = offered()
    for index in world.everyone:
        share(world, adverts, offers, index)
    for one in world.everyone:
        for other in world.everyone:
            mine, theirs = world.ledgers[one].state(1), world.ledgers[other].state(1)
            assert mine is not None
            assert theirs is not None
            assert one == other or mine.chain(other) == theirs.chain(one)


def test_a_vault_with_seeds_that_its_owner_did_not_sign_is_refused() -> None:
    world = World.of(3)
    world.begin(rounds=1)
    deal = Deal.read(world.member(2).share(world.epoch.share_request(2, 1, 1)), world.federation)
    state = world.ledgers[2].state(1)
    assert state is not None
    secret = field.to_bytes(vault_secret(state.own))
    assert set(open_vault(secret, deal, 1, "hospital-2")) == {1, 3}
    bound = encode("vault", deal.transcript, 1, 2, (1, 3))
    false = AESGCM(vault_key(secret)).encrypt(bytes(12), bytes(64), bound)
    lying = dataclasses.replace(deal, rounds=(dataclasses.replace(deal.rounds[0], vault=false),))
    with pytest.raises(ProtocolError, match="vault of hospital-2 does not hold what hospital-2 signed"):
        open_vault(secret, lying, 1, "hospital-2")
