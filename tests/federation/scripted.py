"""A grid whose hospitals answer what a test tells them to, and the pieces of messages that such tests share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from flwr.app import Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from compliance.log import AuditLog
from server.exchange import Exchange
from server.strategy import FederatedTraining, Result
from shared.charter import Charter
from shared.header import Header
from shared.vector import Layout
from shared.wire import EvaluateReply, EvaluateRequest, PlainBody, PlainSums, TrainReply, TrainRequest
from simulation.local_grid import set_identity

# What a hospital does with a request: answers, an Error of the transport, or nothing at all.
Behaviour = Callable[[RecordDict, str], Sequence[RecordDict | Error]]

WEIGHTS = {"a": np.array([1.0, 2.0, 3.0], np.float32), "b": np.array([[4.0], [5.0]], np.float32)}
LAYOUT = Layout.of(WEIGHTS)
MODEL = LAYOUT.flatten(WEIGHTS)
D = LAYOUT.size


class ScriptedGrid(Grid):
    """Node 101 is H1, node 102 is H2, and so on."""

    def __init__(self, behaviours: Sequence[Behaviour]) -> None:
        set_identity()
        self._behaviours = dict(enumerate(behaviours, start=101))
        self._replies: dict[str, list[Message]] = {}
        self._sent = 0
        self.waiting = 0
        self.most_waiting = 0

    @property
    def names(self) -> dict[int, str]:
        return {node: f"H{node - 100}" for node in self._behaviours}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            self._sent += 1
            number = f"message-{self._sent}"
            message.metadata.__dict__["_message_id"] = number
            ids.append(number)
            behaviour = self._behaviours[message.metadata.dst_node_id]
            answers = behaviour(message.content, message.metadata.message_type)
            self._replies[number] = [Message(answer, reply_to=message) for answer in answers]
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [reply for number in message_ids for reply in self._replies.pop(number, [])]

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def create_message(self, *args: object, **kwargs: object) -> Message:
        raise NotImplementedError

    def send_and_receive(self, *args: object, **kwargs: object) -> Iterable[Message]:
        raise AssertionError("the coordinator must not wait for all answers at once")

    def get_node_ids(self) -> Iterable[int]:
        return list(self._behaviours)

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=node, name=name) for node, name in self.names.items()]


def honest(
    site: str,
    update: Sequence[float] | np.ndarray = (1.0,) * D,
    *,
    weight: float = 1.0,
    change: Callable[[Header], Header] = lambda header: header,
    metrics: Mapping[str, float] | None = None,
) -> Behaviour:
    """A hospital that always answers with this update and one held-out slice; ``change`` makes it lie in the header."""

    def behave(content: RecordDict, kind: str) -> Sequence[RecordDict]:
        if kind == "evaluate":
            request = EvaluateRequest.from_record(content)
            return [EvaluateReply(request.header, site, PlainSums({"slices": 1.0, "mse": 0.5})).to_record()]
        header = change(TrainRequest.from_record(content).header)
        body = PlainBody(np.asarray(update, np.float32), weight, metrics or {})
        return [TrainReply(header, site, body).to_record()]

    return behave


def on_train(site: str, answers: Callable[[TrainRequest], Sequence[RecordDict | Error]]) -> Behaviour:
    """A hospital that evaluates honestly and answers a request to train as told."""

    def behave(content: RecordDict, kind: str) -> Sequence[RecordDict | Error]:
        if kind == "evaluate":
            return honest(site)(content, kind)
        return answers(TrainRequest.from_record(content))

    return behave


def run(
    behaviours: Sequence[Behaviour], rules: Charter, log: AuditLog, training: FederatedTraining | None = None
) -> Result:
    """Train with these hospitals; answers are looked for without waiting long."""
    grid = ScriptedGrid(behaviours)
    training = training or federated(rules, log)
    return training.start(Exchange(grid, lambda: grid.names, poll=0.001), MODEL)


def federated(rules: Charter, log: AuditLog) -> FederatedTraining:
    """The coordinator's side of a run of the toy task."""
    return FederatedTraining(rules, "toy", run="run-1", layout=LAYOUT, log=log)


def other_round(header: Header) -> Header:
    return replace(header, round=header.round + 1)
