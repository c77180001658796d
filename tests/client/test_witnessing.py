"""Whether others have seen enough of this hospital's log, before a round of training."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.node import Node
from client.witnessing import check_shown, correspondent, require_witnessed, stale
from compliance.endorse import FILE, Endorsement, coordinator_origin
from compliance.log import Action, Entry, Outcome
from compliance.note import Signer
from compliance.place import Place
from compliance.proto.audit_pb2 import TurnReply
from compliance.shown import KNOWN, bare
from compliance.trail import Trail
from compliance.turning import Turning
from server.authority import plan_of
from shared.errors import ProtocolError, RecordError
from shared.link_keys import read_key
from simulation.witnessing import witness
from tests.federation import members as fed
from tests.federation import toy
from tests.federation.links import Desk

POLICY = "[record]\nwitnesses = 2\nhours = 2.0\n"


@dataclass
class World:
    """Three hospitals with a pinned charter, and a coordinator of it."""

    desk: Desk
    nodes: dict[str, Node]

    def cosigned(self) -> None:
        witness({site: node.folder for site, node in self.nodes.items()})


@pytest.fixture
def world(tmp_path: Path) -> World:
    desk = Desk.make(tmp_path)
    nodes = {node.site: node for node in fed.hospitals(tmp_path / "nodes")}
    charter = fed.masked(tuple(map(fed.member, nodes.values())), 3, {}, coordinator=plan_of(desk.coordinator))
    for node in nodes.values():
        node.pin(charter)
        node.authority.parent.mkdir(exist_ok=True, mode=0o700)
        node.authority.write_bytes(desk.coordinator.authority_path.read_bytes())
        with node.open_log() as log:
            log.append(Entry(Action.TRAIN, Outcome.OK))
    return World(desk, nodes)


def policy(node: Node, text: str) -> None:
    path = node.folder / "policy.toml"
    path.write_text((path.read_text() if path.exists() else "") + text)
    path.chmod(0o600)


def test_nobody_is_asked_for_where_the_policy_says_nothing(world: World) -> None:
    require_witnessed(world.nodes["H1"])


def test_who_asks_for_witnesses_waits_for_them(world: World) -> None:
    node = world.nodes["H1"]
    policy(node, POLICY)
    with pytest.raises(RecordError, match="2 other sites have not cosigned"):
        require_witnessed(node)
    world.cosigned()
    require_witnessed(node)
    require_witnessed(node, now=datetime.now(UTC) + timedelta(hours=1.9))
    with pytest.raises(RecordError, match="allows 2 hours"):
        require_witnessed(node, now=datetime.now(UTC) + timedelta(hours=2.1))


def test_more_witnesses_than_there_are_others_are_never_there(world: World) -> None:
    policy(world.nodes["H1"], POLICY.replace("2\n", "3\n", 1))
    world.cosigned()
    with pytest.raises(RecordError, match="3 other sites"):
        require_witnessed(world.nodes["H1"])


def test_a_log_of_two_histories_stops_every_round(world: World) -> None:
    node = world.nodes["H1"]
    world.cosigned()
    folder = node.folder / "audit" / "witness"
    (folder / "fedward%2FH2%2F0000000000000000.split").write_text("x.json")
    with pytest.raises(RecordError, match="two histories"):
        require_witnessed(node)


def checkpoint(world: World, folder: Path, key: Ed25519PrivateKey) -> tuple[str, Endorsement]:
    """A checkpoint of the coordinator's log under ``key``, and the authority's word for that key."""
    plan = plan_of(world.desk.coordinator)
    signer = Signer(coordinator_origin(plan.name, plan.authority), key)
    node = world.nodes["H2"]  # any log will do
    folder.mkdir()
    (folder / "log.jsonl").write_bytes((node.folder / "audit" / "log.jsonl").read_bytes())
    endorsed = Endorsement.make(signer.name, signer.public, read_key(world.desk.coordinator.authority_key_path))
    return bare(Trail(folder, signer).checkpoint()), endorsed


def test_a_request_carries_a_checkpoint_that_the_coordinators_key_signed(world: World, tmp_path: Path) -> None:
    node, key = world.nodes["H1"], Ed25519PrivateKey.generate()
    text, endorsed = checkpoint(world, tmp_path / "hub-log", key)
    check_shown(node, text)  # the key is not known yet
    known = node.folder / "audit" / KNOWN
    known.mkdir(parents=True)
    endorsed.save(known / "hub.json")
    check_shown(node, text)
    check_shown(node, "")
    other, _ = checkpoint(world, tmp_path / "other-log", Ed25519PrivateKey.generate())
    for forged in (other, text.replace("\n1\n", "\n2\n")):
        with pytest.raises(ProtocolError):
            check_shown(node, forged)


def test_a_checkpoint_of_another_log_does_not_pass_for_the_coordinators(world: World, tmp_path: Path) -> None:
    node = world.nodes["H1"]
    world.cosigned()
    _, endorsed = checkpoint(world, tmp_path / "hub-log", Ed25519PrivateKey.generate())
    endorsed.save(node.folder / "audit" / KNOWN / "hub.json")
    newest = Place.open(world.nodes["H2"].folder).trail.newest()
    assert newest is not None
    assert (node.folder / "audit" / FILE).exists()
    with pytest.raises(ProtocolError, match="not one of the coordinator's log"):
        check_shown(node, bare(newest))


@pytest.mark.control("HIPAA-164.312-c-witnessed")
@pytest.mark.parametrize(("text", "hours"), [(POLICY, 1.0), ("", 12.0), (POLICY.replace("2.0", "100.0"), 12.0)])
def test_a_log_that_rests_gets_fresh_cosignatures_before_they_are_too_old(
    world: World, monkeypatch: pytest.MonkeyPatch, text: str, hours: float
) -> None:
    node = world.nodes["H1"]
    policy(node, text)
    assert not stale(node), "nothing is published"
    world.cosigned()
    start = datetime.now(UTC)
    soon, later = start + timedelta(hours=hours - 0.1), start + timedelta(hours=hours + 0.1)
    assert not stale(node, now=soon)
    moments = [soon]
    own = Turning(
        correspondent(node),
        Place.open(node.folder),
        lambda _: TurnReply(),
        node.open_log,
        pytest.fail,
        stale=lambda: stale(node, now=moments[-1]),
        clock=start.timestamp,
    )
    trail = Place.open(node.folder).trail
    sizes = trail.sizes()
    assert own.turn()
    assert trail.sizes() == sizes
    moments.append(later)
    for _ in range(3):
        assert own.turn()
    assert trail.sizes() == [*sizes, sizes[-1] + 1], "once, until somebody has cosigned it"
    last = toy.log_rows(node.folder)[-1]
    assert (last["action"], last["detail"]) == ("witness", {"alive": True})
    world.cosigned()
    assert not stale(node)
    require_witnessed(node)


def test_a_hospital_shows_what_it_wrote_between_rounds_at_the_full_hour(world: World) -> None:
    node, moment = world.nodes["H1"], [3600.0 * 5 + 1800]
    side = correspondent(node)
    trail = Place.open(node.folder).trail
    own = Turning(
        side, Place.open(node.folder), lambda _: TurnReply(), node.open_log, pytest.fail, clock=lambda: moment[-1]
    )

    def write(count: int) -> None:
        with node.open_log() as log:
            log.append_many([Entry(Action.CONSENT_IMPORT, Outcome.OK)] * count)

    def turn(at: float) -> list[int]:
        moment.append(at)
        assert own.turn()
        return trail.sizes()

    assert turn(3600.0 * 5 + 1800) == [1], "at the start"
    write(2)
    assert turn(3600.0 * 6 - 1) == [1]
    assert turn(3600.0 * 6) == [1, 3]
    write(2)
    assert turn(3600.0 * 6 + 20) == [1, 3]
    assert turn(3600.0 * 7 + 5) == [1, 3, 5]
    assert turn(3600.0 * 8) == [1, 3, 5]
    write(1)
    assert turn(3600.0 * 8 + 5) == [1, 3, 5], "the hour was looked at when it began"
    own.close()
    assert trail.sizes() == [1, 3, 5, 6], "at the end"
