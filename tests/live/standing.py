"""A federation as deployed, on loopback: real commands in processes of their own, that tests start and kill.

What takes long (synthetic DICOM, taking it in, the ceremony of joining) is done once and copied for each test.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client.ledger_file import read_book
from compliance.log import entries
from tests.ports import free_port

HOUSE = Path(__file__).parents[2]
SITES = ("H1", "H2", "H3")
PURPOSE = "research on image quality"
BUDGET = 60.0
CHARTER = f"""[federation]
id = "standing"
purpose = "{PURPOSE}"
min_sites = 3
min_patients = 2
deadline = 150.0
seed = 7

[privacy]
mode = "patient"
noise_multiplier = 2.0
slices_per_patient = 2

[secure_aggregation]
threshold = 3

[[task]]
name = "denoise"
start = "public-1"
trained = "biases_norms_head"
rounds = 2
local_steps = 4
batch = 2
local_lr = 0.1
evaluate_every = 2
"""
FEDWARD = [sys.executable, "-P", "-c", "from shared.cli import main; main()"]


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLWR_")}
    return kept | {"PYTHONPATH": str(HOUSE), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **(more or {})}


def fedward(*arguments: object, status: int = 0, timeout: float = 240) -> str:
    """Run a command to its end and give what it printed."""
    command = [*FEDWARD, *map(str, arguments)]
    done = subprocess.run(
        command, env=environment(), cwd=HOUSE, capture_output=True, text=True, timeout=timeout, check=False
    )
    said = f"{' '.join(map(str, arguments))}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.returncode == status, said
    assert "Traceback" not in done.stderr, said
    return done.stdout + done.stderr


@dataclass
class Service:
    """A command that goes on until it is stopped or killed."""

    name: str
    arguments: tuple[str, ...]
    log: Path
    prefix: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Service":
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, *FEDWARD, *self.arguments],
                env=environment(self.env),
                cwd=HOUSE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """As a power cut: every process of it at once, without a word."""
        for pid in [self.pid, *descendants(self.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert self.process is not None
        self.process.wait(20)

    def stop(self) -> int:
        """As a person would: SIGTERM, and wait."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(40)

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def descendants(pid: int) -> list[int]:
    """All processes below ``pid``, nearest first (Linux, /proc)."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in task.read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def wait_until(what: Callable[[], object], seconds: float, why: str, every: float = 0.05) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, why
        time.sleep(every)


def rows(path: Path) -> list[dict[str, Any]]:
    """An audit log's entries; none while there is no log."""
    return list(entries(path)) if path.exists() else []


@dataclass
class Standing:
    """A coordinator and three hospitals that have joined; nothing runs until it is started."""

    root: Path
    port: int
    services: dict[str, Service] = field(default_factory=dict)

    @property
    def server(self) -> Path:
        return self.root / "coordinator"

    @property
    def charter(self) -> Path:
        return self.root / "charter.toml"

    def node(self, site: str) -> Path:
        return self.root / site

    def log(self, site: str) -> list[dict[str, Any]]:
        folder = self.server if site == "coordinator" else self.node(site)
        return rows(folder / "audit" / "log.jsonl")

    # --- services -----------------------------------------------------------------------------------------------------

    def start(self, name: str, *, prefix: tuple[str, ...] = (), listen: int | None = None, **env: str) -> Service:
        """Start the coordinator, or a hospital by its name."""
        if name == "coordinator":
            arguments = ("server", "start", str(self.server), "--listen", f"127.0.0.1:{listen or self.port}")
            arguments += ("--audit-listen", f"127.0.0.1:{self.port + 1}")
        else:
            arguments = ("node", "start", str(self.node(name)))
        service = Service(name, arguments, self.root / f"{name}.log", prefix, env).start()
        self.services[name] = service
        return service

    def up(self, *names: str) -> None:
        """Start all that are named, and wait until each says that it works."""
        for name in names:
            self.start(name)
        for name in names:
            self.ready(name)

    def ready(self, name: str, seconds: float = 120) -> None:
        wait_until(
            lambda: self.state(name) in {"connected", "working", "serving"},
            seconds,
            f"{name} does not come up: {self.services[name].text()[-2000:]}",
        )

    def state(self, name: str, what: str = "state") -> str:
        path = self.server / "status.json" if name == "coordinator" else self.node(name) / "link" / "status.json"
        try:
            found: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError):
            return ""
        return str(found.get(what, ""))

    def run(self, *arguments: object, name: str = "run-1") -> Service:
        """Start a run and follow it."""
        words = ("server", "run", str(self.server), str(self.charter), "--name", name, *map(str, arguments))
        service = Service("run", words, self.root / f"{name}.log").start()
        self.services["run"] = service
        return service

    def finish(self, service: Service, status: int = 0, seconds: float = 400) -> str:
        assert service.process is not None
        try:
            code = service.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.told()) from None
        assert code == status, f"exit {code}\n{self.told()}"
        return service.text()

    def told(self) -> str:
        """The end of what every service has said, for a test that failed."""
        return "\n".join(f"--- {name}\n{service.text()[-3000:]}" for name, service in self.services.items())

    def down(self) -> None:
        for name in sorted(self.services, key=lambda name: name == "coordinator"):
            service = self.services[name]
            if service.alive():
                service.kill()

    # --- what happened ------------------------------------------------------------------------------------------------

    def history(self, run: str = "run-1", task: str = "denoise") -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.server / "runs" / run / task / "history.json").read_text())
        return found

    def charges(self, site: str) -> list[dict[str, Any]]:
        return [row for row in self.log(site) if (row["action"], row["outcome"]) == ("privacy.charge", "ok")]

    def trainings(self, site: str) -> list[dict[str, Any]]:
        """Every training that a hospital was asked for and began; it is paid for next, before an image is looked at."""
        return [row for row in self.log(site) if (row["action"], row["outcome"]) == ("train", "started")]

    def check_paid(self) -> None:
        """Every training has a charge of its own before it, at every hospital, and every record verifies.

        What the ledger has is compared with what the log says was charged, row by row.
        """
        for site in SITES:
            paid = 0
            ledger = read_book(self.node(site) / "privacy" / "ledger.jsonl", data_set=site)
            charged = [(row["run"], row["round"]) for row in self.charges(site)]
            assert [(one.run, one.round) for one in ledger.charges][: len(charged)] == charged
            assert len(ledger.charges) - len(charged) in {0, 1}, "one may be paid for and not yet noted"
            for row in self.log(site):
                paid += (row["action"], row["outcome"]) == ("privacy.charge", "ok")
                begun = (row["action"], row["outcome"]) == ("train", "ok")
                paid -= begun
                assert paid >= 0, f"{site} trained without a charge: {row}"
            fedward("audit", "verify", self.node(site) / "audit" / "log.jsonl")
        fedward("audit", "verify", self.server / "audit" / "log.jsonl")


def build(root: Path, raw: Path, charter: str = CHARTER, *, private: bool = True) -> Standing:
    """The ceremony: keys at each side, requests, a call by telephone, one charter, data from ``raw``.

    ``private``: whether the charter asks for differential privacy; where it does not, the hospitals allow that.
    """
    root.mkdir(exist_ok=True)
    standing = Standing(root, free_port())
    fedward("server", "init", standing.server, "--address", f"127.0.0.1:{standing.port}", "--name", "coordinator")
    standing.charter.write_text(charter)
    words: list[object] = []
    for site in SITES:
        node = standing.node(site)
        fedward("node", "init", node, "--site", site, "--purpose", PURPOSE)
        if not private:
            (node / "policy.toml").write_text("require_privacy = false\n")
        fedward(
            *("node", "basis", "set", node, "GDPR 6(1)(e), 9(2)(j)", "--act", "a law on research"),
            *("--who", "Dr. Wu", "--why", "agreed by the board"),
        )
        fedward("node", "ingest", node, "--folder", raw / site)
        fedward("node", "request", node, root / f"{site}.json")
        heard = re.search(r"(?:[0-9a-f]{4} ){7}[0-9a-f]{4}", fedward("node", "fingerprint", node))
        assert heard
        words += ["--fingerprint", heard[0]]
    requests = [root / f"{site}.json" for site in SITES]
    fedward("server", "approve", standing.charter, *requests, *words, "--server", standing.server)
    digest = json.loads(fedward("charter", "check", standing.charter, "--json"))["sha256"]
    for site in SITES:
        certificate = standing.server / "certificates" / f"{site}.pem"
        fedward("node", "join", standing.node(site), standing.charter, "--certificate", certificate, "--sha256", digest)
        if private:
            fedward(
                *("node", "budget", "set", standing.node(site), "--epsilon", BUDGET, "--patients", 10),
                *("--who", "Dr. Wu", "--why", "agreed by the board"),
            )
    return standing


def copied(template: Standing, root: Path) -> Standing:
    """A copy of a federation that never ran."""
    shutil.copytree(template.root, root, symlinks=True)
    return Standing(root, template.port)


@contextlib.contextmanager
def running(standing: Standing) -> Iterator[Standing]:
    """Whatever is started in the block is gone after it."""
    try:
        yield standing
    finally:
        standing.down()
