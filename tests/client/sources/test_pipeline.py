"""One study is fetched while another is de-identified: how far ahead, in which order of records, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

import client.ingest
from client.deid import Profile
from client.deid.batch import deidentify_folder
from client.deid.single import Processed, Processor
from client.ingest import Ingested, Standing, ingest
from client.node import Node
from client.sources.credentials import Credentials
from client.sources.dicomweb import DicomWeb
from client.sources.folder import Folder
from client.sources.intake import ClosedError, Intake
from client.sources.selection import Instance, Selection
from client.sources.source import Source, Study
from compliance.log import verify
from shared.errors import OutputError, ProtocolError
from tests.client.sources.orthanc import PASSWORD, USER, Orthanc
from tests.e2e.test_interrupt import running

BASIC = Profile.load("basic")


class Watched(Folder):
    """A folder that notes when a fetch begins and ends, and may be told what to do at one of them."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.events: list[str] = []
        self.threads: set[str] = set()
        self.hooks: dict[int, object] = {}
        self.fetches = 0

    def fetch(self, study: Study, wanted: Iterable[Instance], intake: Intake) -> None:
        self.fetches += 1
        number = self.fetches
        self.threads.add(threading.current_thread().name)
        self.events.append(f"fetch {number}")
        if hook := self.hooks.get(number):
            hook()  # type: ignore[operator]
        super().fetch(study, wanted, intake)
        self.events.append(f"fetched {number}")


@pytest.fixture
def source(images: Path) -> Watched:
    """Four studies of five files."""
    return Watched(images)


def take_in(node: Node, source: Source, workers: int = 1, told: list[Standing] | None = None) -> Ingested:
    tell = told.append if told is not None else None
    return ingest(node, source, Selection(), profile=BASIC, workers=workers, on_progress=tell)


def outcomes(node: Node, *actions: str) -> list[str]:
    rows = [json.loads(line) for line in (node.folder / "audit" / "log.jsonl").read_text().splitlines()]
    return [f"{row['action']} {row['outcome']}" for row in rows if row["action"] in actions and row["subject"]]


def released(node: Node) -> dict[str, bytes]:
    folder = node.folder / "released"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.dcm")}


def test_the_next_study_comes_while_one_is_worked_on_and_no_more(
    node: Node, source: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, begun = [], []

    def slow(*arguments: object, **options: object) -> object:
        work.append(source.fetches)
        deadline = time.monotonic() + 2
        while source.events[-1] != f"fetched {min(len(work) + 1, 4)}" and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        begun.append(source.fetches)
        return deidentify_folder(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(client.ingest, "deidentify_folder", slow)
    assert take_in(node, source).tally.released == 20
    assert begun == [2, 3, 4, 4]
    assert source.threads == {"ahead"}
    assert verify(node.folder / "audit" / "log.jsonl").entries
    expected = ["ingest started", "ingest ok"]
    for last in (False, False, False, True):
        expected += [] if last else ["ingest started"]
        expected += ["deidentify started", "deidentify ok"]
        expected += [] if last else ["ingest ok"]
    assert outcomes(node, "ingest", "deidentify") == expected


def test_a_fetch_is_recorded_before_it_begins(node: Node, source: Watched) -> None:
    seen: list[int] = []
    for number in range(1, 5):
        source.hooks[number] = lambda: seen.append(outcomes(node, "ingest").count("ingest started"))
    take_in(node, source)
    assert seen == [1, 2, 3, 4]


def test_workers_release_the_same_files(tmp_path: Path, images: Path) -> None:
    seen: list[dict[str, bytes]] = []
    for workers in (1, 2):
        node = Node.create(tmp_path / str(workers), site="H1", purpose="tests", seed=1)
        told: list[Standing] = []
        done = take_in(node, Folder(images), workers, told)
        assert (done.tally.released, done.tally.studies) == (20, 4)
        assert told[0] == Standing(0, None, 0)
        assert told[-1] == Standing(4, 4, 20)
        assert [one.files for one in told] == sorted(one.files for one in told)
        assert [one.studies for one in told] == sorted(one.studies for one in told)
        seen.append(released(node))
    assert seen[0] == seen[1]


def test_a_worker_that_dies_stops_no_study(node: Node, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any option."""
    parent, original = os.getpid(), Processor.process
    mark = node.folder / "died"

    def process(self: Processor, path: str, *, takes_place: bool = False) -> Processed:
        assert os.getpid() != parent, "this would end the tests"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, path, takes_place=takes_place)

    # Copies of this process know of the patch; threads that other tests left behind would have fresh ones made.
    monkeypatch.setattr("threading.active_count", lambda: 1)
    monkeypatch.setattr(Processor, "process", process)
    done = take_in(node, Folder(images))
    assert mark.exists()
    assert (done.tally.released, done.tally.refused, done.tally.studies) == (20, 0, 4)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_fault_of_the_work_ends_the_fetch_that_runs_beside_it(
    node: Node, source: Watched, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Nothing comes into the spool any more, the record says that the fetch did not end, and the next run goes on."""
    going_on, over = threading.Event(), threading.Event()
    source.hooks[3] = lambda: (going_on.set(), over.wait(10))
    calls: list[int] = []

    def full(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            assert going_on.wait(10)
            raise OutputError("cannot write: disk full", hint="free some space")
        return deidentify_folder(*arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patched, pytest.raises(OutputError):
        patched.setattr(client.ingest, "deidentify_folder", full)
        take_in(node, source, workers)
    held = set((node.folder / "spool").rglob("*.dcm"))
    over.set()
    for thread in threading.enumerate():
        if thread.name == "ahead":
            thread.join(10)
    assert set((node.folder / "spool").rglob("*.dcm")) == held
    assert outcomes(node, "ingest")[-2:] == ["ingest started", "ingest failed"]
    told = json.loads((node.folder / "reports" / "ingest.json").read_text())
    assert (told["complete"], told["counts"]["spooled"]) == (False, len(held))
    assert take_in(node, source, workers).tally.released == 15
    assert len(released(node)) == 20


def test_a_fault_of_the_fetch_lets_the_work_on_the_study_before_end(node: Node, source: Watched) -> None:
    def broken() -> None:
        raise ProtocolError("the archive refuses", hint="ask")

    source.hooks[3] = broken
    with pytest.raises(ProtocolError):
        take_in(node, source)
    assert len(released(node)) == 10
    assert take_in(node, source).tally.unchanged == 2


def test_a_listing_that_fails_lets_the_study_before_be_worked_on(
    node: Node, source: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []
    original = Folder.instances

    def instances(self: Folder, study: Study, selection: Selection) -> Sequence[Instance]:
        listed.append(study.uid)
        if len(listed) == 3:
            raise ProtocolError("the archive refuses a query", hint="ask")
        return original(self, study, selection)

    with monkeypatch.context() as patched, pytest.raises(ProtocolError, match="refuses a query"):
        patched.setattr(Folder, "instances", instances)
        take_in(node, source)
    assert len(released(node)) == 10


def test_an_intake_that_was_closed_takes_nothing(files: list[Path], tmp_path: Path) -> None:
    intake = Intake(tmp_path, "1.2", [], Selection())
    intake.close()
    with pytest.raises(ClosedError):
        intake.put(files[0].read_bytes())
    assert not list(tmp_path.iterdir())


# --- a process of its own -------------------------------------------------------------------------------------------


def started(node: Node, archive: Orthanc, credentials: Path) -> "subprocess.Popen[str]":
    module = "tests.client.sources.slow_ingest"
    command = [sys.executable, "-m", module, str(node.folder), archive.url, str(credentials), "2"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(process: "subprocess.Popen[str]", path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline and process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)


def gone(group: int) -> bool:
    deadline = time.monotonic() + 10
    while running(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not running(group)


@pytest.mark.system("orthanc")
@pytest.mark.parametrize("stage", ["spool", pytest.param("ingest.jsonl", marks=pytest.mark.live)])
@pytest.mark.parametrize("to", ["group", "parent"])
def test_an_interrupt_is_one_line_and_leaves_no_process(
    archive: Orthanc, node: Node, credentials: Path, stage: str, to: str
) -> None:
    with started(node, archive, credentials) as process:
        wait_for(process, node.folder / stage)
        (os.killpg if to == "group" else os.kill)(process.pid, signal.SIGINT)
        _, text = process.communicate(timeout=60)
    assert process.returncode == 130, text
    assert "Traceback" not in text
    assert len([line for line in text.splitlines() if line.startswith("fedward: interrupted")]) == 1
    assert gone(process.pid)
    before = len(released(node))
    assert take_in(node, web(archive), 2).tally.released >= 20 - before
    assert len(released(node)) == 20


@pytest.mark.system("orthanc")
def test_a_killed_parent_takes_its_workers_and_its_lock_along(archive: Orthanc, node: Node, credentials: Path) -> None:
    with started(node, archive, credentials) as process:
        wait_for(process, node.folder / "ingest.jsonl")
        process.kill()
        process.wait(10)
        assert gone(process.pid)
    assert take_in(node, web(archive), 2).tally.unchanged >= 1
    assert len(released(node)) == 20


def web(archive: Orthanc) -> Source:
    return DicomWeb(archive.url, credentials=Credentials("basic", f"{USER}:{PASSWORD}"))
