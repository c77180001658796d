"""The messages of a round as frozen dataclasses, to and from Flower records; whatever arrives is checked here first.

The header says which federation, charter, run, round and model a message belongs to. What a hospital answers with is
the ``body``, a tagged union, so that secure aggregation replaces the body and leaves the round as it is. The envelope,
and why nothing in it is pickled, is in :mod:`shared.records`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, TypeVar

import numpy as np
from flwr.app import RecordDict
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.records import (
    MAX_PARAMETERS,
    bad_message,
    printable,
    raw_bytes,
    raw_floats,
    read_arrays,
    read_bytes,
    read_structure,
    read_vector,
    to_records,
)
from shared.vector import Flat, Vector

PROTOCOL = 1
MAX_EXACT = 2**20  # bytes of integer buffers
MAX_METRICS = 64
MAX_WEIGHT = 1_000_000.0  # slices; more at one hospital is a mistake or an attack
MAX_REASON = 300

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_METRIC = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")

RefusalCode = Literal["policy", "budget", "protocol", "record", "error"]


@dataclass(frozen=True)
class Header:
    """What a message belongs to; a reply repeats the header of its request.

    Attributes:
        federation: Id of the federation (``Charter.id``).
        charter: SHA-256 of the charter, as hex.
        run: Id of the run.
        round: Round of the task, from 1; 0 for the evaluation of the initial model.
        attempt: 1, and one more for each time that the coordinator repeats the round.
        task: Name of the task.
        model: Digest of the global model of the round (:meth:`shared.vector.Layout.digest`), as hex.
    """

    federation: str
    charter: str
    run: str
    round: int
    attempt: int
    task: str
    model: str
    protocol: int = PROTOCOL

    def __post_init__(self) -> None:
        """Refuse another protocol, names with odd characters and numbers out of range."""
        if self.protocol != PROTOCOL:
            raise bad_message(
                f"protocol version {self.protocol}, not {PROTOCOL}", "install the same release at both ends"
            )
        for name in ("federation", "run", "task"):
            if not _NAME.fullmatch(getattr(self, name)):
                raise bad_message(f"'{name}' is not a name of 1 to 64 letters, digits, dots and dashes")
        for name in ("charter", "model"):
            if not _SHA256.fullmatch(getattr(self, name)):
                raise bad_message(f"'{name}' is not a SHA-256 in hexadecimal")
        if not (0 <= self.round <= 100_000 and 1 <= self.attempt <= 1000):
            raise bad_message(f"round {self.round}, attempt {self.attempt} is out of range")


@dataclass(frozen=True, eq=False)
class PlainBody:
    """A hospital's answer that the coordinator can read: its own update, in the clear.

    Attributes:
        update: Local minus global model, float32 ``[d]``, finite.
        weight: Its share in the average, above 0: training slices without differential privacy, 1 with it.
        metrics: Sums of the training, by name; empty under differential privacy.
    """

    update: Vector
    weight: float
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot enter a sum."""
        _check_vector("update", self.update)
        if not (math.isfinite(self.weight) and 0 < self.weight <= MAX_WEIGHT):
            raise bad_message(f"the weight {self.weight!r} is not above 0 and at most {MAX_WEIGHT:.0f}")
        _check_metrics(self.metrics)


Body = PlainBody
"""What a :class:`TrainReply` carries, told apart by the tag ``type``; masked bodies join with secure aggregation."""


@dataclass(frozen=True, eq=False)
class _ModelRequest:
    """A request that carries the global model.

    Attributes:
        header: What it belongs to.
        layout: Digest of the model's layout; the hospital compares it with that of its own network.
        model: The global model.
    """

    header: Header
    layout: str
    model: Flat
    kind: ClassVar[str]

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.layout):
            raise bad_message("'layout' is not a SHA-256 in hexadecimal")
        _check_vector("model", self.model.vector)
        if len(self.model.exact) > MAX_EXACT:
            raise bad_message(f"{len(self.model.exact)} bytes of integer buffers are more than {MAX_EXACT}")

    def to_record(self) -> RecordDict:
        """The request as Flower records."""
        arrays = {"model": raw_floats(self.model.vector), "exact": raw_bytes(self.model.exact)}
        return to_records({"kind": self.kind, "header": vars(self.header), "layout": self.layout}, arrays)


class TrainRequest(_ModelRequest):
    """The coordinator asks for one round of local training that starts from its model."""

    kind = "train.request"

    @classmethod
    def from_record(cls, record: RecordDict) -> "TrainRequest":
        """Read and check a request.

        Raises:
            ProtocolError: Anything in it is missing, extra, of another type or out of range.
        """
        return cls(*_read_model_request(record, cls.kind))


class EvaluateRequest(_ModelRequest):
    """The coordinator asks how its model does on the hospital's held-out patients."""

    kind = "evaluate.request"

    @classmethod
    def from_record(cls, record: RecordDict) -> "EvaluateRequest":
        """Read and check a request.

        Raises:
            ProtocolError: Anything in it is missing, extra, of another type or out of range.
        """
        return cls(*_read_model_request(record, cls.kind))


@dataclass(frozen=True, eq=False)
class TrainReply:
    """A hospital's answer to a :class:`TrainRequest`: the header it answers, who answers, and the body."""

    header: Header
    site: str
    body: Body
    kind: ClassVar[str] = "train.reply"

    def __post_init__(self) -> None:
        _check_site(self.site)

    def to_record(self) -> RecordDict:
        """The reply as Flower records."""
        body = {"type": "plain", "weight": self.body.weight, "metrics": dict(self.body.metrics)}
        structure = {"kind": self.kind, "header": vars(self.header), "site": self.site, "body": body}
        return to_records(structure, {"update": raw_floats(self.body.update)})

    @classmethod
    def from_record(cls, record: RecordDict) -> "TrainReply":
        """Read and check a reply.

        Raises:
            ProtocolError: Anything in it is missing, extra, of another type or out of range.
        """
        form = _read(record, _TrainReplyForm, cls.kind)
        update = read_vector(read_arrays(record, {"update"})["update"])
        body = PlainBody(update, float(form.body.weight), form.body.metrics)
        return cls(form.header.read(), form.site, body)


@dataclass(frozen=True, eq=False)
class EvaluateReply:
    """A hospital's answer to an :class:`EvaluateRequest`.

    Attributes:
        header: What it belongs to.
        site: Who answers.
        sums: Additive statistics over the held-out slices of the site (``Sums.values`` of the task).
    """

    header: Header
    site: str
    sums: Mapping[str, float]
    kind: ClassVar[str] = "evaluate.reply"

    def __post_init__(self) -> None:
        _check_site(self.site)
        _check_metrics(self.sums)

    def to_record(self) -> RecordDict:
        """The reply as Flower records."""
        return to_records(
            {"kind": self.kind, "header": vars(self.header), "site": self.site, "sums": dict(self.sums)}, {}
        )

    @classmethod
    def from_record(cls, record: RecordDict) -> "EvaluateReply":
        """Read and check a reply.

        Raises:
            ProtocolError: Anything in it is missing, extra, of another type or out of range.
        """
        form = _read(record, _EvaluateReplyForm, cls.kind)
        read_arrays(record, set())
        return cls(form.header.read(), form.site, form.sums)


@dataclass(frozen=True)
class Refusal:
    """A hospital does not do what was asked.

    Attributes:
        site: Who refuses.
        code: ``policy`` (the hospital will not, in this run), ``budget``, ``protocol`` (the request was not
            understood), ``record`` (the audit log cannot be written) or ``error``.
        reason: One line for the coordinator, without data of patients.
        header: What was asked for, or None where that could not be read.
    """

    site: str
    code: RefusalCode
    reason: str
    header: Header | None = None
    kind: ClassVar[str] = "refusal"

    def __post_init__(self) -> None:
        _check_site(self.site)
        if not (0 < len(self.reason) <= MAX_REASON and self.reason.isprintable()):
            raise bad_message(f"a reason is one printable line of at most {MAX_REASON} characters")

    def to_record(self) -> RecordDict:
        """The refusal as Flower records."""
        header = vars(self.header) if self.header else None
        structure = {"kind": self.kind, "header": header, "site": self.site, "code": self.code, "reason": self.reason}
        return to_records(structure, {})

    @classmethod
    def from_record(cls, record: RecordDict) -> "Refusal":
        """Read and check a refusal.

        Raises:
            ProtocolError: Anything in it is missing, extra, of another type or out of range.
        """
        form = _read(record, _RefusalForm, cls.kind)
        read_arrays(record, set())
        return cls(form.site, form.code, form.reason, form.header.read() if form.header else None)


def kind_of(record: RecordDict) -> str:
    """The tag of the message in ``record``, for choosing who reads it; the rest of the structure is not checked yet.

    Raises:
        ProtocolError: There is no structure, or it has no tag.
    """
    kind = read_structure(record).get("kind")
    if not isinstance(kind, str):
        raise bad_message("it has no kind")
    return kind


# --- the form of the structure (pydantic at the edge) -----------------------------------------------------------------


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _HeaderForm(_Form):
    federation: str
    charter: str
    run: str
    round: int
    attempt: int
    task: str
    model: str
    protocol: int

    def read(self) -> Header:
        return Header(**self.model_dump())


_Metrics = Annotated[dict[str, float], Field(max_length=MAX_METRICS)]


class _ModelRequestForm(_Form):
    kind: str
    header: _HeaderForm
    layout: str


class _PlainForm(_Form):
    type: Literal["plain"]
    weight: float
    metrics: _Metrics


class _TrainReplyForm(_Form):
    kind: str
    header: _HeaderForm
    site: str
    body: _PlainForm


class _EvaluateReplyForm(_Form):
    kind: str
    header: _HeaderForm
    site: str
    sums: _Metrics


class _RefusalForm(_Form):
    kind: str
    header: _HeaderForm | None
    site: str
    code: RefusalCode
    reason: str


_FormT = TypeVar("_FormT", bound=_Form)


def _read(record: RecordDict, form: type[_FormT], kind: str) -> _FormT:
    raw = read_structure(record)
    if raw.get("kind") != kind:
        raise bad_message(f"it is not a {kind}")
    try:
        return form.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise bad_message(f"{printable(place)}: {first['msg'].lower()}") from error


def _read_model_request(record: RecordDict, kind: str) -> tuple[Header, str, Flat]:
    form = _read(record, _ModelRequestForm, kind)
    arrays = read_arrays(record, {"model", "exact"})
    return form.header.read(), form.layout, Flat(read_vector(arrays["model"]), read_bytes(arrays["exact"]))


# --- checks -----------------------------------------------------------------------------------------------------------


def _check_vector(name: str, vector: Vector) -> None:
    if vector.dtype != np.float32 or vector.ndim != 1 or not 0 < vector.size <= MAX_PARAMETERS:
        raise bad_message(f"its {name} is not a vector of 1 to {MAX_PARAMETERS} float32 numbers")
    if not np.isfinite(vector).all():
        raise bad_message(
            f"its {name} has numbers that are not finite", "leave this hospital out and look at its training"
        )


def _check_metrics(metrics: Mapping[str, float]) -> None:
    if len(metrics) > MAX_METRICS:
        raise bad_message(f"it has more than {MAX_METRICS} metrics")
    for name, value in metrics.items():
        if not _METRIC.fullmatch(name):
            raise bad_message(f"'{printable(name)}' is not the name of a metric")
        if not (math.isfinite(value) and abs(value) <= 1e15):
            raise bad_message(f"its metric '{name}' is {value!r}")


def _check_site(site: str) -> None:
    if not _NAME.fullmatch(site):
        raise bad_message("'site' is not a name of 1 to 64 letters, digits, dots and dashes")
