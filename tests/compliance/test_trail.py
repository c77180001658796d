"""Checkpoints of one log: nothing signed contradicts what was signed before, and nobody gets what is not on disk."""

import os
import shutil
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import metamorphic_log as other
import pytest

from compliance import lines
from compliance import trail as trails
from compliance.log import AuditLog
from compliance.trail import Occasion, Publishing, Trail
from compliance.verify import read_log, root_from_inclusion
from shared.errors import RecordError, UsageError
from shared.files import locked
from tests.compliance.recording import fill, flips, signer, trail_of

NOW = datetime(2026, 11, 23, 10, 0, 0, tzinfo=UTC)


def test_a_checkpoint_is_signed_stored_and_the_newest(tmp_path: Path) -> None:
    trail = trail_of(tmp_path, 1, 300, 301)
    newest = trail.newest()
    assert newest is not None
    assert (newest.size, trail.sizes()) == (301, [1, 300, 301])
    assert (tmp_path / "checkpoint").read_bytes() == (tmp_path / "checkpoints" / "301").read_bytes() == newest.raw
    assert Trail(tmp_path, signer().log_key).newest() == newest
    assert trail.checkpoint() == newest, "nothing new, so nothing is signed"


def test_an_empty_log_has_a_checkpoint_too(tmp_path: Path) -> None:
    fill(tmp_path, 0)
    trail = Trail(tmp_path, signer())
    assert trail.newest() is None
    assert trail.checkpoint().size == 0
    fill(tmp_path, 2)
    assert trail.checkpoint().size == 2
    assert trail.consistency(0, 2) == ()


def test_proofs_of_what_was_published_hold_elsewhere(tmp_path: Path) -> None:
    trail = trail_of(tmp_path, 3, 257, 600)
    newest = trail.at(600)
    for old in (3, 257, 100):
        root = trail.at(old).root if old != 100 else trail._tree.root(100)
        other.verify_consistency(old, 600, list(trail.consistency(old, 600)), root, newest.root)
    for index in (0, 255, 256, 599):
        leaf = trail._tree.leaf(index)
        assert root_from_inclusion(index, 600, leaf, trail.inclusion(index, 600)) == newest.root
        trail.require_leaf(index, trail.line(index))
    for wrong in (lambda: trail.inclusion(600, 600), lambda: trail.inclusion(0, 599), lambda: trail.line(600)):
        with pytest.raises(RecordError, match="there is no"):
            wrong()


def test_tiles_that_are_lost_torn_or_altered_are_made_anew_from_the_log(tmp_path: Path) -> None:
    trail = trail_of(tmp_path, 700)
    whole = {path: path.read_bytes() for path in (tmp_path / "tiles").rglob("*") if path.is_file()}
    expected = trail.inclusion(300, 700), trail.consistency(300, 700)
    for path, raw in whole.items():
        for wrong in (None, b"", raw[:-1], bytes([raw[0] ^ 1]) + raw[1:], raw[:-1] + bytes([raw[-1] ^ 1])):
            path.unlink() if wrong is None else path.write_bytes(wrong)
            again = Trail(tmp_path, signer())
            assert (again.inclusion(300, 700), again.consistency(300, 700)) == expected
            assert again.checkpoint().size == 700
            assert Trail(tmp_path, signer()).inclusion(1, 700) == trail.inclusion(1, 700)
    assert {path: path.read_bytes() for path in (tmp_path / "tiles").rglob("*") if path.is_file()} == whole


def cut(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))


def rewritten(path: Path, longer: int = 0) -> None:
    size = len(path.read_bytes().splitlines())
    path.unlink()
    fill(path.parent, size + longer, "another history")


@pytest.mark.control("HIPAA-164.312-c-witnessed")
@pytest.mark.parametrize("grown", [0, 3, 300])
@pytest.mark.parametrize("forgotten", ["nothing", "tiles", "newest", "published"])
@pytest.mark.parametrize("how", ["cut", "older copy", "rewritten", "rewritten, longer"])
def test_a_log_that_does_not_go_on_from_what_was_published_is_refused(
    tmp_path: Path, how: str, forgotten: str, grown: int
) -> None:
    trail = trail_of(tmp_path, 5)
    copy = (tmp_path / "log.jsonl").read_bytes()
    fill(tmp_path, grown + 1)
    published = trail.checkpoint()
    if how == "cut":
        cut(tmp_path / "log.jsonl")
    elif how == "older copy":
        (tmp_path / "log.jsonl").write_bytes(copy)
    else:
        rewritten(tmp_path / "log.jsonl", 7 if "longer" in how else 0)
    if forgotten == "tiles":
        shutil.rmtree(tmp_path / "tiles")
    elif forgotten == "newest":
        (tmp_path / "checkpoint").unlink()
    elif forgotten == "published":
        (tmp_path / "checkpoints" / str(published.size)).unlink()
    for one in (trail, Trail(tmp_path, signer())):
        with pytest.raises(RecordError, match=r"was cut off|was rewritten|does not verify"):
            one.checkpoint()
    assert set(trail.sizes()) <= {5, published.size}


def test_a_log_that_was_rewritten_and_then_grows_is_refused_though_only_its_end_is_read(tmp_path: Path) -> None:
    trail = trail_of(tmp_path, 400)
    rewritten(tmp_path / "log.jsonl")
    fill(tmp_path, 1)
    with pytest.raises(RecordError, match="was rewritten"):
        trail.checkpoint()


def test_one_that_was_altered_inside_keeps_its_published_head_and_fails_where_it_is_read(tmp_path: Path) -> None:
    trail = trail_of(tmp_path, 5)
    raw = (tmp_path / "log.jsonl").read_bytes()
    (tmp_path / "log.jsonl").write_bytes(raw.replace(b'"n":1', b'"n":9'))
    with pytest.raises(RecordError, match="does not verify"):
        AuditLog(tmp_path / "log.jsonl", site="H1", subject_key=b"")
    trail.inclusion(1, 5)
    with pytest.raises(RecordError, match="was altered"):
        trail.require_leaf(1, trail.line(1))


def test_no_byte_of_a_stored_checkpoint_can_change(tmp_path: Path) -> None:
    trail = trail_of(tmp_path, 3, 5)
    path = tmp_path / "checkpoints" / "5"
    raw = path.read_bytes()
    for changed in flips(raw):
        path.write_bytes(changed)
        with pytest.raises(RecordError, match="does not verify"):
            trail.newest()
    path.write_bytes((tmp_path / "checkpoints" / "3").read_bytes())
    with pytest.raises(RecordError, match="is a checkpoint of 3"):
        trail.checkpoint()


def test_a_torn_line_is_not_part_of_it(tmp_path: Path) -> None:
    trail = trail_of(tmp_path, 3)
    with (tmp_path / "log.jsonl").open("ab") as stream:
        stream.write(b'{"action":"train"')
    assert trail.checkpoint().size == 3
    fill(tmp_path, 1)  # cuts the torn one, records that, and goes on
    assert trail.checkpoint().size == 5


def test_cosignatures_come_under_the_checkpoint_and_stay(tmp_path: Path) -> None:
    trail = trail_of(tmp_path, 3, 5)
    two = [signer("H2"), signer("H3")]
    before = (tmp_path / "checkpoints" / "3").stat().st_mtime
    for one in (*two, two[0]):
        for size in (3, 5):
            trail.add_cosignature(size, one.cosign(trail.at(size).note.text, NOW), one.witness_key)
    for size in (3, 5):
        assert [name for name, _, _ in trail.at(size).note.signatures] == [signer().name, two[0].name, two[1].name]
    assert (tmp_path / "checkpoint").read_bytes() == trail.at(5).raw
    assert (tmp_path / "checkpoints" / "3").stat().st_mtime == pytest.approx(before, abs=1e-3)
    assert trail.checkpoint() == trail.at(5)


@pytest.mark.parametrize("wrong", ["another text", "another witness", "two lines", "no line", "the log's own", "empty"])
def test_a_cosignature_that_does_not_hold_is_not_taken(tmp_path: Path, wrong: str) -> None:
    trail, one = trail_of(tmp_path, 3, 5), signer("H2")
    text = trail.at(5).note.text
    line = {
        "another text": one.cosign(trail.at(3).note.text, NOW),
        "another witness": signer("H3").cosign(text, NOW),
        "two lines": one.cosign(text, NOW) * 2,
        "no line": "cosigned, honestly\n",
        "the log's own": signer().sign(text),
        "empty": "",
    }[wrong]
    before = trail.at(5).raw
    with pytest.raises(RecordError, match="does not hold"):
        trail.add_cosignature(5, line, one.witness_key)
    assert trail.at(5).raw == before
    with pytest.raises(RecordError, match="there is no checkpoint"):
        trail.add_cosignature(4, one.cosign(text, NOW), one.witness_key)


def test_when_a_checkpoint_is_due(tmp_path: Path) -> None:
    trail_of(tmp_path, 10)
    trail = Trail(tmp_path, signer(), Publishing(entries=5, every=timedelta(minutes=10)))
    now = datetime.now(UTC)
    assert not trail.due(10, Occasion.ROUND_END), "nothing is new"
    assert not trail.due(14)
    assert trail.due(15)
    assert trail.due(11, Occasion.SHUTDOWN)
    assert trail.due(11, now=now + timedelta(minutes=11))
    assert not trail.due(10, now=now + timedelta(days=1))
    fill(tmp_path, 5)
    trail.checkpoint()
    assert not trail.due(16)
    assert Trail(tmp_path / "none", signer()).due(1), "what was never published is due at once"


def test_who_has_no_log_key_publishes_nothing(tmp_path: Path) -> None:
    trail_of(tmp_path, 3)
    with pytest.raises(UsageError, match="log key"):
        Trail(tmp_path, signer().log_key).checkpoint()
    with pytest.raises(RecordError, match="cannot read the audit log"):
        Trail(tmp_path / "none", signer()).checkpoint()


def test_to_append_costs_no_more_than_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry is one write and one fsync, whatever was published."""
    trail_of(tmp_path, 3)
    with AuditLog(tmp_path / "log.jsonl", site="H1", subject_key=b"") as log:
        synced: list[int] = []
        monkeypatch.setattr(os, "fsync", synced.append)
        fill_one(log)
    assert len(synced) == 1
    assert not (tmp_path / "checkpoints" / "4").exists()


def fill_one(log: AuditLog) -> None:
    from compliance.log import Action, Entry, Outcome

    log.append(Entry(Action.INGEST, Outcome.OK))


def changed_tiles(folder: Path) -> int:
    """Alter a hash in every begun tile."""
    begun = [path for path in (folder / "tiles").rglob("*") if path.parent.suffix == ".p"]
    for path in begun:
        raw = path.read_bytes()
        path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    return len(begun)


@pytest.mark.parametrize("living", [True, False])
def test_a_tile_that_is_altered_does_not_get_into_the_next_head(tmp_path: Path, *, living: bool) -> None:
    trail = trail_of(tmp_path, 300)
    trail.inclusion(299, 300)
    assert changed_tiles(tmp_path) == 2
    path = fill(tmp_path, 2)
    signed = (trail if living else Trail(tmp_path, signer())).checkpoint()
    with path.open("rb") as stream:
        assert read_log(stream).roots[302] == signed.root


def test_what_tiles_have_beyond_the_last_head_is_not_believed(tmp_path: Path) -> None:
    """A process is killed after it wrote tiles and before it published; then somebody alters a hash in between."""
    trail = trail_of(tmp_path, 3)
    path = fill(tmp_path, 5)
    ahead = Trail(tmp_path, signer())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compliance.trail.Signed.make", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ahead.checkpoint()
    tile = tmp_path / "tiles" / "0" / "000.p" / "8"
    raw = tile.read_bytes()
    tile.write_bytes(raw[: 5 * 32] + bytes(32) + raw[6 * 32 :])
    with path.open("rb") as stream:
        assert trail.checkpoint().root == read_log(stream).roots[8]


def test_who_meets_the_first_checkpoint_of_a_long_log_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, 200)
    monkeypatch.setattr(trails, "_PATIENCE", 0.1)
    monkeypatch.setattr(lines, "SPEED", (tmp_path / "log.jsonl").stat().st_size / 20)
    with locked(tmp_path / "trail.lock", "busy") as reading:
        threading.Timer(0.5, reading.close).start()
        assert Trail(tmp_path, signer()).checkpoint().size == 200
    monkeypatch.setattr(lines, "SPEED", 1e12)
    with locked(tmp_path / "trail.lock", "busy"), pytest.raises(RecordError, match="is publishing this log"):
        Trail(tmp_path, signer()).checkpoint()


def test_a_log_of_a_million_entries_is_waited_for_some_minutes(tmp_path: Path) -> None:
    assert lines.seconds_to_read(tmp_path / "log.jsonl") == 0
    (tmp_path / "log.jsonl").touch()
    os.truncate(tmp_path / "log.jsonl", 400_000_000)  # a million entries; nothing is written
    assert 300 < lines.seconds_to_read(tmp_path / "log.jsonl") < 900
