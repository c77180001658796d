"""Files of an ingest that wait for a person: kept private, named, decided on once, and gone after that."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pydicom
import pytest
import requests
from typer.testing import CliRunner

from client.cli import app
from client.deid import Profile, SiteKey, deidentify_folder
from client.deid.place import TWIN
from client.deid.quarantine import Decision, Held, Quarantine
from client.ingest import Ingested, ingest
from client.node import HELD, Node
from client.review.cli import review
from client.review.decisions import DecidedError, Desk
from client.review.server import SECRET, TOKEN
from client.sources.folder import Folder
from client.sources.selection import Selection
from compliance.log import AuditLog
from shared.errors import DataError, PartialError, PolicyError, UsageError

BASIC = Profile.load("basic")


@pytest.fixture
def source(images: Path, tmp_path: Path) -> Path:
    """Two MR studies; one slice says that it carries text, and one is of a class that nobody releases."""
    folder = tmp_path / "in"
    shutil.copytree(images / "H1", folder)
    first, *_, last = sorted(folder.rglob("*.dcm"))
    burned = pydicom.dcmread(first)
    burned.ImageType = ["DERIVED", "SECONDARY", "REPORT"]
    burned.save_as(first)
    document = pydicom.dcmread(last)
    document.SOPClassUID = document.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    document.save_as(last)
    return folder


def take_in(node: Node, source: Path, profile: Profile = BASIC) -> Ingested:
    return ingest(node, Folder(source), Selection(), profile=profile, overwrite=True)


def quarantine_of(node: Node) -> Quarantine:
    return Quarantine(node.folder / "reports", node.folder / HELD)


def desk_of(node: Node, log: AuditLog, profile: Profile = BASIC) -> Desk:
    key = SiteKey(node.key("pseudonym"))
    return Desk(quarantine_of(node), node.folder / "released", profile, key, log, "Dr. M. Grey")


def held_of(node: Node, *, liftable: bool) -> Held:
    return next(held for held in quarantine_of(node).waiting() if held.liftable is liftable)


def decide(node: Node, held: Held, decision: Decision) -> None:
    with node.open_log() as log:
        desk_of(node, log).decide(held.id, decision)


def kept(node: Node) -> list[Path]:
    return sorted(path for path in (node.folder / HELD).rglob("*") if not path.is_dir())


def test_held_files_are_private_and_named(node: Node, source: Path) -> None:
    done = take_in(node, source)
    assert (done.tally.released, done.tally.quarantined, done.tally.waiting) == (8, 2, 2)
    assert len(kept(node)) == 2
    for path in kept(node):
        modes = [stat.S_IMODE(one.stat().st_mode) for one in (path, path.parent, path.parent.parent)]
        assert modes == [0o600, 0o700, 0o700]
        assert path.read_bytes() in {one.read_bytes() for one in source.rglob("*.dcm")}
    told = json.loads(done.report.read_text())
    names = {path.parent.name for path in kept(node)}
    assert {row["held"] for row in told["waiting"]} == {row["held"] for row in told["files"]} == names
    assert told["counts"]["waiting"] == 2
    assert not list((node.folder / "reports" / "ingest").rglob("quarantine"))
    assert not list((node.folder / "spool").iterdir())


def test_what_is_cleared_is_released_deleted_and_in_the_next_cohort(node: Node, source: Path) -> None:
    before = take_in(node, source)
    slices = sum(study.slices for entry in before.cohort.entries for study in entry.studies)
    held = held_of(node, liftable=True)
    decide(node, held, Decision.CLEARED)
    assert not held.path.exists()
    assert not held.path.parent.exists()
    again = take_in(node, source)
    assert (again.tally.unchanged, again.tally.fetched, again.tally.waiting) == (2, 0, 1)
    assert len(list((node.folder / "released").rglob("*.dcm"))) == 9
    assert sum(study.slices for entry in again.cohort.entries for study in entry.studies) > slices


def test_what_is_refused_is_recorded_deleted_and_not_fetched_again(node: Node, source: Path) -> None:
    take_in(node, source)
    for liftable in (True, False):
        decide(node, held_of(node, liftable=liftable), Decision.REFUSED)
    assert kept(node) == []
    rows = [json.loads(line) for line in (node.folder / "audit" / "log.jsonl").read_text().splitlines()]
    reviews = [row for row in rows if row["action"] == "review"]
    assert [(row["outcome"], row["detail"]["copy_deleted"]) for row in reviews] == [("started", True), ("ok", True)] * 2
    again = take_in(node, source)
    assert (again.tally.unchanged, again.tally.waiting) == (2, 0)


def test_decisions_hold_when_everything_is_taken_in_anew(node: Node, source: Path) -> None:
    take_in(node, source)
    decide(node, held_of(node, liftable=True), Decision.CLEARED)
    decide(node, held_of(node, liftable=False), Decision.REFUSED)
    (node.folder / "ingest.jsonl").unlink()
    shutil.rmtree(node.folder / "released")
    again = take_in(node, source)
    assert (again.tally.released, again.tally.refused, again.tally.quarantined) == (9, 1, 0)
    assert kept(node) == []


def test_what_was_blanked_is_blanked_when_everything_is_taken_in_anew(node: Node, source: Path) -> None:
    """The copy that was looked at is gone by then; the boxes are measured against the file that came."""
    take_in(node, source)
    with node.open_log() as log:
        desk_of(node, log).decide(held_of(node, liftable=True).id, Decision.CLEARED, ((-1, 0, 0, 2, 2),))
    before = {path.name: path.read_bytes() for path in (node.folder / "released").rglob("*.dcm")}
    (node.folder / "ingest.jsonl").unlink()
    shutil.rmtree(node.folder / "released")
    assert take_in(node, source).tally.released == 9
    assert {path.name: path.read_bytes() for path in (node.folder / "released").rglob("*.dcm")} == before


@pytest.mark.parametrize("workers", [1, 2])
def test_an_ingest_replaces_nothing_by_another_content(node: Node, source: Path, workers: int) -> None:
    take_in(node, source)
    before = {path.name: path.read_bytes() for path in (node.folder / "released").rglob("*.dcm")}
    path = sorted(source.rglob("*.dcm"))[1]
    changed = pydicom.dcmread(path)
    changed.PixelData = bytes(len(changed.PixelData))
    changed.save_as(path)
    (node.folder / "ingest.jsonl").unlink()
    done = ingest(node, Folder(source), Selection(), profile=BASIC, workers=workers)
    assert [line["reason"] for line in done.tally.lines].count(TWIN) == 1
    assert {path.name: path.read_bytes() for path in (node.folder / "released").rglob("*.dcm")} == before


def test_another_profile_is_another_decision(node: Node, source: Path) -> None:
    take_in(node, source)
    decide(node, held_of(node, liftable=True), Decision.CLEARED)
    other = Profile.load("safe-harbor")
    assert take_in(node, source, other).tally.quarantined == 2
    held = held_of(node, liftable=True)
    with node.open_log() as log, pytest.raises(PolicyError, match="another profile"):
        desk_of(node, log).decide(held.id, Decision.CLEARED)
    with node.open_log() as log:
        desk_of(node, log, other).decide(held.id, Decision.CLEARED)
    assert len(kept(node)) == 1


def test_one_quarantine_for_folders_and_ingests(node: Node, source: Path, tmp_path: Path) -> None:
    """A file of the hospital is held in place, and stays whatever is decided."""
    with node.open_log() as log:
        key, reports = SiteKey(node.key("pseudonym")), node.folder / "reports"
        deidentify_folder(source, tmp_path / "out", profile=BASIC, key=key, log=log, reports=reports)
    assert take_in(node, source).tally.waiting == 2
    records = list(quarantine_of(node).all())
    assert sorted(held.kept for held in records) == [False, False, True, True]
    assert len({held.sha256 for held in records}) == 2
    for held in records:
        decide(node, held, Decision.REFUSED)
    assert kept(node) == []
    assert len(list(source.rglob("*.dcm"))) == 10


# --- attacks --------------------------------------------------------------------------------------------------------


def test_a_held_file_that_was_swapped_by_a_link_is_not_released(node: Node, source: Path, tmp_path: Path) -> None:
    """Neither a link in place of the file nor one in place of its folder is followed, whatever it leads to."""
    take_in(node, source)
    held = held_of(node, liftable=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    held.path.rename(elsewhere / held.input)
    held.path.symlink_to(elsewhere / held.input)
    with pytest.raises(DataError, match="cannot be read"):
        decide(node, held, Decision.CLEARED)
    held.path.unlink()
    held.path.parent.rmdir()
    held.path.parent.symlink_to(elsewhere)
    with pytest.raises(DataError, match="cannot be read"):
        decide(node, held, Decision.CLEARED)
    decide(node, held, Decision.REFUSED)
    assert (elsewhere / held.input).exists()  # what a link leads to is not ours to delete
    assert not os.path.lexists(held.path.parent)
    assert len(list((node.folder / "released").rglob("*.dcm"))) == 8


def test_a_held_file_with_other_content_is_not_what_was_held(node: Node, source: Path) -> None:
    take_in(node, source)
    held = held_of(node, liftable=True)
    held.path.write_bytes(held_of(node, liftable=False).path.read_bytes())
    with pytest.raises(DataError, match="has changed"):
        decide(node, held, Decision.CLEARED)
    assert len(kept(node)) == 2


@pytest.mark.parametrize("name", ["../../secret", "/etc/hostname", "..", ".", "", "a/b", "a\0b"])
def test_a_record_cannot_lead_out_of_the_node(node: Node, source: Path, name: str) -> None:
    take_in(node, source)
    held = held_of(node, liftable=True)
    record = node.folder / "reports" / "quarantine" / f"{held.id}.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"input": name, "source": "/etc"}))
    with pytest.raises(DataError, match="leads out"):
        decide(node, held, Decision.REFUSED)
    assert len(kept(node)) == 2


def test_where_a_record_says_that_a_copy_lies_is_not_believed(node: Node, source: Path, tmp_path: Path) -> None:
    take_in(node, source)
    held = held_of(node, liftable=True)
    victim = tmp_path / "victim" / held.input
    victim.parent.mkdir()
    victim.write_bytes(b"precious")
    record = node.folder / "reports" / "quarantine" / f"{held.id}.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"source": str(victim.parent)}))
    decide(node, held, Decision.REFUSED)
    assert victim.read_bytes() == b"precious"
    assert not held.path.exists()


def test_two_who_decide_at_once_are_one_after_the_other(node: Node, source: Path, tmp_path: Path) -> None:
    take_in(node, source)
    held = held_of(node, liftable=True)
    outcomes: list[str] = []
    gate = threading.Barrier(4)

    def act(number: int) -> None:
        with AuditLog(tmp_path / f"{number}.jsonl", site="H1", subject_key=b"k" * 32) as log:
            desk = desk_of(node, log)
            gate.wait()
            try:
                outcomes.append(desk.decide(held.id, (Decision.CLEARED, Decision.REFUSED)[number % 2]).decision.value)
            except DecidedError:
                outcomes.append("too late")

    threads = [threading.Thread(target=act, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("too late") == 3
    final = quarantine_of(node).get(held.id).decision
    assert len(list((node.folder / "released").rglob("*.dcm"))) == 8 + (final is Decision.CLEARED)


def test_a_deletion_that_was_broken_off_is_finished(node: Node, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take_in(node, source)
    held = held_of(node, liftable=True)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Quarantine, "_discard", die)
        decide(node, held, Decision.REFUSED)
    assert held.path.exists()
    take_in(node, source)
    assert not held.path.exists()


def test_an_ingest_that_was_broken_off_names_what_it_held(
    node: Node, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("client.sources.ledger.Ledger.add", die)
        take_in(node, source)
    told = json.loads((node.folder / "reports" / "ingest.json").read_text())
    assert told["complete"] is False
    assert told["counts"]["waiting"] == len(told["waiting"]) == len(kept(node)) > 0
    assert told["counts"]["spooled"] > 0
    assert take_in(node, source).tally.waiting == 2


def test_a_power_cut_between_record_and_move_loses_nothing(
    node: Node, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Quarantine, "_move", die)
        take_in(node, source)
    assert take_in(node, source).tally.waiting == 2
    assert len(kept(node)) == 2
    assert all(held.path.exists() for held in quarantine_of(node).waiting())


def test_what_nothing_speaks_for_is_named(node: Node, source: Path) -> None:
    take_in(node, source)
    held = held_of(node, liftable=True)
    (node.folder / "reports" / "quarantine" / f"{held.id}.json").unlink()
    (node.folder / HELD / "note.txt").write_text("?")
    told = json.loads(take_in(node, source).report.read_text())
    assert {row["held"] for row in told["waiting"]} >= {held.id, "note.txt"}
    assert told["counts"]["waiting"] == 3


def test_a_shelf_that_others_may_enter_is_refused(node: Node, source: Path) -> None:
    (node.folder / HELD).mkdir(mode=0o755)
    with pytest.raises(PolicyError, match="chmod 700"):
        take_in(node, source)


def test_a_review_of_a_nodes_files_needs_the_node(node: Node, source: Path) -> None:
    take_in(node, source)
    with pytest.raises(UsageError, match="lie in a node") as caught:
        review(
            node.folder / "reports",
            node.folder / "released",
            reviewer="Dr. M. Grey",
            profile=BASIC,
            key=SiteKey(bytes(32)),
            log=node.open_log,
        )
    assert "--node" in caught.value.hint


# --- the commands ---------------------------------------------------------------------------------------------------


@pytest.mark.live
def test_the_commands_of_a_node_from_ingest_to_review_to_ingest(node: Node, source: Path) -> None:
    """As docs/ingest.md has it: what an ingest held is cleared on the page, and the next ingest has it."""
    program = str(Path(sys.executable).with_name("fedward"))
    first = subprocess.run(
        [program, "node", "ingest", str(node.folder), "--folder", str(source), "--workers", "2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert first.returncode == 3, first.stderr
    (line,) = (line for line in first.stdout.splitlines() if line.startswith("2 files wait for a person: "))
    words = line.partition(": ")[2].replace("NAME", "Dr.Grey").split()
    assert words[0] == "fedward"
    held = held_of(node, liftable=True)
    with subprocess.Popen([program, *words[1:]], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split("open ")[1].split()[0]
        origin, _, token = address.partition("/#")
        with requests.Session() as session:
            session.headers["Origin"] = origin
            answer = session.post(f"{origin}/api/session", headers={TOKEN: token}, timeout=10)
            session.headers[SECRET] = answer.json()["session"]
            assert len(session.get(f"{origin}/api/held", timeout=10).json()) == 2
            assert session.get(f"{origin}/api/picture/{held.id}/0/full", timeout=10).content.startswith(b"\x89PNG")
            answer = session.post(f"{origin}/api/decide", json={"id": held.id, "decision": "cleared"}, timeout=10)
            assert answer.json()["decision"] == "cleared"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert len(kept(node)) == 1
    second = subprocess.run(
        [program, "node", "ingest", str(node.folder), "--folder", str(source), "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 0, second.stderr
    told = json.loads(second.stdout)
    assert (told["unchanged"], told["waiting"]) == (2, 1)
    assert len(list((node.folder / "released").rglob("*.dcm"))) == 9


def test_a_node_that_holds_files_of_an_ingest_de_identifies_folders_as_well(
    node: Node, source: Path, images: Path, tmp_path: Path
) -> None:
    take_in(node, source)
    assert quarantine_of(node).waiting()
    done = CliRunner().invoke(
        app, ["deidentify", str(images / "H7"), str(tmp_path / "out"), "--node", str(node.folder)]
    )
    assert done.exit_code == 0, done.output


def test_a_folder_of_the_hospital_stays_as_it_is(node: Node, source: Path, images: Path, tmp_path: Path) -> None:
    """A node has a shelf for files of its ingests; what is held in somebody's folder is never moved there."""
    take_in(node, images / "H7")
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    done = CliRunner().invoke(app, ["deidentify", str(source), str(tmp_path / "out"), "--node", str(node.folder)])
    assert isinstance(done.exception, PartialError), done.output
    held = [one for one in quarantine_of(node).all() if one.source == str(source)]
    assert len(held) == 2
    assert not any(one.kept for one in held)
    decide(node, next(one for one in held if one.liftable), Decision.CLEARED)
    assert {path: path.read_bytes() for path in source.rglob("*") if path.is_file()} == before
