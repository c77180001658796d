"""How lately others have seen a log: no witness's clock decides that alone, and no folder is read for nothing."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from compliance.endorse import Vouched
from compliance.shown import newest_witnessed
from compliance.trail import Trail
from tests.compliance.recording import fill, signer, trail_of

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
OTHERS = ("H2", "H3", "H4")
KEYS = Vouched({}, tuple(signer(site).witness_key for site in ("H1", *OTHERS)))


def cosign(trail: Trail, size: int, **ago: timedelta) -> None:
    for site, one in ago.items():
        line = signer(site).cosign(trail.at(size).note.text, NOW - one)
        trail.add_cosignature(size, line, signer(site).witness_key)


def seen(trail: Trail, needed: int = 2, since: datetime | None = None) -> tuple[int, timedelta] | None:
    found = newest_witnessed(trail, KEYS, needed, since=since, now=NOW)
    return found and (found[0].size, NOW - found[1])


@pytest.mark.control("HIPAA-164.312-c-witnessed")
def test_a_clock_that_is_far_ahead_makes_nothing_fresh(tmp_path: Path) -> None:
    trail, hour, future = trail_of(tmp_path, 3), timedelta(hours=1), NOW - datetime(2100, 1, 1, tzinfo=UTC)
    cosign(trail, 3, H2=50 * hour, H3=future)
    assert seen(trail) is None, "one of two is of no known time"
    assert seen(trail, 1) == (3, 50 * hour)
    cosign(trail, 3, H4=timedelta(minutes=-9))
    assert seen(trail, 1) == (3, timedelta(minutes=-9)), "clocks may differ a little"


def test_as_many_as_are_needed_have_seen_it_since(tmp_path: Path) -> None:
    trail, hour = trail_of(tmp_path, 3), timedelta(hours=1)
    cosign(trail, 3, H2=1 * hour, H3=2 * hour, H4=30 * hour)
    assert [seen(trail, needed) for needed in (1, 2, 3, 4)] == [(3, 1 * hour), (3, 2 * hour), (3, 30 * hour), None]


def test_nothing_is_read_that_was_superseded_too_long_ago(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trail, hour = trail_of(tmp_path, *range(1, 9)), timedelta(hours=1)
    for size in range(1, 9):
        moment = (NOW - (9 - size) * hour).timestamp()
        os.utime(tmp_path / "checkpoints" / str(size), (moment, moment))
    cosign(trail, 2, H2=hour, H3=hour)
    read: list[int] = []
    real = Trail.at
    monkeypatch.setattr(Trail, "at", lambda self, size: read.append(size) or real(self, size))
    assert seen(trail) == (2, hour)
    read.clear()
    assert seen(trail, since=NOW - 2.5 * hour) is None
    assert read == [8, 7, 6], "6 was the newest at that moment, and what came before it was not cosigned later"


def test_who_asks_for_the_newest_lists_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trail = trail_of(tmp_path, 3, 5)
    cosign(trail, 5, H2=timedelta(), H3=timedelta())
    monkeypatch.setattr(Trail, "sizes", lambda _: pytest.fail("the folder of all checkpoints was listed"))
    newest = trail.newest()
    assert newest is not None
    assert newest.size == 5
    assert seen(trail) == (5, timedelta())


@pytest.mark.parametrize("lost", [True, False])
def test_a_copy_of_the_newest_that_is_lost_or_old_is_mended_and_nothing_is_signed_beside_it(
    tmp_path: Path, *, lost: bool
) -> None:
    trail, copy = trail_of(tmp_path, 3), tmp_path / "checkpoint"
    older = copy.read_bytes()
    fill(tmp_path, 2)
    trail.checkpoint()
    newest = copy.read_bytes()
    copy.unlink()
    if not lost:
        copy.write_bytes(older)
    assert trail.checkpoint().raw == newest
    assert copy.read_bytes() == newest
