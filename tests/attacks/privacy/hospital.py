"""A real hospital under patient-level privacy, and a coordinator that sends it whatever it likes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict

from client import budget
from client.app import app
from client.charge import Budget
from client.node import Node
from shared.charter import Charter
from shared.header import Header
from shared.imaging.tasks import get_task
from shared.vector import Flat, Layout
from shared.weights import weights_of
from shared.wire import EvaluateRequest, Refusal, TrainReply, TrainRequest, kind_of
from simulation.local_grid import set_identity
from tests.federation import toy

PRIVACY = {"mode": "patient", "noise_multiplier": 2.0, "sample_rate": 0.5, "scores": "masked"}
RULES = toy.charter(privacy=PRIVACY)
STATE = weights_of(get_task("toy").network(RULES.seed))
LAYOUT = Layout.of(STATE)
MODEL = LAYOUT.flatten(STATE)


def header(rules: Charter = RULES, **changes: Any) -> Header:
    return replace(Header(rules.id, rules.sha256, "run-1", 1, 1, "toy", LAYOUT.digest(MODEL)), **changes)


def send(folder: Path, content: RecordDict, kind: str) -> RecordDict:
    """What the real ClientApp answers."""
    set_identity()
    message = Message(content, dst_node_id=5, message_type=kind)
    message.metadata.__dict__["_message_id"] = "message-1"
    return app(message, Context(1, 5, {"node-dir": str(folder), "site": "H1"}, RecordDict(), {})).content


def train(folder: Path, request: Header | None = None, model: Flat = MODEL) -> RecordDict:
    return send(folder, TrainRequest(request or header(), LAYOUT.sha256, model).to_record(), "train")


def evaluate(folder: Path, request: Header) -> RecordDict:
    return send(folder, EvaluateRequest(request, LAYOUT.sha256, MODEL).to_record(), "evaluate")


def trained(content: RecordDict) -> bool:
    return kind_of(content) == TrainReply.kind


def refused(content: RecordDict) -> Refusal:
    assert kind_of(content) == Refusal.kind
    return Refusal.from_record(content)


def make_real(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy node as a hospital with patients; it would need masks as well, which are not what is attacked here."""
    about = (folder / "node.json").read_text()
    (folder / "node.json").write_text(about.replace('"virtual": true', '"virtual": false'))
    assert not Node.open(folder).virtual
    monkeypatch.setattr("client.masks.expected", lambda *_, **__: None)
    return toy.allow_all(folder)


def set_budget(folder: Path, epsilon: float, *, delta: float = 1e-5, patients: int = 4) -> None:
    """As the command of the hospital does, record and all."""
    budget.set_budget(Node.open(folder), Budget(epsilon, delta, patients), who="Ada", why="a test")


def details(folder: Path, action: str, outcome: str) -> list[Mapping[str, Any]]:
    rows = toy.log_rows(folder)
    return [row["detail"] for row in rows if (row["action"], row["outcome"]) == (action, outcome)]
