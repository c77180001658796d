"""A supervisor keeps its children running, with patience, and leaves none behind. All of them are real processes."""

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.supervisor import Child, Supervisor

HOUSE = Path(__file__).parents[2]
QUICK = "0.2,0.5,60,5"

WAITS = "import time; time.sleep(60)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
)


@contextmanager
def supervised(folder: Path, *scripts: str, patience: str = QUICK) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-P", "-m", "tests.shared.supervised", str(folder), patience, *scripts]
    environment = dict(os.environ) | {"PYTHONPATH": str(HOUSE)}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def lines_until(process: subprocess.Popen[str], pattern: str) -> list[str]:
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if re.search(pattern, line):
            return lines
    raise AssertionError(f"never said {pattern}: {lines}")


def eventually(seen: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not seen() and time.monotonic() < deadline:
        time.sleep(0.02)
    return seen()


def pid_of(lines: list[str], name: str) -> int:
    (pid,) = [int(line.split()[-1]) for line in lines if line.startswith(f"{name} started, process ")]
    return pid


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_children_end_with_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    with supervised(tmp_path, WAITS, STUBBORN) as process:
        lines = lines_until(process, "child-1 started")
        children = [pid_of(lines, "child-0"), pid_of(lines, "child-1")]
        lines_until(process, "deaf")
        process.kill()
        process.wait(10)
        assert eventually(lambda: not any(map(alive, children)))


def test_a_child_that_ended_is_started_again_after_longer_and_longer_waits(tmp_path: Path) -> None:
    script = "import pathlib, sys, time; pathlib.Path(sys.argv[1], 'lives').open('a').write(f'{time.monotonic()}\\n')"
    with supervised(tmp_path, script) as process:
        for _ in range(5):
            lines_until(process, "child-0 started")
        times = [float(line) for line in (tmp_path / "lives").read_text().split()]
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert waits[0] >= 0.2
    assert waits[1] >= 0.4
    assert waits[2] >= 0.5  # the longest; not 0.8
    assert waits[2] < 0.8


def test_a_child_that_lived_long_is_started_again_soon(tmp_path: Path) -> None:
    with supervised(tmp_path, "import time; time.sleep(0.2)", patience="0.2,50,0.1,5") as process:
        said = [lines_until(process, "started again in")[-1] for _ in range(4)]
    assert all(line.endswith("started again in 0 s") for line in said)


def test_a_killed_child_is_started_again_and_its_end_is_said(tmp_path: Path) -> None:
    with supervised(tmp_path, WAITS) as process:
        pid = pid_of(lines_until(process, "child-0 started"), "child-0")
        os.kill(pid, signal.SIGKILL)
        lines = lines_until(process, "child-0 started")
    assert re.fullmatch(r"child-0 was ended by SIGKILL after 0 s; started again in 0 s", lines[0])
    assert pid_of(lines, "child-0") != pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_its_children_in_the_opposite_order_when_it_is_told_to_stop(number: int, tmp_path: Path) -> None:
    with supervised(tmp_path, WAITS, WAITS, WAITS) as process:
        lines = lines_until(process, "child-2 started")
        process.send_signal(number)
        ends = lines_until(process, "^status")
        assert process.wait(10) == 0
    assert [line.split()[0] for line in ends] == ["child-2", "child-1", "child-0", "status"]
    assert ends[-1] == "status 0"
    assert not any(alive(pid_of(lines, f"child-{number}")) for number in range(3))


def test_a_child_that_does_not_listen_is_killed_after_the_grace(tmp_path: Path) -> None:
    with supervised(tmp_path, STUBBORN, patience="1,1,60,0.4") as process:
        lines_until(process, "deaf")
        begun = time.monotonic()
        process.terminate()
        lines = lines_until(process, "^status")
    assert 0.4 <= time.monotonic() - begun < 5
    assert lines == ["child-0 did not end when it was asked to and was killed", "status 0"]


def test_a_second_signal_ends_them_at_once(tmp_path: Path) -> None:
    with supervised(tmp_path, STUBBORN, patience="1,1,60,50") as process:
        lines_until(process, "deaf")
        process.terminate()
        time.sleep(1.1)
        process.send_signal(signal.SIGINT)
        assert lines_until(process, "^status")[-1] == "status 0"


def test_a_signal_that_comes_twice_leaves_them_their_grace(tmp_path: Path) -> None:
    slow = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.7), sys.exit(7)))\n"
        "print('deaf', flush=True)\n"
        "time.sleep(60)"
    )
    with supervised(tmp_path, slow, patience="1,1,60,50") as process:
        lines_until(process, "deaf")
        process.terminate()
        time.sleep(0.2)  # as timeout(1) does, to the process and to its group; two at once would be one
        process.terminate()
        assert lines_until(process, "^status") == ["child-0 ended with status 7", "status 0"]


@pytest.mark.parametrize("status", [2, 6])
def test_wrong_use_and_what_is_forbidden_are_not_tried_again(status: int, tmp_path: Path) -> None:
    with supervised(tmp_path, WAITS, f"raise SystemExit({status})") as process:
        lines = lines_until(process, "^status")
    assert f"child-1 ended with status {status}, which starting it again would not mend" in lines
    assert lines[-2:] == ["child-0 was ended by SIGTERM", f"status {status}"]


@pytest.mark.parametrize("status", [2, 6])
def test_a_child_that_is_not_vital_ends_nothing(status: int, tmp_path: Path) -> None:
    with supervised(tmp_path, WAITS, f"#\nraise SystemExit({status})") as process:
        lines = lines_until(process, "child-1 started")
        first = pid_of(lines, "child-0")
        lines = [lines_until(process, "child-1 started")[0] for _ in range(2)]
        assert alive(first)
    assert all(line.startswith(f"child-1 ended with status {status} after 0 s; started again in") for line in lines)


def test_a_child_has_its_environment_and_nothing_to_read(tmp_path: Path) -> None:
    script = (
        "import os, pathlib, sys, time\n"
        "pathlib.Path(sys.argv[1], 'seen').write_text(sys.stdin.read() + os.environ['NUMBER'])\n"
        "time.sleep(60)"
    )
    with supervised(tmp_path, script) as process:
        lines_until(process, "child-0 started")
        seen = tmp_path / "seen"
        assert eventually(lambda: seen.exists() and seen.read_text() == "0")


def test_it_leaves_the_signals_as_it_found_them() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)]
    said: list[str] = []
    supervisor = Supervisor([Child("child", ["sleep", "60"])], say=said.append)
    signal.signal(signal.SIGALRM, lambda *_: supervisor.stop())
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    assert supervisor.run() == 0
    assert said[-1] == "child was ended by SIGTERM"
    assert supervisor.pids == {}
    assert before == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)]
