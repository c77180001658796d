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
from server.checkpoint import Checkpoint, State
from server.exchange import Exchange
from server.history import History, PhaseRecord, RoundRecord
from server.journal import Journaled
from server.masked import MaskedAggregation
from server.optimiser import ServerOptimiser
from server.phases import Phases, RoundError, entry
from shared.charter import Charter, TaskPlan
from shared.errors import CharterError, ProtocolError
from shared.header import Header
from shared.vector import Flat, Layout, Vector

OnRound = Callable[[RoundRecord], None]


@dataclass(frozen=True, eq=False)
class Result:
    """A finished run: the final model in its travelling form, and what happened."""

    model: Flat
    history: History


@dataclass
class _Work:
    """What a round changes: the model, what it is evaluated and released as, and how the next one will be reached."""

    optimiser: ServerOptimiser
    averages: MovingAverage
    model: Flat
    released: Flat

    @classmethod
    def of(cls, plan: TaskPlan, initial: Flat, saved: State | None) -> "_Work":
        model = replace(initial, vector=saved.model) if saved else initial
        made = cls(ServerOptimiser.of(plan, model.vector), MovingAverage(plan.average), model, model)
        if saved:
            made.optimiser.restore(saved.optimiser)
            made.averages.restore(saved.average)
            made.released = replace(initial, vector=saved.released)
        return made

    def step(self, average: Vector) -> None:
        self.model = replace(self.model, vector=self.optimiser.step(average))
        self.released = replace(self.model, vector=self.averages.add(self.model.vector))

    def state(
        self, number: int, rounds: tuple[RoundRecord, ...], phases: Phases, aggregation: MaskedAggregation
    ) -> State:
        return State(
            round=number,
            model=self.model.vector,
            released=self.released.vector,
            optimiser=self.optimiser.state(),
            average=self.averages.state(),
            rounds=rounds,
            declined=phases.declined,
            last_epoch=aggregation.last_epoch,
            book=aggregation.book,
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
        checkpoint: Where the run is kept, so that another process can go on with it; None keeps nothing.
        publish: Gives the newest checkpoint of ``log``, which every round shows the sites.

    Raises:
        CharterError: A checkpoint is asked for where there are no masks.
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
        checkpoint: Checkpoint | None = None,
        publish: Callable[[], str] | None = None,
    ) -> None:
        if checkpoint and charter.masking is None:
            raise CharterError(
                f"the charter {charter.id} has no secure aggregation, and only masked answers are kept on a disk",
                hint="run it without a checkpoint",
            )
        self._checkpoint = checkpoint
        self._charter, self._plan, self._layout, self._log = charter, charter.task(task), layout, log
        self._on_round, self._publish = on_round, publish
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

        Where the checkpoint holds rounds of this run, they are not done again, and the round under way goes on where
        its journal ends.

        Raises:
            OutputError, RecordError: The checkpoint cannot be written, or is damaged.
            ProtocolError: Fewer sites than the charter needs gave a usable answer in a phase; it names the others. Or
                the model never changed: nothing was learnt.
            RecordError: The audit log cannot be written.
        """
        try:
            return self._run(exchange, initial)
        except RoundError as error:
            self._failed = error.record
            raise

    def _run(self, exchange: Exchange, initial: Flat) -> Result:
        checkpoint, plan = self._checkpoint, self._plan
        journaled = Journaled(exchange) if checkpoint else None
        saved = checkpoint.load() if checkpoint else None
        self._rounds = list(saved.rounds) if saved else []
        phases = Phases(
            journaled or exchange,
            self._log,
            self._charter.deadline,
            declined=saved.declined if saved else (),
            publish=self._publish,
        )
        aggregation = self._aggregation(phases, exchange)
        work = _Work.of(plan, initial, saved)
        if saved and isinstance(aggregation, MaskedAggregation):
            aggregation.restore(saved.last_epoch, saved.book)
        for number in range(saved.round + 1 if saved else 0, plan.rounds + 1):
            if checkpoint and journaled:
                journaled.begin(checkpoint.journal(number))
            self._finish(self._round(aggregation, work, number))
            if checkpoint and isinstance(aggregation, MaskedAggregation):
                checkpoint.save(work.state(number, tuple(self._rounds), phases, aggregation))
        if self._layout.digest(work.model) == self._layout.digest(initial):
            raise ProtocolError(
                "the run did not change the model in any round",
                hint="look at the rates in the charter and at the sites",
            )
        return Result(work.released, self.history)

    def _aggregation(self, phases: Phases, exchange: Exchange) -> Aggregation:
        charter = self._charter
        if charter.masking is not None:
            return MaskedAggregation(charter, phases, self._layout)
        if len(exchange.sites) < charter.min_sites:
            raise ProtocolError(
                f"connected sites: {len(exchange.sites)} of the {charter.min_sites} that the charter needs",
                hint="wait for the others, or lower min_sites in the charter",
            )
        return PlainAggregation(charter, phases, self._layout)

    def _round(self, aggregation: Aggregation, work: "_Work", number: int) -> RoundRecord:
        """One round; round 0 evaluates the initial model."""
        if number == 0:
            return RoundRecord(
                0, None, self._evaluate(aggregation, 0, work.model), 0.0, 0.0, self._layout.digest(work.model)
            )
        phase, aggregate = aggregation.train(self._at(number, work.model), work.model)
        work.step(aggregate.average)
        wanted = number % self._plan.evaluate_every == 0 or number == self._plan.rounds
        evaluation = self._evaluate(aggregation, number, work.released) if wanted else None
        digest = self._layout.digest(work.released)
        return RoundRecord(number, phase, evaluation, aggregate.weight, aggregate.norm, digest)

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
