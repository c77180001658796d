"""One question to many sites, and the record of who answered it, who did not, and what it cost.

Nothing that a site sends is fatal: what cannot be taken is left out under its sender's name.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import RecordDict

from compliance.checkpoint import head_of
from compliance.log import Action, AuditLog, Entry, Outcome, Scalar
from server.exchange import AbsentError, Arrival, Line
from server.history import PhaseRecord, Traffic
from server.tally import add_sums
from shared.errors import ProtocolError
from shared.header import Header
from shared.records import record_bytes
from shared.wire import EvaluateReply, Refusal, TrainReply, kind_of, record_in
from shared.wire_masks import MaskReply

# Reads and checks the answer of a site, takes it in, and returns its sums.
Take = Callable[[RecordDict, str], Mapping[str, float]]


@dataclass
class _Phase:
    """A phase while it is under way."""

    asked: tuple[str, ...]
    began: float = field(default_factory=time.monotonic)
    answered: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    shown: dict[str, dict[str, Scalar]] = field(default_factory=dict)  # the head of its log that each site showed
    up: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def close(self, kind: str, down: int) -> PhaseRecord:
        heard = {*self.answered, *self.refused, *self.dropped}
        return PhaseRecord(
            seconds=time.monotonic() - self.began,
            asked=self.asked,
            answered=tuple(self.answered),
            missing=tuple(site for site in self.asked if site not in heard),
            refused=dict(self.refused),
            dropped=dict(self.dropped),
            sums=dict(self.sums),
            traffic={kind: Traffic(len(self.asked), len(heard), down, self.up)},
        )


_DECLINING = frozenset({"policy", "budget"})
"""Refusals that are decisions of a hospital: to ask it again at once gets the same, at the others' cost."""


class Phases:
    """The coordinator's questions to its sites.

    Args:
        line: The line to them.
        log: The coordinator's audit log.
        deadline: Seconds that a phase waits for answers.
        declined: Sites that have refused this run before.
        publish: Gives the newest checkpoint of ``log``, a signed note; None shows the sites none.
    """

    def __init__(
        self,
        line: Line,
        log: AuditLog,
        deadline: float,
        *,
        declined: Iterable[str] = (),
        publish: Callable[[], str] | None = None,
    ) -> None:
        self.line = line
        self._publish = publish
        self._log, self._deadline = log, deadline
        self._unwilling = dict.fromkeys(declined, "")

    def shown(self) -> str:
        """The checkpoint of the coordinator's log that all sites are shown in the round under way; may be empty."""
        return self.line.once("record", self._publish) if self._publish else ""

    @property
    def declined(self) -> tuple[str, ...]:
        """The sites that have refused this run by their own policy or budget; they are not asked again.

        Only where there are too few others and a person has resumed the run, they are.
        """
        return tuple(sorted(self._unwilling))

    @property
    def willing(self) -> tuple[str, ...]:
        """The sites that are connected and have not declined."""
        return tuple(site for site in self.line.sites if site not in self._unwilling)

    def wait(self, wanted: Collection[str], count: int) -> tuple[str, ...]:
        """Those of ``wanted`` that are connected and have not declined, once there are ``count`` of them.

        Raises:
            AbsentError: There are too few at the deadline.
        """
        willing = [site for site in wanted if site not in self._unwilling]
        if len(willing) < count and self.line.go_on():  # a person has resumed the run, and may have settled it
            self._unwilling.clear()
            willing = list(wanted)
        if len(willing) < count:
            reasons = {site: why for site, why in sorted(self._unwilling.items()) if site in wanted}
            raise AbsentError(
                f"{len(willing)} of the {count} sites that are needed take part; declined: "
                + (", ".join(f"{site} ({why})" if why else site for site, why in reasons.items()) or "nobody"),
                hint="settle that with them, then resume the run; rounds that they refuse again cost the others more",
            )
        return self.line.wait(willing, count, self._deadline)

    def ask(
        self, header: Header, kind: str, contents: Mapping[str, RecordDict], take: Take, *, enough: int = 0
    ) -> PhaseRecord:
        """Ask each site its question, and take what each one answers.

        Args:
            header: What the questions belong to.
            kind: Flower's message type.
            contents: The question to each site; those who share one are given the same object.
            take: What is done with an answer that is no refusal; a ProtocolError leaves the answer out.
            enough: Answers without which the phase is worth nothing: so many are waited for until the deadline, also
                from sites that have gone away meanwhile.
        """
        phase = _Phase(tuple(contents))
        sizes = {site: record_bytes(content) for site, content in contents.items()}
        sent: dict[str, Scalar] = {"phase": kind, "model": header.model}

        def sending(sites: Sequence[str]) -> None:
            facts = ({**sent, "bytes": sizes[site], "site": site} for site in sites)
            self._log.append_many([entry(Action.MESSAGE_OUT, Outcome.STARTED, header, one) for one in facts])

        for arrival in self.line.ask(contents, kind, self._deadline, enough=enough, sending=sending):
            self._hear(arrival, phase, take)
        record = phase.close(kind, sum(sizes.values()))
        self._log.append_many(list(_heard(record, header, kind, phase)))
        return record

    def _hear(self, arrival: Arrival, phase: _Phase, take: Take) -> None:
        """One answer: into the sum, or into the record under its sender's name."""
        site, content = arrival.site, arrival.content
        if arrival.kept:
            phase.kept.add(site)
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
                    if refusal.code in _DECLINING:
                        self._unwilling[site] = phase.refused[site]
                else:
                    shown = head_of(record_in(content))
                    add_sums(phase.sums, take(content, site))
                    phase.answered.append(site)
                    phase.shown[site] = shown
            except ProtocolError as error:
                phase.dropped[site] = error.message


class RoundError(ProtocolError):
    """A round came to nothing; ``record`` says what happened in it."""

    def __init__(self, message: str, *, hint: str, record: PhaseRecord) -> None:
        super().__init__(message, hint=hint)
        self.record = record


def belongs(reply: TrainReply | EvaluateReply | MaskReply, header: Header, site: str) -> None:
    """Refuse an answer to another request, or one that another site's node passed on.

    Raises:
        ProtocolError: It is one.
    """
    if reply.header != header:
        other = next(name for name, value in vars(header).items() if getattr(reply.header, name) != value)
        raise ProtocolError(f"the answer is to another {other}")
    if reply.site != site:
        raise ProtocolError(f"the answer is from {reply.site}, but came from the node of {site}")


def entry(action: Action, outcome: Outcome, header: Header, facts: dict[str, Scalar]) -> Entry:
    """An entry of the coordinator's record about the round of ``header``."""
    return Entry(action, outcome, run=header.run, round=header.round, detail={"task": header.task, **facts})


def trouble(record: PhaseRecord) -> str:
    """Who did not answer, who refused and whose answer was not usable, in one line; may be empty."""
    parts = [f"no answer: {', '.join(record.missing)}"] if record.missing else []
    for what, reasons in (("refused", record.refused), ("not usable", record.dropped)):
        if reasons:
            parts.append(f"{what}: " + ", ".join(f"{site} ({reason})" for site, reason in reasons.items()))
    return "; ".join(parts)


def _heard(record: PhaseRecord, header: Header, kind: str, phase: _Phase) -> Iterable[Entry]:
    """What stands in the record of a phase; what is ``kept`` came to an earlier process, which may have died before.

    It has the checkpoint of each hospital's log that came with its answer, so that the two records hold each other.
    """
    rows = [(site, Outcome.OK, "") for site in record.answered]
    rows += [(site, Outcome.REFUSED, reason) for site, reason in record.refused.items()]
    rows += [(site, Outcome.FAILED, reason) for site, reason in record.dropped.items()]
    rows += [(site, Outcome.FAILED, "no answer in time") for site in record.missing]
    for site, outcome, reason in rows:
        facts: dict[str, Scalar] = {"phase": kind, "site": site}
        if reason:
            facts["reason"] = reason
        if site in phase.kept:
            facts["kept"] = True
        facts |= phase.shown.get(site, {})
        yield entry(Action.MESSAGE_IN, outcome, header, facts)
