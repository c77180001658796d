"""The warm worker: fast, one child for each piece of work, no failure beyond that piece, and nobody left behind."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import worker as worker_module
from client.worker import Worker, WorkerError
from tests.shared.test_supervisor import HOUSE, alive, eventually

DO = "tests.client.work:do"

LINK = """
import sys
from client.worker import Worker
worker = Worker("tests.client.work:do")
worker.start()
print(worker.pid, flush=True)
worker.answer([b"hold", sys.argv[1].encode()])
"""


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with pytest.MonkeyPatch.context() as patch, Worker(DO, threads=1) as worker:
        patch.setenv("PYTHONPATH", str(HOUSE))
        yield worker


def free(path: Path) -> bool:
    with path.open("r") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def held_by(path: Path) -> int:
    assert eventually(lambda: path.exists() and path.read_text() != "", 30)
    assert not free(path)
    return int(path.read_text())


def test_what_is_imported_is_there_and_nothing_stays_from_one_piece_to_the_next(worker: Worker) -> None:
    assert worker.answer([b"count"]) == [b"1", b"True"]
    assert worker.answer([b"count"]) == [b"1", b"True"]
    first, second = (worker.answer([b"pids"]) for _ in range(2))
    assert first[0] != second[0]
    assert first[1] == second[1] == str(worker.pid).encode()


def test_a_child_answers_fast_once_the_worker_is_warm(worker: Worker) -> None:
    worker.answer([b"echo"])
    begun = time.monotonic()
    for _ in range(10):
        worker.answer([b"echo", b"x"])
    assert (time.monotonic() - begun) / 10 < 0.2


@pytest.mark.parametrize("size", [0, 1, 1 << 16, 50_000_000])
def test_strings_of_any_size_come_back_as_they_were(size: int, worker: Worker) -> None:
    data = os.urandom(1024) * (size // 1024) + os.urandom(size % 1024)
    assert worker.answer([b"echo", data, b"", b"end"]) == [data, b"", b"end"]


def test_a_failure_is_a_name_and_quotes_nothing(worker: Worker) -> None:
    with pytest.raises(WorkerError) as caught:
        worker.answer([b"raise", b"patient Mustermann"])
    assert caught.value.message == "it failed with ValueError"
    assert worker.answer([b"echo", b"next"]) == [b"next"]


@pytest.mark.parametrize(
    ("act", "why"),
    [
        ([b"die"], "ended by SIGKILL"),  # as the kernel does where memory runs out
        ([b"exit", b"3"], "ended early, with status 3"),
        ([b"exit", b"0"], "ended early, with status 0"),
        ([b"break_off"], "ended early, with status 1"),
    ],
)
def test_a_child_that_ends_early_costs_its_own_answer_alone(act: list[bytes], why: str, worker: Worker) -> None:
    pid = (worker.answer([b"echo"]), worker.pid)[1]
    with pytest.raises(WorkerError, match=why):
        worker.answer(act)
    assert worker.answer([b"echo", b"next"]) == [b"next"]
    assert worker.pid == pid


def test_a_child_that_dies_before_it_has_read_its_work_costs_its_own_answer_alone(worker: Worker) -> None:
    def work() -> Iterator[bytes]:
        yield b"echo"
        (child,) = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGKILL)
        yield bytes(50_000_000)

    with pytest.raises(WorkerError, match="ended by SIGKILL"):
        worker.answer(work())
    assert worker.answer([b"echo", b"next"]) == [b"next"]


def test_work_that_is_not_wanted_any_more_is_ended(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_LOOK", 0.1)
    lock = tmp_path / "lock"
    with pytest.raises(WorkerError, match="ended by SIGKILL"):
        worker.answer([b"hold", str(lock).encode()], wanted=lambda: not (lock.exists() and lock.read_text()))
    assert free(lock)
    assert worker.answer([b"echo", b"next"]) == [b"next"]


def test_killing_the_worker_ends_its_child_and_the_next_piece_has_a_new_worker(worker: Worker, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    before: list[int] = []

    def kill() -> None:
        before.extend([held_by(lock), worker.pid])
        os.kill(worker.pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(WorkerError, match="the worker process ended"):
        worker.answer([b"hold", str(lock).encode()])
    thread.join()
    assert eventually(lambda: not any(map(alive, before)))
    assert free(lock)
    assert worker.answer([b"echo", b"next"]) == [b"next"]


def test_killing_the_link_ends_the_worker_and_the_child(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    environment = dict(os.environ) | {"PYTHONPATH": str(HOUSE)}
    with subprocess.Popen(
        [sys.executable, "-P", "-c", LINK, str(lock)], env=environment, stdout=subprocess.PIPE, text=True
    ) as link:
        assert link.stdout is not None
        pids = [int(link.stdout.readline()), held_by(lock)]
        link.kill()
        link.wait(10)
        assert eventually(lambda: not any(map(alive, pids)))
    assert free(lock)


def test_children_do_not_draw_the_same_chance(worker: Worker) -> None:
    drawn = [worker.answer([b"chance"]) for _ in range(3)]
    for source in zip(*drawn, strict=True):
        assert len(set(source)) == 3


def test_a_child_has_its_threads_and_is_the_first_to_go_when_memory_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HOUSE))
    with Worker(DO, threads=2) as worker:
        assert worker.answer([b"ways"]) == [b"2", b"800"]


def test_what_a_library_prints_does_not_disturb(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HOUSE))
    with Worker(DO) as worker:
        assert worker.answer([b"print", b"some library's chatter"]) == [b""]
    out, err = capfd.readouterr()
    assert out == ""
    assert "some library's chatter" in err


def test_a_worker_that_cannot_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HOUSE))
    with Worker("no.such.module:do") as worker, pytest.raises(WorkerError, match="could not start"):
        worker.answer([b"echo"])
