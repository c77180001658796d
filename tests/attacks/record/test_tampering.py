"""Whoever may write the log's file, and what gives him away: the published head, and the witnesses' memory of it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compliance import verify
from compliance.checkpoint import Signed
from compliance.trail import Trail
from compliance.verify import Key, NotVerifiedError
from compliance.witness import ConflictError, InconsistentError, Witness
from shared.errors import RecordError
from tests.compliance.recording import fill, flips, signer, trail_of

NOW = datetime(2026, 11, 23, 10, 0, 0, tzinfo=UTC)
WITNESSES = [signer("H2"), signer("H3")]
KEYS: list[Key] = [one.witness_key for one in WITNESSES]


def cosigned(folder: Path, count: int) -> Trail:
    trail = trail_of(folder, count)
    for one in WITNESSES:
        trail.add_cosignature(count, one.cosign(trail.at(count).note.text, NOW), one.witness_key)
    return trail


def check(log: Path, checkpoint: bytes) -> int:
    return verify.verify(log, checkpoint, signer().log_key, KEYS, 2)[0].entries


def test_each_byte_of_the_log_is_covered_the_last_line_too(tmp_path: Path) -> None:
    trail = cosigned(tmp_path, 3)
    path, note = tmp_path / "log.jsonl", trail.at(3).raw
    raw = path.read_bytes()
    assert check(path, note) == 3
    for changed in flips(raw):
        path.write_bytes(changed)
        with pytest.raises(NotVerifiedError):
            check(path, note)


def test_each_byte_of_the_cosigned_checkpoint_is_covered(tmp_path: Path) -> None:
    trail = cosigned(tmp_path, 3)
    for changed in flips(trail.at(3).raw):
        with pytest.raises(NotVerifiedError):
            check(tmp_path / "log.jsonl", changed)


@pytest.mark.control("HIPAA-164.312-c-witnessed")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), size=st.integers(2, 20), behind=st.integers(0, 5))
def test_no_line_can_be_dropped_swapped_inserted_repeated_or_cut_off(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, size: int, behind: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    trail = cosigned(folder, size)
    fill(folder, behind)
    path, note = folder / "log.jsonl", trail.at(size).raw
    lines = path.read_bytes().splitlines(keepends=True)
    assert check(path, note) == size + behind
    place, second = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size - 1))
    how = data.draw(st.sampled_from(["drop", "swap", "insert", "repeat", "cut off", "cut inside"]))
    changed = list(lines)
    if how == "drop":
        del changed[place]
    elif how == "swap":
        changed[place], changed[second] = changed[second], changed[place]
        if place == second:
            changed.reverse()
    elif how == "insert":
        changed.insert(place, lines[second].replace(b'"n":', b'"n":7'))
    elif how == "repeat":
        changed.insert(place, lines[place])
    elif how == "cut off":
        changed = lines[:place]
    path.write_bytes(b"".join(changed)[: None if how != "cut inside" else sum(map(len, lines[:place])) + 9])
    with pytest.raises(NotVerifiedError):
        check(path, note)


@pytest.mark.control("HIPAA-164.312-c-witnessed")
def test_who_may_write_everything_and_has_the_log_key_is_given_away_by_the_witnesses(tmp_path: Path) -> None:
    """The owner himself: a new history, a new head of the same size, freshly signed. All in his folder fits."""
    trail = cosigned(tmp_path / "a", 8)
    forged = trail_of(tmp_path / "b", 0)
    fill(tmp_path / "b", 8, "what never happened")
    head = forged.checkpoint()
    assert verify.verify(tmp_path / "b" / "log.jsonl", head.raw, signer().log_key, [], 0)[0].entries == 8
    with pytest.raises(NotVerifiedError, match="0 of the named witnesses"):
        check(tmp_path / "b" / "log.jsonl", head.raw)
    with pytest.raises(NotVerifiedError, match="not the one that was signed"):
        check(tmp_path / "b" / "log.jsonl", trail.at(8).raw)

    witness = Witness(tmp_path / "w", WITNESSES[0], {signer().name: signer().log_key})
    witness.submit(0, (), Signed.make(signer(), 8, trail.at(8).root).raw)
    with pytest.raises(InconsistentError, match="two heads"):
        witness.submit(8, (), head.raw)
    assert witness.marked()


def test_a_fork_that_grows_beyond_is_not_cosigned(tmp_path: Path) -> None:
    trail = trail_of(tmp_path / "a", 8)
    forged = trail_of(tmp_path / "b", 0)
    fill(tmp_path / "b", 12, "what never happened")
    forged.checkpoint()
    witness = Witness(tmp_path / "w", WITNESSES[0], {signer().name: signer().log_key})
    witness.submit(0, (), trail.at(8).raw)
    with pytest.raises(InconsistentError, match="nothing proves"):
        witness.submit(8, forged.consistency(8, 12), forged.at(12).raw)


def test_an_older_copy_of_the_whole_folder_is_given_away_by_the_witnesses(tmp_path: Path) -> None:
    """Nothing in the folder shows it: it is what once was true. A witness knows the greater size."""
    import shutil

    trail = trail_of(tmp_path / "a", 4)
    shutil.copytree(tmp_path / "a", tmp_path / "old")
    witness = Witness(tmp_path / "w", WITNESSES[0], {signer().name: signer().log_key})
    fill(tmp_path / "a", 4)
    witness.submit(0, (), trail.checkpoint().raw)

    old = Trail(tmp_path / "old", signer())
    assert old.checkpoint().size == 4
    with pytest.raises(ConflictError) as conflict:
        witness.submit(0, (), old.at(4).raw)
    assert conflict.value.size == 8
    fill(tmp_path / "old", 4, "after the restore")
    head = old.checkpoint()
    with pytest.raises(InconsistentError, match="two heads"):
        witness.submit(8, (), head.raw)


def test_a_replayed_old_head_shows_what_it_covers_and_no_more(tmp_path: Path) -> None:
    trail = cosigned(tmp_path, 4)
    old = trail.at(4).raw
    fill(tmp_path, 4)
    trail.checkpoint()
    lines = (tmp_path / "log.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "log.jsonl").write_bytes(b"".join(lines[:5]))
    assert check(tmp_path / "log.jsonl", old) == 5, (
        "who shows the old head alone shows a shorter log: ask the witnesses"
    )
    with pytest.raises(RecordError, match="cut off"):
        trail.checkpoint()


def test_a_head_of_one_log_is_none_of_another(tmp_path: Path) -> None:
    trail = cosigned(tmp_path, 4)
    text = str(verify.Checkpoint("fedward/H7/0123456789abcdef", 4, trail.at(4).root))
    from compliance.note import write_note

    foreign = write_note(text, signer().sign(text))
    with pytest.raises(RecordError, match="not of"):
        Signed.read(foreign, signer().log_key)
