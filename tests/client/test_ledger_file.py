"""The file of the privacy ledger: on disk before the training that it pays for, and never taken on trust."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from client import ledger_file
from client.ledger import Ledger
from client.ledger_file import Acknowledged, read_book
from shared.errors import BudgetError, RecordError
from tests.client.charges import CHARGE, count_tenths, fill

REPOSITORY = Path(__file__).parents[2]
TRAINING_FOR_EVER = """
import sys, torch
from pathlib import Path
from client.ledger import Ledger
from client.training.loop import price, train_round
from tests.client.training.toys import PLAN, PRIVACY, ToyTask, people
from dataclasses import replace

class Telling(ToyTask):
    def draw(self, patient, count, rng):
        print("training", flush=True)
        return super().draw(patient, count, rng)

task, patients, plan = Telling(), people(8), replace(PLAN, rounds=1000)
network = task.network(0)
with Ledger(Path(sys.argv[1])) as ledger:
    for number in range(1, 1001):
        receipt = ledger.reserve(price(task, patients, plan, PRIVACY, round_number=number))
        print("round", number, flush=True)
        train_round(task, network, patients, plan, round_number=number, privacy=PRIVACY, seed=None, receipt=receipt)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "privacy" / "ledger.jsonl"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    count_tenths(monkeypatch)


# --- a crash, a full disk, two at once --------------------------------------------------------------------------------


@pytest.mark.control("GDPR-25-budget")
def test_killed_in_the_middle_of_training_the_round_stays_charged(path: Path) -> None:
    """kill -9 while patients are being read: every round of which training has begun is on file."""
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINING_FOR_EVER, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
    )
    assert process.stdout is not None
    begun = 0
    for line in process.stdout:
        if line.startswith("round"):
            begun = int(line.split()[1])
        elif begun >= 3:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.wait()
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL
    with Ledger(path) as ledger:
        assert begun >= 3
        assert ledger.history()[0].steps >= begun * 5


def test_a_process_that_is_killed_anywhere_has_charged_what_it_acknowledged(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.client.killed_budget", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("killed in") == 4


def test_a_torn_last_line_is_dropped_because_nothing_was_trained_on_it(path: Path) -> None:
    fill(path, charges=1)
    whole = path.read_bytes()
    with Ledger(path) as ledger:
        ledger.reserve(replace(CHARGE, round=2))
    further = path.read_bytes()[len(whole) :]
    for length in range(len(further)):
        path.write_bytes(whole + further[:length])
        with Ledger(path) as ledger:
            assert ledger.charges == (CHARGE,)
        assert path.read_bytes() == whole
    path.write_bytes(whole + further[:40])
    with Ledger(path) as ledger:
        ledger.reserve(replace(CHARGE, round=3))
        assert len(read_book(path).charges) == 2


@pytest.mark.parametrize("call", ["fsync", "write"])
def test_no_charge_on_a_full_disk_means_no_receipt(path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Filling:
        """A disk that takes a part of what is written, without an error."""

        def __init__(self, file: object) -> None:
            self.file = file

        def write(self, data: bytes) -> int:
            return int(self.file.write(data[:20]))  # type: ignore[attr-defined]

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

    fill(path, charges=1)
    before = path.read_bytes()
    ledger = Ledger(path)
    if call == "fsync":
        monkeypatch.setattr(ledger_file.os, "fsync", full)
    else:
        ledger._file._file = Filling(ledger._file._file)  # type: ignore[assignment]
    with pytest.raises(RecordError, match="No space"):
        ledger.reserve(replace(CHARGE, round=2))
    assert ledger.charges == (CHARGE,)
    with pytest.raises(RecordError, match="closed"):
        ledger.reserve(replace(CHARGE, round=2))
    monkeypatch.undo()
    assert path.read_bytes() == before
    with Ledger(path) as ledger:
        ledger.reserve(replace(CHARGE, round=2))


def test_the_folder_may_be_unusable(tmp_path: Path) -> None:
    (tmp_path / "privacy").write_text("a file, not a folder")
    with pytest.raises(RecordError, match="cannot open"):
        Ledger(tmp_path / "privacy" / "ledger.jsonl")
    with pytest.raises(RecordError, match="cannot read"):
        read_book(tmp_path / "privacy" / "ledger.jsonl")


def test_one_process_at_a_time(path: Path) -> None:
    with Ledger(path), pytest.raises(RecordError, match="held"):
        Ledger(path)
    Ledger(path).close()


@pytest.mark.usefixtures("counted")
def test_of_two_processes_at_once_neither_overdraws_nor_loses_a_charge(path: Path) -> None:
    fill(path, charges=0)

    def spend(name: str) -> int:
        receipts = 0
        while True:
            try:
                with Ledger(path) as ledger:
                    ledger.reserve(replace(CHARGE, run=name, steps=1), most=None)
                    receipts += 1
            except BudgetError:
                return receipts
            except RecordError as error:
                assert "held" in error.message, error
                time.sleep(0.001)

    children = []
    for name in ("one", "two"):
        child = os.fork()
        if not child:
            os._exit(spend(name))
        children.append(child)
    receipts = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    charges = read_book(path).charges
    assert len(charges) == sum(receipts) == 30
    assert [sum(charge.run == name for charge in charges) for name in ("one", "two")] == receipts


# --- what was altered -------------------------------------------------------------------------------------------------


def refusal(path: Path, acknowledged: Acknowledged) -> str:
    """Why the ledger is refused, for reading and for charging; what is refused is left as it is."""
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(RecordError) as one:
        read_book(path, acknowledged)
    with pytest.raises(RecordError) as two:
        Ledger(path, acknowledged=acknowledged)
    assert one.value.message == two.value.message
    assert (path.read_bytes() if path.exists() else None) == before
    return one.value.message


@pytest.mark.control("HIPAA-164.312-c-integrity")
def test_every_changed_byte_is_seen(path: Path) -> None:
    acknowledged = fill(path, charges=1)
    raw = path.read_bytes()
    for place in range(len(raw)):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        number = raw[:place].count(b"\n") + 1
        if place == len(raw) - 1:  # the end of the last line: it looks as if it was never finished
            assert "line 3, which the audit log knows" in refusal(path, acknowledged)
        else:
            assert f"line {number} was changed" in refusal(path, acknowledged)


def alterations(lines: list[bytes]) -> Iterator[tuple[str, list[bytes], int]]:
    """Every removal, doubling and swap of lines, with the first line that is wrong then."""
    for place in range(len(lines)):
        yield f"without {place}", lines[:place] + lines[place + 1 :], place
        yield f"twice {place}", lines[: place + 1] + lines[place:], place + 1
        for other in range(place + 1, len(lines)):
            swapped = list(lines)
            swapped[place], swapped[other] = lines[other], lines[place]
            yield f"swapped {place} and {other}", swapped, place


def test_every_line_that_is_removed_doubled_or_moved_is_seen(path: Path) -> None:
    acknowledged = fill(path, charges=3)
    lines = path.read_bytes().splitlines(keepends=True)
    for what, altered, first in alterations(lines):
        path.write_bytes(b"".join(altered))
        if what == f"without {len(lines) - 1}":
            assert "was cut off or an older copy was put back" in refusal(path, acknowledged)
        else:
            assert f"line {first + 1} was changed, or a line is missing" in refusal(path, acknowledged), what


def test_a_line_of_another_ledger_does_not_fit_in(path: Path, tmp_path: Path) -> None:
    acknowledged = fill(path)
    fill(tmp_path / "other.jsonl", charges=4)
    lines, others = (one.read_bytes().splitlines(keepends=True) for one in (path, tmp_path / "other.jsonl"))
    path.write_bytes(b"".join([*lines, others[5]]))
    assert "line 6" in refusal(path, acknowledged)
    path.write_bytes(b"".join(others))
    assert "is another ledger" in refusal(path, acknowledged)


@pytest.mark.parametrize(
    "line",
    [b"[]\n", b"null\n", b"{}\n", b'{"check":1}\n', b"\xff\n", b"\n", b"[" * 20000 + b"\n", b'{"check":NaN}\n'],
    ids=range(8),
)
def test_what_is_no_line_of_a_ledger_is_refused(path: Path, line: bytes) -> None:
    acknowledged = fill(path, charges=1)
    path.write_bytes(path.read_bytes() + line)
    assert "line 4 was changed" in refusal(path, acknowledged)


def test_a_line_of_an_unknown_kind_is_refused(path: Path) -> None:
    fill(path, charges=1)
    with Ledger(path) as ledger, pytest.raises(ValueError, match="no kind"):
        ledger._file.append("refund", {"steps": 4})


# --- what the audit log knows -----------------------------------------------------------------------------------------


def test_a_ledger_without_what_was_acknowledged_is_refused(path: Path) -> None:
    acknowledged = fill(path, charges=3)
    lines = path.read_bytes().splitlines(keepends=True)
    for kept in range(1, len(lines)):
        path.write_bytes(b"".join(lines[:kept]))
        assert f"has {kept} lines and lacks line 5" in refusal(path, acknowledged)
    for gone in (lambda: path.write_bytes(b""), path.unlink):
        gone()
        assert "is gone" in refusal(path, acknowledged)
    assert not path.exists(), "no empty ledger takes its place"


def test_a_ledger_that_is_ahead_of_what_was_acknowledged_is_fine(path: Path) -> None:
    acknowledged = fill(path, charges=1)
    with Ledger(path, acknowledged=acknowledged) as ledger:
        ledger.reserve(replace(CHARGE, round=2))
    with Ledger(path, acknowledged=acknowledged) as ledger:
        assert len(ledger.charges) == 2


# --- whose it is, and what is no ledger -------------------------------------------------------------------------------


def test_a_ledger_is_that_of_the_data_set_that_it_was_begun_for(path: Path) -> None:
    with Ledger(path, data_set="H1") as ledger:
        ledger.reserve(CHARGE)
    assert read_book(path, data_set="H1").data_set == "H1"
    for asked in (lambda: read_book(path, data_set="H2"), lambda: Ledger(path, data_set="H2")):
        with pytest.raises(RecordError, match="is the ledger of 'H1', not of 'H2'"):
            asked()
    with Ledger(path) as ledger:  # who names none takes any
        assert ledger.charges == (CHARGE,)


def test_a_reader_follows_no_link_and_waits_for_no_pipe(path: Path, tmp_path: Path) -> None:
    fill(path)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(RecordError, match="cannot read") as refused:
        read_book(tmp_path / "link")
    assert "no link is followed" in refused.value.hint
    os.mkfifo(tmp_path / "pipe", 0o600)
    for place in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(RecordError, match="is no regular file"):
            read_book(place)


@pytest.mark.control("HIPAA-164.312-a1-keys")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644])
def test_a_ledger_that_others_may_read_or_write_is_refused_for_reading_and_for_charging(path: Path, mode: int) -> None:
    acknowledged = fill(path)
    path.chmod(mode)
    assert "others may read or write" in refusal(path, acknowledged)
    with pytest.raises(RecordError) as refused:
        Ledger(path)
    assert refused.value.hint == f"run: chmod 600 {path}"
    path.chmod(0o600)
    Ledger(path, acknowledged=acknowledged).close()


def test_what_was_never_the_beginning_of_a_line_is_not_cut_off(path: Path) -> None:
    acknowledged = fill(path)
    whole = path.read_bytes()
    line = whole.splitlines()[-1]
    for tail in (b"\0", b"junk", b"{}", line, line + b" ", b'{"check":"x', b"{" + b" " * 9, line[:200] + b"x" * 9000):
        path.write_bytes(whole + tail)
        assert "never the beginning of a line" in refusal(path, acknowledged)
    for tail in (line[:-1], line[:1], line[:30], b'{"check":"' + b"0" * 64):
        path.write_bytes(whole + tail)
        Ledger(path, acknowledged=acknowledged).close()
        assert path.read_bytes() == whole
