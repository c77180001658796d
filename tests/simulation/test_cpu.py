"""Processor time: this process's and that of those below it, added up over interruptions."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from simulation.cpu import cpu_seconds, metered, noted

BUSY = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass\n"


def busy(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_time_of_children_counts_while_they_live() -> None:
    before = cpu_seconds()
    code = BUSY.format(0.5) + "print(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        after = cpu_seconds()
        child.kill()
    assert before is not None
    assert after is not None
    assert 0.45 < after - before < 3


def test_what_broke_off_is_added_to(tmp_path: Path) -> None:
    weights = tmp_path / "H1.safetensors"
    assert noted(weights) is None
    with pytest.raises(KeyError), metered(weights):
        busy(0.1)
        raise KeyError
    first = noted(weights)
    with metered(weights):
        busy(0.1)
    assert first is not None
    assert (noted(weights) or 0) >= first + 0.08
    assert [path.name for path in tmp_path.iterdir()] == ["H1.cpu.json"]
