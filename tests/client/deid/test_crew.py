"""A file that ends the process which reads it costs that file alone."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from client.deid import DeidReport, FileRecord, Profile, Status, deidentify_folder
from client.deid import crew as crew_room
from client.deid.crew import DIED, Crew
from client.deid.quarantine import Decided
from client.deid.single import Processed, Processor
from shared.errors import FedwardError, OutputError
from tests.client.deid.files import KEY, image, to_bytes

FILES = 40
PARENT = os.getpid()


def die() -> None:
    assert os.getpid() != PARENT, "this would end the tests"
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def hospital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """40 files; a worker dies on each whose name says so, every time or once."""
    (tmp_path / "in").mkdir()
    for number in range(FILES):
        (tmp_path / "in" / f"{number:02d}.dcm").write_bytes(to_bytes(image(number=number)))
    original = Processor.process

    def process(self: Processor, path: str, *, takes_place: bool = False) -> Processed:
        if "deadly" in path:
            die()
        mark = tmp_path / "once"
        if "once" in path and not mark.exists():
            mark.touch()
            die()
        return original(self, path, takes_place=takes_place)

    monkeypatch.setattr(Processor, "process", process)
    # Copies of this process know of the patch; threads that other tests left behind would have fresh ones made.
    monkeypatch.setattr(crew_room, "threading", SimpleNamespace(active_count=lambda: 1))
    return tmp_path


def run(hospital: Path, profile: Profile, workers: int) -> DeidReport:
    places = {"profile": profile, "key": KEY, "log": None, "reports": hospital / "reports"}
    with Crew(workers, profile, KEY) as crew:
        return deidentify_folder(hospital / "in", hospital / "out", crew=crew, **places)  # type: ignore[arg-type]


def names(hospital: Path) -> list[str]:
    return sorted(path.name for path in (hospital / "in").iterdir())


def rename(hospital: Path, number: int, word: str) -> str:
    name = f"{number:02d}-{word}.dcm"
    (hospital / "in" / f"{number:02d}.dcm").rename(hospital / "in" / name)
    return name


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("at", [[0], [13], [FILES - 1], [7, 8], [3, 4, 30]])
def test_the_file_that_kills_is_refused_and_all_others_go_on(
    hospital: Path, basic: Profile, workers: int, at: list[int]
) -> None:
    deadly = [rename(hospital, number, "deadly") for number in at]
    report = run(hospital, basic, workers)
    assert [record.path for record in report.records()] == names(hospital)
    held = [record for record in report.records() if record.status is not Status.RELEASED]
    assert held == [FileRecord(path, Status.REFUSED, DIED) for path in deadly]
    assert len([one for one in (hospital / "out").rglob("*") if one.is_file()]) == FILES - len(at)


def test_a_worker_that_died_of_something_else_costs_nothing(hospital: Path, basic: Profile) -> None:
    rename(hospital, 20, "once")
    assert run(hospital, basic, 2).released == FILES
    assert (hospital / "once").exists()


def test_a_worker_that_died_while_it_waited_costs_nothing(hospital: Path, basic: Profile) -> None:
    with Crew(1, basic, KEY) as idle:
        assert idle._alone(hospital / "out", die) is None
        idle._submit(die).exception()
        paths = names(hospital)
        done = list(idle.process(hospital / "in", hospital / "out", paths, Decided()))
    assert [(one.record.path, one.record.status) for one in done] == [(path, Status.RELEASED) for path in paths]


def test_two_files_of_one_instance_are_settled_in_a_worker(
    hospital: Path, basic: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = to_bytes(image(number=5))
    (hospital / "in" / "05-again.dcm").write_bytes(content)
    assert run(hospital, basic, 1).released == FILES + 1
    before = {one: one.read_bytes() for one in (hospital / "out").rglob("*.dcm")}

    monkeypatch.setattr(Processor, "settle", lambda *_: die())
    report = run(hospital, basic, 1)
    held = [record for record in report.records() if record.status is not Status.RELEASED]
    assert held == [FileRecord("05.dcm", Status.REFUSED, DIED)]
    assert {one: one.read_bytes() for one in (hospital / "out").rglob("*.dcm")} == before


def test_two_files_that_need_too_much_memory_together(
    hospital: Path, basic: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hospital / "in" / "05-again.dcm").write_bytes(to_bytes(image(number=5)))

    def full(*_: object) -> Processed:
        raise MemoryError

    monkeypatch.setattr(Processor, "settle", full)
    [held] = [record for record in run(hospital, basic, 1).records() if record.status is not Status.RELEASED]
    assert (held.path, held.status) == ("05.dcm", Status.REFUSED)
    assert "memory" in held.reason


def test_an_output_that_takes_nothing_still_ends_the_batch(hospital: Path, basic: Profile) -> None:
    (hospital / "out").write_text("a file where the folder should be")
    paths = [rename(hospital, 0, "deadly"), "01.dcm", "02.dcm"]
    with Crew(2, basic, KEY) as crew:
        results = crew.process(hospital / "in", hospital / "out", paths, Decided())
        assert next(results).record == FileRecord(paths[0], Status.REFUSED, DIED)
        with pytest.raises(OutputError):
            next(results)


def test_workers_that_cannot_start_are_no_fault_of_a_file(
    hospital: Path, basic: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.deid.crew.limit_memory", die)
    with pytest.raises(FedwardError, match="as soon as they start"):
        run(hospital, basic, 1)
    assert not (hospital / "reports" / "deid.json").exists()


@pytest.fixture
def thread() -> Iterator[None]:
    over = threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()
    yield
    over.set()
    other.join()


@pytest.mark.usefixtures("thread")
def test_beside_a_thread_the_workers_are_fresh_processes(hospital: Path, basic: Profile) -> None:
    """As after a death during an ingest, while the next study is fetched; this one knows nothing of deadly names."""
    with Crew(1, basic, KEY) as fresh:
        assert fresh._alone(hospital / "out", os._exit, 1) is None
        paths = names(hospital)[:3]
        done = list(fresh.process(hospital / "in", hospital / "out", paths, Decided()))
    assert [one.record.status for one in done] == [Status.RELEASED] * 3
