"""Worker processes do not outlive the process that started them, however that one ends."""

import subprocess
import sys
import time

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
