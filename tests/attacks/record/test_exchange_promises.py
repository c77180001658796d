"""The audit exchange against a coordinator that lies and a member that floods, poisons, rolls back (docs/record.md)."""

import contextlib
import random
import time
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from compliance.exchange import Relay
from compliance.log import Action, AuditLog, Entry, Outcome
from compliance.proto.audit_pb2 import Cosignature, Head, Proof, Seen, TurnReply, TurnRequest
from compliance.trail import Trail
from compliance.verify import cosigners
from compliance.witness import InconsistentError, Witness
from shared.errors import PolicyError, ProtocolError, RecordError
from tests.compliance.test_exchange import SITES, World, answered, caller, papers, world
from tests.federation.links import HOST

__all__ = ["world"]
DEEP = b'{"a":' * 60_000


def started(world: World, rounds: int = 3) -> Relay:
    relay = world.relay
    for party in world.parties.values():
        party.publish()
    world.turns(relay, rounds)
    return relay


def of(world: World, site: str) -> Witness:
    one = world.parties[site]
    return Witness(one.folder / "witness", one.signer, one.side.vouched().logs)


# --- a coordinator that shows different logs to different hospitals --------------------------------------------------


def test_a_split_view_is_found_out_when_the_heads_meet_by_file(world: World, tmp_path: Path) -> None:
    """Docs: "found out as soon as two of its heads meet ... a proof that needs nothing but the log's key"."""
    started(world)
    hub = world.parties["hub"]
    forged = tmp_path / "forged"
    with AuditLog(forged / "log.jsonl", site="hub", subject_key=b"k") as log:
        log.append_many([Entry(Action.TRAIN, Outcome.OK, round=number) for number in range(3)])
    other = Trail(forged, hub.signer).checkpoint()
    with pytest.raises(InconsistentError) as caught:
        of(world, "H1").submit(3, (), other.raw)
    assert caught.value.proven
    newest = hub.trail.newest()
    assert newest is not None
    with pytest.raises((InconsistentError, RecordError)):
        of(world, "H1").submit(3, (), newest.raw)


def test_what_is_replayed_and_reordered_neither_sets_a_witness_back_nor_accuses_anybody(world: World) -> None:
    """Docs: each witness cosigns only one history; a replay is no second one."""
    relay, one = started(world, 1), world.parties["H1"]
    carried: list[tuple[TurnRequest, TurnReply]] = []
    for _ in range(5):
        for name, party in world.parties.items():
            party.publish(2)
            if name != "H1":
                party.turn(relay)
        asked = one.side.offer()
        reply = relay.turn("H1", asked)
        carried.append((asked, reply))
        one.side.take(asked, reply)
    before = {origin: of(world, "H1").size(origin) for origin in of(world, "H1").origins()}
    assert before
    shuffled = random.Random(7)
    for _ in range(3):
        shuffled.shuffle(carried)
        for _, reply in carried:
            asked, _ = carried[shuffled.randrange(len(carried))]
            done = one.side.take(asked, reply)
            assert not [entry for entry in done.entries if entry.outcome is Outcome.REFUSED], done.problems
    after = of(world, "H1")
    assert not after.marked()
    assert all(after.size(origin) >= size for origin, size in before.items())


def test_one_members_cosignature_does_not_count_as_anothers_nor_for_another_size(world: World) -> None:
    """Spec 5: a quorum is of two other sites. A coordinator renames what it carries."""
    relay, one = started(world, 1), world.parties["H1"]
    for _ in range(2):
        for site in ("H2", "hub"):
            world.parties[site].turn(relay)
    asked = one.side.offer()
    reply = relay.turn("H1", asked)
    lines = [bytes(given.line) for given in reply.cosignatures]
    assert lines
    mine = lines[0].decode()
    name = next(party.signer.name for party in world.parties.values() if f" {party.signer.name} " in mine)
    other = next(world.parties[site].signer for site in ("H3", "H2") if world.parties[site].signer.name != name)
    renamed = mine.replace(name, other.name)
    forged = TurnReply(others=reply.others)
    newest = one.trail.newest()
    assert newest is not None
    for line in (renamed, mine + mine, mine.rstrip("\n"), mine.replace("— ", "- "), "\n" + mine):
        forged.cosignatures.append(Cosignature(origin=one.signer.name, size=newest.size, line=line.encode()))
    forged.cosignatures.append(Cosignature(origin=other.name, size=newest.size, line=mine.encode()))
    forged.cosignatures.append(Cosignature(origin=one.signer.name, size=newest.size + 1, line=mine.encode()))
    one.side.take(asked, forged)
    assert other.name not in one.cosigned()
    one.publish(2)
    grown = one.side.offer()
    one.side.take(
        grown,
        TurnReply(
            cosignatures=[Cosignature(origin=one.signer.name, size=newest.size + 2, line=line) for line in lines]
        ),
    )
    assert one.cosigned() == set(), "a cosignature of an earlier size is none of this one"


@pytest.mark.parametrize(
    "wanted",
    [[2**64 - 1], [2**63], list(range(100_000)), [1, 1, 1, 2, 3, 4, 5], [0]],
    ids=["max", "sign", "many", "twice", "zero"],
)
def test_whatever_sizes_are_wanted_the_next_turn_is_small_and_comes(world: World, wanted: list[int]) -> None:
    started(world, 2)
    one = world.parties["H1"]
    asked = one.side.offer()
    begun = time.monotonic()
    one.side.take(asked, TurnReply(wanted=wanted))
    again = one.side.offer()
    assert time.monotonic() - begun < 3
    assert len(again.SerializeToString()) < 1_000_000
    one.turn(world.relay)


SPOILT_NOTES = {
    "deep": DEEP,
    "binary": bytes(range(256)) * 100,
    "digits": b"fedward/H2/0\n" + b"9" * 5_000 + b"\n" + b"A" * 43 + b"=\n\n",
    "surrogate": "fedward/H2/0\n1\nAAAA\n\n— ".encode() + b"\xed\xa0\x80\n",
    "long": b"a" * 3_000_000,
    "lines": b"\n" * 500_000,
    "empty": b"",
}


@pytest.mark.parametrize("field", ["checkpoint", "endorsement", "line"])
def test_whatever_a_coordinator_sends_is_a_problem_told_and_no_end_of_the_exchange(world: World, field: str) -> None:
    """Docstring: "Nothing of it ends the exchange: what does not hold is a line in problems"."""
    relay, one = started(world), world.parties["H1"]
    newest = one.trail.newest()
    assert newest is not None
    for spoilt in SPOILT_NOTES.values():
        asked = one.side.offer()
        reply = relay.turn("H1", asked)
        for head in reply.others:
            if field != "line":
                setattr(head, field, spoilt)
        if field == "line":
            reply.cosignatures.append(Cosignature(origin=one.signer.name, size=newest.size, line=spoilt))
        begun = time.monotonic()
        done = one.side.take(asked, reply)
        assert time.monotonic() - begun < 5
        assert all(len(line) < 2_000 and line.isprintable() for line in done.problems), "a line, not the message again"
    for party in world.parties.values():
        party.publish()
    world.turns(world.relay, 4)
    assert len(one.cosigned()) == 2


def test_a_hundred_thousand_heads_and_proofs_are_passed_over_in_bounded_time(world: World) -> None:
    relay, one = started(world), world.parties["H1"]
    asked = one.side.offer()
    reply = relay.turn("H1", asked)
    head = reply.others[0]
    many = TurnReply(others=[Head(checkpoint=head.checkpoint, endorsement=head.endorsement)] * 3_000)
    for n in range(20_000):
        many.others[0].proofs.append(Proof(old_size=n, new_size=n + 1, hashes=[b"x" * 32] * 3))
    begun = time.monotonic()
    one.side.take(asked, many)
    assert time.monotonic() - begun < 8
    one.turn(relay)


# --- a member that floods and poisons --------------------------------------------------------------------------------


def test_a_member_with_a_spoilt_endorsement_keeps_nobody_else_from_a_quorum(world: World) -> None:
    """Docs: the rest of the quorum stands. H3 poisons what it shows; H1 and H2 still witness the hub and each other."""
    relay, bad = world.relay, world.parties["H3"]
    bad.publish()
    shown = bad.side.offer()
    own = shown.own.endorsement
    world.parties["H2"].publish()
    other = world.parties["H2"].side.offer().own.endorsement
    another = own.replace(b'"log_key":"', b'"log_key":"00')[:-3] + b'0"}'
    for spoilt in (*SPOILT_NOTES.values(), other, another):
        for name in ("H1", "H2", "hub"):
            world.parties[name].publish()
        shown.own.endorsement = spoilt
        for _ in range(3):
            with contextlib.suppress(ProtocolError, PolicyError):
                relay.turn("H3", shown)
            for name in ("H1", "H2", "hub"):
                world.parties[name].turn(relay)
        assert world.parties["H2"].signer.name in world.parties["H1"].cosigned()
        assert world.parties["H1"].signer.name in world.parties["H2"].cosigned()
        newest = world.parties["hub"].trail.newest()
        assert newest is not None
        assert len(cosigners(newest.note, world.parties["hub"].side.vouched().sites)) == 2


def test_a_member_cannot_take_the_place_of_anothers_cosignature(world: World) -> None:
    """H3 sends garbage in the name of H2, before and after H2's own; H1 gets H2's all the same."""
    relay, one = world.relay, world.parties["H1"]
    for party in world.parties.values():
        party.publish()
    one.turn(relay)
    newest = one.trail.newest()
    assert newest is not None
    genuine = world.parties["H2"].signer.cosign("something else\n1\nAAAA\n", verify_now())
    bad = [
        Cosignature(origin=one.signer.name, size=newest.size, line=genuine.encode()),
        Cosignature(origin=one.signer.name, size=newest.size, line=b""),
    ]
    for _ in range(4):
        for site in ("H3", "H2", "H3", "H1"):
            party = world.parties[site]
            asked = party.side.offer()
            if site == "H3":
                asked.cosignatures.extend(bad)
            try:
                party.side.take(asked, relay.turn(site, asked))
            except (ProtocolError, PolicyError):
                assert site == "H3"
    assert world.parties["H2"].signer.name in one.cosigned()


def verify_now() -> datetime:
    return datetime.now(UTC)


@pytest.mark.parametrize("field", ["cosignatures", "seen", "proofs", "checkpoint", "endorsement"])
def test_a_member_that_sends_as_much_as_it_may_does_not_silence_the_others_over_the_network(
    world: World, field: str
) -> None:
    """H3 sends ever larger turns, as many as are taken; H1 and H2 go on to get each other's cosignatures."""
    for party in world.parties.values():
        party.publish()
    one = world.parties["H1"]
    with answered(world) as port:
        callers = {site: caller(world, site, port) for site in SITES}
        for site in SITES:
            asked = world.parties[site].side.offer()
            world.parties[site].side.take(asked, callers[site].turn(asked))
        newest = one.trail.newest()
        assert newest is not None
        for size in (100, 1_000, 10_000, 60_000):
            asked = world.parties["H3"].side.offer()
            if field == "cosignatures":
                asked.cosignatures.extend(
                    Cosignature(origin=one.signer.name, size=n, line=b"\xe2\x80\x94 x AAAA\n") for n in range(size)
                )
            elif field == "seen":
                asked.seen.extend(Seen(origin=f"fedward/X{n}/0", size=n) for n in range(size))
                asked.seen.extend(Seen(origin=one.signer.name, size=n) for n in range(size))
            elif field == "proofs":
                asked.own.proofs.extend(Proof(old_size=n, new_size=n + 1, hashes=[bytes(32)]) for n in range(size))
            elif field == "checkpoint":
                asked.own.checkpoint += b"\xe2\x80\x94 x AAAAAAAA\n" * size
            else:
                asked.own.endorsement += b" " * size * 60
            with contextlib.suppress(ProtocolError):
                callers["H3"].turn(asked)
        for _ in range(4):
            for site in ("H1", "H2"):
                party = world.parties[site]
                party.publish(1)
                asked = party.side.offer()
                reply = callers[site].turn(asked)
                assert len(reply.SerializeToString()) < 4_000_000
                party.side.take(asked, reply)
        for site in SITES:
            callers[site].close()
    for site, other in (("H1", "H2"), ("H2", "H1")):
        got = {
            name
            for size in world.parties[site].trail.sizes()
            for name in cosigners(world.parties[site].trail.at(size).note, world.parties[site].side.vouched().sites)
        }
        assert world.parties[other].signer.name in got


def test_raw_bytes_and_huge_frames_over_grpc_end_in_a_refusal_and_the_office_goes_on(world: World) -> None:
    """Spec 5: gRPC over mutual TLS; a member's own key, and bytes that are no turn."""
    for party in world.parties.values():
        party.publish()
    with answered(world) as port:
        shown = papers(world, world.shown["H3"])
        channel = grpc.secure_channel(
            f"{HOST}:{port}",
            grpc.ssl_channel_credentials(shown.authority, shown.key, shown.certificate),
            options=[("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)],
        )
        raw = channel.unary_unary("/fedward.audit.v1.AuditExchange/Turn")
        for sent in (b"\xff" * 100, b"\x0a" * 1_000, b"x" * 60_000_000, b"\x12\x00" * 500_000):
            with pytest.raises(grpc.RpcError) as caught:
                raw(sent, timeout=20)
            assert caught.value.code() is not grpc.StatusCode.OK
            assert "Traceback" not in str(caught.value.details())
            assert str(world.desk.safe.parent) not in str(caught.value.details())
        channel.close()
        for claim in ("H1", "hub"):
            one = caller(world, "H3", port)
            with pytest.raises(ProtocolError):
                one.turn(world.parties[claim].side.offer())
            one.close()
        one = caller(world, "H1", port)
        asked = world.parties["H1"].side.offer()
        assert world.parties["H1"].side.take(asked, one.turn(asked)).problems == ()
        one.close()


def test_without_a_certificate_nobody_is_answered(world: World) -> None:
    with answered(world) as port:
        authority = world.desk.coordinator.authority_path.read_bytes()
        for credentials in (grpc.ssl_channel_credentials(authority), None):
            channel = (
                grpc.secure_channel(f"{HOST}:{port}", credentials)
                if credentials
                else grpc.insecure_channel(f"{HOST}:{port}")
            )
            call = channel.unary_unary("/fedward.audit.v1.AuditExchange/Turn")
            with pytest.raises(grpc.RpcError):
                call(b"", timeout=3)
            channel.close()
