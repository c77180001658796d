"""Attacks on the ledger's file: by an editor, by who can chain lines, and by whoever puts another file there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.ledger import Ledger
from client.ledger_file import Acknowledged, Book, read_book
from shared.errors import FedwardError, RecordError
from tests.attacks.privacy.forging import Row, chained, charge, forged, renumbered, rows_of, written


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return written(tmp_path / "ledger.jsonl")


def accepted(path: Path, acknowledged: Acknowledged | None = None) -> Book | None:
    """What the ledger is taken for, by a reader and by a writer alike; None where both refuse."""
    books: list[Book | None] = []
    try:
        books.append(read_book(path, acknowledged))
    except RecordError:
        books.append(None)
    try:
        with Ledger(path, acknowledged=acknowledged) as ledger:
            books.append(ledger.book)
    except RecordError:
        books.append(None)
    assert books[0] == books[-1]
    return books[0]


def refused(path: Path, data: bytes, acknowledged: Acknowledged | None = None) -> None:
    """A refusal leaves the file as it was: it is evidence, and may be repaired by who knows what happened."""
    path.write_bytes(data)
    assert accepted(path, acknowledged) is None
    assert path.read_bytes() == data


# --- an editor --------------------------------------------------------------------------------------------------------


def test_no_single_bit_can_be_changed(path: Path) -> None:
    """But for those of the last line end: a line without it was never acknowledged (see the limits)."""
    whole = path.read_bytes()
    for place in range(0, len(whole) - 1, 7):
        refused(path, whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])


@pytest.mark.parametrize(
    "other",
    [
        lambda lines: lines[:2] + lines[3:],
        lambda lines: lines[1:],
        lambda lines: lines[:1] + lines[2:],
        lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
        lambda lines: [*lines[:3], lines[2], *lines[3:]],
        lambda lines: lines + lines,
        lambda lines: [*lines, b"\n"],
        lambda lines: [b"\n", *lines],
        lambda lines: [*lines, lines[1]],
        lambda lines: [line[:-1] + b"\r\n" for line in lines],
        lambda lines: [b"\xef\xbb\xbf" + lines[0], *lines[1:]],
        lambda lines: [line.replace(b'"steps":10', b'"steps":10,"steps":1') for line in lines],
        lambda lines: [line.replace(b'"steps":10', b'"steps":1,"steps":10') for line in lines],
        lambda lines: [line.replace(b'"steps":10', b'"steps": 10') for line in lines],
        lambda lines: [line.replace(b'"steps":10', b'"steps":1e1') for line in lines],
        lambda lines: [line.replace(b'"noise_multiplier":8', b'"noise_multiplier":NaN') for line in lines],
        lambda lines: [line.replace(b'"noise_multiplier":8', b'"noise_multiplier":Infinity') for line in lines],
        lambda lines: [line.replace(b'"steps":10', b'"steps":1' + b"0" * 5000) for line in lines],
        lambda _: [b"\xff\xfe\n" * 9],
        lambda _: [b"null\n"],
        lambda _: [b"[" * 100_000 + b"\n"],
    ],
)
def test_lines_that_were_removed_swapped_doubled_or_written_otherwise(path: Path, other: object) -> None:
    whole = path.read_bytes()
    changed = b"".join(other(whole.splitlines(keepends=True)))  # type: ignore[operator]
    assert changed != whole
    refused(path, changed)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=st.binary(max_size=200))
def test_any_bytes_at_all_are_refused_or_an_empty_ledger_and_never_another_error(path: Path, junk: bytes) -> None:
    path.write_bytes(junk)
    book = accepted(path)
    assert book is None or (book.charges, book.budget) == ((), None)


# --- a program that can chain lines -----------------------------------------------------------------------------------

ALIKE = "p\N{CYRILLIC SMALL LETTER A}tient"


@pytest.mark.parametrize(
    ("line", "values"),
    [
        *[(0, {"unit": unit}) for unit in (ALIKE, "slice", "PATIENT", "patient ", "", None)],
        *[(1, {"epsilon": value}) for value in (0, -1, "3", None, True)],
        *[(1, {"delta": value}) for value in (0, 1, 2, -1e-5)],
        *[(1, {"patients": value}) for value in (0, -1, 1.5)],
        *[(2, {"noise_multiplier": value}) for value in (0, -8, True, "8", None)],
        *[(2, {"sample_rate": value}) for value in (0, -0.1, 1.5, True)],
        *[(2, {"steps": value}) for value in (0, -10, 1.5, True)],
        *[(2, {"patients": value}) for value in (0, -1, 1.5)],
        *[(2, {"mode": value}) for value in ("off", "", "Patient", ALIKE, None)],
        *[(2, {"kind": value}) for value in ("open", "budget", "refund", None)],
        *[(2, {"v": value}) for value in (0, 2, "1")],
        *[(2, {"seq": value}) for value in (0, 1, 3, True)],
    ],
    ids=repr,
)
def test_a_price_that_no_program_writes_is_refused_however_well_it_is_chained(
    path: Path, line: int, values: Row
) -> None:
    refused(path, forged(path, line, **values))


@pytest.mark.parametrize(
    ("line", "values"),
    [
        (1, {"who": ""}),
        (2, {"round": -1}),
        (2, {"run": None}),
        (2, {"time": "yesterday"}),
        (2, {"refund": 1}),
    ],
    ids=repr,
)
def test_a_description_that_no_program_writes_is_refused_however_well_it_is_chained(
    path: Path, line: int, values: Row
) -> None:
    refused(path, forged(path, line, **values))


def test_a_ledger_without_its_opening_or_with_two(path: Path) -> None:
    rows = rows_of(path)
    for other in (rows[1:], rows[2:], [rows[0], *rows], [*rows, rows[0]]):
        refused(path, renumbered(other))


def test_a_ledger_of_another_version_of_json_is_refused(path: Path) -> None:
    refused(path, chained(rows_of(path), lambda row: json.dumps(row, sort_keys=True).encode()))


@pytest.mark.parametrize(
    "forgery",
    [
        lambda rows: rows[:2] + rows[3:],
        lambda rows: [*rows[:4], rows[4] | {"noise_multiplier": 9.0}],
        lambda rows: [*rows[:1], rows[1] | {"epsilon": 300.0}, *rows[2:]],
        lambda rows: [*rows[:2], rows[2] | {"steps": 1}, *rows[3:]],
        lambda rows: [*rows[:4], rows[4], rows[1] | {"epsilon": 1e6}][:-2],
    ],
    ids=["a charge less", "last charge cheaper", "higher budget", "first charge cheaper", "last charge gone"],
)
def test_what_was_chained_anew_is_not_what_the_log_knows(path: Path, forgery: object) -> None:
    """A chain is computed by anybody; the head of it that the audit log knows is not."""
    book = read_book(path)
    forged_rows = forgery(rows_of(path))  # type: ignore[operator]
    refused(path, renumbered(forged_rows), Acknowledged(book.rows, book.head))


def test_an_older_copy_that_was_spent_upon_again_is_not_what_the_log_knows(tmp_path: Path, path: Path) -> None:
    older = path.read_bytes()
    with Ledger(path) as ledger:
        ledger.reserve(charge(4, noise_multiplier=1.0))
        known = ledger.acknowledged
    path.write_bytes(older)
    with Ledger(path) as ledger:
        for number in (4, 5, 6):
            ledger.reserve(charge(number, noise_multiplier=100.0))
    refused(path, path.read_bytes(), known)


@pytest.mark.parametrize("rows", [-1, 4, 6, 10**9])
def test_numbers_of_lines_that_are_none_do_not_confuse_the_comparison(path: Path, rows: int) -> None:
    head = read_book(path).head
    refused(path, path.read_bytes(), Acknowledged(rows, head))


# --- the end of the file: the limit of a chain ------------------------------------------------------------------------


def test_limit_the_last_charge_goes_with_the_last_line_end_unless_the_log_knows_it(path: Path) -> None:
    """A line without its end was never acknowledged, says the format; who takes the end away gets a charge back."""
    book, whole = read_book(path), path.read_bytes()
    refused(path, whole[:-1], Acknowledged(book.rows, book.head))
    found = accepted(path)
    assert found is not None
    assert len(found.charges) == 2


def test_a_file_that_is_no_ledger_at_all_is_not_emptied(path: Path) -> None:
    """Junk without a line end is no torn line: a line of a ledger is a few hundred bytes and begins with a brace."""
    for junk in (b"\0" * 4096, os.urandom(4096).replace(b"\n", b" "), path.read_bytes().replace(b"\n", b" ")):
        refused(path, junk)


def test_a_huge_torn_line_is_refused_in_bounded_time(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x" * (32 << 20) + b"\n")
    assert accepted(path) is None


# --- another file in its place ----------------------------------------------------------------------------------------


def test_a_link_to_a_ledger_elsewhere_is_not_followed(tmp_path: Path, path: Path) -> None:
    """Whoever may make a link may choose what the hospital has spent: nothing, or what another node has."""
    (tmp_path / "node").mkdir()
    link = tmp_path / "node" / "ledger.jsonl"
    link.symlink_to(path)
    with pytest.raises(RecordError), Ledger(link):
        pass


def test_a_link_to_nowhere_does_not_make_a_file_there(tmp_path: Path) -> None:
    link, target = tmp_path / "ledger.jsonl", tmp_path / "elsewhere"
    link.symlink_to(target)
    with pytest.raises(RecordError), Ledger(link):
        pass
    assert not target.exists()


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_ledger_that_others_may_write_is_refused(path: Path, mode: int) -> None:
    """As a key that others may read is refused: they could have chained anything."""
    path.chmod(mode)
    with pytest.raises(FedwardError), Ledger(path):
        pass


def test_a_new_ledger_is_for_its_owner_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        assert written(tmp_path / "privacy" / "ledger.jsonl").stat().st_mode & 0o077 == 0
    finally:
        os.umask(old)


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "/dev/null", "/dev/zero"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    """In a process of its own, with little memory: a device that never ends must not be read to its end."""
    place = Path(kind) if kind.startswith("/") else tmp_path / "ledger.jsonl"
    if kind == "a folder":
        place.mkdir()
    if kind == "a pipe":
        os.mkfifo(place)
    program = (
        "import resource, sys; from pathlib import Path; from client.ledger import Ledger\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "from shared.errors import RecordError\n"
        "try: Ledger(Path(sys.argv[1]))\n"
        "except RecordError: sys.exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(place)], timeout=60, capture_output=True, check=False)
    assert done.returncode == 9, done.stderr[-300:]


# --- two processes ----------------------------------------------------------------------------------------------------


def test_a_second_process_is_refused_at_once_and_leaves_the_file_alone(path: Path) -> None:
    whole = path.read_bytes()
    program = (
        "import sys; from pathlib import Path; from client.ledger import Ledger\n"
        "from shared.errors import RecordError\n"
        "try: Ledger(Path(sys.argv[1]))\n"
        "except RecordError: sys.exit(9)"
    )
    with Ledger(path):
        done = subprocess.run([sys.executable, "-c", program, str(path)], timeout=30, check=False)
    assert done.returncode == 9
    assert path.read_bytes() == whole


def test_a_child_that_was_forked_and_its_parent_lose_no_charge(path: Path) -> None:
    """They share the lock: two writers of one chain may break it, and must not spend one epsilon twice."""
    with Ledger(path) as ledger:
        child = os.fork()
        if child == 0:
            status = 9
            try:
                ledger.reserve(charge(4))
                status = 0
            finally:
                os._exit(status)
        _, ended = os.waitpid(child, 0)
        try:
            ledger.reserve(charge(5))
            parent = True
        except RecordError:
            parent = False
    succeeded = (os.waitstatus_to_exitcode(ended) == 0) + parent
    book = accepted(path)
    assert book is None or len(book.charges) == 3 + succeeded


def test_a_file_that_is_replaced_while_it_is_held_is_not_what_the_log_knows(path: Path, tmp_path: Path) -> None:
    """The charge went to a file that has no name any more; who took the name has a charge less."""
    with Ledger(path) as ledger:
        older = path.read_bytes()
        path.rename(tmp_path / "gone")
        path.write_bytes(older)
        path.chmod(0o600)
        ledger.reserve(charge(4))
        known = ledger.acknowledged
    refused(path, older, known)
