"""The messages of secure aggregation beside training and evaluation: keys once per epoch, two questions every round.

A payload is opaque here: :mod:`shared.secagg` wrote it and reads it, and what must be signed is signed inside it.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from flwr.app import RecordDict

from shared.header import Form, Header, HeaderForm, check_site, read_form
from shared.records import bad_message, raw_bytes, read_arrays, read_bytes, to_records

Step = Literal["advertise", "kem", "share", "confirm", "unmask"]
STEPS: tuple[Step, ...] = get_args(Step)


def message_type(step: Step) -> str:
    """Flower's message type of a step, for example ``query.secagg_advertise``."""
    return f"query.{action(step)}"


def action(step: Step) -> str:
    """The name under which a ClientApp registers its handler of a step."""
    return f"secagg_{step}"


@dataclass(frozen=True)
class MaskRequest:
    """The coordinator asks for one step of secure aggregation.

    Attributes:
        header: The round that it is for.
        step: Which.
        payload: A message of :mod:`shared.secagg`.
    """

    header: Header
    step: Step
    payload: bytes
    kind: ClassVar[str] = "secagg.request"

    def to_record(self) -> RecordDict:
        """The request as Flower records."""
        structure = {"kind": self.kind, "header": vars(self.header), "step": self.step}
        return to_records(structure, {"payload": raw_bytes(self.payload)})

    @classmethod
    def from_record(cls, record: RecordDict) -> "MaskRequest":
        """Read and check a request; what its payload says is not read here.

        Raises:
            ProtocolError: Anything in it is missing, extra, of another type or out of range.
        """
        form = read_form(record, _RequestForm, cls.kind)
        return cls(form.header.read(), form.step, _payload(record))


@dataclass(frozen=True)
class MaskReply:
    """A hospital's answer to a :class:`MaskRequest`: the header and the step it answers, who answers, and a message."""

    header: Header
    site: str
    step: Step
    payload: bytes
    kind: ClassVar[str] = "secagg.reply"

    def __post_init__(self) -> None:
        """Refuse a name that is none."""
        check_site(self.site)

    def to_record(self) -> RecordDict:
        """The reply as Flower records."""
        structure = {"kind": self.kind, "header": vars(self.header), "site": self.site, "step": self.step}
        return to_records(structure, {"payload": raw_bytes(self.payload)})

    @classmethod
    def from_record(cls, record: RecordDict) -> "MaskReply":
        """Read and check a reply; what its payload says is not read here.

        Raises:
            ProtocolError: Anything in it is missing, extra, of another type or out of range.
        """
        form = read_form(record, _ReplyForm, cls.kind)
        return cls(form.header.read(), form.site, form.step, _payload(record))


class _RequestForm(Form):
    kind: str
    header: HeaderForm
    step: Step


class _ReplyForm(Form):
    kind: str
    header: HeaderForm
    site: str
    step: Step


def _payload(record: RecordDict) -> bytes:
    payload = read_bytes(read_arrays(record, {"payload"})["payload"])
    if not payload:
        raise bad_message("its payload is empty")
    return payload
