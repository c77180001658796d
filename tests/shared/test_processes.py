"""Worker processes do not outlive the process that started them, however that one ends."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.test_interrupt import running

PARENT = """
import sys, time
from shared.processes import WorkerPool

if __name__ == "__main__":
    pool = WorkerPool(3, method=sys.argv[1])
    assert sum(pool.map(abs, range(30))) == 435
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_end_with_a_parent_that_was_killed(method: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    script = tmp_path_factory.mktemp("parent") / "parent.py"
    script.write_text(PARENT)
    command = [sys.executable, str(script), method]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert len(running(process.pid)) > 1
        process.kill()
        process.wait(10)
        deadline = time.monotonic() + 10
        while running(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not running(process.pid)


INTERRUPTED = """
import os, signal, sys, threading, time
from multiprocessing import util
from shared.processes import WorkerPool, end_pools

threading.Thread(target=time.sleep, args=(60,), daemon=True).start()  # it takes signals that the main thread blocks

def interrupted(*args, spawn=util.spawnv_passfds):
    pid = spawn(*args)
    os.killpg(0, signal.SIGINT)  # the process is there, and has not been told yet what to do
    time.sleep(0.2)
    return pid

if __name__ == "__main__":
    WorkerPool(1).submit(abs, 1).result()  # with that, the tracker of resources runs
    util.spawnv_passfds = interrupted
    try:
        pool = WorkerPool(2)
        pool.submit(time.sleep, 60)
        print("not interrupted")
    except KeyboardInterrupt:
        end_pools()
        print("interrupted")
"""


def test_an_interrupt_while_a_worker_is_started_prints_no_trace(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(INTERRUPTED)
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")
