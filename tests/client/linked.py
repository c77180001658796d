"""A real hospital for tests of its link: a node with keys and certificates; the link in a thread or a process."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from client.link import Link
from client.link_place import Place
from client.node import Node
from client.worker import Worker
from shared.bundle import bundle
from shared.certificates import Authority, pem
from shared.charter import Charter
from shared.link_keys import PublicKey, read_key
from shared.wire import Refusal
from tests.client.superlink import SuperLink
from tests.federation import toy
from tests.shared.test_supervisor import HOUSE

ECHO = "tests.client.link_echo:work"
RULES = toy.charter()


@dataclass
class Hospital:
    """A hospital that has joined."""

    node: Node
    number: int
    link: Link | None = None
    said: list[str] = field(default_factory=list)
    _thread: threading.Thread | None = None

    @classmethod
    def make(
        cls, folder: Path, coordinator: SuperLink, *, rules: Charter = RULES, signed_by: Authority | None = None
    ) -> "Hospital":
        node = Node.create(folder, site=folder.name, purpose=toy.PURPOSE)
        node.pin(rules)
        toy.allow_all(folder)
        node.link.mkdir(mode=0o700)
        made = cls(node, coordinator.register(cls.public(node), node.site))
        node.authority.write_bytes(pem(coordinator.authority.certificate))
        made.certify(signed_by or coordinator.authority)
        return made

    @staticmethod
    def public(node: Node) -> PublicKey:
        return read_key(node.link_key).public_key()

    def certify(self, authority: Authority) -> None:
        self.node.certificate.write_bytes(pem(authority.client(self.public(self.node), self.node.site)))

    def place(self, coordinator: SuperLink) -> Place:
        return Place(coordinator.address, self.node.authority, self.node.certificate, self.node.link_key)

    def connect(self, coordinator: SuperLink, *, worker: str = ECHO, expected: bytes | None = None) -> None:
        """Run the link in a thread of this process; its worker is a process."""

        def run() -> None:
            with Worker(worker, preload=["client.policy"], threads=1) as warm:
                expect = bundle() if expected is None else expected
                self.link = Link(self.node, self.place(coordinator), warm, expected=expect, say=self.said.append)
                self.link.run()

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def leave(self) -> None:
        if self.link and self._thread:
            self.link.stop()
            self._thread.join(20)
            assert not self._thread.is_alive()
        self.link = None

    @property
    def status(self) -> dict[str, Any]:
        path = self.node.link / "status.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"state": "none", "error": ""}
        return found

    def log(self, action: str = "refusal") -> list[dict[str, Any]]:
        if not (self.node.folder / "audit" / "log.jsonl").exists():
            return []
        return [row for row in toy.log_rows(self.node.folder) if row["action"] == action]


def config(rules: Charter = RULES, **changes: Any) -> dict[str, Any]:
    return {"federation": rules.id, "charter": rules.sha256, "run": "run-1", **changes}


def wish(size: int = 0, **what: str) -> RecordDict:
    """Content for the echo."""
    record = RecordDict({"do": ConfigRecord(dict(what))})
    if size:
        record["model"] = ArrayRecord([np.arange(size, dtype=np.float32)])
    return record


def refusal(message: Message) -> Refusal:
    return Refusal.from_record(message.content)


def until(seen: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@contextmanager
def process(hospital: Hospital, *lines: str) -> Iterator[subprocess.Popen[bytes]]:
    """The link as a process of its own, with the echo in its worker; ``lines`` are run before."""
    program = ["import client.link as link", f"link.HANDLER, link.PRELOAD = {ECHO!r}, ['client.policy']", *lines]
    command = [sys.executable, "-P", "-c", "\n".join([*program, "link.main()"]), str(hospital.node.folder)]
    environment = dict(os.environ) | {"PYTHONPATH": str(HOUSE)}
    with subprocess.Popen(command, env=environment) as started:
        try:
            yield started
        finally:
            started.kill()
