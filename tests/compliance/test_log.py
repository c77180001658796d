"""The audit log: durable before the act, any number of writers in turn, and no change that goes unseen inside it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compliance.log import GENESIS, Action, AuditLog, Entry, Outcome, newest, verify
from shared.errors import RecordError

KEY = bytes(range(32))


def open_log(path: Path) -> AuditLog:
    return AuditLog(path, site="H1", purpose="research", subject_key=KEY)


def fill(path: Path, count: int) -> None:
    with open_log(path) as log:
        for number in range(count):
            log.append(Entry(Action.INGEST, Outcome.OK, detail={"number": number}))


def test_entries_are_chained_numbered_timed_and_name_who_and_why(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    fill(path, 3)
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [row["seq"] for row in rows] == [0, 1, 2]
    assert rows[0]["prev"] == GENESIS
    assert all(row["time"].endswith("Z") and row["site"] == "H1" and row["purpose"] == "research" for row in rows)
    assert verify(path).entries == 3
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_log_goes_on_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    fill(path, 2)
    fill(path, 2)
    assert verify(path).entries == 4


def test_an_act_is_recorded_before_and_after(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with open_log(path) as log, log.act(Entry(Action.TRAIN, Outcome.STARTED)) as detail:
        assert json.loads(path.read_bytes().splitlines()[-1])["outcome"] == "started"
        detail["slices"] = 7
    last = json.loads(path.read_bytes().splitlines()[-1])
    assert (last["outcome"], last["detail"]) == ("ok", {"slices": 7})


def test_a_failed_act_is_recorded_by_the_type_of_its_error_and_not_its_text(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with (
        open_log(path) as log,
        pytest.raises(ValueError, match="Haldane"),
        log.act(Entry(Action.TRAIN, Outcome.STARTED)),
    ):
        raise ValueError("Haldane^Ada")
    assert json.loads(path.read_bytes().splitlines()[-1])["detail"] == {"error": "ValueError"}
    assert b"Haldane" not in path.read_bytes()


def test_two_writers_go_on_from_each_other(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with open_log(path) as one, open_log(path) as other:
        for number in range(3):
            one.append(Entry(Action.TRAIN, Outcome.OK, detail={"number": number}))
            assert other.newest(Action.TRAIN) == {"number": number}
            assert other.append(Entry(Action.INGEST, Outcome.OK)) == verify(path).head
    assert verify(path).entries == 6


def test_processes_that_append_at_once_make_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    code = f"""
from pathlib import Path
from compliance.log import *
with AuditLog(Path({str(path)!r}), site="H1", subject_key=bytes(32)) as log:
    for _ in range(50):
        log.append_many([Entry(Action.INGEST, Outcome.STARTED), Entry(Action.INGEST, Outcome.OK)])
"""
    writers = [subprocess.Popen([sys.executable, "-c", code], cwd=Path.cwd()) for _ in range(4)]
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            verify(path)  # whoever reads meanwhile sees whole entries
    assert [writer.returncode for writer in writers] == [0] * 4
    assert verify(path).entries == 400
    outcomes = [json.loads(line)["outcome"] for line in path.read_bytes().splitlines()]
    assert outcomes == ["started", "ok"] * 200, "entries that are written with one call stay together"


@pytest.mark.parametrize("change", ["cut", "replaced", "altered behind"])
def test_a_log_that_changes_under_its_writer_is_written_no_more(tmp_path: Path, change: str) -> None:
    path = tmp_path / "log.jsonl"
    with open_log(path) as log:
        log.append_many([Entry(Action.INGEST, Outcome.OK)] * 3)
        whole = path.read_bytes()
        if change == "cut":
            os.truncate(path, len(whole) - 10)
        elif change == "replaced":
            (tmp_path / "copy").write_bytes(whole)
            (tmp_path / "copy").rename(path)
        else:
            path.write_bytes(whole + whole.splitlines(keepends=True)[-1])
        found = path.read_bytes()
        with pytest.raises(RecordError, match=r"cut off|does not verify"):
            log.append(Entry(Action.TRAIN, Outcome.STARTED))
        assert path.read_bytes() == found


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_no_byte_can_change_unseen(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "log.jsonl"
    path.unlink(missing_ok=True)
    fill(path, 3)
    raw = bytearray(path.read_bytes())
    last = raw.rstrip(b"\n").rfind(b"\n") + 1
    place = data.draw(st.integers(0, last - 1))  # the last line has no successor: its head is what a checkpoint holds
    raw[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(raw)
    with pytest.raises(RecordError, match="does not verify"):
        verify(path)


@pytest.mark.parametrize("change", ["drop", "swap", "insert", "repeat"])
def test_lines_cannot_be_dropped_swapped_inserted_or_repeated(tmp_path: Path, change: str) -> None:
    path = tmp_path / "log.jsonl"
    fill(path, 4)
    lines = path.read_bytes().splitlines(keepends=True)
    changed = {
        "drop": [lines[0], *lines[2:]],
        "swap": [lines[0], lines[2], lines[1], lines[3]],
        "insert": [*lines[:2], lines[1].replace(b'"number":1', b'"number":9'), *lines[2:]],
        "repeat": [*lines, lines[3]],
    }[change]
    path.write_bytes(b"".join(changed))
    with pytest.raises(RecordError):
        open_log(path)


def test_a_head_shows_what_the_chain_alone_cannot_a_changed_last_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    fill(path, 2)
    head = verify(path).head
    path.write_bytes(path.read_bytes().replace(b'"number":1', b'"number":2'))
    assert verify(path).head != head


def test_the_newest_entry_of_a_kind_is_known_without_reading_the_log_again(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert newest(path, Action.TRAIN) is None
    with open_log(path) as log:
        assert log.newest(Action.TRAIN) is None
        for number, outcome in enumerate((Outcome.OK, Outcome.OK, Outcome.FAILED)):
            log.append(Entry(Action.TRAIN, outcome, detail={"number": number}))
        assert log.newest(Action.TRAIN, Action.EVALUATE) == {"number": 1}
        assert log.newest(Action.TRAIN, outcome=Outcome.FAILED) == {"number": 2}
    with open_log(path) as log:
        assert log.newest(Action.TRAIN) == {"number": 1}
        log.append(Entry(Action.EVALUATE, Outcome.OK))
        assert log.newest(Action.TRAIN, Action.EVALUATE) == {}
        assert newest(path, Action.TRAIN) == {"number": 1}
        assert newest(path, Action.EVALUATE, Action.TRAIN) == {}


def test_a_torn_last_line_is_cut_and_the_cut_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    fill(path, 2)
    with path.open("ab") as stream:
        stream.write(b'{"action":"train"')
    assert (verify(path).entries, verify(path).torn) == (2, 17), "who reads meanwhile is told no worse than that"
    assert newest(path, Action.INGEST) == {"number": 1}
    with open_log(path):
        pass
    assert verify(path).torn == 0
    last = json.loads(path.read_bytes().splitlines()[-1])
    assert last["action"] == "log.repair"
    assert last["detail"] == {"bytes_cut": 17}
    assert verify(path).entries == 3


def test_on_a_full_disk_nothing_is_half_written_and_the_act_does_not_happen(tmp_path: Path) -> None:
    """A file-size limit stands for the full disk: the write fails with an error of the same family."""
    code = f"""
import resource, signal, sys
from pathlib import Path
from compliance.log import *
from shared.errors import RecordError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = AuditLog(Path({str(tmp_path / "log.jsonl")!r}), site="H1", subject_key=bytes(32))
log.append(Entry(Action.INGEST, Outcome.OK))
resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
acted = False
try:
    for _ in range(5):
        with log.act(Entry(Action.TRAIN, Outcome.STARTED)):
            acted = True
            break
except RecordError as error:
    sys.exit(0 if "cannot write the audit log" in str(error) else 5)
sys.exit(7)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "log.jsonl").read_bytes().endswith(b"\n")
    assert verify(tmp_path / "log.jsonl").entries in {1, 2}


def test_kill_minus_nine_leaves_a_log_that_verifies_and_holds_what_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    code = f"""
from pathlib import Path
from compliance.log import *
log = AuditLog(Path({str(path)!r}), site="H1", subject_key=bytes(32))
while True:
    log.append(Entry(Action.INGEST, Outcome.OK))
    print(len(log), flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
    assert process.stdout is not None
    acknowledged = 0
    while acknowledged < 20:
        acknowledged = int(process.stdout.readline())
    os.kill(process.pid, 9)
    process.wait()
    with open_log(path) as log:
        assert len(log) >= acknowledged


def test_a_subject_stands_as_a_keyed_digest(tmp_path: Path) -> None:
    with open_log(tmp_path / "a.jsonl") as log:
        digest = log.digest("H1-12345")
        log.append(Entry(Action.INGEST, Outcome.OK, subject=("patient", digest)))
    assert b"H1-12345" not in (tmp_path / "a.jsonl").read_bytes()
    with AuditLog(tmp_path / "b.jsonl", site="H1", subject_key=bytes(32)) as other:
        assert other.digest("H1-12345") != digest


def test_to_open_a_long_log_reads_it_in_blocks_not_in_bytes(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with open_log(path) as log:
        log.append_many([Entry(Action.INGEST, Outcome.OK)] * 5000)
    with path.open("ab") as stream:
        stream.write(b"{" * 200_000)
    code = f"""
import sys
from pathlib import Path
from compliance.log import AuditLog
reads = 0
def count(frame, event, function):
    global reads
    reads += event == "c_call" and function.__name__ in ("read", "readline")
sys.setprofile(count)
AuditLog(Path({str(path)!r}), site="H1", subject_key=bytes(32)).close()
sys.setprofile(None)
sys.exit(0 if reads < 6000 else 1)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path.cwd()).returncode == 0
    assert verify(path).entries == 5001
