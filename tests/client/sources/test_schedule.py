"""``fedward node ingest --every``: what the archive gets today is in the cohort of the next round; nothing is lost."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client import ingest_schedule
from client.cli import app
from client.cohort import Split
from client.ingest import LOCK
from client.ingest_schedule import LONGEST, Pass, pause, repeat, seconds, stoppable
from client.node import Node
from client.session import Session
from shared.errors import DataError, FedwardError, PolicyError, ProtocolError, RecordError, UsageError
from shared.files import locked
from tests.client.sources.orthanc import Orthanc
from tests.client.sources.test_folder import take_in
from tests.federation import toy


def told(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def until(holds: Callable[[], bool], process: "subprocess.Popen[str]", limit: float = 60.0) -> None:
    end = time.monotonic() + limit
    while not holds():
        assert time.monotonic() < end, "it takes too long"
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)


def start(node: Node, *options: object) -> "subprocess.Popen[str]":
    code = "from shared.cli import main; main()"
    command = [sys.executable, "-c", code, "node", "ingest", node.folder, *options]
    words = [str(one) for one in command]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# --- what comes in between --------------------------------------------------------------------------------------------


def test_studies_that_arrive_between_two_passes_are_in_the_cohort_of_the_next_session(
    node: Node, images: Path, tmp_path: Path
) -> None:
    node.pin(toy.charter(purpose="tests"))
    source = tmp_path / "export"
    shutil.copytree(images / "H1", source)
    seen: list[dict[str, Split]] = []

    def tell(one: Pass) -> None:
        assert one.error is None
        session = Session.open(node.folder)
        seen.append({entry.key: entry.split for entry in session.node.cohort.entries})
        session.close()
        if one.number == 1:
            shutil.copytree(images / "H7", source / "new")

    rest = iter([0.0, 0.0])
    repeat(lambda: take_in(node, source), 1.0, tell, wait=lambda _: next(rest, None) is None and _interrupt())
    first, second, third = seen
    assert (len(first), len(second)) == (2, 4)
    assert {key: second[key] for key in first} == first, "who was held out stays so, and who was not does not become so"
    assert third == second


def _interrupt() -> None:
    raise KeyboardInterrupt


def test_a_study_that_grows_does_not_take_the_images_from_under_a_round_that_trains(
    node: Node, images: Path, tmp_path: Path
) -> None:
    source = tmp_path / "export"
    shutil.copytree(images / "H1", source)
    study = sorted(path for path in source.rglob("*") if path.is_dir() and any(path.glob("*.dcm")))[0].parent
    label = next(
        path for path in sorted(study.rglob("*.dcm")) if b"\x08\x00\x60\x00CS\x04\x00SEG " in path.read_bytes()
    )
    label.rename(tmp_path / "label.dcm")
    take_in(node, source)
    before = node.cohort
    shutil.copy(tmp_path / "label.dcm", label)
    take_in(node, source)
    changed = [entry.key for entry in before.entries if entry not in node.cohort.entries]
    assert len(changed) == 1
    assert before.load(changed[0]).studies[0].label is None
    assert node.cohort.load(changed[0]).studies[0].label is not None


@pytest.mark.control("GDPR-5-1-c-minimisation")
def test_images_that_no_index_names_any_more_are_deleted_a_day_later(
    node: Node, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_in(node, images / "H1")
    stray = node.folder / "cohort" / "images" / ("0" * 24 + ".safetensors")
    stray.write_bytes(b"of an earlier index")
    take_in(node, images / "H1")
    assert stray.exists()
    monkeypatch.setattr("client.cohort_images.KEPT", -1.0)
    take_in(node, images / "H1")
    assert not stray.exists()
    assert all(len(node.cohort.load(entry.key).studies) for entry in node.cohort.entries)


def test_the_day_of_old_images_begins_when_the_index_drops_them(node: Node, images: Path, tmp_path: Path) -> None:
    source = tmp_path / "export"
    shutil.copytree(images / "H1", source)
    label = next(
        path for path in sorted(source.rglob("*.dcm")) if b"\x08\x00\x60\x00CS\x04\x00SEG " in path.read_bytes()
    )
    label.rename(tmp_path / "label.dcm")
    take_in(node, source)
    before, cached = node.cohort, node.cohort.folder / "images"
    for path in cached.iterdir():
        os.utime(path, (0, 0))  # cached long ago
    shutil.copy(tmp_path / "label.dcm", label)
    take_in(node, source)
    take_in(node, source)
    (changed,) = (entry.key for entry in before.entries if entry not in node.cohort.entries)
    assert before.load(changed).studies, "a round that began by the first index goes on"
    (dropped,) = {path.name for path in cached.iterdir()} - {
        study.file for entry in node.cohort.entries for study in entry.studies
    }
    os.utime(cached / dropped, (0, 0))  # the day is over
    take_in(node, source)
    assert not (cached / dropped).exists()


# --- when the next pass is --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "value"), [("30m", 1800), ("1h", 3600), ("1d", 86400), ("7d", 604800), ("1s", 1)])
def test_times(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "1", "h", "0h", "-1h", "1.5h", "8d", "1w", "1h30m", "9999999d"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match="no time"):
        seconds(text)


def test_passes_begin_at_equal_distances_and_an_archive_that_is_away_is_asked_ever_more_seldom() -> None:
    assert pause(3600, 0, took=600) == 3000
    assert pause(3600, 0, took=5000) == 0
    assert [pause(3600, number) for number in range(1, 9)] == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert pause(86400, 400) == 86400
    assert pause(2, 1) == 2
    assert pause(2, 99) == LONGEST


def run(*outcomes: FedwardError | OSError | None) -> tuple[list[Pass], list[float]]:
    """The passes of a schedule of an hour whose archive does this, one after another, and the pauses after them."""
    passes: list[Pass] = []
    rests: list[float] = []
    ahead = iter(outcomes)

    def take() -> object:
        outcome = next(ahead)
        if outcome is not None:
            raise outcome
        return object()

    def wait(rest: float) -> None:
        rests.append(rest)
        if len(rests) == len(outcomes):
            raise KeyboardInterrupt

    repeat(take, 3600.0, passes.append, wait=wait)  # type: ignore[arg-type]
    return passes, rests


def test_a_pass_that_fails_does_not_end_the_schedule() -> None:
    away, full = ProtocolError("PACS does not answer"), OSError(28, "No space left on device", "/node/spool")
    passes, rests = run(None, away, away, full, None, DataError("holds no study"), RecordError("another ingest runs"))
    assert [round(rest) for rest in rests] == [3600, 60, 120, 240, 3600, 3600, 60]
    assert [one.number for one in passes] == list(range(1, 8))
    assert passes[1].error is away
    assert passes[3].error is not None
    assert passes[3].error.message == "/node/spool: No space left on device"
    assert all((one.done is None) is (one.error is not None) for one in passes)
    assert passes[1].following > datetime.now(UTC)


@pytest.mark.parametrize("error", [UsageError("no such folder"), PolicyError("the profile needs an expert")])
def test_what_is_wrong_with_the_command_ends_the_first_pass_and_no_later_one(error: FedwardError) -> None:
    with pytest.raises(type(error)):
        run(error)
    assert len(run(None, error, None)[0]) == 3


# --- two at once, and the end -----------------------------------------------------------------------------------------


def test_two_at_once_are_one_too_many(node: Node, images: Path) -> None:
    with locked(node.folder / LOCK, "a test"):
        with pytest.raises(RecordError, match="another ingest of this node runs"):
            take_in(node, images / "H1")
        assert not (node.folder / "released").exists()
    assert take_in(node, images / "H1").tally.released == 10


@pytest.mark.parametrize("end", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.live)])
def test_it_ends_between_two_passes_with_a_line_and_status_zero(node: Node, images: Path, end: signal.Signals) -> None:
    options = ("--folder", images / "H1", "--every", "1h", "--json")
    with start(node, *options) as process:
        until((node.folder / "cohort" / "index.json").exists, process)
        assert process.stdout
        (first,) = told(process.stdout.readline())
        process.send_signal(end)
        rest, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    assert (first["pass"], first["released"], first["train"], first["held_out"]) == (1, 10, 2, 0)
    assert "what was fetched is kept" in rest


def test_it_ends_amid_a_pass_without_loss(node: Node, images: Path) -> None:
    with start(node, "--folder", images, "--every", "1h") as process:
        until(lambda: any((node.folder / "released").rglob("*.dcm")), process)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "stopped" in output
    report = json.loads((node.folder / "reports" / "ingest.json").read_text())
    done = take_in(node, images)
    assert report["complete"] or done.tally.fetched > 0
    assert len(list((node.folder / "released").rglob("*.dcm"))) == 20
    assert done.tally.refused == done.tally.quarantined == done.tally.missing == done.tally.waiting == 0
    assert len(done.cohort.entries) == 4


def test_sigterm_is_what_it_was_after_the_block() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stoppable(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_says_a_line_for_each_pass(node: Node, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = node.folder.parent / "export"
    source.mkdir()
    rests = itertools.count(1)

    def wait(_: float) -> None:
        number = next(rests)
        if number == 1:
            shutil.copytree(images / "H7", source / "new")
        if number == 2:
            (node.folder / "audit" / "log.jsonl").write_bytes(b"garbage\n")
        if number == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(ingest_schedule, "repeat", _with_wait(wait))
    result = CliRunner().invoke(app, ["ingest", str(node.folder), "--folder", str(source), "--every", "30m"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "pass 1: nothing more was taken in; next at " in lines[0]
    assert "2 studies, 0 unchanged; 10 of 10 files released, 0 wait for a person; cohort 2 to train on" in lines[1]
    assert "pass 3: nothing more" in lines[2]
    assert lines[3].startswith("stopped")
    assert len(lines) == 4


def _with_wait(wait: Callable[[float], None]) -> Callable[..., None]:
    real = ingest_schedule.repeat
    return lambda *given: real(*given, wait=wait)


@pytest.mark.parametrize("options", [("--every", "soon"), ("--every", "1h", "--overwrite")])
def test_wrong_use_is_told_before_anything_is_fetched(node: Node, images: Path, options: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, ["ingest", str(node.folder), "--folder", str(images), *options])
    assert isinstance(result.exception, UsageError)
    assert not (node.folder / "spool").exists()


@pytest.mark.system("orthanc")
def test_an_archive_that_goes_away_and_comes_back(own_archive: Orthanc, node: Node, credentials: Path) -> None:
    """It is not there for a pass; the next pass finds nothing new, and nothing has been lost."""
    from client.deid import Profile
    from client.ingest import Ingested, ingest
    from client.sources.credentials import Credentials
    from client.sources.dicomweb import DicomWeb
    from client.sources.retry import Patience
    from client.sources.selection import Selection

    url, passes = own_archive.url, list[Pass]()
    addresses = iter([url, "http://127.0.0.1:9/dicom-web", url])

    def take() -> Ingested:
        source = DicomWeb(next(addresses), credentials=Credentials.load(credentials))
        patience = Patience(attempts=1, deadline=2.0)
        return ingest(node, source, Selection(), profile=Profile.load("basic"), patience=patience)

    rests = itertools.count(1)
    repeat(take, 1.0, passes.append, wait=lambda _: next(rests) == 3 and _interrupt())
    assert isinstance(passes[1].error, ProtocolError)
    assert passes[2].done is not None
    assert (passes[2].done.tally.unchanged, passes[2].done.tally.fetched) == (4, 0)
    assert len(passes[2].done.cohort.entries) == 4
