"""A witness: it cosigns what goes on from what it has seen, and keeps the evidence of what does not."""

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compliance.alerts import read_evidence
from compliance.checkpoint import Signed
from compliance.log import Action, AuditLog, Outcome, entries
from compliance.note import write_note
from compliance.verify import EMPTY_ROOT, Note, NotVerifiedError, cosigners
from compliance.witness import (
    MAX_EVIDENCE,
    ConflictError,
    Decision,
    InconsistentError,
    NotSignedError,
    UnknownOriginError,
    Witness,
)
from shared.errors import ProtocolError, RecordError, UsageError
from tests.compliance.recording import Twofaced, flips, signer

NOW = datetime(2026, 11, 23, 10, 0, 0, tzinfo=UTC)
OWN = signer("H1")


def witness_in(folder: Path, log: Twofaced) -> Witness:
    return Witness(folder / "witness", OWN, {log.signer.name: log.signer.log_key}, clock=lambda: NOW)


@pytest.fixture
def log() -> Twofaced:
    return Twofaced(common=5)


@pytest.fixture
def witness(tmp_path: Path, log: Twofaced) -> Witness:
    """It has seen 10 entries of branch a."""
    made = witness_in(tmp_path, log)
    made.submit(0, (), log.head(10))
    return made


def holds(line: str, head: bytes) -> bool:
    note = Note.parse(head + line.encode())
    return cosigners(note, [OWN.witness_key]) == {OWN.name: int(NOW.timestamp())}


def test_the_first_head_is_taken_and_each_next_one_must_go_on_from_it(tmp_path: Path, log: Twofaced) -> None:
    witness = witness_in(tmp_path, log)
    assert witness.size(log.signer.name) == 0
    for old, new in ((0, 1), (1, 10), (10, 10), (10, 300)):
        assert holds(witness.submit(old, log.proof(old, new), log.head(new)), log.head(new))
        assert witness.size(log.signer.name) == new
    assert witness_in(tmp_path, log).size(log.signer.name) == 300


def test_the_empty_log_is_a_head_too(tmp_path: Path, log: Twofaced) -> None:
    witness = witness_in(tmp_path, log)
    assert holds(witness.submit(0, (), log.head(0)), log.head(0))
    assert holds(witness.submit(0, (), log.head(3)), log.head(3))
    false = Signed.make(log.signer, 0, b"\1" * 32).raw
    with pytest.raises(InconsistentError):
        witness_in(tmp_path / "b", log).submit(0, (), false)
    assert EMPTY_ROOT != b"\1" * 32


def test_a_stranger_and_a_wrong_signature_are_refused(witness: Witness, log: Twofaced) -> None:
    with pytest.raises(UnknownOriginError) as unknown:
        witness.submit(0, (), Twofaced("H9").head(3))
    assert unknown.value.status == 404
    text = Note.parse(log.head(20)).text
    for wrong in (write_note(text, signer("H9").sign(text)), b"no note", log.head(20).replace(b"20\n", b"21\n", 1)):
        with pytest.raises(NotSignedError) as unsigned:
            witness.submit(10, log.proof(10, 20), wrong)
        assert unsigned.value.status == 403
    with pytest.raises(UnknownOriginError):
        Witness(Path("none"), log.signer, {log.signer.name: log.signer.log_key}).submit(0, (), log.head(3))
    assert witness.size(log.signer.name) == 10


@pytest.mark.parametrize(("old", "new"), [(0, 20), (9, 20), (11, 20), (5, 10), (0, 10), (0, 4), (4, 4), (9, 9)])
def test_a_wrong_old_size_is_told_the_right_one_and_an_old_head_changes_nothing(
    witness: Witness, log: Twofaced, old: int, new: int
) -> None:
    with pytest.raises(ConflictError) as conflict:
        witness.submit(old, log.proof(old, new), log.head(new))
    assert (conflict.value.size, conflict.value.status) == (10, 409)
    assert witness.size(log.signer.name) == 10


@pytest.mark.parametrize(("old", "new", "hashes"), [(20, 10, 0), (10, 10, 1), (10, 20, 64)])
def test_a_submission_of_a_wrong_form_is_refused(
    witness: Witness, log: Twofaced, old: int, new: int, hashes: int
) -> None:
    with pytest.raises(ProtocolError, match="wrong form"):
        witness.submit(old, (bytes(32),) * hashes, log.head(new))


@pytest.mark.control("HIPAA-164.312-c-witnessed")
def test_two_heads_of_one_size_are_kept_and_nothing_more_is_cosigned_before_a_person_decides(
    tmp_path: Path, witness: Witness, log: Twofaced
) -> None:
    origin = log.signer.name
    with pytest.raises(InconsistentError, match="two heads of 10") as split:
        witness.submit(0, (), log.head(10, "b"))
    entry = split.value.entry
    assert split.value.proven
    assert entry is not None
    assert entry.detail is not None
    assert (entry.outcome, entry.detail["alert"], entry.detail["size"]) == (Outcome.REFUSED, "two histories", 10)
    kept = read_evidence(tmp_path / "witness" / "evidence" / witness.marked()[origin])
    assert kept["given"].encode() == log.head(10, "b")
    heads = [Signed.read(str(kept[name]).encode(), log.signer.log_key) for name in ("seen", "given")]
    assert heads[0].size == heads[1].size
    assert heads[0].root != heads[1].root, "an auditor needs nothing but the evidence and the log's key"
    with pytest.raises(InconsistentError, match="a person decides") as still:
        witness_in(tmp_path, log).submit(10, log.proof(10, 20), log.head(20))
    assert still.value.entry is None

    with AuditLog(tmp_path / "log.jsonl", site="H1", subject_key=b"") as own:
        witness.decide(own, origin, Decision.SEEN, who="DPO", why="b was a test system")
        with pytest.raises(UsageError, match="not marked"):
            witness.decide(own, origin, Decision.SEEN, who="DPO", why="again")
    assert next(entries(tmp_path / "log.jsonl"))["detail"]["who"] == "DPO"
    assert holds(witness.submit(10, log.proof(10, 20), log.head(20)), log.head(20))


def test_a_person_may_decide_to_begin_anew(tmp_path: Path, witness: Witness, log: Twofaced) -> None:
    with pytest.raises(InconsistentError):
        witness.submit(10, (), log.head(10, "b"))
    with AuditLog(tmp_path / "log.jsonl", site="H1", subject_key=b"") as own:
        own.append(witness.entry(log.signer.name))
        witness.decide(own, log.signer.name, Decision.ANEW, who="DPO", why="restored from a backup")
    assert witness.size(log.signer.name) == 0
    witness.recall(entries(tmp_path / "log.jsonl"))
    assert witness.submit(0, (), log.head(12, "b"))


def test_a_fork_gets_no_cosignature_and_whoever_spoils_a_proof_stops_nobody(
    tmp_path: Path, witness: Witness, log: Twofaced
) -> None:
    """A failing proof is evidence, but no proof of two histories: who carried it may have spoilt it."""
    with pytest.raises(InconsistentError, match="nothing proves") as fork:
        witness.submit(10, log.proof(10, 20, "b"), log.head(20, "b"))
    assert fork.value.entry is not None
    assert not fork.value.proven
    with pytest.raises(InconsistentError) as again:
        witness.submit(10, log.proof(10, 20, "b"), log.head(20, "b"))
    assert again.value.entry is None, "one alert for one note"
    for size in range(21, 21 + MAX_EVIDENCE + 3):
        with pytest.raises(InconsistentError):
            witness.submit(10, (), log.head(size))
    assert len(list((tmp_path / "witness" / "evidence").iterdir())) == MAX_EVIDENCE
    assert not witness.marked()
    assert holds(witness.submit(10, log.proof(10, 20), log.head(20)), log.head(20))


@pytest.mark.control("HIPAA-164.312-c-witnessed")
@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_whatever_is_submitted_one_history_alone_is_cosigned(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """A log that signs anything, and a carrier that mixes everything: all that was cosigned lies on one branch."""
    log = Twofaced(common=data.draw(st.integers(0, 12)))
    witness = witness_in(tmp_path_factory.mktemp("w"), log)
    given: list[tuple[int, str]] = []
    for _ in range(data.draw(st.integers(2, 8))):
        size, branch = data.draw(st.integers(0, 20)), data.draw(st.sampled_from("ab"))
        old = data.draw(st.sampled_from([0, witness.size(log.signer.name), data.draw(st.integers(0, 20))]))
        proof = log.proof(old, size, data.draw(st.sampled_from("ab"))) if old <= size else ()
        try:
            witness.submit(old, proof, log.head(size, branch))
        except (ProtocolError, RecordError):
            continue
        given.append((size, branch))
    sizes = [size for size, _ in given]
    assert sizes == sorted(sizes)
    beyond = {branch for size, branch in given if size > log.common}
    assert len(beyond) <= 1


def test_of_two_that_submit_at_once_one_is_cosigned(tmp_path: Path) -> None:
    for attempt in range(6):
        log = Twofaced(common=5)
        folder = tmp_path / str(attempt)
        witness_in(folder, log).submit(0, (), log.head(5))
        done: list[str] = []
        barrier = threading.Barrier(2)

        def submit(
            branch: str,
            folder: Path = folder,
            log: Twofaced = log,
            done: list[str] = done,
            barrier: threading.Barrier = barrier,
        ) -> None:
            one = witness_in(folder, log)
            barrier.wait()
            try:
                one.submit(5, log.proof(5, 9, branch), log.head(9, branch))
            except (ConflictError, InconsistentError):
                return
            done.append(branch)

        threads = [threading.Thread(target=submit, args=(branch,)) for branch in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(done) == 1


def test_no_byte_of_its_state_can_change_unseen(tmp_path: Path, witness: Witness, log: Twofaced) -> None:
    path = next((tmp_path / "witness").glob("*.note"))
    raw, seen = path.read_bytes(), witness.state(log.signer.name)
    assert seen is not None
    for changed in flips(raw):
        path.write_bytes(changed)
        try:
            found = witness.state(log.signer.name)
        except (RecordError, NotVerifiedError):
            continue
        assert found is not None
        assert found.checkpoint == seen.checkpoint, "the line of the log was altered, not what this witness signed"
    path.write_bytes(log.head(20, "b"))
    with pytest.raises(RecordError, match="not one that this witness wrote"):
        witness.submit(20, log.proof(20, 30, "b"), log.head(30, "b"))


def test_a_state_that_was_set_back_is_seen_by_an_own_cosignature_or_by_the_own_log(
    tmp_path: Path, witness: Witness, log: Twofaced
) -> None:
    path = next((tmp_path / "witness").glob("*.note"))
    older = path.read_bytes()
    line = witness.submit(10, log.proof(10, 20), log.head(20))
    with AuditLog(tmp_path / "log.jsonl", site="H1", subject_key=b"") as own:
        own.append(witness.entry(log.signer.name))
    for copy in (older, None):
        path.unlink()
        if copy is not None:
            path.write_bytes(copy)
        with pytest.raises(RecordError, match="set back"):
            witness.submit(10, log.proof(10, 20), log.head(20) + line.encode())
        with pytest.raises(RecordError, match="set back"):
            witness.recall(entries(tmp_path / "log.jsonl"))


def test_what_it_has_seen_stands_in_an_entry_without_any_path(witness: Witness, log: Twofaced) -> None:
    entry = witness.entry(log.signer.name)
    assert entry.action is Action.WITNESS
    assert set(entry.detail or {}) == {"origin", "size", "root"}
    with pytest.raises(UsageError, match="nothing of"):
        witness.entry("fedward/H9/0000000000000000")


def test_lines_of_strangers_under_a_note_are_not_kept(tmp_path: Path, witness: Witness, log: Twofaced) -> None:
    """Else whoever carries a note could make the state of its log too long to be read again."""
    junk = "".join(f"\u2014 stranger/{n} AAAAAAA=\n" for n in range(99)).encode()
    assert holds(witness.submit(10, log.proof(10, 20), log.head(20) + junk), log.head(20))
    seen = witness.state(log.signer.name)
    assert seen is not None
    assert [name for name, _, _ in seen.note.signatures] == [log.signer.name, OWN.name]
    assert holds(witness.submit(20, log.proof(20, 30), log.head(30)), log.head(30))
