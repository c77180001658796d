"""Rounds in which the coordinator sees sums and no hospital's update, weight or metric (docs/secure-aggregation.md).

An epoch of keys is agreed with every hospital that answers and serves :data:`EPOCH_ROUNDS` rounds, dealt for at once; a
round takes three questions: the work itself, who is in the sum, and the shares that take the masks off. A hospital may
fall silent between any two. What fails is repeated in a new epoch, from which a hospital that is lost stays out and
into which one that is back, or that lost its ledger, comes again.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from flwr.app import RecordDict

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
_THREADS = min(4, len(os.sched_getaffinity(0)))  # take masks off; cryptography releases the GIL

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
        self._last_epoch = -1
        self._round = 0  # of the epoch, used up

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
        trail = _Trail(request.header)
        for attempt in range(1, ATTEMPTS + 1):
            trail.header = replace(request.header, attempt=attempt)
            again = replace(request, header=trail.header)
            try:
                outcome = self._attempt(again, size, names, trail)
            except ProtocolError as error:
                trail.notes.append(f"attempt {attempt}: {error.message}")
                self._epoch = None
                continue
            trail.faults = outcome.faults
            return trail.record(tuple(self._names[index] for index in outcome.included), outcome.metrics), outcome
        record = trail.record((), {})
        header, kind = request.header, request.kind.partition(".")[0]
        raise RoundError(
            f"{header.task}, round {header.round}, {kind}: no sum after {ATTEMPTS} attempts, the last because "
            f"{trail.notes[-1].partition(': ')[2]}; {trouble(trail.records[-1]) or 'every site answered'}",
            hint=f"{self._wanted} sites must take part to the end: look at those named, and start the run again",
            record=record,
        )

    def _attempt(
        self, request: TrainRequest | EvaluateRequest, size: int, names: tuple[str, ...], trail: _Trail
    ) -> Outcome:
        epoch = self._ready(trail)
        self._round += 1
        willing = {self._indices[site] for site in self._members()}
        task = RoundTask(
            epoch=epoch.number,
            round=self._round,
            participants=tuple(index for index in epoch.ready(self._round) if index in willing),
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
        self._ask(trail, "confirm", tally.included, lambda _: confirm, tally.confirmation)
        self._ask(trail, "unmask", tally.included, tally.unmask_request, tally.reveal)
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
        trail.records.append(self._phases.ask(request.header, kind, contents, take))

    def _ready(self, trail: _Trail) -> Epoch:
        """The epoch at hand, or a new one where there is none or it is used up."""
        if self._epoch is not None and self._round < EPOCH_ROUNDS:
            return self._epoch
        self._epoch, self._round = None, 0
        self._last_epoch = max(self._number(), self._last_epoch + 1)
        epoch = Epoch(self._federation, self._last_epoch)
        begin = AdvertiseRequest(epoch.number).to_bytes()
        everyone = tuple(self._indices[site] for site in self._members())
        self._ask(trail, "advertise", everyone, lambda _: begin, epoch.advert)
        self._enough(len(epoch.members), "sites sent keys")
        adverts = epoch.adverts()
        if self._federation.post_quantum:
            offer = KemRequest(epoch.number, adverts).to_bytes()
            self._ask(trail, "kem", epoch.members, lambda _: offer, epoch.kem)
        share = partial(epoch.share_request, first=1, count=EPOCH_ROUNDS)
        self._ask(trail, "share", epoch.members, share, epoch.deal)
        self._epoch = epoch
        return epoch

    def _ask(self, trail: _Trail, step: Step, indices: Iterable[int], payload: Payload, hear: Hear) -> None:
        """One step of secure aggregation with the members of those indices."""

        def take(content: RecordDict, site: str) -> Mapping[str, float]:
            reply = MaskReply.from_record(content)
            belongs(reply, trail.header, site)
            if reply.step != step:
                raise ProtocolError("the answer is to another step")
            if hear(reply.payload) != self._indices[site]:
                raise ProtocolError("the answer was signed by another hospital than the one that sent it")
            return {}

        contents = {
            self._names[index]: MaskRequest(trail.header, step, payload(index)).to_record() for index in indices
        }
        trail.records.append(self._phases.ask(trail.header, message_type(step), contents, take))

    def _members(self) -> tuple[str, ...]:
        """The connected members that are willing; whoever else is connected is no member and is not asked."""
        return tuple(site for site in self._phases.willing if site in self._indices)

    def _enough(self, count: int, what: str) -> None:
        if count < self._wanted:
            raise ProtocolError(f"{count} {what}, {self._wanted} are needed", hint="bring the others back")
