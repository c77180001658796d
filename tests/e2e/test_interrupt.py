"""Ctrl-C at any stage of a run ends it in one line, leaves no process behind, and the run goes on afterwards."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.client.deid.files import image, to_bytes

pytestmark = pytest.mark.live

FEDWARD = Path(sys.executable).with_name("fedward")


def running(group: int) -> list[str]:
    """The processes of a group that are still at work."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(process_group) == group and state != "Z":
            found.append(stat.parent.name)
    return found


@pytest.mark.parametrize(
    "stage", ["pacs*", "nodes/*/cohort/index.json", "federation/*/audit/log.jsonl"], ids=["images", "nodes", "rounds"]
)
def test_an_interrupt_is_one_line_and_leaves_no_process(tmp_path: Path, stage: str) -> None:
    out = tmp_path / "run"
    command = [str(FEDWARD), "simulate", "--out", str(out), "--sites", "H1,H3,H6", "--unseen", "none"]
    command += ["--patients", "4", "--size", "64", "--slices", "3", "--task", "denoise", "--compare", "none"]
    interrupted(command, out, stage)


@pytest.mark.parametrize("stage", ["out-reports/audit.jsonl", "out/*/*/*/*.dcm"], ids=["start", "files"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_interrupt_of_deidentify(tmp_path: Path, workers: str, stage: str) -> None:
    (tmp_path / "in").mkdir()
    for number in range(1500):
        (tmp_path / "in" / f"{number}.dcm").write_bytes(to_bytes(image(number=number)))
    command = [str(FEDWARD), "node", "deidentify", str(tmp_path / "in"), str(tmp_path / "out"), "--workers", workers]
    interrupted(command, tmp_path, stage)
    assert not list((tmp_path / "out-reports").glob("deid.*"))


def interrupted(command: list[str], out: Path, stage: str) -> None:
    """Start a command, interrupt it and what it started as soon as ``stage`` is there, and see how it ends."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        deadline = time.monotonic() + 120
        while not list(out.glob(stage)) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, text = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in text
    assert len([line for line in text.splitlines() if line.startswith("fedward: interrupted")]) == 1
    deadline = time.monotonic() + 10
    while running(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not running(process.pid)
