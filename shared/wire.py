"""The messages of a round as frozen dataclasses, to and from Flower records; whatever arrives is checked here first.

The header says which federation, charter, run, round and model a message belongs to. What a hospital answers with is
the ``body``: masked, or, between virtual hospitals alone, in the clear. The other messages of secure aggregation are in
:mod:`shared.wire_masks`; the envelope, and why nothing in it is pickled, is in :mod:`shared.records`.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from flwr.app import RecordDict
from pydantic import Field

from shared.files import canonical_json
from shared.header import Form, Header, HeaderForm, check_sha256, check_site, read_form
from shared.records import (
    bad_message,
    raw_bytes,
    raw_floats,
    read_arrays,
    read_bytes,
    read_structure,
    read_vector,
    to_records,
)
from shared.vector import Flat, Vector
from shared.wire_checks import MAX_METRICS, check_metrics, check_vector

MAX_EXACT = 2**20  # bytes of integer buffers
MAX_WEIGHT = 1_000_000.0  # slices; more at one hospital is a mistake or an attack
MAX_REASON = 300
_RECORD = (
    r"^(fedward/[!-~]{3,100}\n[0-9]{1,19}\n[A-Za-z0-9+/]{43}=\n\n"
    r"(\u2014 [!-~]{3,110} [A-Za-z0-9+/]{8,200}={0,2}\n){1,4})?$"
)
"""A signed note of one checkpoint (https://c2sp.org/tlog-checkpoint), or nothing."""

TRAIN_SUMS = ("loss", "samples")
"""Names of the sums of a round of training without differential privacy; with it there are none."""

RefusalCode = Literal["policy", "budget", "masks", "protocol", "record", "error", "lost"]


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
        check_vector("update", self.update)
        if not (math.isfinite(self.weight) and 0 < self.weight <= MAX_WEIGHT):
            raise bad_message(f"the weight {self.weight!r} is not above 0 and at most {MAX_WEIGHT:.0f}")
        check_metrics(self.metrics)


@dataclass(frozen=True)
class PlainSums:
    """Additive statistics over a hospital's held-out slices that the coordinator can read, by name."""

    sums: Mapping[str, float]

    def __post_init__(self) -> None:
        """Refuse what cannot enter a sum."""
        check_metrics(self.sums)


@dataclass(frozen=True, eq=False)
class MaskedBody:
    """A hospital's answer that shows the coordinator nothing but who sent it and how long it is.

    Attributes:
        upload: Update, weight and metrics under masks (:class:`shared.secagg.round_messages.Upload`).
    """

    upload: bytes


Body = PlainBody | MaskedBody
"""What a :class:`TrainReply` carries, told apart by the tag ``type``."""


@dataclass(frozen=True, eq=False)
class _ModelRequest:
    """A request that carries the global model.

    Attributes:
        header: What it belongs to.
        layout: Digest of the model's layout; the hospital compares it with that of its own network.
        model: The global model.
        masking: What the masks of the answer are for (:class:`shared.secagg.round_messages.RoundTask`); empty where the
            answer is to be in the clear.
        record: The newest checkpoint of the coordinator's audit log, a signed note; may be empty.
    """

    header: Header
    layout: str
    model: Flat
    masking: bytes = b""
    record: str = ""
    kind: ClassVar[str]

    def __post_init__(self) -> None:
        check_sha256("layout", self.layout)
        check_vector("model", self.model.vector)
        if len(self.model.exact) > MAX_EXACT:
            raise bad_message(f"{len(self.model.exact)} bytes of integer buffers are more than {MAX_EXACT}")

    def to_record(self) -> RecordDict:
        """The request as Flower records."""
        arrays = {"model": raw_floats(self.model.vector), "exact": raw_bytes(self.model.exact)}
        if self.masking:
            arrays["masking"] = raw_bytes(self.masking)
        return to_records(self._structure, arrays)

    @property
    def _structure(self) -> dict[str, object]:
        return {"kind": self.kind, "header": vars(self.header), "layout": self.layout, "record": self.record}

    @property
    def digest(self) -> bytes:
        """SHA-256 of everything in the request but the model and the masking, for the latter's ``config``.

        So all hospitals whose masks go into one sum were shown one checkpoint of the coordinator's log.
        """
        return hashlib.sha256(canonical_json(self._structure)).digest()


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
    """A hospital's answer to a :class:`TrainRequest`: the header it answers, who answers, and the body.

    ``record`` is the newest checkpoint of its audit log, a signed note; it may be empty.
    """

    header: Header
    site: str
    body: Body
    record: str = ""
    kind: ClassVar[str] = "train.reply"

    def __post_init__(self) -> None:
        check_site(self.site)

    def to_record(self) -> RecordDict:
        """The reply as Flower records."""
        body = self.body
        if isinstance(body, MaskedBody):
            return _masked(self, body)
        plain = {"type": "plain", "weight": body.weight, "metrics": dict(body.metrics)}
        return to_records(_answer(self, plain), {"update": raw_floats(body.update)})

    @classmethod
    def from_record(cls, record: RecordDict) -> "TrainReply":
        """Read and check a reply.

        Raises:
            ProtocolError: Anything in it is missing, extra, of another type or out of range.
        """
        form = read_form(record, _TrainReplyForm, cls.kind)
        header = form.header.read()
        if isinstance(form.body, _MaskedForm):
            return cls(header, form.site, _read_masked(record), form.record)
        update = read_vector(read_arrays(record, {"update"})["update"])
        return cls(header, form.site, PlainBody(update, float(form.body.weight), form.body.metrics), form.record)


@dataclass(frozen=True, eq=False)
class EvaluateReply:
    """A hospital's answer to an :class:`EvaluateRequest`.

    Attributes:
        header: What it belongs to.
        site: Who answers.
        body: Additive statistics over the held-out slices of the site (``Sums.values`` of the task), or their masks.
        record: As that of a :class:`TrainReply`.
    """

    header: Header
    site: str
    body: PlainSums | MaskedBody
    record: str = ""
    kind: ClassVar[str] = "evaluate.reply"

    def __post_init__(self) -> None:
        check_site(self.site)

    def to_record(self) -> RecordDict:
        """The reply as Flower records."""
        if isinstance(self.body, MaskedBody):
            return _masked(self, self.body)
        return to_records(_answer(self, {"type": "plain", "sums": dict(self.body.sums)}), {})

    @classmethod
    def from_record(cls, record: RecordDict) -> "EvaluateReply":
        """Read and check a reply.

        Raises:
            ProtocolError: Anything in it is missing, extra, of another type or out of range.
        """
        form = read_form(record, _EvaluateReplyForm, cls.kind)
        header = form.header.read()
        if isinstance(form.body, _MaskedForm):
            return cls(header, form.site, _read_masked(record), form.record)
        read_arrays(record, set())
        return cls(header, form.site, PlainSums(form.body.sums), form.record)


@dataclass(frozen=True)
class Refusal:
    """A hospital does not do what was asked.

    Attributes:
        site: Who refuses.
        code: ``policy`` (the hospital will not, in this run), ``budget``, ``masks`` (secure aggregation does not go on
            here in this epoch or round), ``protocol`` (the request was not understood), ``record`` (the audit log, a
            privacy charge or the ledger of masks cannot be written or read), ``error``, or ``lost`` (the process that
            worked on it was killed: what came of it is not known, and the same request may be made again).
        reason: One line for the coordinator, without data of patients.
        header: What was asked for, or None where that could not be read.
    """

    site: str
    code: RefusalCode
    reason: str
    header: Header | None = None
    kind: ClassVar[str] = "refusal"

    def __post_init__(self) -> None:
        check_site(self.site)
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
        form = read_form(record, _RefusalForm, cls.kind)
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


def record_in(content: RecordDict) -> str:
    """The checkpoint that a request or an answer carries, not checked; empty where it carries none.

    Raises:
        ProtocolError: There is no structure.
    """
    found = read_structure(content).get("record", "")
    return found if isinstance(found, str) else ""


# --- the form of the structure (pydantic at the edge) -----------------------------------------------------------------


_Record = Annotated[str, Field(pattern=_RECORD)]
_Metrics = Annotated[dict[str, float], Field(max_length=MAX_METRICS)]


class _ModelRequestForm(Form):
    kind: str
    header: HeaderForm
    layout: str
    record: _Record


class _PlainForm(Form):
    type: Literal["plain"]
    weight: float
    metrics: _Metrics


class _PlainSumsForm(Form):
    type: Literal["plain"]
    sums: _Metrics


class _MaskedForm(Form):
    type: Literal["masked"]


class _TrainReplyForm(Form):
    kind: str
    header: HeaderForm
    site: str
    body: Annotated[_PlainForm | _MaskedForm, Field(discriminator="type")]
    record: _Record


class _EvaluateReplyForm(Form):
    kind: str
    header: HeaderForm
    site: str
    body: Annotated[_PlainSumsForm | _MaskedForm, Field(discriminator="type")]
    record: _Record


class _RefusalForm(Form):
    kind: str
    header: HeaderForm | None
    site: str
    code: RefusalCode
    reason: str


def _read_model_request(record: RecordDict, kind: str) -> tuple[Header, str, Flat, bytes, str]:
    form = read_form(record, _ModelRequestForm, kind)
    masked = "masking" in record.get("arrays", {})
    arrays = read_arrays(record, {"model", "exact"} | ({"masking"} if masked else set()))
    masking = read_bytes(arrays["masking"]) if masked else b""
    if masked and not masking:
        raise bad_message("its masking is empty")
    model = Flat(read_vector(arrays["model"]), read_bytes(arrays["exact"]))
    return form.header.read(), form.layout, model, masking, form.record


def _answer(reply: TrainReply | EvaluateReply, body: dict[str, object]) -> dict[str, object]:
    head = {"kind": reply.kind, "header": vars(reply.header), "site": reply.site}
    return {**head, "body": body, "record": reply.record}


def _masked(reply: TrainReply | EvaluateReply, body: MaskedBody) -> RecordDict:
    return to_records(_answer(reply, {"type": "masked"}), {"upload": raw_bytes(body.upload)})


def _read_masked(record: RecordDict) -> MaskedBody:
    return MaskedBody(read_bytes(read_arrays(record, {"upload"})["upload"]))
