"""Rounds in which the coordinator sees sums and no hospital's update, weight or metric (docs/secure-aggregation.md).

An epoch of keys is agreed with every hospital that answers and serves :data:`EPOCH_ROUNDS` rounds, dealt for at once; a
round takes three questions: the work itself, who is in the sum, and the shares that take the masks off. A hospital may
fall silent between any two. What fails is repeated in a new epoch, when enough hospitals are connected: one that is
lost stays out, and one that is back, or that lost its ledger, comes in again. One that was not there when an epoch
began, and is now, begins a new one too.
"""

import itertools
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from flwr.app import RecordDict

from server.checkpoint import Book
from server.exchange import LinkError
from server.history import PhaseRecord, Traffic
from server.phases import Phases, RoundError, belongs, trouble
from server.tally import Aggregate
from shared.charter import Charter
from shared.errors import ProtocolError
from shared.header import Header
from shared.imaging.tasks import get_task
from shared.noise_shares import NoisePlan
from shared.schedule import local_rate
from shared.secagg.codec import Average
from shared.secagg.epoch import Epoch
from shared.secagg.round_messages import RoundTask
from shared.secagg.setup_messages import AdvertiseRequest, KemRequest
from shared.secagg.tally import Outcome, Tally
from shared.vector import Flat, Layout
from shared.wire import TRAIN_SUMS, EvaluateReply, EvaluateRequest, MaskedBody, TrainReply, TrainRequest
from shared.wire_masks import MaskReply, MaskRequest, Step, message_type

EPOCH_ROUNDS = 64
"""Rounds of an epoch: each costs every hospital some hundred bytes of deal for each other one."""
ATTEMPTS = 3
"""Of a round, before the run ends in an error; so many more each time that it is resumed after that."""
_THREADS = min(4, len(os.sched_getaffinity(0)))  # take masks off; cryptography releases the GIL
_SET_UP = frozenset({"advertise", "kem", "share"})

Payload = Callable[[int], bytes]
Hear = Callable[[bytes], int]


def epoch_now() -> int:
    """A number for a new epoch: milliseconds since 1970, so that it is above those of runs before this one."""
    return time.time_ns() // 1_000_000


@dataclass
class _Trail:
    """The phases of a round, repeated attempts included, that become one record; ``header`` is of the attempt."""

    header: Header
    records: list[PhaseRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    faults: tuple[str, ...] = ()

    def record(self, answered: tuple[str, ...], sums: Mapping[str, float]) -> PhaseRecord:
        refused: dict[str, str] = {}
        dropped: dict[str, str] = {}
        traffic: dict[str, Traffic] = {}
        for one in self.records:
            refused |= one.refused
            dropped |= one.dropped
            for kind, more in one.traffic.items():
                traffic[kind] = traffic[kind] + more if kind in traffic else more
        asked = sorted({site for one in self.records for site in one.asked})
        silent = {site for one in self.records for site in one.missing}
        return PhaseRecord(
            seconds=sum(one.seconds for one in self.records),
            asked=tuple(asked),
            answered=answered,
            missing=tuple(site for site in asked if site in silent),
            refused=refused,
            dropped=dropped,
            sums=dict(sums),
            traffic=traffic,
            notes=(*self.notes, *self.faults),
        )


class MaskedAggregation:
    """Secure aggregation among the members of the charter that are connected.

    Args:
        charter: The charter of the run, with ``masking``.
        phases: The line to the sites.
        layout: Layout of the model.
        number: Gives the number of a new epoch.
    """

    def __init__(
        self, charter: Charter, phases: Phases, layout: Layout, *, number: Callable[[], int] = epoch_now
    ) -> None:
        self._charter, self._phases, self._layout, self._number = charter, phases, layout, number
        self._federation = charter.federation
        self._names = {peer.index: peer.name for peer in self._federation.peers}
        self._indices = {name: index for index, name in self._names.items()}
        self._wanted = max(charter.min_sites, self._federation.quorum)
        self._epoch: Epoch | None = None
        self._messages: dict[str, tuple[bytes, ...]] = {}
        self._invited: tuple[str, ...] = ()
        self._last_epoch = -1
        self._round = 0  # of the epoch, used up

    @property
    def last_epoch(self) -> int:
        """The number of the newest epoch, or -1."""
        return self._last_epoch

    @property
    def book(self) -> Book | None:
        """The epoch at hand, for a checkpoint."""
        if self._epoch is None:
            return None
        return Book(self._epoch.number, self._round, self._invited, self._messages)

    def restore(self, last_epoch: int, book: Book | None) -> None:
        """Go on from a checkpoint.

        Raises:
            ProtocolError: The messages of ``book`` are not those of an epoch of this federation.
        """
        self._last_epoch, self._epoch = last_epoch, None
        if book is None:
            return
        epoch = Epoch(self._federation, book.number)
        for raw in book.messages.get("advertise", ()):
            epoch.advert(raw)
        epoch.adverts()
        for raw in book.messages.get("kem", ()):
            epoch.kem(raw)
        for raw in book.messages.get("share", ()):
            epoch.deal(raw)
        self._epoch, self._round, self._invited, self._messages = epoch, book.used, book.invited, dict(book.messages)

    def train(self, header: Header, model: Flat) -> tuple[PhaseRecord, Aggregate]:
        """See :class:`server.aggregation.Aggregation`."""
        names = TRAIN_SUMS if self._charter.privacy.mode == "off" else ()
        record, outcome = self._repeat(TrainRequest(header, self._layout.sha256, model), self._layout.size, names)
        average = self._average(outcome, header)
        return record, Aggregate(
            average.astype(np.float32), outcome.weight, outcome.metrics, float(np.linalg.norm(average))
        )

    def evaluate(self, header: Header, model: Flat) -> PhaseRecord:
        """See :class:`server.aggregation.Aggregation`."""
        names = get_task(header.task).sums
        return self._repeat(EvaluateRequest(header, self._layout.sha256, model), 0, names)[0]

    def _average(self, outcome: Outcome, header: Header) -> Average:
        """The averaged update; of a shared step, which comes as a noisy sum of gradients, what the step makes of it."""
        if self._charter.privacy.mode != "distributed":
            return outcome.average
        rate = local_rate(self._charter.task(header.task), header.round)
        return NoisePlan.of(self._charter).update(outcome.average, rate)

    def _repeat(
        self, request: TrainRequest | EvaluateRequest, size: int, names: tuple[str, ...]
    ) -> tuple[PhaseRecord, Outcome]:
        """A round, and if it fails once more under other keys."""
        trail, request = _Trail(request.header), replace(request, record=self._phases.shown())
        for attempt in itertools.count(1):
            trail.header = replace(request.header, attempt=attempt)
            again = replace(request, header=trail.header)
            try:
                outcome = self._attempt(again, size, names, trail)
            except LinkError as error:  # no attempt has failed: what is in a journal goes on when there is a link
                raise self._failed(request, trail, error.message, error.hint) from error
            except ProtocolError as error:
                trail.notes.append(f"attempt {attempt}: {error.message}")
                self._epoch = None
                if attempt % ATTEMPTS == 0 and not self._phases.line.go_on():
                    break
                continue
            trail.faults = outcome.faults
            return trail.record(tuple(self._names[index] for index in outcome.included), outcome.metrics), outcome
        raise self._failed(
            request,
            trail,
            f"no sum after {attempt} attempts, the last because {trail.notes[-1].partition(': ')[2]}; "
            f"{trouble(trail.records[-1] if trail.records else trail.record((), {})) or 'every site answered'}",
            f"{self._wanted} sites must take part to the end: look at those named, and resume the run",
        )

    def _failed(self, request: TrainRequest | EvaluateRequest, trail: _Trail, why: str, hint: str) -> RoundError:
        header, kind = request.header, request.kind.partition(".")[0]
        text = f"{header.task}, round {header.round}, {kind}: {why}"
        return RoundError(text, hint=hint, record=trail.record((), {}))

    def _attempt(
        self, request: TrainRequest | EvaluateRequest, size: int, names: tuple[str, ...], trail: _Trail
    ) -> Outcome:
        present = self._phases.wait(tuple(self._indices), self._wanted)
        epoch = self._ready(trail, present)
        self._round += 1
        there = {self._indices[site] for site in present}
        task = RoundTask(
            epoch=epoch.number,
            round=self._round,
            participants=tuple(index for index in epoch.ready(self._round) if index in there),
            size=size,
            model=bytes.fromhex(trail.header.model),
            config=request.digest,
            metrics=names,
        )
        self._enough(len(task.participants), "sites have keys for it")
        tally = Tally(epoch, task, workers=_THREADS)
        self._collect(replace(request, masking=task.to_bytes()), task, tally, trail)
        self._enough(len(tally.included), "masked answers came")
        confirm = tally.confirm_request()
        threshold = self._federation.threshold
        self._ask(trail, "confirm", tally.included, lambda _: confirm, tally.confirmation, enough=threshold)
        self._ask(trail, "unmask", tally.included, tally.unmask_request, tally.reveal, enough=threshold)
        return tally.finish()

    def _collect(self, request: TrainRequest | EvaluateRequest, task: RoundTask, tally: Tally, trail: _Trail) -> None:
        """The work itself: every masked answer goes into the sum as it comes."""
        reply_type = TrainReply if isinstance(request, TrainRequest) else EvaluateReply

        def take(content: RecordDict, site: str) -> Mapping[str, float]:
            reply = reply_type.from_record(content)
            belongs(reply, request.header, site)
            if not isinstance(reply.body, MaskedBody):
                raise ProtocolError("the answer is not masked, which nobody may send; it was not read")
            tally.absorb(self._indices[site], reply.body.upload)
            return {}

        contents = dict.fromkeys((self._names[index] for index in task.participants), request.to_record())
        kind = request.kind.partition(".")[0]
        trail.records.append(self._phases.ask(request.header, kind, contents, take, enough=self._wanted))

    def _ready(self, trail: _Trail, present: Sequence[str]) -> Epoch:
        """The epoch at hand; or a new one where there is none, it is used up, or it lacks some of ``present``.

        Who was asked to come into it, and did not, waits for the next one, but for those who have been away since.
        """
        self._invited = tuple(site for site in self._invited if site in present)
        if self._epoch is not None and self._round < EPOCH_ROUNDS:
            ready = {self._names[index] for index in self._epoch.ready(self._round + 1)}
            if len(ready.intersection(present)) >= self._wanted and ready.union(self._invited).issuperset(present):
                return self._epoch
        self._epoch, self._round, self._messages, self._invited = None, 0, {}, tuple(present)
        self._last_epoch = self._phases.line.once("epoch", lambda: max(self._number(), self._last_epoch + 1))
        epoch = Epoch(self._federation, self._last_epoch)
        begin = AdvertiseRequest(epoch.number).to_bytes()
        everyone = tuple(self._indices[site] for site in present)
        self._ask(trail, "advertise", everyone, lambda _: begin, epoch.advert, enough=self._wanted)
        self._enough(len(epoch.members), "sites sent keys")
        adverts = epoch.adverts()
        if self._federation.post_quantum:
            offer = KemRequest(epoch.number, adverts).to_bytes()
            self._ask(trail, "kem", epoch.members, lambda _: offer, epoch.kem, enough=len(epoch.members))
        share = partial(epoch.share_request, first=1, count=EPOCH_ROUNDS)
        self._ask(trail, "share", epoch.members, share, epoch.deal, enough=self._wanted)
        self._epoch = epoch
        return epoch

    def _ask(
        self, trail: _Trail, step: Step, indices: Iterable[int], payload: Payload, hear: Hear, *, enough: int
    ) -> None:
        """One step of secure aggregation with the members of those indices."""

        def take(content: RecordDict, site: str) -> Mapping[str, float]:
            reply = MaskReply.from_record(content)
            belongs(reply, trail.header, site)
            if reply.step != step:
                raise ProtocolError("the answer is to another step")
            sender = hear(reply.payload)
            if step in _SET_UP:  # whoever passed it on: it is in the epoch now
                self._messages[step] = (*self._messages.get(step, ()), reply.payload)
            if sender != self._indices[site]:
                raise ProtocolError("the answer was signed by another hospital than the one that sent it")
            return {}

        contents = {
            self._names[index]: MaskRequest(trail.header, step, payload(index)).to_record() for index in indices
        }
        trail.records.append(self._phases.ask(trail.header, message_type(step), contents, take, enough=enough))

    def _enough(self, count: int, what: str) -> None:
        if count < self._wanted:
            raise ProtocolError(f"{count} {what}, {self._wanted} are needed", hint="bring the others back")
