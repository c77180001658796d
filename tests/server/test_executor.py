"""What carries runs out: a process for each, which may die in any way without the coordinator losing its head."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.executor import Executor
from server.flower_line import Line
from server.members import pem_of
from server.runs import RunFolder
from server.starting import launch, register
from shared.bundle import bundle
from shared.errors import ProtocolError, UsageError
from shared.files import held
from tests.federation.hospitals import Founded, Hospitals
from tests.federation.links import Desk, until

pytestmark = pytest.mark.live


@pytest.fixture
def founded(tmp_path: Path) -> Iterator[Founded]:
    made = Founded.make(tmp_path, plan={"rounds": 1, "evaluate_every": 9}, deadline=60.0)
    with made.desk.served():
        yield made


@pytest.fixture
def executor(founded: Founded) -> Iterator["subprocess.Popen[bytes]"]:
    process = start(founded)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def start(founded: Founded) -> "subprocess.Popen[bytes]":
    arguments = [sys.executable, "-P", "-m", "server.executor", str(founded.folder)]
    process = subprocess.Popen(arguments, env=founded.environment() | founded.desk.coordinator.environment())
    until(lambda: held(founded.desk.coordinator.executor_path), what="the executor takes no runs")
    return process


def begin(founded: Founded, name: str = "r") -> RunFolder:
    """A run that waits to be carried out."""
    with Line(founded.desk.coordinator) as line:
        register(founded.desk.coordinator, founded.charter, line)
        text = founded.charter_path.read_bytes()
        return launch(RunFolder.create(founded.desk.coordinator, founded.charter, text, name=name), line)


def ended(run: RunFolder, seconds: float = 90) -> str:
    until(lambda: run.outcome() is not None, seconds, what=f"{run.log_path.read_text()}")
    outcome = run.outcome()
    assert outcome is not None
    return outcome.outcome


def child(of: int, seconds: float = 40) -> int:
    """The process of the run that is under way."""
    path = Path(f"/proc/{of}/task/{of}/children")
    until(lambda: path.read_text().split(), seconds, what="no run has begun")
    return int(path.read_text().split()[0])


def training(hospitals: Hospitals) -> Callable[[], bool]:
    return lambda: any(kind == "query.secagg_share" for _, kind in hospitals.answered)


def test_a_run_is_carried_out_by_a_process_whose_arguments_and_environment_have_no_token(
    founded: Founded, executor: "subprocess.Popen[bytes]"
) -> None:
    run = begin(founded)
    pid = child(executor.pid)
    with founded.attended():
        until(lambda: b"flower_run" in Path(f"/proc/{pid}/cmdline").read_bytes())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        variables = Path(f"/proc/{pid}/environ").read_bytes()
        assert ended(run) == "ok", run.outcome()
    assert [word for word in words if len(word) >= 32 and b"/" not in word] == []
    assert founded.desk.coordinator.secret().encode() not in variables
    assert b"FLWR_TELEMETRY_ENABLED=0" in variables
    assert f"FLWR_HOME={founded.folder}".encode() in variables
    assert (run.path / "toy" / "model.safetensors").exists()
    assert [one.get("round") for one in run.progress()] == [None, 0, 1]
    assert not (founded.desk.coordinator.superlink_folder / "flwr" / "apps").exists(), "the bundle was installed"


def test_a_process_that_is_killed_ends_its_run_and_resuming_goes_on(
    founded: Founded, executor: "subprocess.Popen[bytes]"
) -> None:
    run = begin(founded)
    with founded.attended() as hospitals:
        until(training(hospitals), 60, what=run.log_path.read_text() if run.log_path.exists() else "")
        os.kill(child(executor.pid), signal.SIGKILL)
        assert ended(run) == "failed"
        outcome = run.outcome()
        assert outcome is not None
        assert (outcome.exit_code, "was killed" in outcome.error) == (1, True)
        assert "resume" in outcome.hint
        with Line(founded.desk.coordinator) as line:
            assert [one.status for one in line.runs()] == ["finished"]
            again = launch(run.again(), line)
        assert ended(again) == "ok", again.outcome()


def test_a_superlink_that_is_killed_does_not_end_the_run(tmp_path: Path) -> None:
    founded = Founded.make(tmp_path, plan={"rounds": 1, "evaluate_every": 9}, deadline=60.0)
    link = founded.desk.start()
    executor = None
    try:
        until(founded.desk.healthy)
        executor = start(founded)
        run = begin(founded)
        with founded.attended() as hospitals:
            until(training(hospitals), 60, what="no exchange")
            link.kill()
            link.wait()
            link = founded.desk.start()
            assert ended(run) == "ok", run.outcome()
    finally:
        for process in filter(None, (executor, link)):
            process.kill()
            process.wait()


def test_an_executor_that_is_killed_takes_its_run_with_it_and_the_next_one_says_so(
    founded: Founded, executor: "subprocess.Popen[bytes]"
) -> None:
    run = begin(founded)
    pid = child(executor.pid)
    executor.kill()
    executor.wait()
    until(lambda: not Path(f"/proc/{pid}").exists(), 10, what="the run outlives its executor")
    assert run.outcome() is None
    second = start(founded)
    try:
        outcome = run.outcome()
        assert outcome is not None
        assert outcome.outcome == "interrupted"
        assert "resume" in outcome.hint
        time.sleep(1.5)
        assert not Path(f"/proc/{second.pid}/task/{second.pid}/children").read_text(), "it was gone on with"
    finally:
        second.terminate()
        assert second.wait(15) == 0


def test_when_the_executor_is_stopped_the_run_writes_down_where_it_is(
    founded: Founded, executor: "subprocess.Popen[bytes]"
) -> None:
    run = begin(founded)
    with founded.attended() as hospitals:
        until(training(hospitals), 60, what="no exchange")
        executor.terminate()
        assert executor.wait(15) == 0
    assert ended(run) == "interrupted"
    with Line(founded.desk.coordinator) as line:
        assert [(one.status, one.ended) for one in line.runs()] == [("finished", "stopped")]
    assert json.loads((run.path / "toy" / "history.json").read_text())["outcome"] == "failed"


def test_a_run_that_nobody_asked_for_in_this_folder_is_ended(founded: Founded) -> None:
    said: list[str] = []
    with Line(founded.desk.coordinator) as line:
        number = line.start(bundle(), {"federation": "f", "charter": "c", "run": "../x"})
        executor = Executor(founded.desk.coordinator, line, say=said.append)
        claim = line.acquire()
        assert claim is not None
        executor._carry_out(claim)
        assert [one.status for one in line.runs(number)] == ["finished"]
    assert "nobody asked for" in said[0]
    assert not (founded.folder / "x").exists()


def test_a_damaged_run_is_named_and_keeps_nobody_from_training(founded: Founded) -> None:
    text = founded.charter_path.read_bytes()
    for name in ("a", "b", "c"):
        RunFolder.create(founded.desk.coordinator, founded.charter, text, name=name).started(7)
    (founded.folder / "runs" / "a" / "run.json").write_bytes(b"")
    (founded.folder / "runs" / "b" / "result.json").write_bytes(b"")
    said: list[str] = []
    with Line(founded.desk.coordinator) as line:
        executor = Executor(founded.desk.coordinator, line, say=said.append)
        work = threading.Thread(target=executor.run)
        work.start()
        try:
            until(lambda: held(founded.desk.coordinator.executor_path), 20, what=str(said))
        finally:
            executor.stop()
            work.join(20)
    assert [name for name in ("a/run.json", "b/result.json") if not any(name in one for one in said)] == []
    outcome = RunFolder.open(founded.desk.coordinator, "c").outcome()
    assert outcome is not None
    assert outcome.outcome == "interrupted"
    assert not held(founded.desk.coordinator.executor_path)


def test_a_site_whose_key_is_anothers_keeps_no_other_site_out(founded: Founded) -> None:
    keys = {one.site: pem_of(one.link_key) for one in founded.desk.coordinator.members()}
    said: list[str] = []
    with Line(founded.desk.coordinator) as line:
        line.register({"another": keys["H1"]})
        executor = Executor(founded.desk.coordinator, line, say=said.append)
        for _ in range(2):
            executor._register()
        assert {one.name for one in line.nodes()} == {"another", "H2", "H3"}
        with pytest.raises(ProtocolError, match="key of H1"):
            line.register(keys)  # a run of which it is a member does not begin
    assert ["H1 is not registered" in one for one in said] == [True]


def test_an_executor_beside_another_ends_nothing_and_says_so(
    founded: Founded, executor: "subprocess.Popen[bytes]"
) -> None:
    run = begin(founded)
    child(executor.pid)
    with Line(founded.desk.coordinator) as line:
        with pytest.raises(ProtocolError, match="another process carries out runs"):
            Executor(founded.desk.coordinator, line, say=lambda _: None)._settle()
        assert [one.status for one in line.runs()] != ["finished"]
    assert run.outcome() is None


def test_each_new_trouble_is_said_once(tmp_path: Path) -> None:
    said: list[str] = []
    coordinator = Desk.make(tmp_path).coordinator
    with Line(coordinator) as line:
        executor = Executor(coordinator, line, say=said.append)
        with executor._patiently():
            raise ProtocolError("it is not there yet")
        executor._settled = True
        for text in ("one", "one", "two", "two", "", "", "two"):
            with executor._patiently():
                if text:
                    raise ProtocolError(text)
    assert said == ["one", "two", "it works again", "two"]


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-x\n", "x" * 65, "ü"])
def test_the_name_of_a_run_is_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no name of a run"):
        RunFolder.open(Desk.make(tmp_path).coordinator, name)


def test_an_end_that_cannot_be_written_is_said_and_is_no_trouble_with_the_superlink(founded: Founded) -> None:
    said: list[str] = []
    run = RunFolder.create(founded.desk.coordinator, founded.charter, b"", name="r")
    (run.path / "result.json").mkdir()
    with Line(founded.desk.coordinator) as line:
        executor = Executor(founded.desk.coordinator, line, say=said.append)
        with executor._patiently():
            executor._end(run, "failed", "it was killed", 1)
    assert ["cannot write" in one for one in said] == [True]
