"""Reports, pages, releases, incident clocks: what must not be derived, injected or missed."""

import contextlib
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from client.app import close_sessions
from client.node import Node
from compliance.clocks import Breach, duties, year_end
from compliance.compliance_cli import app as compliance_app
from compliance.incident import Incidents, moment
from compliance.log import AuditLog, entries
from compliance.party import Facts, Kind, Party
from compliance.suppress import belonging, split
from shared.errors import RecordError, UsageError
from shared.quality import Cell, read_quality, suppressed
from tests.client import test_app as apps
from tests.federation import toy

HTML = "<img src=x onerror=alert(1)>\u202egnp.exe [a](javascript:alert(1)) =cmd|' /C calc'!A0"


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_sessions()


# --- small numbers ---------------------------------------------------------------------------------------------------


@given(numbers=st.lists(st.integers(0, 40), min_size=1, max_size=5), least=st.integers(2, 15))
def test_a_small_number_never_stands_there(numbers: list[int], least: int) -> None:
    shown, whole = split({str(n): number for n, number in enumerate(numbers)}, least)
    for text in (*shown.values(), whole):
        assert not text.isdigit() or int(text) == 0 or int(text) >= least
    for number in numbers:
        assert belonging(1_000, number, least) != "1000" or number >= least or number == 0


@settings(max_examples=200)
@given(numbers=st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_what_is_suppressed_of_a_grouping_stands_for_ten_patients(numbers: list[int]) -> None:
    """Docs: "Where what is suppressed of one grouping would stand for fewer than 10 patients together ..."."""
    cells = [Cell("t", "sex", f"g{n}", number, (("psnr", float(n)),)) for n, number in enumerate(numbers)]
    shown = suppressed(cells)
    hidden = [number for number, cell in zip(numbers, shown, strict=True) if not cell.shown]
    assert all(not cell.metrics and not cell.compared for cell in shown if not cell.shown)
    assert not hidden or sum(hidden) >= 10 or len(hidden) == len(numbers)
    assert all(number >= 10 for number, cell in zip(numbers, shown, strict=True) if cell.shown)


def test_a_group_named_twice_or_in_another_case_is_not_added_up(tmp_path: Path) -> None:
    """Two cells of one group, or one grouping written in two ways, would show what a total shows."""
    rows = [
        {"task": "t", "grouping": "sex", "group": "F", "n": 21, "metrics": {"psnr": 1.0}},
        {"task": "t", "grouping": "sex", "group": "F", "n": 21, "metrics": {"psnr": 1.0}},
    ]
    with pytest.raises(UsageError):
        read_quality(json.dumps({"cells": rows}).encode(), "x")


@pytest.mark.parametrize(
    "n", [True, -1, 1.5, "12", 10**30, None, float("nan")], ids=["true", "neg", "half", "text", "big", "null", "nan"]
)
def test_counts_that_are_none_are_refused(n: object) -> None:
    rows = [{"task": "t", "grouping": "sex", "group": "F", "n": n, "metrics": {"psnr": 1.0}}]
    try:
        cells = read_quality(json.dumps({"cells": rows}).encode(), "x")
    except UsageError:
        return
    assert n == 10**30 and len(cells) == 1, "taken"


def report_of(folder: Path, out: Path) -> dict[str, Any]:
    done = CliRunner().invoke(compliance_app, ["report", str(folder), "--out", str(out)])
    assert done.exception is None or isinstance(done.exception, (SystemExit, RecordError)), done.exception
    found: dict[str, Any] = json.loads((out / "evidence.json").read_text())
    return found


def values(found: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(found, dict):
        for key, value in found.items():
            yield from values(value, f"{path}/{key}")
    elif isinstance(found, list):
        for n, value in enumerate(found):
            yield from values(value, f"{path}/{n}")
    else:
        text = re.sub(r"[0-9a-f]{8,}|\d{4}-\d\d-\d\d[T ]?[\d:.]*", "", str(found))
        yield path, text


def test_one_patient_more_or_less_below_ten_does_not_show_in_the_evidence_report(tmp_path: Path) -> None:
    """Docs: "Numbers below ten patients are suppressed ...; the files of three patients are ..."."""
    told = []
    for patients in (4, 5):
        home = tmp_path / str(patients) / "H1"
        folder = toy.make_node(home, "H1", apps.RULES, patients=patients)
        apps.train(folder)
        close_sessions()
        told.append(dict(values(report_of(folder, tmp_path / f"out{patients}"))))
    differ = {
        key: (told[0].get(key), told[1].get(key))
        for key in told[0].keys() | told[1].keys()
        if told[0].get(key) != told[1].get(key)
    }
    assert not differ, differ


def test_names_and_reasons_of_a_real_folder_stay_text_on_the_page(tmp_path: Path) -> None:
    from client.basis import Basis, DefaultBasis
    from client.consenting import set_basis
    from client.rights import restrict

    words_ = HTML.replace("\u202e", "")
    folder = toy.make_node(tmp_path / "H1", "H1", apps.RULES)
    node = Node.open(folder)
    now = datetime.now(UTC)
    set_basis(
        node,
        DefaultBasis(Basis.parse("GDPR 6(1)(e), 9(2)(j)"), (node.purpose,), now.date(), None, words_, words_, words_),
    )
    restrict(node, "PATIENT-H1-1", who=words_)
    run = CliRunner()
    at = (now - timedelta(days=9)).isoformat()
    words = ["--happened", words_, "--measures", words_, "--contact", words_, "--affected", "H1=3"]
    done = run.invoke(compliance_app, ["incident", "open", str(folder), "--who", words_, "--aware", at, *words])
    assert done.exception is None, done.exception
    report_of(folder, tmp_path / "out")
    page = (tmp_path / "out" / "evidence.html").read_text()
    for part in ("<img", "\u202e", "<script", 'href="javascript:', "http://", "https://"):
        assert part not in page, part
    log = (folder / "audit" / "log.jsonl").read_text()
    assert "Keller" not in log
    assert "PATIENT-H1" not in page + log + (tmp_path / "out" / "evidence.json").read_text()
    for path in (tmp_path / "out").iterdir():
        assert path.stat().st_mode & 0o077 == 0


# --- incident clocks -------------------------------------------------------------------------------------------------


def party(folder: Path) -> Party:
    path = folder / "audit" / "log.jsonl"
    return Party(
        folder=folder,
        kind=Kind.HOSPITAL,
        name="H1",
        logs=(path,),
        open_log=lambda: AuditLog(path, site="H1", subject_key=b"k" * 32),
        facts=Facts,
        knows_pseudonyms=True,
    )


def due(breach: Breach) -> dict[str, datetime | None]:
    return {one.id: one.due for one in duties(breach)}


ZONES = [timezone(timedelta(hours=hours)) for hours in (-12, -5, 0, 1, 9, 14)]
MOMENTS = [
    datetime(year, month, day, hour, 30, tzinfo=UTC)
    for year, month, day in [(2026, 12, 31), (2027, 1, 1), (2027, 12, 31), (2028, 1, 1), (2028, 2, 29), (2026, 3, 29)]
    for hour in (0, 11, 23)
]


@pytest.mark.parametrize("zone", ZONES, ids=str)
def test_no_deadline_is_later_than_the_law_in_any_zone_and_none_moves_on_disk(zone: timezone, tmp_path: Path) -> None:
    """Docs: 72 hours; 60 calendar days; fewer than 500: 60 days after the end of the year of discovery."""
    incidents = Incidents(party(tmp_path / "n"))
    for naive in MOMENTS:
        at = naive.replace(tzinfo=zone)
        if at > datetime.now(UTC):
            found = due(Breach(aware=at, discovered=at, affected={"H1": 12}))
        else:  # pragma: no cover - until that day
            one = incidents.open(who="DPO", aware=at, affected={"H1": 12})
            found = {duty.id: duty.due for duty in one.duties}
            assert {duty.id: duty.due for duty in incidents.get(one.id).duties} == found
        assert found["GDPR-33-authority"] == at + timedelta(hours=72)
        individual, secretary = found["HIPAA-164.404-individuals"], found["HIPAA-164.408-secretary"]
        assert individual is not None
        assert secretary is not None
        assert individual.astimezone(zone).date() <= at.date() + timedelta(days=60)
        sixtieth = datetime(at.year + 1, 1, 1, tzinfo=zone) + timedelta(days=60)
        assert secretary < sixtieth + timedelta(hours=14), "the page says that it is computed in UTC"


def test_the_year_of_a_discovery_does_not_change_when_the_incident_is_read_again(tmp_path: Path) -> None:
    """A discovery at 23:30 of New Year's Eve in New York is of the next year in UTC: no clock may gain a year."""
    incidents = Incidents(party(tmp_path / "n"))
    for text in (
        "2025-12-31T23:30:00-05:00",
        "2026-01-01T00:30:00+09:00",
        "2025-12-31T23:59:59Z",
        "2024-02-29T12:00:00Z",
    ):
        one = incidents.open(who="DPO", aware=moment(text), affected={"H1": 12})
        first = {duty.id: duty.due for duty in one.duties}
        assert {duty.id: duty.due for duty in incidents.get(one.id).duties} == first
        year = int(text[:4])
        last = first["HIPAA-164.408-secretary"]
        assert last is not None
        assert last <= datetime(year + 1, 3, 2, 12, tzinfo=UTC), text


def test_sixty_days_after_a_year_end_in_a_leap_year_and_a_common_year() -> None:
    assert year_end(datetime(2026, 6, 1, tzinfo=UTC)).date().isoformat() == "2027-03-01"
    assert year_end(datetime(2027, 6, 1, tzinfo=UTC)).date().isoformat() == "2028-02-29"
    assert year_end(datetime(2099, 6, 1, tzinfo=UTC)).date().isoformat() == "2100-03-01"


@pytest.mark.parametrize(("count", "media", "soon"), [(499, False, False), (500, False, True), (501, True, True)])
def test_five_hundred_is_counted_as_the_law_counts(count: int, media: bool, soon: bool) -> None:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    found = due(Breach(aware=at, discovered=at, affected={"H1": count}, residents={"NY": count}))
    assert any("406" in name for name in found) is media
    assert (found["HIPAA-164.408-secretary"] == at + timedelta(days=60)) is soon
    both = due(Breach(aware=at, discovered=at, affected={"H1": 250, "H2": None}))
    assert both["HIPAA-164.408-secretary"] == at + timedelta(days=60), "where it is not known the shorter counts"
    sum_of = due(Breach(aware=at, discovered=at, affected={"H1": 250, "H2": 250}))
    assert sum_of["HIPAA-164.408-secretary"] == at + timedelta(days=60)


@pytest.mark.parametrize(
    "text",
    [
        "9999-12-31T23:59:59Z",
        "9999-12-31T23:59:59-12:00",
        "2026-12-31T23:59:60Z",
        "2026-02-29T00:00:00Z",
        "2026-03-01",
        "2026-03-01T09:30:00",
        "2026-03-01T24:00:00Z",
        "2026-03-01T09:30:00+25:00",
        "２０２６-03-01T09:30:00Z",
        "2026-03-01T09:30:00Z\n",
        "now",
        "",
        "2126-03-01T09:30:00Z",
    ],
)
def test_a_moment_that_is_none_or_to_come_is_wrong_use_and_starts_no_clock(tmp_path: Path, text: str) -> None:
    """Docs: exit 2, a time without a zone; and awareness of tomorrow would put every clock off."""
    folder = toy.make_node(tmp_path / "H1", "H1", apps.RULES)
    done = CliRunner().invoke(compliance_app, ["incident", "open", str(folder), "--who", "DPO", "--aware", text])
    if done.exception is None:
        listed = json.loads(CliRunner().invoke(compliance_app, ["incident", "list", str(folder), "--json"]).stdout)
        assert "2126" not in json.dumps(listed), "an awareness of a hundred years from now was taken"
        assert text in {"2026-03-01T09:30:00Z\n", "2026-03-01T24:00:00Z"}, "taken"
    else:
        assert isinstance(done.exception, (UsageError, SystemExit)), repr(done.exception)
        assert not list((folder / "incidents").glob("*")) if (folder / "incidents").is_dir() else True


def test_a_draft_shows_hostile_words_as_one_text_without_control_characters(tmp_path: Path) -> None:
    incidents = Incidents(party(tmp_path / "n"))
    try:
        one = incidents.open(
            who="DPO", aware=datetime(2026, 3, 1, tzinfo=UTC), words={"happened": "x\x00\x1b[2J\u202e" + HTML}
        )
    except UsageError:
        return
    assert one.duties
    path = next((tmp_path / "n" / "incidents").glob("*.jsonl"))
    assert b"\x1b" not in path.read_bytes()


@pytest.mark.parametrize("how", ["delete", "cut", "older", "rename", "flip", "deep"])
def test_an_incident_that_somebody_tampered_with_is_found_out(tmp_path: Path, how: str) -> None:
    """Docs: "a file that was cut, put back or deleted is found out"."""
    incidents = Incidents(party(tmp_path / "n"))
    one = incidents.open(who="DPO", aware=datetime(2026, 3, 1, tzinfo=UTC), affected={"H1": 12})
    path = tmp_path / "n" / "incidents" / f"{one.id}.jsonl"
    old = path.read_bytes()
    incidents.update(one.id, who="DPO", affected={"H1": 700})
    raw = path.read_bytes()
    if how == "delete":
        path.unlink()
    elif how == "cut":
        path.write_bytes(raw[:-1])
    elif how == "older":
        path.write_bytes(old)
    elif how == "rename":
        path.rename(path.with_name("INC-20200101-abcdef.jsonl"))
    elif how == "flip":
        path.write_bytes(raw.replace(b"700", b"701"))
    else:
        path.write_bytes(raw + b"[" * 100_000 + b"\n")
    if how == "cut":
        with contextlib.suppress(RecordError):
            assert incidents.get(one.id).breach.total == 700
        return
    with pytest.raises(RecordError):
        incidents.all()


def test_the_log_of_an_incident_has_no_word_of_it_through_the_command(tmp_path: Path) -> None:
    folder = toy.make_node(tmp_path / "H1", "H1", apps.RULES)
    names = tmp_path / "Maria Keller.txt"
    names.write_text("PATIENT-H1-1\n=cmd\n")
    run = CliRunner()
    words = ["--who", "Dr. Keller", "--aware", "2026-03-01T00:00:00Z", "--happened", "Keller lost it"]
    done = run.invoke(compliance_app, ["incident", "open", str(folder), *words, "--affected", f"H1=@{names}"])
    assert done.exception is None, done.exception
    log = json.dumps(list(entries(folder / "audit" / "log.jsonl")))
    record = b"".join(path.read_bytes() for path in (folder / "incidents").iterdir())
    for word in ("Keller", "PATIENT-H1", "=cmd", str(tmp_path)):
        assert word not in log, word
    assert b"PATIENT-H1-1" not in record
