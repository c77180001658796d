"""A coordinator with its hospitals in a process of its own, which is killed at a chosen place.

The process that is started loads everything once and forks for each run: torch takes seconds. A place is a durable
write, by the end of its path and whether the process dies before it, after it, or in the middle of it, so that the file
is there and torn.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from flwr.app import RecordDict

from client import rounds
from client.app import close_sessions
from server import checkpoint, journal, sealed
from server.app import Settings, run_tasks
from shared.errors import FedwardError
from shared.imaging.tasks import register
from shared.wire import kind_of
from shared.wire_masks import MaskRequest
from simulation.local_grid import LocalGrid
from tests.federation import toy


@register
class Second(toy.Toy):
    """Another task with the toy's images."""

    name = "second"


Place = tuple[str, str]
"""A pattern for the end of a path, and ``before``, ``torn`` or ``after``."""


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit status, minus the signal where one killed it, and the error that it died of."""

    status: int
    error: str

    @property
    def killed(self) -> bool:
        return self.status == -signal.SIGKILL


class Coordinator:
    """Runs a charter with the hospitals of a folder, as often as it is asked to."""

    def __init__(self) -> None:
        environment = dict(os.environ) | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-P", "-m", "tests.federation.killed"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def run(self, root: Path, *, kill: Place | None = None, away: Sequence[str] = (), **settings: Any) -> Ended:
        """One process of a coordinator, from its start to its end, without the hospitals that are ``away``."""
        assert self._process.stdin
        assert self._process.stdout
        job = {"root": str(root), "kill": kill, "away": list(away), "settings": settings}
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


@contextmanager
def coordinator() -> Iterator[Coordinator]:
    started = Coordinator()
    try:
        yield started
    finally:
        started.close()


def answers(root: Path) -> list[dict[str, Any]]:
    """What every hospital was asked and answered, in all runs: site, question, round, attempt, kind of the answer."""
    path = root / "answers.jsonl"
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


# --- in the process ---------------------------------------------------------------------------------------------------


def _serve(jobs: IO[bytes], results: IO[bytes]) -> None:
    for line in jobs:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            status = _job(json.loads(line), write)
            os._exit(status)
        os.close(write)
        with os.fdopen(read, "rb") as stream:
            error = stream.read().decode()
        _, ended = os.waitpid(child, 0)
        ending = {"status": os.waitstatus_to_exitcode(ended), "error": error}
        results.write(json.dumps(ending).encode() + b"\n")
        results.flush()


def _job(job: dict[str, Any], errors: int) -> int:
    root = Path(job["root"])
    if job["kill"]:
        _die_at(*job["kill"])
    away = job["away"]
    nodes = {101 + number: one for number, one in enumerate(_nodes(root)) if one["site"] not in away}
    values = {
        "charter": root / "charter.toml",
        "out": root / "out",
        "run": "run-1",
        "log": root / "audit" / "log.jsonl",
    }
    settings = Settings(**{"task": None, "poll": 0.001, "checkpoint": True} | values | job["settings"])
    with (root / "answers.jsonl").open("ab", buffering=0) as seen:

        def watch(site: str, kind: str, asked: RecordDict, answer: RecordDict) -> None:
            header = json.loads(bytes(asked["message"]["json"]))["header"]
            step = MaskRequest.from_record(asked).step if kind.startswith("query") else kind
            row = {"site": site, "asked": step, "round": header["round"], "attempt": header["attempt"]}
            seen.write(json.dumps(row | {"task": header["task"], "answer": kind_of(answer)}).encode() + b"\n")

        try:
            with LocalGrid(toy.APP, nodes, on_close=close_sessions, watch=watch) as grid:
                run_tasks(grid, settings)
        except FedwardError as error:
            os.write(errors, str(error).encode())
            return error.exit_code
    return 0


def _nodes(root: Path) -> list[dict[str, str]]:
    return [{"site": one.parent.name, "node-dir": str(one.parent)} for one in sorted(root.glob("*/node.json"))]


def _die_at(pattern: str, moment: str) -> None:
    real = sealed.write_parts

    def write(path: Path, parts: Any) -> str:
        if not re.search(pattern + "$", str(path)):
            return real(path, parts)
        if moment == "before":
            _die()
        check = real(path, parts)
        if moment == "torn":
            with path.open("r+b") as stream:
                stream.truncate(path.stat().st_size // 2)
        _die()
        return check

    journal.write_parts = write  # type: ignore[assignment]
    checkpoint.write_parts = write  # type: ignore[assignment]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    assert rounds  # loaded before the first fork: it takes seconds
    _serve(sys.stdin.buffer, sys.stdout.buffer)
