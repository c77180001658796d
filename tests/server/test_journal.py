"""The journal of a round: whatever is in it stands, whenever the process died and how often."""

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from server.journal import Journal
from server.sealed import DamagedError, parts_to_record, read_parts, record_to_parts, write_parts
from shared.errors import RecordError
from shared.records import raw_bytes, raw_floats, to_records

SITES = ("H1", "H2", "H3")
LOOKS = 9  # at the world, in a round of this file


def question(text: str) -> dict[str, RecordDict]:
    return dict.fromkeys(SITES, to_records({"text": text}, {}))


def answer(text: str) -> RecordDict:
    return to_records({"text": text}, {"update": raw_floats(np.arange(3, dtype=np.float32))})


class Killed(Exception):  # noqa: N818  # no error: the process is gone
    """In the place of SIGKILL."""


class World:
    """What is outside: every answer of it is another one, so that what is asked twice is seen.

    Args:
        lives: After how many looks at it each process dies; the last lives on.
    """

    def __init__(self, lives: list[int]) -> None:
        self._lives, self._looks, self.taken = list(lives), 0, 0

    def __call__(self) -> int:
        if self._lives and self._looks == self._lives[0]:
            raise Killed
        self._looks += 1
        self.taken += 1
        return self.taken

    def begin_again(self) -> None:
        del self._lives[0]
        self._looks = 0


def work(journal: Journal, world: Callable[[], int]) -> list[object]:
    """A round in small: what was connected, two questions whose text depends on what came before, an epoch."""
    seen: list[object] = [journal.value("connected", world)]
    for kind in ("train", "query.secagg_confirm"):
        page = journal.page(kind, question(str(seen)))
        for site in page.wanting:
            page.keep(site, answer(str(world())))
        if not page.closed:
            page.close({"H9": "no answer"} if kind == "train" else {})
        seen.append([(one.site, str(one.content), one.failure) for one in page.arrivals()])
        seen.append(journal.value("epoch", world))
    return seen


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, LOOKS), max_size=6))
def test_however_often_it_is_killed_the_round_comes_to_what_it_would_have_come_to(lives: list[int]) -> None:
    with TemporaryDirectory() as root:
        world = World(lives)
        while True:
            try:
                result = work(Journal(Path(root) / "round"), world)
                break
            except Killed:
                world.begin_again()
        assert result == work(Journal(Path(root) / "round"), _nobody)
        assert world.taken == LOOKS, "each was taken once"


def _nobody() -> int:
    raise AssertionError("nobody may be asked")


def test_the_first_answer_of_a_site_counts(tmp_path: Path) -> None:
    page = Journal(tmp_path / "round").page("train", question("?"))
    for text in ("one", "two"):
        assert page.keep("H1", answer(text)) == ""
    page.close({"H2": "gone"})
    first, second = page.arrivals()
    assert str(first.content) == str(answer("one"))
    assert (second.site, second.failure) == ("H2", "gone")


def test_an_answer_that_came_to_an_earlier_process_says_so(tmp_path: Path) -> None:
    Journal(tmp_path / "round").page("train", question("?")).keep("H1", answer("one"))
    page = Journal(tmp_path / "round").page("train", question("?"))
    assert page.wanting == ("H2", "H3")
    page.keep("H2", answer("two"))
    page.close({})
    assert [(one.site, one.kept) for one in page.arrivals()] == [("H1", True), ("H2", False)]


def test_another_question_than_the_one_that_was_asked_is_an_error(tmp_path: Path) -> None:
    Journal(tmp_path / "round").page("train", question("one"))
    with pytest.raises(RecordError, match="answers to another question"):
        Journal(tmp_path / "round").page("train", question("two"))
    with pytest.raises(RecordError, match="not what the round comes to, 'evaluate'"):
        Journal(tmp_path / "round").page("evaluate", question("one"))


def test_an_answer_that_was_exchanged_after_it_counted_is_an_error(tmp_path: Path) -> None:
    page = Journal(tmp_path / "round").page("train", question("?"))
    page.keep("H1", answer("one"))
    page.close({})
    path = next((tmp_path / "round").glob("*/from-H1.bin"))
    write_parts(path, record_to_parts(answer("two")) or [])
    with pytest.raises(DamagedError, match="not the answer that counted"):
        list(Journal(tmp_path / "round").page("train", question("?")).arrivals())


def test_a_round_that_ended_goes_on_once_for_each_time_that_it_was_resumed(tmp_path: Path) -> None:
    def first(journal: Journal) -> bool:
        journal.value("connected", lambda: 1)
        return journal.go_on()

    assert not first(Journal(tmp_path / "round")), "what has failed just now is not repeated for ever"
    resumed = Journal(tmp_path / "round")
    assert first(resumed)
    assert not resumed.go_on()
    again = Journal(tmp_path / "round")
    assert first(again)
    assert again.go_on(), "the second time that it was resumed"


def test_what_is_left_of_a_write_that_was_cut_short_is_removed(tmp_path: Path) -> None:
    Journal(tmp_path / "round").page("train", question("?"))
    left = next((tmp_path / "round").iterdir()) / ".from-H1.bin.abc.part"
    left.write_bytes(b"half")
    Journal(tmp_path / "round").page("train", question("?"))
    assert not left.exists()


def test_what_is_in_the_journal_is_for_its_owner(tmp_path: Path) -> None:
    work(Journal(tmp_path / "round"), lambda: 1)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "round").rglob("*")}
    assert modes == {0o700, 0o600}


# --- the files --------------------------------------------------------------------------------------------------------

PARTS = st.lists(st.binary(max_size=40), max_size=4)


@settings(deadline=None)
@given(PARTS, st.data())
def test_every_file_that_was_cut_or_altered_is_found(parts: list[bytes], data: st.DataObject) -> None:
    with TemporaryDirectory() as root:
        path = Path(root) / "file"
        check = write_parts(path, parts)
        assert read_parts(path, hint="") == (parts, check)
        whole = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(whole) - 1))
        if data.draw(st.booleans()):
            whole = whole[:place]
        else:
            whole[place] ^= data.draw(st.integers(1, 255))
        path.write_bytes(bytes(whole))
        with pytest.raises(DamagedError, match=r"does not have the SHA-256.*\(do this\)"):
            read_parts(path, hint="do this")


@pytest.mark.parametrize(
    "arrays", [{}, {"update": raw_floats(np.zeros(0, np.float32))}, {"a": raw_bytes(b"\0\1"), "b": raw_bytes(b"")}]
)
def test_an_answer_comes_back_from_the_disk_as_it_came(arrays: Mapping[str, Array]) -> None:
    record = to_records({"kind": "x"}, dict(arrays))
    parts = record_to_parts(record)
    assert parts is not None
    assert parts_to_record(parts) == record


@pytest.mark.parametrize(
    "record",
    [
        RecordDict(),
        RecordDict({"message": ConfigRecord({"json": "a text"})}),
        RecordDict({"message": ConfigRecord({"json": b"{}", "more": 1})}),
        RecordDict({"message": ArrayRecord()}),
        RecordDict({"message": ConfigRecord({"json": b"{}"}), "arrays": MetricRecord({"a": 1})}),
        RecordDict({"message": ConfigRecord({"json": b"{}"}), "more": ConfigRecord()}),
    ],
)
def test_what_is_no_message_of_a_federation_is_not_kept(record: RecordDict, tmp_path: Path) -> None:
    page = Journal(tmp_path / "round").page("train", question("?"))
    assert "no message" in page.keep("H1", record)
    assert page.wanting == SITES
