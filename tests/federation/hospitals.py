"""Toy hospitals at a real gate: the real fleet client and the real ClientApp, all of them in one thread of the test."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from client.flower_messages import answer, work_of
from client.flower_node import Fleet
from client.link_trouble import LinkError
from client.node import Node
from server.authority import plan_of
from shared.charter import Charter
from tests.federation import toy
from tests.federation.links import Credentials, Desk, until
from tests.federation.masked import Federation

ROOT = Path(__file__).parents[2]
TOYS = ROOT / "tests" / "federation" / "toys"  # a sitecustomize.py that brings the toy task into the run's process
BEAT = 5.0
SITES = ("H1", "H2", "H3")


@dataclasses.dataclass(frozen=True)
class Founded:
    """A coordinator and three hospitals that have pinned its charter; nothing runs."""

    desk: Desk
    charter: Charter
    shown: Mapping[str, Credentials]
    nodes: Path

    @classmethod
    def make(cls, root: Path, **changes: Any) -> "Founded":
        federation = Federation.make(root / "nodes", len(SITES), **changes)
        desk = Desk.make(root)
        shown = {site: desk.admit(site, federation.node(site).identity) for site in SITES}
        charter = dataclasses.replace(federation.charter, coordinator=plan_of(desk.coordinator))
        for site in SITES:
            Node.open(root / "nodes" / site).pin(charter)
        (root / "charter.toml").write_text(charter.to_toml())
        return cls(desk, charter, shown, root / "nodes")

    @property
    def folder(self) -> Path:
        return self.desk.coordinator.folder

    @property
    def charter_path(self) -> Path:
        return self.nodes.parent / "charter.toml"

    def environment(self) -> dict[str, str]:
        return dict(os.environ) | {"PYTHONPATH": f"{TOYS}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}

    def command(self, *words: object) -> "subprocess.Popen[str]":
        """A command of ``fedward server`` as a process."""
        arguments = [sys.executable, "-P", "-c", "from shared.cli import main; main()", "server", *map(str, words)]
        return subprocess.Popen(
            arguments, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def state(self) -> str:
        """What ``status.json`` says."""
        path = self.desk.coordinator.status_path
        return str(json.loads(path.read_text())["state"]) if path.exists() else ""

    @contextmanager
    def started(self) -> Iterator["subprocess.Popen[str]"]:
        """``fedward server start`` while the block runs."""
        process = self.command("start", self.folder, "--listen", f"127.0.0.1:{self.desk.port}")
        try:
            until(lambda: self.state() == "serving", what=f"the coordinator did not start: {process.poll()}")
            yield process
        finally:
            process.terminate()
            said, _ = process.communicate(timeout=30)
        assert process.returncode in {0, -9}, said

    @contextmanager
    def attended(self, *sites: str) -> Iterator["Hospitals"]:
        """Hospitals at work while the block runs."""
        hospitals = Hospitals(self, sites or SITES)
        hospitals.start()
        try:
            yield hospitals
        finally:
            hospitals.ended.set()
            hospitals.join(30)


class Hospitals(threading.Thread):
    """Each asks in turn whether there is a message, and answers it."""

    def __init__(self, founded: Founded, sites: tuple[str, ...]) -> None:
        super().__init__(daemon=True)
        self._founded, self._sites = founded, sites
        self.ended = threading.Event()
        self.held = threading.Event()  # while it is set, nobody answers
        self.answered: list[tuple[str, str]] = []

    def run(self) -> None:
        desk = self._founded.desk
        with ExitStack() as stack:
            fleets = {}
            for site in self._sites:
                shown = self._founded.shown[site]
                tls = shown.context(desk.coordinator.authority_path)
                fleet = Fleet(
                    f"localhost:{desk.port}", tls, shown.key, patiently=lambda call: call(), seen=lambda _: None
                )
                fleets[site] = stack.enter_context(fleet)
            numbers = dict.fromkeys(fleets, 0)
            beaten = time.monotonic()
            while not self.ended.wait(0.05):
                for site, fleet in fleets.items():
                    if self.held.is_set():
                        continue
                    try:
                        numbers[site] = numbers[site] or fleet.activate()
                        self._turn(site, fleet)
                        if time.monotonic() - beaten > BEAT:
                            fleet.heartbeat()
                    except LinkError:
                        self.ended.wait(0.2)
                if time.monotonic() - beaten > BEAT:
                    beaten = time.monotonic()
            for fleet in fleets.values():
                fleet.deactivate()

    def _turn(self, site: str, fleet: Fleet) -> None:
        delivery = fleet.pull()
        if delivery is None:
            return
        node_config = {"node-dir": str(self._founded.nodes / site), "site": site}
        facts = {"node": fleet.node_id, "node_config": node_config, "run_config": {}}
        *reply, _ = answer(list(work_of(delivery, fleet.fetch(delivery), facts)), toy.app)
        fleet.push(reply, 0.1)
        self.answered.append((site, delivery.message.metadata.message_type))
