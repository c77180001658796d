"""What every test shares: programs from Debian packages are required where the run says so, threads are few."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Processes that a test starts find the tests' own modules too, however the tests themselves were started.
HOUSE = str(Path(__file__).parents[1])
if HOUSE not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (HOUSE, os.environ.get("PYTHONPATH"))))

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
# Tests fork children where another test has used gRPC: what gRPC does at a fork aborts one in some hundreds (grpc/grpc
# 43055), and no child speaks gRPC.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# A shell that starts the tests in the background makes them ignore SIGINT, and so do the commands that they interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A verdict on a commit must not hang on luck: examples are the same in every run, and others with FEDWARD_RANDOM=1.
settings.register_profile("fedward", derandomize=os.environ.get("FEDWARD_RANDOM") != "1", database=None)
settings.load_profile("fedward")

UMASK = os.umask(0o022)
os.umask(UMASK)


@pytest.fixture(autouse=True)
def _files_as_everywhere() -> Iterator[None]:
    """A test that runs a server's start in this process leaves its umask behind, and the next one's files differ."""
    yield
    os.umask(UMASK)


PROGRAMS = {
    "dicom3tools": "dciodvfy",
    "chromium": "chromium",
    "orthanc": "Orthanc",
    "faketime": "faketime",
    "openssl": "openssl",
    "strace": "strace",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out a test whose Debian package is missing, unless FEDWARD_REQUIRE_SYSTEM=1: then it runs and fails."""
    if os.environ.get("FEDWARD_REQUIRE_SYSTEM") == "1":
        return
    for item in items:
        for mark in item.iter_markers("system"):
            package = str(mark.args[0])
            if shutil.which(PROGRAMS[package]) is None:
                item.add_marker(pytest.mark.skip(reason=f"needs the Debian package {package}"))


@pytest.fixture(autouse=True)
def _quiet_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    home: Path = tmp_path_factory.getbasetemp() / "flwr"
    monkeypatch.setenv("FLWR_HOME", str(home))
