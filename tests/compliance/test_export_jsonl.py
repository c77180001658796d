"""The entries as they are, all or chosen, and the file beside them that says which."""

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compliance.export.dicom import message
from compliance.export.fhir import resource
from compliance.export.reading import Reader, clean, instant
from compliance.log import Action, AuditLog, Entry, Outcome, verify
from compliance.verify import leaf_hash
from shared.errors import OutputError, RecordError, UsageError
from tests.compliance.exports import KEY, NOTE, beside, export, filled, named, record, records


def test_a_leaf_hash_is_that_of_rfc_6962() -> None:
    # RFC 6962 2.1; the value is that of certificate transparency's own test vectors.
    assert leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"


@pytest.mark.control("HIPAA-164.312-b-export")
def test_all_of_a_log_is_the_log_and_still_verifies(tmp_path: Path) -> None:
    log, out = filled(tmp_path), tmp_path / "out.jsonl"
    result = export(log, "--to", out)
    assert result.exit_code == 0
    assert out.read_bytes() == log.read_bytes()
    assert verify(out) == verify(log)
    assert out.stat().st_mode & 0o777 == 0o600
    first, *leaves = beside(out)
    assert first["left_out"] == 0
    assert first["log"] == {"entries": len(leaves), "head": verify(log).head}
    lines = log.read_bytes().splitlines()
    assert leaves == [
        {"index": number, "leaf": hashlib.sha256(b"\x00" + line).hexdigest()} for number, line in enumerate(lines)
    ]


def test_a_selection_keeps_lines_as_they_are_and_says_what_it_left_out(tmp_path: Path) -> None:
    log, out = filled(tmp_path), tmp_path / "out.jsonl"
    (log.parent / "checkpoint").write_text(NOTE, encoding="utf-8")
    result = export(log, "--to", out, "--action", "train", "--action", "round", "--run", "run-1", "--json")
    lines = log.read_bytes().splitlines(keepends=True)
    rows = [json.loads(line) for line in lines]
    wanted = [row["seq"] for row in rows if row["action"] in {"train", "round"} and row["run"] == "run-1"]
    assert out.read_bytes() == b"".join(lines[number] for number in wanted)
    first, *leaves = beside(out)
    assert [leaf["index"] for leaf in leaves] == wanted
    assert [leaf["leaf"] for leaf in leaves] == [leaf_hash(lines[number][:-1]).hex() for number in wanted]
    assert (first["exported"], first["left_out"]) == (4, len(lines) - 4)
    assert first["selection"] == {"since": None, "until": None, "actions": ["round", "train"], "runs": ["run-1"]}
    assert first["checkpoint"] == NOTE
    assert json.loads(result.output)["left_out"] == len(lines) - 4
    with pytest.raises(RecordError):
        verify(out)


def test_a_time_takes_its_first_moment_and_leaves_out_its_last(tmp_path: Path) -> None:
    log, out = filled(tmp_path), tmp_path / "out.jsonl"
    times = [record.stamp for record in records(log)]
    export(log, "--to", out, "--since", times[2], "--until", times[5])
    assert [json.loads(line)["seq"] for line in out.read_bytes().splitlines()] == [2, 3, 4]


@given(st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_taken_and_left_out_are_always_the_whole(tmp_path: Path, data: st.DataObject) -> None:
    log = tmp_path / "audit" / "log.jsonl"
    if not log.exists():
        filled(tmp_path, actions=(Action.TRAIN, Action.ROUND, Action.INGEST))
    found = records(log)
    words: list[object] = []
    for option, pool in (("--action", ["train", "round", "ingest"]), ("--run", ["run-0", "run-1", "run-9"])):
        for one in data.draw(st.lists(st.sampled_from(pool), unique=True)):
            words += [option, one]
    since = data.draw(st.none() | st.sampled_from([record.stamp for record in found]))
    out = tmp_path / "out.jsonl"
    result = export(log, "--to", out, "--overwrite", "--json", *words, *(["--since", since] if since else []))
    summary = json.loads(result.output)
    assert summary["exported"] + summary["left_out"] == len(found) == summary["log"]["entries"]
    assert summary["exported"] == len(out.read_bytes().splitlines()) == len(beside(out)) - 1
    assert set(out.read_bytes().splitlines()) <= {record.line for record in found}


def test_a_log_is_found_in_the_folder_of_a_node(tmp_path: Path) -> None:
    log = filled(tmp_path / "node", actions=(Action.TRAIN,))
    for number, place in enumerate((tmp_path / "node", tmp_path / "node" / "audit")):
        assert export(place, "--to", tmp_path / str(number)).exit_code == 0
        assert (tmp_path / str(number)).read_bytes() == log.read_bytes()


def test_an_empty_log_is_an_empty_file(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.touch()
    assert export(log, "--to", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out").read_bytes() == b""
    assert len(beside(tmp_path / "out")) == 1


@pytest.mark.control("HIPAA-164.312-b-export")
def test_a_log_that_does_not_verify_leaves_no_file(tmp_path: Path) -> None:
    log = filled(tmp_path)
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    log.write_bytes(data)
    result = export(log, "--to", tmp_path / "out" / "log.jsonl")
    assert isinstance(result.exception, RecordError)
    assert not list((tmp_path / "out").iterdir())


def test_a_row_of_another_form_is_named(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_bytes(b'{"prev":"' + b"0" * 64 + b'","seq":0,"v":9}\n')
    assert isinstance(found := export(log, "--to", tmp_path / "out").exception, RecordError)
    assert "entry 0" in found.message


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"x" * 70000])
def test_what_is_no_checkpoint_is_not_passed_on(tmp_path: Path, content: bytes) -> None:
    log = filled(tmp_path, actions=(Action.TRAIN,))
    (log.parent / "checkpoint").write_bytes(content)
    assert isinstance(export(log, "--to", tmp_path / "out").exception, RecordError)


@pytest.mark.parametrize(
    "words",
    [
        ("--to", "ftp://host/x"),
        ("--to", "new", "--bundle"),
        ("--to", "new", "--ca", "x.pem"),
        ("--to", "new", "--action", "trian"),
        ("--to", "new", "--since", "yesterday"),
        ("--to", "new", "--since", "2026-11-01T08:00:00"),
        ("--to", "new", "--since", "2026-11-02", "--until", "2026-11-02"),
        ("--to", "there"),
        ("--to", ""),
        ("--to", "/"),
        ("--to", "folder"),
        ("--to", "audit/log.jsonl", "--overwrite"),
        ("--to", "link", "--overwrite"),
        ("--to", "syslog+tls://host"),
        ("--to", "syslog+tls://host:99999", "--ca", "x.pem"),
        ("--to", "syslog+tls://", "--ca", "x.pem"),
        ("--to", "syslog+tls://host/path", "--ca", "x.pem"),
        ("--to", "syslog+tls://host", "--ca", "x.pem"),
        ("--to", "syslog+tls://host", "--ca", "x.pem", "--certificate", "y.pem"),
        ("--to", "syslog+tls://host", "--ca", "x.pem", "--format", "fhir"),
    ],
)
def test_wrong_use_is_told_in_one_line_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    log = filled(tmp_path, actions=(Action.TRAIN,))
    Path("there").write_text("mine")
    Path("folder").mkdir()
    Path("link").symlink_to(log)
    before = log.read_bytes()
    found = export(log, *words).exception
    assert isinstance(found, UsageError)
    assert found.hint
    assert "\n" not in str(found)
    assert log.read_bytes() == before
    assert Path("there").read_text() == "mine"
    assert not Path("new").exists()


def test_a_missing_log_and_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    assert isinstance(export(tmp_path / "none", "--to", tmp_path / "out").exception, UsageError)
    log = filled(tmp_path, actions=(Action.TRAIN,))
    (tmp_path / "file").touch()
    assert isinstance(export(log, "--to", tmp_path / "file" / "out").exception, OutputError)
    assert isinstance(export(log, "--to", tmp_path / ("x" * 300)).exception, OutputError)
    assert isinstance(export(tmp_path / ("x" * 300), "--to", tmp_path / "out").exception, UsageError)


def test_an_entry_that_is_being_written_is_not_exported(tmp_path: Path) -> None:
    log = filled(tmp_path, actions=(Action.TRAIN,))
    whole = log.read_bytes()
    with log.open("ab") as stream:
        stream.write(b'{"torn":')
    export(log, "--to", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == whole


def test_a_log_that_grows_meanwhile_is_exported_up_to_where_it_was(tmp_path: Path) -> None:
    log = filled(tmp_path, actions=(Action.TRAIN,))
    reader = Reader(log)
    walk = iter(reader)
    next(walk)
    with AuditLog(log, site="H1", subject_key=KEY) as writer:
        writer.append(Entry(Action.ROUND, Outcome.OK))
    assert all(one.action == "train" for one in walk)
    assert reader.entries == 5


@given(st.text())
def test_a_clean_text_has_nothing_that_xml_1_0_or_fhir_forbids(text: str) -> None:
    cleaned = clean(text)
    assert cleaned == cleaned.strip()
    assert all(
        ord(one) >= 0x20 and not 0xD800 <= ord(one) <= 0xDFFF and ord(one) not in {0xFFFE, 0xFFFF} for one in cleaned
    )


def test_a_day_begins_in_utc() -> None:
    assert instant("2026-11-01") == instant("2026-11-01T01:00:00+01:00")


def test_help_says_the_exit_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = export("--help").output
    assert "Exit codes" in shown
    assert all(option in shown for option in ("--to", "--format", "--since", "--bundle", "--certificate", "--state"))


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = filled(tmp_path, actions=(Action.TRAIN,))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shutil.copyfileobj", full)
    found = export(log, "--to", tmp_path / "out" / "log.jsonl").exception
    assert isinstance(found, OutputError)
    assert "free some space" in found.hint
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("form", ["fhir", "dicom"])
def test_a_time_in_another_zone_is_told_in_utc(form: str) -> None:
    row = dict(named("train").row) | {"time": "2026-11-01T09:00+01:00"}
    made = json.dumps(resource(record(row))) if form == "fhir" else message(record(row)).decode()
    assert "2026-11-01T08:00:00.000000Z" in made
