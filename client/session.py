"""A hospital at work on the requests of a federation: it decides, records, pays, trains and answers.

One order, for every request: read and check, decide by the pinned charter, make the record durable, charge the privacy
budget, act, record the outcome, answer. Where a step fails, those after it do not happen, and the answer is a refusal.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

from flwr.app import RecordDict
from torch import nn

from client.cohort import Split
from client.node import Node
from client.policy import decide
from client.training.charges import Charges, Receipt
from client.training.loop import price, train_round, usable
from compliance.log import Action, AuditLog, Entry, Outcome, Scalar
from shared.charter import Charter, TaskPlan
from shared.errors import BudgetError, DataError, FedwardError, PolicyError, ProtocolError, RecordError
from shared.imaging.images import PatientImages
from shared.imaging.tasks import Sums, Task, get_task
from shared.records import record_bytes
from shared.vector import Layout
from shared.weights import load_weights, weights_of
from shared.wire import (
    EvaluateReply,
    EvaluateRequest,
    Header,
    PlainBody,
    Refusal,
    RefusalCode,
    TrainReply,
    TrainRequest,
)

RequestT = TypeVar("RequestT", TrainRequest, EvaluateRequest)

_CODES: tuple[tuple[type[FedwardError], RefusalCode], ...] = (
    (PolicyError, "policy"),
    (BudgetError, "budget"),
    (ProtocolError, "protocol"),
    (RecordError, "record"),
)


@dataclass(frozen=True)
class _Bench:
    """What one task needs, kept between requests: the network to load weights into, and the patients."""

    task: Task
    network: nn.Module
    layout: Layout
    train: tuple[PatientImages, ...]
    held_out: tuple[PatientImages, ...]


@dataclass
class Session:
    """An open node. Everything it keeps is read again from the folder by the next session; nothing rests on it.

    Attributes:
        node: The node.
        log: The audit log, held by this session alone.
        charter: The pinned charter; read again for every request, since the hospital may pin another one.
    """

    node: Node
    log: AuditLog
    charter: Charter
    _benches: dict[str, _Bench] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the node in ``folder``.

        Raises:
            FedwardError: There is no node, no charter, or the log cannot be written.
        """
        node = Node.open(folder)
        charter = node.charter
        return cls(node, node.open_log(), charter)

    def close(self) -> None:
        """Release the audit log."""
        self.log.close()

    def train(self, content: RecordDict) -> RecordDict:
        """Answer a request for a round of training with a :class:`TrainReply` or a :class:`Refusal`."""
        return self._answer(content, TrainRequest.from_record, self._train)

    def evaluate(self, content: RecordDict) -> RecordDict:
        """Answer a request for an evaluation with an :class:`EvaluateReply` or a :class:`Refusal`."""
        return self._answer(content, EvaluateRequest.from_record, self._evaluate)

    def _answer(
        self,
        content: RecordDict,
        read: Callable[[RecordDict], RequestT],
        act: Callable[[RequestT], RecordDict],
    ) -> RecordDict:
        header: Header | None = None
        try:
            self.charter = self.node.charter
            request = read(content)
            header = request.header
            received: dict[str, Scalar] = {"bytes": record_bytes(content), "model": header.model}
            self.log.append(self._entry(Action.MESSAGE_IN, Outcome.OK, header, received))
            return act(request)
        except Exception as error:  # noqa: BLE001  # the boundary of the process: a request must not end the node
            return self._refuse(error, header)

    def _refuse(self, error: Exception, header: Header | None) -> RecordDict:
        """Record and say why a request is not done. Only policy and protocol errors speak: others may quote data."""
        code: RefusalCode = next((code for kind, code in _CODES if isinstance(error, kind)), "error")
        reason = error.message if isinstance(error, PolicyError | ProtocolError) else type(error).__name__
        refusal = Refusal(self.node.site, code, "".join(c for c in reason if c.isprintable())[:300], header)
        detail: dict[str, Scalar] = {"code": code, "reason": refusal.reason}
        reply = refusal.to_record()
        self.log.append_many(
            [
                self._entry(Action.REFUSAL, Outcome.REFUSED, header, detail),
                self._entry(Action.MESSAGE_OUT, Outcome.STARTED, header, {"bytes": record_bytes(reply)}),
            ]
        )
        return reply

    def _train(self, request: TrainRequest) -> RecordDict:
        header = request.header
        bench = self._prepare(request, training=True)
        plan = self.charter.task(header.task)
        facts: dict[str, Scalar] = {"patients": len(bench.train), "steps": plan.local_steps}
        with self._act(Action.TRAIN, header, facts):
            receipt = self._pay(header, plan, bench)
            outcome = train_round(
                bench.task,
                bench.network,
                bench.train,
                plan,
                round_number=header.round,
                privacy=self.charter.privacy,
                seed=self._seed(header.task) if receipt is None else None,
                receipt=receipt,
            )
            local = bench.layout.flatten(weights_of(bench.network)).vector
            metrics = {} if outcome.loss_sum is None else {"loss": outcome.loss_sum, "samples": float(outcome.samples)}
            weight = float(sum(patient.slices for patient in bench.train)) if receipt is None else 1.0
            body = PlainBody(local - request.model.vector, weight, metrics)
            reply = TrainReply(header, self.node.site, body).to_record()
        return self._sent(Action.TRAIN, header, reply, {"steps": outcome.steps, "noise": outcome.noise})

    def _evaluate(self, request: EvaluateRequest) -> RecordDict:
        header = request.header
        bench = self._prepare(request, training=False)
        with self._act(Action.EVALUATE, header, {"patients": len(bench.held_out)}):
            total = Sums.zero()
            for patient in bench.held_out:
                for study in patient.studies:
                    total = total + bench.task.score(bench.task.predict(bench.network, study), study)
            reply = EvaluateReply(header, self.node.site, total.values).to_record()
        return self._sent(Action.EVALUATE, header, reply, {})

    def _prepare(self, request: TrainRequest | EvaluateRequest, *, training: bool) -> _Bench:
        """Decide, then load the request's model.

        Raises:
            PolicyError: The pinned charter or this hospital's terms forbid it.
            ProtocolError: The model is not what the header says, or not one for this network.
            DataError: There is nobody to evaluate on.
        """
        header = request.header
        # First without looking at any image, as if there were patients enough; then with those that there are.
        self._decide(header, self.charter.min_patients, training=training)
        bench = self._bench(header.task)
        self._decide(header, len(bench.train), training=training)
        if not training and not bench.held_out:
            raise DataError("no patient is held out", hint="build the cohort again")
        if request.layout != bench.layout.sha256:
            raise ProtocolError("the model's layout is not that of this network", hint="install the same release")
        state = bench.layout.restore(request.model)
        if bench.layout.digest(request.model) != header.model:
            raise ProtocolError("the model is not the one that the header names", hint="send the round again")
        load_weights(bench.network, state)
        return bench

    def _decide(self, header: Header, patients: int, *, training: bool) -> None:
        decision = decide(header, self.charter, purpose=self.node.purpose, patients=patients, training=training)
        if not decision.allowed:
            raise PolicyError(decision.reason)

    def _bench(self, name: str) -> _Bench:
        if name not in self._benches:
            task, cohort = get_task(name), self.node.cohort
            network = task.network(self.charter.seed)
            train, held_out = (tuple(usable(task, cohort.load_split(split))) for split in (Split.TRAIN, Split.HELD_OUT))
            self._benches[name] = _Bench(task, network, Layout.of(weights_of(network)), train, held_out)
        return self._benches[name]

    def _pay(self, header: Header, plan: TaskPlan, bench: _Bench) -> Receipt | None:
        """Charge the round before it trains; None where the pinned charter asks for no differential privacy."""
        privacy = self.charter.privacy
        if privacy.mode == "off":
            return None
        charge = price(bench.task, bench.train, plan, privacy, round_number=header.round)
        detail: dict[str, Scalar] = {
            "unit": "patient",
            "steps": charge.steps,
            "noise_multiplier": charge.noise_multiplier,
            "sample_rate": charge.sample_rate,
        }
        self.log.append(self._entry(Action.PRIVACY_CHARGE, Outcome.STARTED, header, detail))
        with Charges(self.node.charges(header.run)) as charges:
            receipt = charges.append(charge)
        self.log.append(self._entry(Action.PRIVACY_CHARGE, Outcome.OK, header, detail))
        return receipt

    def _seed(self, task: str) -> int:
        """Seed of training without differential privacy: the charter's, made this site's and this task's own."""
        text = f"{self.charter.seed}|{self.node.site}|{task}".encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:6], "big")

    @contextlib.contextmanager
    def _act(self, action: Action, header: Header, facts: dict[str, Scalar]) -> Iterator[None]:
        """Record that the act begins; and if it fails, that it failed."""
        self.log.append(self._entry(action, Outcome.STARTED, header, facts))
        try:
            yield
        except BaseException as error:
            with contextlib.suppress(RecordError):
                self.log.append(self._entry(action, Outcome.FAILED, header, {"error": type(error).__name__}))
            raise

    def _sent(self, action: Action, header: Header, reply: RecordDict, facts: dict[str, Scalar]) -> RecordDict:
        """Record that the act is done and that ``reply`` leaves, with one fsync, before it leaves."""
        self.log.append_many(
            [
                self._entry(action, Outcome.OK, header, facts),
                self._entry(Action.MESSAGE_OUT, Outcome.STARTED, header, {"bytes": record_bytes(reply)}),
            ]
        )
        return reply

    def _entry(self, action: Action, outcome: Outcome, header: Header | None, detail: dict[str, Scalar]) -> Entry:
        if header is None:
            return Entry(action, outcome, detail=detail)
        return Entry(action, outcome, run=header.run, round=header.round, detail={"task": header.task, **detail})
