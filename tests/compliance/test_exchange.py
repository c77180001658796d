"""The audit exchange: sites become each other's witnesses through a coordinator that nobody needs to believe."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from compliance import exchange_grpc
from compliance.alerts import unrecorded
from compliance.checkpoint import Quorum, Signed, satisfied
from compliance.endorse import Endorsement, coordinator_origin, site_origin, vouched
from compliance.exchange import MAX_OFFERED, Correspondent, Relay, Turned
from compliance.exchange_grpc import Caller, Papers, serve
from compliance.log import Action, AuditLog, Entry, Outcome, entries
from compliance.note import Signer, read_log_key
from compliance.proto.audit_pb2 import Cosignature, Head, Proof, TurnReply, TurnRequest
from compliance.trail import Trail
from compliance.verify import cosigners
from compliance.witness import Witness
from server.authority import plan_of
from server.members import Members
from shared.certificates import read
from shared.charter import Charter, CharterMember
from shared.errors import PolicyError, ProtocolError
from shared.link_keys import read_key
from tests.federation import members as fed
from tests.federation.links import HOST, Credentials, Desk
from tests.ports import free_port

SITES = ("H1", "H2", "H3")


@dataclass
class Party:
    """One site, or the coordinator, with its log and its witness."""

    name: str
    folder: Path
    signer: Signer
    endorsement: Endorsement
    charter: Charter
    authority: Path
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin with what is on the disk alone."""
        self.trail = Trail(self.folder, self.signer)
        self.side = Correspondent(
            self.trail,
            self.endorsement,
            lambda known: Witness(self.folder / "witness", self.signer, known),
            lambda found: vouched(self.charter, found, read(self.authority, count=1)[0], strict=False),
            known=self.folder / "known",
        )

    def write(self, count: int = 3) -> None:
        with AuditLog(self.folder / "log.jsonl", site=self.name, subject_key=b"k") as log:
            log.append_many([Entry(Action.ROUND, Outcome.OK, round=number) for number in range(count)])

    def publish(self, count: int = 3) -> Signed:
        self.write(count)
        return self.trail.checkpoint()

    def turn(self, relay: Relay) -> Turned:
        asked = self.side.offer()
        done = self.side.take(asked, relay.turn(self.name, asked))
        self.said += done.problems
        return done

    def cosigned(self) -> set[str]:
        """Who has cosigned its newest checkpoint."""
        newest = self.trail.newest()
        assert newest is not None
        return set(cosigners(newest.note, self.side.vouched().sites))


@dataclass
class World:
    desk: Desk
    parties: dict[str, Party]
    shown: dict[str, Credentials]
    keys: dict[str, Path]

    @property
    def relay(self) -> Relay:
        return Relay(lambda: {name: one.signer.name for name, one in self.parties.items()})

    def turns(self, relay: Relay, rounds: int = 3, *left_out: str) -> None:
        for _ in range(rounds):
            for name, party in self.parties.items():
                if name not in left_out:
                    party.turn(relay)


@pytest.fixture
def world(tmp_path: Path) -> World:
    desk = Desk.make(tmp_path)
    identities = {site: Ed25519PrivateKey.generate() for site in SITES}
    public = {site: key.public_key().public_bytes_raw() for site, key in identities.items()}
    shown = {site: desk.admit(site, identities[site]) for site in SITES}
    plan = plan_of(desk.coordinator)
    members = tuple(CharterMember(site, public[site].hex()) for site in SITES)
    charter = fed.masked(members, 3, {}, coordinator=plan)
    authority = desk.coordinator.authority_path
    parties = {}
    for site in SITES:
        signer = Signer(site_origin(site, public[site]), Ed25519PrivateKey.generate())
        endorsed = Endorsement.make(signer.name, signer.public, identities[site])
        parties[site] = Party(site, tmp_path / site, signer, endorsed, charter, authority)
    signer = Signer(coordinator_origin(plan.name, plan.authority), Ed25519PrivateKey.generate())
    endorsed = Endorsement.make(signer.name, signer.public, read_key(desk.coordinator.authority_key_path))
    parties[plan.name] = Party(plan.name, tmp_path / "coordinator", signer, endorsed, charter, authority)
    keys = {site: tmp_path / f"{site}.key" for site in SITES}
    for site, path in keys.items():
        path.write_text(identities[site].private_bytes_raw().hex())
        path.chmod(0o600)
    return World(desk, parties, shown, keys)


@pytest.mark.control("HIPAA-164.312-c-witnessed")
def test_every_site_has_a_quorum_after_three_turns(world: World) -> None:
    relay = world.relay
    for party in world.parties.values():
        party.publish()
    world.turns(relay)
    for site in SITES:
        party = world.parties[site]
        newest = party.trail.newest()
        assert newest is not None
        assert len(party.cosigned()) == 2
        assert satisfied(newest.note, Quorum(party.side.vouched().sites))[0]
        assert not party.said
    assert len(world.parties["hub"].cosigned()) == 3
    for party in world.parties.values():  # the logs go on, and are proven to
        party.publish(5)
    world.turns(relay)
    assert {len(world.parties[site].cosigned()) for site in SITES} == {2}
    assert not [line for party in world.parties.values() for line in party.said]


def test_a_log_that_runs_ahead_in_every_turn_is_cosigned_all_the_same(world: World) -> None:
    relay = world.relay
    for _ in range(6):
        for party in world.parties.values():
            party.publish(2)
            party.turn(relay)
    for site in SITES:
        party = world.parties[site]
        notes = [party.trail.at(size).note for size in party.trail.sizes()]
        assert sum(satisfied(note, Quorum(party.side.vouched().sites))[0] for note in notes) >= 1
        assert not party.said


def test_who_lost_his_memory_goes_on_where_he_was(world: World) -> None:
    """What a correspondent has on disk is enough: a process that is started again asks anew."""
    relay = world.relay
    for party in world.parties.values():
        party.publish()
    world.turns(relay)
    world.parties["H2"].start()
    for party in world.parties.values():
        party.publish()
    world.turns(world.relay, 5)  # and the coordinator was started again too
    assert {len(world.parties[site].cosigned()) for site in SITES} == {2}


@pytest.mark.control("HIPAA-164.312-c-witnessed")
@pytest.mark.parametrize("copy", ["older", "none"])
def test_a_witness_that_was_set_back_cosigns_nothing_of_a_log_of_which_its_own_log_knows_more(
    world: World, copy: str
) -> None:
    """As after a restore: the state of ``H2`` is of before an import by file, which its log has an entry of."""
    relay, one, other = world.relay, world.parties["H1"], world.parties["H2"]
    for party in world.parties.values():
        party.publish()
    world.turns(relay)
    witness = Witness(other.folder / "witness", other.signer, other.side.vouched().logs)
    path = next((other.folder / "witness").glob("*H1*.note"))
    older, name = path.read_bytes(), one.signer.name
    signed = one.publish()
    witness.submit(3, one.trail.consistency(3, 6), signed.raw)
    with AuditLog(other.folder / "log.jsonl", site="H2", subject_key=b"k") as log:
        log.append(witness.entry(name))
    path.unlink()
    if copy == "older":
        path.write_bytes(older)
    other.start()
    one.publish()
    world.turns(relay, 5)
    assert [line for line in other.said if "it was set back to an older copy" in line]
    assert one.cosigned() == {world.parties["H3"].signer.name}
    assert len(world.parties["H3"].cosigned()) == 2, "it goes on witnessing the others"
    with AuditLog(other.folder / "log.jsonl", site="H2", subject_key=b"k") as log:
        log.append(Entry(Action.WITNESS, Outcome.OK, detail={"origin": name, "decision": "anew"}))
    world.turns(relay, 3)
    assert len(one.cosigned()) == 2, "a person has decided"


@pytest.mark.control("HIPAA-164.312-c-witnessed")
def test_a_hospital_that_shows_two_histories_is_found_out_and_marked(world: World, tmp_path: Path) -> None:
    relay, liar = world.relay, world.parties["H3"]
    for party in world.parties.values():
        party.publish()
    world.turns(relay)
    forged = tmp_path / "forged"
    with AuditLog(forged / "log.jsonl", site="H3", subject_key=b"k") as log:
        log.append_many([Entry(Action.TRAIN, Outcome.OK, round=number) for number in range(3)])
    other = Trail(forged, liar.signer).checkpoint()
    assert other.size == 3
    asked = TurnRequest(own=Head(checkpoint=other.raw, endorsement=liar.side.offer().own.endorsement))
    relay.turn("H3", asked)
    done = world.parties["H1"].turn(relay)
    assert [(one.action, one.outcome) for one in done.entries] == [(Action.WITNESS, Outcome.REFUSED)]
    assert "two heads" in done.problems[0]
    witness = Witness(world.parties["H1"].folder / "witness", world.parties["H1"].signer, {})
    assert list(witness.marked()) == [liar.signer.name]
    assert "before a person decides" in world.parties["H1"].turn(relay).problems[0]
    assert not world.parties["H1"].turn(relay).problems, "it is said once"


def test_a_party_shows_its_own_log_alone(world: World) -> None:
    relay = world.relay
    for party in world.parties.values():
        party.publish()
    with pytest.raises(PolicyError, match="the checkpoint is one of"):
        relay.turn("H1", world.parties["H2"].side.offer())
    with pytest.raises(PolicyError, match="has no log"):
        relay.turn("H9", TurnRequest())
    with pytest.raises(ProtocolError, match="is no checkpoint"):
        relay.turn("H1", TurnRequest(own=Head(checkpoint=b"x")))


@pytest.mark.control("HIPAA-164.312-c-witnessed")
@pytest.mark.parametrize("what", ["checkpoint", "endorsement", "proofs", "cosignatures"])
def test_a_coordinator_that_alters_what_it_carries_gets_nothing_cosigned(world: World, what: str) -> None:
    relay = world.relay
    for party in world.parties.values():
        party.publish()
    one = world.parties["H1"]
    if what == "proofs":
        world.turns(relay, 3)
        for party in world.parties.values():
            party.publish()
            party.turn(relay)
    elif what == "cosignatures":
        world.turns(relay, 1)
        world.turns(relay, 1, "H1")
    else:
        world.turns(relay, 1, "H1")
    asked = one.side.offer()
    reply = relay.turn("H1", asked)
    before = one.cosigned()
    spoilt(reply, what)
    done = one.side.take(asked, reply)
    assert done.problems
    assert (done.cosigned, done.received) == (3 if what == "cosignatures" else 0, 0)
    assert one.cosigned() == before
    world.turns(relay, 3)
    if what == "cosignatures":
        assert len(one.cosigned()) == 2, "what was spoilt once keeps nobody from the next"


def spoilt(reply: TurnReply, what: str) -> None:
    for head in reply.others:
        if what == "checkpoint":
            head.checkpoint = head.checkpoint.replace(b"\n3\n", b"\n4\n")
        elif what == "endorsement":
            head.endorsement = head.endorsement.replace(b'"log_key":"', b'"log_key":"00')[:-3] + b'0"}'
        elif what == "proofs":
            for proof in head.proofs:
                proof.hashes[0] = bytes(32)
    for given in reply.cosignatures:
        if what == "cosignatures":
            given.line = given.line[:-9] + b"AAAAAAA=\n"


@pytest.mark.control("HIPAA-164.312-c-witnessed", "HIPAA-164.312-d-authentication")
def test_an_endorsement_whose_time_is_over_takes_nobody_with_it(world: World) -> None:
    """Whoever shows one that is good for two seconds would stop every turn of all others."""
    relay, odd = world.relay, world.parties["H3"]
    identity = read_log_key(world.keys["H3"])
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    odd.endorsement = Endorsement.make(odd.signer.name, odd.signer.public, identity, until=soon)
    odd.start()
    for party in world.parties.values():
        party.publish()
    world.turns(relay)
    time.sleep(max(0.0, (soon - datetime.now(UTC)).total_seconds()) + 0.1)
    one = world.parties["H1"]
    assert odd.signer.name not in one.side.vouched().logs
    for party in world.parties.values():
        if party is not odd:
            party.publish()
    world.turns(relay, 5, "H3")
    assert len(one.cosigned()) == 1, "H2 goes on witnessing it"


def test_a_member_cannot_push_out_what_others_cosigned(world: World) -> None:
    relay, victim = world.relay, world.parties["H1"]
    for party in world.parties.values():
        party.publish()
    world.turns(relay, 1)
    junk = [Cosignature(origin=victim.signer.name, size=2**62 + n, line=b"x") for n in range(MAX_OFFERED)]
    junk += [Cosignature(origin=victim.signer.name, size=n, line=b"x" * 600) for n in range(3)]
    for _ in range(3):
        relay.turn("H3", TurnRequest(cosignatures=junk[:MAX_OFFERED]))
    world.turns(relay, 2, "H3")
    assert victim.cosigned() >= {world.parties["H2"].signer.name}
    assert not victim.said


@pytest.mark.parametrize("hashes", [[bytes(32)] * 64, [bytes(33)], [b"x" * 100_000]])
def test_a_proof_has_the_length_of_a_proof(world: World, hashes: list[bytes]) -> None:
    """Otherwise one member's proof would make everybody's answer longer than an answer may be."""
    party = world.parties["H1"]
    party.publish()
    asked = party.side.offer()
    asked.own.proofs.append(Proof(old_size=1, new_size=3, hashes=hashes))
    with pytest.raises(ProtocolError, match="a proof has at most"):
        world.relay.turn("H1", asked)


def test_an_alert_stands_in_the_log_also_where_the_process_was_killed_before_it_was_written(
    world: World, tmp_path: Path
) -> None:
    relay, liar, one = world.relay, world.parties["H3"], world.parties["H1"]
    for party in world.parties.values():
        party.publish()
    world.turns(relay)
    with AuditLog(tmp_path / "forged" / "log.jsonl", site="H3", subject_key=b"k") as log:
        log.append_many([Entry(Action.TRAIN, Outcome.OK, round=number) for number in range(3)])
    other = Trail(tmp_path / "forged", liar.signer).checkpoint()
    own = Head(checkpoint=other.raw, endorsement=liar.side.offer().own.endorsement)
    relay.turn("H3", TurnRequest(own=own))
    asked = one.side.offer()
    assert one.side.take(asked, relay.turn("H1", asked)).entries  # and here the machine stops
    before = list(entries(one.folder / "log.jsonl"))
    missing = unrecorded(one.folder / "witness", before)
    assert [entry.detail and entry.detail["alert"] for entry in missing] == ["two histories"]
    with AuditLog(one.folder / "log.jsonl", site="H1", subject_key=b"k") as log:
        log.append_many(missing)
    assert unrecorded(one.folder / "witness", entries(one.folder / "log.jsonl")) == []


def test_over_the_network_with_certificates_of_the_federation(world: World) -> None:
    for party in world.parties.values():
        party.publish()
    with answered(world) as port, ExitStack() as stack:
        callers = {site: caller(world, site, port) for site in SITES}
        for one in callers.values():
            stack.callback(one.close)
        for _ in range(5):
            with ThreadPoolExecutor(len(SITES)) as threads:
                list(threads.map(lambda site: call(world.parties[site], callers[site]), SITES))
    assert {len(world.parties[site].cosigned()) for site in SITES} == {2}


@pytest.mark.control("HIPAA-164.312-d-authentication", "HIPAA-164.312-e-transmission")
def test_strangers_are_not_answered(world: World) -> None:
    world.parties["H1"].publish()
    with answered(world) as port:
        stranger = world.desk.credentials("H9")  # of the authority, and no member
        one = Caller(f"{HOST}:{port}", papers(world, stranger))
        with pytest.raises(ProtocolError, match="no member's"):
            one.turn(TurnRequest())
        one.close()
        (elsewhere := world.desk.safe.parent / "elsewhere").mkdir()
        shown = Desk.make(elsewhere).credentials("H1")
        foreign = Caller(f"{HOST}:{port}", papers(world, shown))
        with pytest.raises(ProtocolError, match="does not answer"):
            foreign.turn(TurnRequest())
        foreign.close()


def test_the_first_calls_at_once_all_find_the_members(world: World) -> None:
    known, at_once = Members(world.desk.coordinator), []

    def slow() -> Mapping[bytes, str]:
        at_once.append(1)
        assert len(at_once) == 1
        time.sleep(0.1)
        at_once.pop()
        return known()

    with answered(world, slow) as port, ThreadPoolExecutor(len(SITES)) as threads:
        list(threads.map(lambda site: ask(world, site, port), SITES))


def ask(world: World, site: str, port: int) -> None:
    one = caller(world, site, port)
    try:
        one.turn(TurnRequest())
    finally:
        one.close()


METHOD = "/fedward.audit.v1.AuditExchange/Turn"


@contextmanager
def held_open(world: World, shown: Credentials, port: int, count: int) -> Iterator[list[grpc.Call]]:
    """So many calls under these papers, each with a connection of its own, that have begun and send nothing."""
    over, own = threading.Event(), papers(world, shown)

    def nothing() -> Iterator[bytes]:
        over.wait(60)
        yield from ()

    credentials = grpc.ssl_channel_credentials(own.authority, own.key, own.certificate)
    with ExitStack() as stack:
        stack.callback(over.set)
        calls = []
        for _ in range(count):
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = stack.enter_context(grpc.secure_channel(f"{HOST}:{port}", credentials, options=options))
            calls.append(channel.stream_unary(METHOD).future(nothing(), timeout=50))
        yield calls


def ended(calls: list[grpc.Call], count: int) -> list[grpc.StatusCode]:
    """The codes of those calls that have ended, once ``count`` have."""
    end = time.monotonic() + 10
    while sum(one.done() for one in calls) < count and time.monotonic() < end:
        time.sleep(0.02)
    return [one.code() for one in calls if one.done()]


@pytest.mark.control("HIPAA-164.312-c-witnessed")
def test_who_holds_calls_open_keeps_nobody_from_an_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_grpc, "RECEIVING", 3.0)
    for party in world.parties.values():
        party.publish()
    with answered(world) as port, ExitStack() as stack:
        calls = stack.enter_context(held_open(world, world.shown["H3"], port, 8))
        assert ended(calls, 6) == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 6
        one = caller(world, "H1", port)
        stack.callback(one.close)
        begun = time.monotonic()
        call(world.parties["H1"], one)
        assert time.monotonic() - begun < 2
        assert len(ended(calls, 6)) == 6, "two were still held open"
        assert ended(calls, 8).count(grpc.StatusCode.CANCELLED) == 2, "and they are ended from this side"
        own = caller(world, "H3", port)
        stack.callback(own.close)
        call(world.parties["H3"], own)  # who stops that is answered again


@pytest.mark.control("HIPAA-164.312-d-authentication")
def test_who_is_no_member_is_turned_away_before_any_message(world: World) -> None:
    with answered(world) as port:
        gone = world.desk.credentials("H9")
        with held_open(world, gone, port, 8) as calls:
            assert ended(calls, 8) == [grpc.StatusCode.PERMISSION_DENIED] * 8


@pytest.mark.parametrize("messages", [[], [b"\xff"]])
def test_a_call_without_a_turn_in_it_is_refused(world: World, messages: list[bytes]) -> None:
    own = papers(world, world.shown["H1"])
    credentials = grpc.ssl_channel_credentials(own.authority, own.key, own.certificate)
    with answered(world) as port, grpc.secure_channel(f"{HOST}:{port}", credentials) as channel:
        with pytest.raises(grpc.RpcError) as met:
            channel.stream_unary(METHOD)(iter(messages), timeout=10)
        assert met.value.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL}


def call(party: Party, one: Caller) -> None:
    asked = party.side.offer()
    party.said += party.side.take(asked, one.turn(asked)).problems


def papers(world: World, shown: Credentials) -> Papers:
    key = shown.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Papers(shown.certificate.read_bytes(), key, world.desk.coordinator.authority_path.read_bytes())


def caller(world: World, site: str, port: int) -> Caller:
    return Caller(f"{HOST}:{port}", papers(world, world.shown[site]))


@contextmanager
def answered(world: World, members: Callable[[], Mapping[bytes, str]] | None = None) -> Iterator[int]:
    one = world.desk.coordinator
    own = Papers(one.gate_path.read_bytes(), one.gate_key_path.read_bytes(), one.authority_path.read_bytes())
    with serve(f"{HOST}:{free_port()}", own, members or Members(one), world.relay) as port:
        yield port
