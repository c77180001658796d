"""The round: ask, add up, step, evaluate, record.

This is a strategy for Flower's Message API, but not a subclass of its ``Strategy``. That class hands over all replies
of a round as one list, waits by ``send_and_receive``, has no word for a site that is missing, and takes a round in
which everybody failed for one that changed nothing; each of that would have to be overridden, and its records of arrays
and settings would stay unused, since a hospital takes its settings from the charter that it pinned.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from compliance.log import Action, AuditLog, Outcome, Scalar
from server.aggregation import Aggregation, PlainAggregation
from server.averaging import MovingAverage
from server.exchange import Exchange
from server.history import History, PhaseRecord, RoundRecord
from server.masked import MaskedAggregation
from server.optimiser import ServerOptimiser
from server.phases import Phases, RoundError, entry
from shared.charter import Charter
from shared.errors import ProtocolError
from shared.header import Header
from shared.vector import Flat, Layout

OnRound = Callable[[RoundRecord], None]


@dataclass(frozen=True, eq=False)
class Result:
    """A finished run: the final model in its travelling form, and what happened."""

    model: Flat
    history: History


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
            aggregation="plain" if self._charter.masking is None else "masked",
            rounds=tuple(self._rounds),
            failed=self._failed,
        )

    def start(self, exchange: Exchange, initial: Flat) -> Result:
        """Run every round of the plan from the model ``initial``.

        Raises:
            ProtocolError: Fewer sites than the charter needs gave a usable answer in a phase; it names the others. Or
                the model never changed: nothing was learnt.
            RecordError: The audit log cannot be written.
        """
        try:
            return self._run(self._aggregation(exchange), initial)
        except RoundError as error:
            self._failed = error.record
            raise

    def _aggregation(self, exchange: Exchange) -> Aggregation:
        charter = self._charter
        phases = Phases(exchange, self._log, charter.deadline)
        named = {member.name for member in charter.members}
        connected = [site for site in exchange.sites if charter.masking is None or site in named]
        if len(connected) < charter.min_sites:
            raise ProtocolError(
                f"connected sites: {len(connected)} of the {charter.min_sites} that the charter needs",
                hint="wait for the others, or lower min_sites in the charter",
            )
        if charter.masking is None:
            return PlainAggregation(charter, phases, self._layout)
        return MaskedAggregation(charter, phases, self._layout)

    def _run(self, aggregation: Aggregation, initial: Flat) -> Result:
        optimiser, averages = ServerOptimiser.of(self._plan, initial.vector), MovingAverage(self._plan.average)
        model = released = initial
        self._finish(RoundRecord(0, None, self._evaluate(aggregation, 0, model), 0.0, 0.0, self._layout.digest(model)))
        for number in range(1, self._plan.rounds + 1):
            phase, aggregate = aggregation.train(self._at(number, model), model)
            model = replace(model, vector=optimiser.step(aggregate.average))
            released = replace(model, vector=averages.add(model.vector))
            wanted = number % self._plan.evaluate_every == 0 or number == self._plan.rounds
            evaluation = self._evaluate(aggregation, number, released) if wanted else None
            digest = self._layout.digest(released)
            self._finish(RoundRecord(number, phase, evaluation, aggregate.weight, aggregate.norm, digest))
        if self._layout.digest(model) == self._layout.digest(initial):
            raise ProtocolError(
                "the run did not change the model in any round",
                hint="look at the rates in the charter and at the sites",
            )
        return Result(released, self.history)

    def _evaluate(self, aggregation: Aggregation, number: int, model: Flat) -> PhaseRecord | None:
        """How ``model`` does, where the charter lets scores leave the hospitals."""
        return aggregation.evaluate(self._at(number, model), model) if self._charter.scores_leave else None

    def _at(self, number: int, model: Flat) -> Header:
        return replace(self._header, round=number, model=self._layout.digest(model))

    def _finish(self, record: RoundRecord) -> None:
        facts: dict[str, Scalar] = {"model": record.model, "weight": record.weight, "norm": record.update_norm}
        self._log.append(entry(Action.ROUND, Outcome.OK, replace(self._header, round=record.round), facts))
        self._rounds.append(record)
        if self._on_round:
            self._on_round(record)
