"""A member that goes back to an older copy, races itself, or counts witnesses twice (docs/record.md)."""

import multiprocessing
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from compliance import verify
from compliance.checkpoint import Quorum, Signed
from compliance.exchange import Relay
from compliance.log import Action, AuditLog, Entry, Outcome
from compliance.note import write_note
from compliance.trail import Trail
from compliance.witness import ConflictError, Witness
from shared.errors import FedwardError, RecordError
from tests.compliance.recording import fill, signer, trail_of
from tests.compliance.test_exchange import World, world

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


def verify_now() -> datetime:
    return datetime.now(UTC)


def test_a_member_that_puts_back_its_whole_folder_gets_no_quorum_and_somebody_says_so(
    world: World, tmp_path: Path
) -> None:
    """Docs: "An older copy of everything ... Its witnesses do: they know the greater size"."""
    relay, liar = started(world), world.parties["H3"]
    shutil.copytree(liar.folder, tmp_path / "old")
    liar.publish(6)
    world.turns(relay, 3)
    assert len(liar.cosigned()) == 2
    shutil.rmtree(liar.folder)
    shutil.copytree(tmp_path / "old", liar.folder)
    liar.start()
    for one in world.parties.values():
        one.said.clear()
    with AuditLog(liar.folder / "log.jsonl", site="H3", subject_key=b"k") as log:
        log.append_many([Entry(Action.INGEST, Outcome.OK) for _ in range(9)])
    liar.trail.checkpoint()
    for _ in range(4):
        world.turns(relay, 1)
        world.turns(world.relay, 1)
    assert not liar.cosigned(), "the new history has a quorum"
    assert any(one.said for one in world.parties.values())


def test_a_member_that_puts_back_its_whole_folder_and_waits_is_told_by_the_exchange(
    world: World, tmp_path: Path
) -> None:
    """The same without a new entry: the others know a greater size than it shows, and nobody need stay unaware."""
    relay, liar = started(world), world.parties["H3"]
    shutil.copytree(liar.folder, tmp_path / "old")
    liar.publish(6)
    world.turns(relay, 3)
    shutil.rmtree(liar.folder)
    shutil.copytree(tmp_path / "old", liar.folder)
    liar.start()
    for one in world.parties.values():
        one.said.clear()
    world.turns(world.relay, 4)
    assert any(one.said for one in world.parties.values()), "nobody says that H3 shows less than it had published"


def test_a_witness_that_was_set_back_is_held_against_its_own_log(world: World, tmp_path: Path) -> None:
    """Docs: a state that is replaced by an older one is found out by a checkpoint with its own later cosignature."""
    relay = started(world)
    one = world.parties["H1"]
    shutil.copytree(one.folder / "witness", tmp_path / "witness")
    world.parties["H2"].publish(4)
    world.turns(relay, 3)
    size = of(world, "H1").size(world.parties["H2"].signer.name)
    newest = world.parties["H2"].trail.newest()
    assert newest is not None
    assert size == newest.size
    shutil.rmtree(one.folder / "witness")
    shutil.copytree(tmp_path / "witness", one.folder / "witness")
    old = of(world, "H1").size(world.parties["H2"].signer.name)
    assert old < size
    proof = world.parties["H2"].trail.consistency(old, size)
    with pytest.raises((RecordError, ConflictError)):
        of(world, "H1").submit(old, proof, newest.raw)


def race(folder: str, number: int, queue: "multiprocessing.Queue[tuple[int, bytes]]") -> None:
    path = Path(folder)
    ends = time.monotonic() + 1.5
    while time.monotonic() < ends:
        try:
            fill(path, 1 + number)
            signed = Trail(path, signer()).checkpoint()
            queue.put((signed.size, signed.raw))
        except FedwardError as error:
            queue.put((-1, str(error).encode()))
    queue.put((-2, b""))


def test_processes_that_publish_at_once_never_sign_two_heads_of_one_size(tmp_path: Path) -> None:
    """Docs: "from one folder no two heads of one size are ever signed"."""
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[tuple[int, bytes]] = context.Queue()
    trail_of(tmp_path, 2)
    workers = [context.Process(target=race, args=(str(tmp_path), number, queue)) for number in range(3)]
    for one in workers:
        one.start()
    heads: dict[int, set[bytes]] = {}
    ended, refused = 0, []
    while ended < len(workers):
        size, raw = queue.get(timeout=30)
        if size == -2:
            ended += 1
        elif size == -1:
            refused.append(raw)
        else:
            heads.setdefault(size, set()).add(Signed.read(raw, signer().log_key).root)
    for one in workers:
        one.join()
    assert not refused, refused[:2]
    assert len(heads) > 5
    assert all(len(roots) == 1 for roots in heads.values())
    trail = Trail(tmp_path, signer())
    for size in heads:
        verify.verify(tmp_path / "log.jsonl", trail.at(size).raw, signer().log_key, [], 0)


def test_a_note_with_cosignatures_of_the_coordinator_and_the_owner_has_no_quorum(tmp_path: Path) -> None:
    """Spec 5: "the coordinator alone is not enough"; nobody is his own witness; one witness twice is one."""
    from compliance.checkpoint import satisfied

    trail = trail_of(tmp_path, 3)
    sites = tuple(signer(name).witness_key for name in ("H1", "H2", "H3"))
    text = trail.at(3).note.text
    now = verify_now()
    own, hub, two = signer("H1").cosign(text, now), signer("hub").cosign(text, now), signer("H2").cosign(text, now)
    signature = signer().sign(text)
    for lines in ((own, hub), (own, two), (hub, two), (two, two), (own, hub, two)):
        note = verify.Note.parse(write_note(text, signature, *lines))
        assert not satisfied(note, Quorum(sites))[0], lines
