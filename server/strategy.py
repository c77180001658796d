"""The round: ask, check, add up, step, evaluate, record.

This is a strategy for Flower's Message API, but not a subclass of its ``Strategy``. That class hands over all replies
of a round as one list, waits by ``send_and_receive``, has no word for a site that is missing, and takes a round in
which everybody failed for one that changed nothing; each of that would have to be overridden, and its records of arrays
and settings would stay unused, since a hospital takes its settings from the charter that it pinned.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from flwr.app import RecordDict

from compliance.log import Action, AuditLog, Entry, Outcome, Scalar
from server.exchange import Arrival, Exchange
from server.history import History, PhaseRecord, RoundRecord
from server.optimiser import ServerOptimiser
from server.tally import Aggregate, PlainTally, add_sums
from shared.charter import Charter
from shared.errors import ProtocolError
from shared.records import record_bytes
from shared.vector import Flat, Layout
from shared.wire import (
    MAX_WEIGHT,
    EvaluateReply,
    EvaluateRequest,
    Header,
    Refusal,
    TrainReply,
    TrainRequest,
    kind_of,
)

OnRound = Callable[[RoundRecord], None]
# Reads and checks the answer of a site, takes it into the phase, and returns its sums.
Take = Callable[[RecordDict, str], Mapping[str, float]]


@dataclass(frozen=True, eq=False)
class Result:
    """A finished run: the final model in its travelling form, and what happened."""

    model: Flat
    history: History


@dataclass
class _Phase:
    """A phase while it is under way."""

    asked: tuple[str, ...]
    down: int
    began: float = field(default_factory=time.monotonic)
    answered: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    up: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def close(self) -> PhaseRecord:
        heard = {*self.answered, *self.refused, *self.dropped}
        return PhaseRecord(
            seconds=time.monotonic() - self.began,
            asked=self.asked,
            answered=tuple(self.answered),
            missing=tuple(site for site in self.asked if site not in heard),
            refused=dict(self.refused),
            dropped=dict(self.dropped),
            bytes_down=self.down * len(self.asked),
            bytes_up=self.up,
            sums=dict(self.sums),
        )


class FederatedTraining:
    """Trains one task of a charter with the sites behind an :class:`~server.exchange.Exchange`.

    Args:
        charter: The charter that every site pinned.
        task: Name of one of its tasks.
        run: Id of the run.
        layout: Layout of the model.
        log: The coordinator's audit log.
        on_round: Called after every round, for progress.
    """

    def __init__(
        self,
        charter: Charter,
        task: str,
        *,
        run: str,
        layout: Layout,
        log: AuditLog,
        on_round: OnRound | None = None,
    ) -> None:
        self._charter, self._plan, self._layout, self._log = charter, charter.task(task), layout, log
        self._on_round = on_round
        self._header = Header(charter.id, charter.sha256, run, 0, 1, task, "0" * 64)
        self._unwilling: set[str] = set()
        self._rounds: list[RoundRecord] = []
        self._failed: PhaseRecord | None = None

    @property
    def history(self) -> History:
        """What happened so far."""
        head = self._header
        return History(
            federation=head.federation,
            charter=head.charter,
            run=head.run,
            task=head.task,
            parameters=self._layout.size,
            optimiser=self._plan.server_optimizer,
            rounds=tuple(self._rounds),
            failed=self._failed,
        )

    def start(self, exchange: Exchange, initial: Flat) -> Result:
        """Run every round of the plan from the model ``initial``.

        Raises:
            ProtocolError: Fewer sites than the charter's ``min_sites`` gave a usable answer in a phase; it names the
                others. Or the model never changed: nothing was learnt.
            RecordError: The audit log cannot be written.
        """
        if len(exchange.sites) < self._charter.min_sites:
            raise ProtocolError(
                f"connected sites: {len(exchange.sites)} of the {self._charter.min_sites} that the charter needs",
                hint="wait for the others, or lower min_sites in the charter",
            )
        optimiser = ServerOptimiser.of(self._plan, initial.vector)
        model = initial
        self._finish(RoundRecord(0, None, self._evaluate(exchange, 0, model), 0.0, 0.0, self._layout.digest(model)))
        for number in range(1, self._plan.rounds + 1):
            phase, aggregate = self._train(exchange, number, model)
            model = replace(model, vector=optimiser.step(aggregate.average))
            wanted = number % self._plan.evaluate_every == 0 or number == self._plan.rounds
            evaluation = self._evaluate(exchange, number, model) if wanted else None
            digest = self._layout.digest(model)
            self._finish(RoundRecord(number, phase, evaluation, aggregate.weight, aggregate.norm, digest))
        if self._layout.digest(model) == self._layout.digest(initial):
            raise ProtocolError(
                "the run did not change the model in any round",
                hint="look at the rates in the charter and at the sites",
            )
        return Result(model, self.history)

    def _train(self, exchange: Exchange, number: int, model: Flat) -> tuple[PhaseRecord, Aggregate]:
        private = self._charter.privacy.mode != "off"
        tally = PlainTally(self._layout.size, max_weight=MAX_WEIGHT, fixed_weight=1.0 if private else None)
        request = TrainRequest(self._at(number, model), self._layout.sha256, model)

        def take(content: RecordDict, site: str) -> Mapping[str, float]:
            reply = TrainReply.from_record(content)
            _belongs(reply, request.header, site)
            tally.add(reply.body)
            return reply.body.metrics

        return self._phase(exchange, request, "train", take), tally.close()

    def _evaluate(self, exchange: Exchange, number: int, model: Flat) -> PhaseRecord:
        request = EvaluateRequest(self._at(number, model), self._layout.sha256, model)

        def take(content: RecordDict, site: str) -> Mapping[str, float]:
            reply = EvaluateReply.from_record(content)
            _belongs(reply, request.header, site)
            return reply.sums

        return self._phase(exchange, request, "evaluate", take)

    def _phase(self, exchange: Exchange, request: TrainRequest | EvaluateRequest, kind: str, take: Take) -> PhaseRecord:
        """Ask every site that is willing, and take what each one answers.

        Raises:
            ProtocolError: Fewer than ``min_sites`` answers could be taken.
        """
        header, content = request.header, request.to_record()
        phase = _Phase(tuple(site for site in exchange.sites if site not in self._unwilling), record_bytes(content))
        sent: dict[str, Scalar] = {"phase": kind, "bytes": phase.down, "model": header.model}
        self._log.append_many(
            [_entry(Action.MESSAGE_OUT, Outcome.STARTED, header, {**sent, "site": site}) for site in phase.asked]
        )
        for arrival in exchange.ask(content, kind, phase.asked, self._charter.deadline):
            self._hear(arrival, phase, take)
        record = phase.close()
        self._log.append_many(_heard(record, header, kind))
        if len(record.answered) < self._charter.min_sites:
            self._failed = record
            raise _too_few(record, header, kind, self._charter.min_sites)
        return record

    def _hear(self, arrival: Arrival, phase: _Phase, take: Take) -> None:
        """One answer: into the sum, or into the record under its sender's name. Nothing that a site sends is fatal."""
        site, content = arrival.site, arrival.content
        if site in phase.answered:
            phase.dropped[site] = "a second answer"
        elif content is None:
            phase.dropped[site] = arrival.failure
        else:
            phase.up += record_bytes(content)
            try:
                if kind_of(content) == Refusal.kind:
                    refusal = Refusal.from_record(content)
                    phase.refused[site] = f"{refusal.code}: {refusal.reason}"
                    if refusal.code == "policy":  # a decision of the hospital: it is not asked again in this run
                        self._unwilling.add(site)
                else:
                    add_sums(phase.sums, take(content, site))
                    phase.answered.append(site)
            except ProtocolError as error:
                phase.dropped[site] = error.message

    def _at(self, number: int, model: Flat) -> Header:
        return replace(self._header, round=number, model=self._layout.digest(model))

    def _finish(self, record: RoundRecord) -> None:
        facts: dict[str, Scalar] = {"model": record.model, "weight": record.weight, "norm": record.update_norm}
        self._log.append(_entry(Action.ROUND, Outcome.OK, replace(self._header, round=record.round), facts))
        self._rounds.append(record)
        if self._on_round:
            self._on_round(record)


def _belongs(reply: TrainReply | EvaluateReply, header: Header, site: str) -> None:
    """Refuse an answer to another request, or one that another site's node passed on."""
    if reply.header != header:
        other = next(name for name, value in vars(header).items() if getattr(reply.header, name) != value)
        raise ProtocolError(f"the answer is to another {other}")
    if reply.site != site:
        raise ProtocolError(f"the answer is from {reply.site}, but came from the node of {site}")


def _heard(record: PhaseRecord, header: Header, kind: str) -> list[Entry]:
    rows = [(site, Outcome.OK, "") for site in record.answered]
    rows += [(site, Outcome.REFUSED, reason) for site, reason in record.refused.items()]
    rows += [(site, Outcome.FAILED, reason) for site, reason in record.dropped.items()]
    rows += [(site, Outcome.FAILED, "no answer in time") for site in record.missing]
    entries = []
    for site, outcome, reason in rows:
        facts: dict[str, Scalar] = {"phase": kind, "site": site}
        if reason:
            facts["reason"] = reason
        entries.append(_entry(Action.MESSAGE_IN, outcome, header, facts))
    return entries


def _entry(action: Action, outcome: Outcome, header: Header, facts: dict[str, Scalar]) -> Entry:
    return Entry(action, outcome, run=header.run, round=header.round, detail={"task": header.task, **facts})


def _too_few(record: PhaseRecord, header: Header, kind: str, wanted: int) -> ProtocolError:
    parts = [f"no answer: {', '.join(record.missing)}"] if record.missing else []
    for what, reasons in (("refused", record.refused), ("not usable", record.dropped)):
        if reasons:
            parts.append(f"{what}: " + ", ".join(f"{site} ({reason})" for site, reason in reasons.items()))
    return ProtocolError(
        f"{header.task}, round {header.round}, {kind}: {len(record.answered)} usable answers, {wanted} are needed; "
        + "; ".join(parts),
        hint="bring these sites back, or lower min_sites in the charter, and start the run again",
    )
