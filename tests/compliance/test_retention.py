"""Six years, and longer where somebody asks for it: what a person may delete."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from compliance.log import AuditLog, entries
from compliance.retention import holds, kept_until, lift, may_delete, place
from shared.errors import RecordError, UsageError
from tests.compliance.recording import fill, trail_of

LATER = datetime.now(UTC) + timedelta(days=6 * 366 + 1)


def opened(path: Path) -> AuditLog:
    return AuditLog(path, site="H1", subject_key=b"")


@pytest.mark.control("HIPAA-164.316-b2i-retention")
def test_a_record_is_kept_for_six_years_from_its_newest_entry(tmp_path: Path) -> None:
    path = trail_of(tmp_path, 3).folder / "log.jsonl"
    end = kept_until(path)
    assert end is not None
    for one in (path, tmp_path / "checkpoints" / "3", tmp_path):
        assert not may_delete(one, log=path)[0]
        assert may_delete(one, log=path, now=end - timedelta(seconds=1))[0] is False
        assert may_delete(one, log=path, now=end) == (
            True,
            "its newest entry is more than 6 years old, and no hold stands",
        )
    assert abs(end - datetime.now(UTC) - timedelta(days=6 * 365.25)) < timedelta(days=2)


def test_a_29_february_is_kept_until_1_march(tmp_path: Path) -> None:
    from compliance.retention import _years_after

    assert _years_after(datetime(2028, 2, 29, 12, tzinfo=UTC)) == datetime(2034, 3, 1, 12, tzinfo=UTC)


@pytest.mark.control("HIPAA-164.316-b2i-retention")
def test_a_hold_keeps_it_for_as_long_as_it_stands(tmp_path: Path) -> None:
    path = fill(tmp_path, 1)
    with opened(path) as log:
        one = place(log, who="Legal office", why="matter 12/2026")
        two = place(log, who="DPO", why="complaint to the authority")
        assert [hold.id for hold in holds(path)] == [one, two]
        allowed, why = may_delete(path, log=path, now=LATER)
        assert not allowed
        assert "Legal office" in why
        lift(log, path, one, who="Legal office", why="settled")
        assert [hold.id for hold in holds(path)] == [two]
        assert not may_delete(path, log=path, now=LATER)[0]
        lift(log, path, two, who="DPO", why="closed")
    assert may_delete(path, log=path, now=LATER)[0]
    rows = [row["detail"] for row in entries(path) if row["action"] == "legal.hold"]
    assert [row["state"] for row in rows] == ["placed", "placed", "lifted", "lifted"]
    assert all(row["who"] and row["why"] for row in rows)


@pytest.mark.control("HIPAA-164.312-a2i-users")
@pytest.mark.parametrize(("who", "why"), [("", "a matter"), ("DPO", "x"), ("a\nb", "a matter"), (" DPO", "a matter")])
def test_who_and_why_are_words(tmp_path: Path, who: str, why: str) -> None:
    path = fill(tmp_path, 1)
    with opened(path) as log:
        with pytest.raises(UsageError, match="characters"):
            place(log, who=who, why=why)
        with pytest.raises(UsageError, match="there is no hold"):
            lift(log, path, "00000000", who="DPO", why="a matter")
    assert len(list(entries(path))) == 1


@pytest.mark.control("HIPAA-164.316-b2i-retention")
def test_what_cannot_be_read_or_lies_elsewhere_is_not_to_be_deleted(tmp_path: Path) -> None:
    path = fill(tmp_path / "audit", 3)
    elsewhere = tmp_path / "images"
    assert not may_delete(elsewhere, log=path, now=LATER)[0]
    assert not may_delete(path.parent / ".." / "images", log=path, now=LATER)[0]
    path.write_bytes(path.read_bytes().replace(b'"n":1', b'"n":7'))
    assert "does not verify" in may_delete(path, log=path, now=LATER)[1]
    path.unlink()
    assert not may_delete(path, log=path, now=LATER)[0]
    with pytest.raises(RecordError):
        holds(path)
