"""What happened in each round, as it goes into ``history.json``."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

VERSION = 2
HISTORY = "history.json"


@dataclass(frozen=True)
class Traffic:
    """Messages of one kind.

    Attributes:
        questions, answers: How many.
        bytes_down, bytes_up: Their content, to the sites and from them.
    """

    questions: int
    answers: int
    bytes_down: int
    bytes_up: int

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(
            self.questions + other.questions,
            self.answers + other.answers,
            self.bytes_down + other.bytes_down,
            self.bytes_up + other.bytes_up,
        )


@dataclass(frozen=True)
class PhaseRecord:
    """One phase of a round, training or evaluation, with all the messages that it took.

    Attributes:
        seconds: Wall time.
        asked: Sites that were asked, in order.
        answered: Sites whose answer was taken.
        missing: Sites that did not answer in time.
        refused: Sites that refused, with their reason.
        dropped: Sites that sent what was not taken, with the reason; a site may stand here and in ``answered``.
        sums: Sum of the sites' sums, by name: of the training, or of the metrics on held-out slices.
        traffic: What went over the line, by Flower's message type.
        notes: Attempts that failed and were repeated, and shares that were discarded, a line each.
    """

    seconds: float
    asked: tuple[str, ...]
    answered: tuple[str, ...]
    missing: tuple[str, ...]
    refused: Mapping[str, str]
    dropped: Mapping[str, str]
    sums: Mapping[str, float]
    traffic: Mapping[str, Traffic]
    notes: tuple[str, ...] = ()

    @property
    def bytes_down(self) -> int:
        """Content sent to all sites."""
        return sum(one.bytes_down for one in self.traffic.values())

    @property
    def bytes_up(self) -> int:
        """Content received from all sites."""
        return sum(one.bytes_up for one in self.traffic.values())


@dataclass(frozen=True)
class RoundRecord:
    """One round.

    Attributes:
        round: From 1; 0 is the evaluation of the initial model.
        train: The training phase; None in round 0.
        evaluation: The evaluation phase; None where the plan asks for none in this round.
        weight: Sum of the weights in the average.
        update_norm: Euclidean length of the averaged update.
        model: Digest of the model after the round, or of the moving average of models where the charter asks for one:
            what is evaluated and released.
    """

    round: int
    train: PhaseRecord | None
    evaluation: PhaseRecord | None
    weight: float
    update_norm: float
    model: str

    @property
    def seconds(self) -> float:
        """Wall time of both phases."""
        return sum(phase.seconds for phase in (self.train, self.evaluation) if phase)

    @property
    def bytes_down(self) -> int:
        """Content sent to all sites."""
        return sum(phase.bytes_down for phase in (self.train, self.evaluation) if phase)

    @property
    def bytes_up(self) -> int:
        """Content received from all sites."""
        return sum(phase.bytes_up for phase in (self.train, self.evaluation) if phase)


@dataclass(frozen=True)
class History:
    """A run from its first round to its last.

    Attributes:
        federation, charter, run, task: As in the header of every message.
        parameters: Length of the model's vector.
        optimiser: Name of the coordinator's optimiser.
        aggregation: ``masked``, or ``plain`` where the coordinator could read every update.
        rounds: In order.
        failed: The phase that ended the run, where too few sites answered in it.
        outcome: ``ok`` or ``failed``.
        error: Why it failed, in one line; empty otherwise.
    """

    federation: str
    charter: str
    run: str
    task: str
    parameters: int
    optimiser: str
    aggregation: str = "plain"
    rounds: tuple[RoundRecord, ...] = field(default=())
    failed: PhaseRecord | None = None
    outcome: str = "ok"
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """The history as it stands in ``history.json``."""
        rows = [{**asdict(one), "seconds": one.seconds} for one in self.rounds]
        for row, one in zip(rows, self.rounds, strict=True):
            row |= {"train": _to_json(one.train), "evaluation": _to_json(one.evaluation)}
        return {"version": VERSION, **asdict(self), "rounds": rows, "failed": _to_json(self.failed)}


def _to_json(phase: PhaseRecord | None) -> dict[str, Any] | None:
    return None if phase is None else {**asdict(phase), "bytes_down": phase.bytes_down, "bytes_up": phase.bytes_up}


def round_of(row: Mapping[str, Any]) -> RoundRecord:
    """The inverse of ``dataclasses.asdict``, from what JSON made of it.

    Raises:
        KeyError, TypeError: It is something else.
    """
    phases = {name: _phase_of(row[name]) for name in ("train", "evaluation")}
    return RoundRecord(
        row["round"], phases["train"], phases["evaluation"], row["weight"], row["update_norm"], row["model"]
    )


def _phase_of(row: Mapping[str, Any] | None) -> PhaseRecord | None:
    if row is None:
        return None
    lists = {name: tuple(row[name]) for name in ("asked", "answered", "missing", "notes")}
    traffic = {kind: Traffic(**one) for kind, one in row["traffic"].items()}
    return PhaseRecord(**{**row, **lists, "traffic": traffic})
