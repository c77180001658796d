"""Where the coordinator adds up what it can read: only for simulations, whose hospitals have no patients."""

from collections.abc import Mapping
from typing import Protocol

from flwr.app import RecordDict

from server.history import PhaseRecord
from server.phases import Phases, RoundError, Take, belongs, trouble
from server.tally import Aggregate, PlainTally
from shared.charter import Charter
from shared.errors import PolicyError, ProtocolError
from shared.header import Header
from shared.vector import Flat, Layout
from shared.wire import (
    MAX_WEIGHT,
    EvaluateReply,
    EvaluateRequest,
    PlainBody,
    PlainSums,
    TrainReply,
    TrainRequest,
)


class Aggregation(Protocol):
    """How the answers of the sites become one."""

    def train(self, header: Header, model: Flat) -> tuple[PhaseRecord, Aggregate]:
        """One round of training from ``model``.

        Raises:
            RoundError: Too few usable answers; it names the sites.
        """

    def evaluate(self, header: Header, model: Flat) -> PhaseRecord:
        """How ``model`` does on the held-out patients of all sites together.

        Raises:
            RoundError: Too few usable answers; it names the sites.
        """


class PlainAggregation:
    """Every update, weight and metric in the clear.

    Args:
        charter: The charter of the run.
        phases: The line to the sites.
        layout: Layout of the model.

    Raises:
        PolicyError: The charter's noise is shared: an answer in the clear would have too little of it.
    """

    def __init__(self, charter: Charter, phases: Phases, layout: Layout) -> None:
        if charter.privacy.mode == "distributed":
            raise PolicyError(
                "shared noise protects a masked sum, and nothing in the clear", hint="switch the masks on"
            )
        self._charter, self._phases, self._layout = charter, phases, layout

    def train(self, header: Header, model: Flat) -> tuple[PhaseRecord, Aggregate]:
        """See :class:`Aggregation`."""
        private = self._charter.privacy.mode != "off"
        tally = PlainTally(self._layout.size, max_weight=MAX_WEIGHT, fixed_weight=1.0 if private else None)
        request = TrainRequest(header, self._layout.sha256, model)

        def take(content: RecordDict, site: str) -> Mapping[str, float]:
            reply = TrainReply.from_record(content)
            belongs(reply, header, site)
            if not isinstance(reply.body, PlainBody):
                raise ProtocolError("the answer is masked, and nobody asked for that")
            tally.add(reply.body)
            return reply.body.metrics

        return self._ask(request, "train", take), tally.close()

    def evaluate(self, header: Header, model: Flat) -> PhaseRecord:
        """See :class:`Aggregation`."""
        request = EvaluateRequest(header, self._layout.sha256, model)

        def take(content: RecordDict, site: str) -> Mapping[str, float]:
            reply = EvaluateReply.from_record(content)
            belongs(reply, header, site)
            if not isinstance(reply.body, PlainSums):
                raise ProtocolError("the answer is masked, and nobody asked for that")
            return reply.body.sums

        return self._ask(request, "evaluate", take)

    def _ask(self, request: TrainRequest | EvaluateRequest, kind: str, take: Take) -> PhaseRecord:
        contents = dict.fromkeys(self._phases.willing, request.to_record())
        record = self._phases.ask(request.header, kind, contents, take)
        wanted = self._charter.min_sites
        if len(record.answered) < wanted:
            header = request.header
            raise RoundError(
                f"{header.task}, round {header.round}, {kind}: {len(record.answered)} usable answers, {wanted} are "
                f"needed; {trouble(record)}",
                hint="bring these sites back, or lower min_sites in the charter, and start the run again",
                record=record,
            )
        return record
