"""The benchmarks of the grid and of the engines run on any machine and print what they promise."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_benchmark_measures_both_kinds_of_our_grid() -> None:
    command = [sys.executable, "-m", "benchmarks.local_grid", "--json", "--only", "local"]
    command += ["--sites", "2", "--parameters", "1000", "--rounds", "2", "--workers", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    found = {one["engine"]: one for one in json.loads(done.stdout)}
    assert set(found) == {"local-0", "local-1"}
    assert all(one["round"] > 0 and len(one["rounds"]) == 2 and one["peak_bytes"] > 1e6 for one in found.values())


@pytest.mark.live
def test_the_benchmark_of_the_engines_measures_a_masked_federation() -> None:
    command = [sys.executable, "-m", "benchmarks.engines", "--json", "--only", "local"]
    command += ["--sites", "3", "--rounds", "2", "--workers", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=180)
    (found,) = json.loads(done.stdout)
    assert (found["engine"], found["sites"]) == ("local", 3)
    assert found["round"] > 0
    assert len(found["rounds"]) == 2
    assert found["peak_bytes"] > 1e6
