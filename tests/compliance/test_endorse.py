"""Who vouches for a log key: the identity in the charter, or the coordinator's authority, and nobody else."""

import dataclasses
import json
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compliance.endorse import Endorsement, coordinator_origin, site_origin, vouched
from compliance.note import make_log_key, read_log_key
from compliance.place import Place, establish
from shared.certificates import Authority, digest
from shared.charter_plans import CoordinatorPlan
from shared.errors import PolicyError, ProtocolError, UsageError
from tests.compliance.members import charter_of, coordinator, fresh, node

NOW = datetime(2026, 11, 23, 10, 0, 0, tzinfo=UTC)
IDENTITY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ORIGIN = site_origin("H1", IDENTITY.public_key().public_bytes_raw())
LOG_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()


def test_an_endorsement_goes_to_a_file_and_back(tmp_path: Path) -> None:
    made = Endorsement.make(ORIGIN, LOG_KEY, IDENTITY, until=NOW + timedelta(days=1), now=NOW)
    made.save(tmp_path / "e.json")
    found = Endorsement.load(tmp_path / "e.json")
    assert found == made
    found.check(ORIGIN, IDENTITY.public_key(), now=NOW)
    assert [key.name for key in found.keys] == [ORIGIN, ORIGIN]
    assert [key.kind for key in found.keys] == [1, 4]


@pytest.mark.parametrize("name", ["v", "origin", "log_key", "created", "until", "signature"])
def test_no_field_can_change(tmp_path: Path, name: str) -> None:
    made = Endorsement.make(ORIGIN, LOG_KEY, IDENTITY, until=NOW + timedelta(days=1), now=NOW).as_json()
    other = {"v": 2, "origin": ORIGIN.replace("H1", "H2"), "log_key": "11" * 32, "created": "2026-11-23T10:00:01Z"}
    other |= {"until": "2036-11-23T10:00:01Z", "signature": "00" * 64}
    with pytest.raises(ProtocolError):
        changed = Endorsement.parse(json.dumps(made | {name: other[name]}))
        changed.check(changed.origin, IDENTITY.public_key(), now=NOW)
    without = {key: value for key, value in made.items() if key != name}
    with pytest.raises(ProtocolError):
        Endorsement.parse(json.dumps(without)).check(ORIGIN, IDENTITY.public_key(), now=NOW)


@pytest.mark.parametrize("raw", ["", "[]", "{}", '{"v":1}', "x" * 9000])
def test_what_is_none_is_refused_in_one_line(raw: str) -> None:
    with pytest.raises(ProtocolError, match="is no endorsement"):
        Endorsement.parse(raw)


def test_another_key_another_time_and_a_key_of_small_order_are_refused() -> None:
    made = Endorsement.make(ORIGIN, LOG_KEY, IDENTITY, until=NOW, now=NOW)
    with pytest.raises(ProtocolError, match="endorsed until"):
        made.check(ORIGIN, IDENTITY.public_key(), now=NOW)
    with pytest.raises(ProtocolError, match="not signed by whom"):
        made.check(ORIGIN, Ed25519PrivateKey.generate().public_key(), now=NOW - timedelta(1))
    with pytest.raises(UsageError, match="anybody could sign"):
        Endorsement.make(ORIGIN, bytes(32), IDENTITY)
    with pytest.raises(ProtocolError):
        dataclasses.replace(made, log_key=bytes(32), until=None).check(ORIGIN, IDENTITY.public_key(), now=NOW)
    with pytest.raises(ProtocolError, match="there is no such time"):
        Endorsement.parse(json.dumps(made.as_json() | {"created": "2026-13-40T10:00:01Z"}))


def test_a_charter_says_whose_log_key_it_is(tmp_path: Path) -> None:
    places = [node(tmp_path, name) for name in ("H1", "H2", "H3")]
    charter = charter_of(places)
    stranger = node(tmp_path, "H9")
    given = [place.endorsement for place in (*places, stranger)]
    found = vouched(charter, given)
    assert set(found.logs) == {place.endorsement.origin for place in places}
    assert {key.public for key in found.sites} == {place.signer.public for place in places}
    assert found.coordinator is None

    forged = Endorsement.make(given[0].origin, LOG_KEY, Ed25519PrivateKey.generate())
    with pytest.raises(ProtocolError, match="not signed by whom"):
        vouched(charter, [forged])


def test_of_two_endorsements_the_later_holds(tmp_path: Path) -> None:
    place = node(tmp_path, "H1")
    identity = read_log_key(place.folder / "keys" / "identity.key")
    first = place.endorsement
    later = Endorsement.make(first.origin, LOG_KEY, identity, now=first.created + timedelta(days=1))
    for order in ([first, later], [later, first]):
        assert vouched(charter_of([place]), order).logs[first.origin].public == LOG_KEY


def test_the_coordinators_authority_vouches_for_its_log_key(tmp_path: Path) -> None:
    place, certificate = coordinator(tmp_path)
    charter = dataclasses.replace(
        charter_of([node(tmp_path, "H1")]),
        coordinator=CoordinatorPlan("hub", "hub.example:9092", digest(certificate)),
    )
    found = vouched(charter, [place.endorsement], certificate)
    assert found.coordinator is not None
    assert found.coordinator.name == coordinator_origin("hub", digest(certificate)) == place.signer.name
    assert not found.sites
    with pytest.raises(ProtocolError, match="is not the charter's"):
        vouched(charter, [place.endorsement])
    foreign = Authority.make(ec.generate_private_key(ec.SECP384R1()), "hub").certificate
    with pytest.raises(ProtocolError, match="is not the charter's"):
        vouched(charter, [place.endorsement], foreign)
    with pytest.raises(ProtocolError, match="not signed by whom"):
        place.endorsement.check(place.signer.name, foreign.public_key())  # type: ignore[arg-type]


def test_a_log_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    place = node(tmp_path, "H1")
    path = place.folder / "keys" / "log.key"
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes(), (place.audit / "endorsement.json").read_bytes()
    assert establish(Place.open(place.folder)).public == place.signer.public
    make_log_key(path)
    assert (path.read_bytes(), (place.audit / "endorsement.json").read_bytes()) == before
    path.chmod(0o640)
    with pytest.raises(PolicyError, match="others may read"):
        read_log_key(path)
    path.chmod(0o600)
    path.write_text("00" * 31)
    with pytest.raises(UsageError, match="damaged"):
        read_log_key(path)
    path.write_text("11" * 32)
    with pytest.raises(UsageError, match="another key"):
        place.signer  # noqa: B018
    path.unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        read_log_key(path)


def make(folders: list[Path], start: Barrier, told: "Queue[list[bytes]]") -> None:
    found = []
    for folder in folders:
        start.wait(60)
        found.append(establish(Place.open(folder)).public)
    told.put(found)


def test_processes_that_make_the_log_key_at_once_agree_on_one(tmp_path: Path) -> None:
    places, context = [fresh(tmp_path, f"H{number}") for number in range(20)], multiprocessing.get_context("spawn")
    start, told = context.Barrier(2), context.Queue()
    folders = [place.folder for place in places]
    children = [context.Process(target=make, args=(folders, start, told)) for _ in range(2)]
    for child in children:
        child.start()
    for _ in children:
        assert told.get(timeout=60) == [place.signer.public for place in places]
    for child in children:
        child.join(10)
        assert child.exitcode == 0


def test_of_two_log_keys_made_at_once_one_wins_and_is_whole(tmp_path: Path) -> None:
    for number in range(20):
        path, start = tmp_path / str(number) / "log.key", threading.Barrier(8)

        def make(_: int, path: Path = path, start: threading.Barrier = start) -> bytes:
            start.wait(10)
            make_log_key(path)
            return read_log_key(path).private_bytes_raw()

        with ThreadPoolExecutor(8) as threads:
            assert len(set(threads.map(make, range(8)))) == 1
        assert [one.name for one in path.parent.iterdir()] == ["log.key"]


def test_what_is_no_member_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not the folder of a member"):
        Place.open(tmp_path)
    (tmp_path / "node.json").write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        Place.open(tmp_path)


def test_origins_of_two_members_of_one_name_differ() -> None:
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    assert site_origin("H1", other) != ORIGIN
