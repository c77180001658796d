"""Exports of hostile entries, holds, and several processes that change the register at once."""

import json
import multiprocessing
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from client.app import close_sessions
from client.consenting import withdraw
from client.node import Node
from client.records import read_register
from client.rights import erase, restrict
from compliance.cli import app
from compliance.log import Action, AuditLog, Entry, Outcome, entries, verify
from compliance.retention import holds, may_delete
from shared.errors import FedwardError
from tests.client import test_app as apps
from tests.federation import toy

HOSTILE = (
    "]]><x/>",
    "<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>&b;",
    "\x00\x01\x0b\x1b[2J",
    "\ufffe\uffff\ufeff\u202e",
    "=cmd|' /C calc'!A0",
    "a" * 60_000,
    "\n<34>1 2026-01-01T00:00:00Z forged - - - - x",
)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_sessions()


def test_every_export_of_hostile_entries_can_be_read_back_and_has_as_many(tmp_path: Path) -> None:
    """Docs of exports: jsonl "the entries as they are, byte for byte"; DICOM and FHIR one document a line."""
    path = tmp_path / "log.jsonl"
    with AuditLog(path, site="H1", subject_key=bytes(32)) as log:
        log.append_many(
            [
                Entry(Action.TRAIN, Outcome.OK, run=text[:60], round=n, detail={"x": text})
                for n, text in enumerate(HOSTILE)
            ]
        )
    for form in ("jsonl", "fhir", "dicom"):
        out = tmp_path / form
        done = CliRunner().invoke(app, ["export", str(path), "--to", str(out), "--format", form])
        assert done.exception is None, done.exception
        assert out.stat().st_mode & 0o077 == 0
        lines = out.read_bytes().split(b"\n")[:-1]
        assert len(lines) == len(HOSTILE), form
        for line in lines:
            if form == "dicom":
                assert b"<!DOCTYPE" not in line
                ElementTree.fromstring(line)  # noqa: S314
            else:
                json.loads(line)
    assert (tmp_path / "jsonl").read_bytes() == path.read_bytes()


def test_an_export_of_a_log_that_does_not_verify_writes_nothing_and_takes_no_link(tmp_path: Path) -> None:
    """Docs: "where it does not verify, no file is written (exit 9)"."""
    path = tmp_path / "log.jsonl"
    with AuditLog(path, site="H1", subject_key=bytes(32)) as log:
        log.append_many([Entry(Action.TRAIN, Outcome.OK, round=n) for n in range(5)])
    raw = path.read_bytes()
    lines = raw.splitlines(keepends=True)
    for changed in (
        raw.replace(b'"round":2', b'"round":7'),
        b"".join(lines[:2] + lines[3:]),
        raw + b"[" * 90_000 + b"\n",
    ):
        path.write_bytes(changed)
        for form in ("jsonl", "fhir", "dicom"):
            done = CliRunner().invoke(app, ["export", str(path), "--to", str(tmp_path / "out"), "--format", form])
            assert isinstance(done.exception, FedwardError), repr(done.exception)
            assert done.exception.exit_code == 9
            assert sorted(one.name for one in tmp_path.iterdir() if not one.name.endswith(".lock")) == ["log.jsonl"]
    path.write_bytes(raw)
    precious = tmp_path / "precious"
    precious.write_text("x")
    (tmp_path / "out").symlink_to(precious)
    CliRunner().invoke(app, ["export", str(path), "--to", str(tmp_path / "out"), "--overwrite"])
    assert precious.read_text() == "x", "written through a link"


@pytest.mark.parametrize("why", ["", " ", "ab", "x\ny", "x" * 201, "\u202efoo", "\x1b[2J foo"])
def test_a_hold_for_no_reason_or_for_an_unreadable_one_is_refused(tmp_path: Path, why: str) -> None:
    """Docstring: who or why is a line of 3 to 200 characters."""
    folder = toy.make_node(tmp_path / "H1", "H1", apps.RULES)
    CliRunner().invoke(app, ["hold", "place", str(folder), "--who", "Legal", "--why", "a real matter"])
    log = folder / "audit" / "log.jsonl"
    assert len(holds(log)) == 1
    done = CliRunner().invoke(app, ["hold", "place", str(folder), "--who", "Legal", "--why", why])
    assert done.exception is not None
    assert len(holds(log)) == 1
    assert may_delete(log, log=log, now=datetime(2099, 1, 1, tzinfo=UTC))[0] is False
    shown = CliRunner().invoke(app, ["hold", "list", str(folder)])
    assert "a real matter" in shown.output


def test_six_years_are_counted_over_a_leap_day_and_from_the_newest_entry(tmp_path: Path) -> None:
    """45 CFR 164.316(b)(2)(i): six years; one day before they are over nothing may go."""
    path = tmp_path / "log.jsonl"
    with AuditLog(path, site="H1", subject_key=bytes(32)) as log:
        log.append(Entry(Action.TRAIN, Outcome.OK))
    at = datetime.fromisoformat(next(entries(path))["time"])
    over = (
        at.replace(year=at.year + 6) if (at.month, at.day) != (2, 29) else at.replace(year=at.year + 6, month=3, day=1)
    )

    assert may_delete(path, log=path, now=over - timedelta(days=2))[0] is False
    assert may_delete(path, log=path, now=over + timedelta(days=1))[0] is True
    path.write_bytes(path.read_bytes()[:-5] + b"x\n")
    assert may_delete(path, log=path, now=over + timedelta(days=1))[0] is False


def work(folder: str, number: int) -> None:
    node = Node.open(Path(folder))
    for n in range(6):
        if number == 2:
            restrict(node, f"OTHER-{n}", who="Ada")
        else:
            withdraw(node, f"P-{number}-{n}")


def test_processes_that_change_the_register_at_once_lose_no_withdrawal(tmp_path: Path) -> None:
    """Docs: a withdrawal counts from the next round on; the log knows the digest before and after each change."""
    folder = toy.make_node(tmp_path / "H1", "H1", apps.RULES)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=work, args=(str(folder), number)) for number in range(3)]
    for one in workers:
        one.start()
    for one in workers:
        one.join(60)
        assert one.exitcode == 0
    node = Node.open(folder)
    log = folder / "audit" / "log.jsonl"
    register, _ = read_register(node, log)
    assert set(register.patients) == {f"P-{m}-{n}" for m in range(2) for n in range(6)} | {
        f"OTHER-{n}" for n in range(6)
    }
    assert verify(log).entries > 0
    text = log.read_text()
    assert "P-0-1" not in text
    assert "OTHER" not in text


def test_an_older_register_put_back_between_two_changes_is_not_gone_on_from(tmp_path: Path) -> None:
    """Docs: "an older copy that was put back lets nobody take part"; nor may the next change make it the newest."""
    folder = toy.make_node(tmp_path / "H1", "H1", apps.RULES)
    node = Node.open(folder)
    withdraw(node, "PATIENT-H1-0")
    path = folder / "rights" / "records.json"
    old = path.read_bytes()
    withdraw(node, "PATIENT-H1-1")
    path.write_bytes(old)
    for act in (
        lambda: withdraw(node, "PATIENT-H1-2"),
        lambda: restrict(node, "PATIENT-H1-2", who="Ada"),
        lambda: erase(node, "PATIENT-H1-2", who="Ada"),
    ):
        with pytest.raises(FedwardError):
            act()
    assert path.read_bytes() == old
    assert apps.refused(apps.train(folder)).code == "record"


def test_a_register_and_a_log_of_another_hospital_are_not_taken(tmp_path: Path) -> None:
    """A folder `rights/` of a hospital where nobody withdrew, under the log of this one."""
    mine = Node.open(toy.make_node(tmp_path / "H1", "H1", apps.RULES))
    other = Node.open(toy.make_node(tmp_path / "H2", "H2", apps.RULES))
    withdraw(mine, "PATIENT-H1-1")
    withdraw(other, "PATIENT-H2-1")
    shutil.rmtree(mine.folder / "rights")
    shutil.copytree(other.folder / "rights", mine.folder / "rights")
    assert apps.refused(apps.train(mine.folder)).code == "record"
