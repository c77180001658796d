"""Secure aggregation at the hospital: its keys, its masked answers and what it reveals, all by the pinned charter.

Flower starts a process for every message; nothing here needs torch, and everything that must outlive a process is in
the ledger (:mod:`client.mask_ledger`), durable before anything leaves.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import RecordDict

from client.mask_ledger import MaskLedger
from client.policy import decide, policy_of
from client.session import MaskingError, Session
from client.summed import Purpose, Summed
from compliance.log import Action, Scalar
from shared.errors import PolicyError, ProtocolError
from shared.header import Header
from shared.secagg.codec import Words
from shared.secagg.member import Member
from shared.secagg.round_messages import ConfirmRequest, RoundTask, UnmaskRequest
from shared.secagg.setup_messages import AdvertiseRequest, KemRequest
from shared.vector import Vector
from shared.wire import EvaluateRequest, MaskedBody, TrainRequest
from shared.wire_masks import MaskReply, MaskRequest

LEDGER = "masks"
"""The folder of the ledger within the node's."""
AHEAD = 24 * 3600 * 1000
"""Milliseconds that an epoch's number may be ahead of this hospital's clock: no number may use up all later ones."""
NO_UPDATE: Vector = np.zeros(0, np.float32)
"""What is masked where an answer has metrics alone."""


def answer(session: Session, content: RecordDict) -> RecordDict:
    """Answer one step of secure aggregation with a :class:`MaskReply` or a :class:`shared.wire.Refusal`."""
    return session.answer(content, MaskRequest.from_record, lambda request: _step(session, request))


@dataclass(frozen=True)
class Masking:
    """Leave to mask one answer: the task was read, and this hospital can and will mask for it.

    Made by :func:`expected` before the work of the round is done.
    """

    member: Member
    task: RoundTask
    purpose: Purpose
    summed: Summed

    def mask(self, update: Vector | Words, weight: float, metrics: Mapping[str, float]) -> tuple[MaskedBody, int]:
        """The masked answer, and the number of elements that were clipped, which stays here.

        Args:
            update: float32 ``[d]``, finite, or ``[0]`` for metrics alone; uint32 ``[d]`` of a shared step.
            weight: At least 1; what is above the charter's ``w_max`` counts as ``w_max``.
            metrics: Sums of this hospital, by name.

        Raises:
            MaskingError: The update or a metric cannot be masked, or the round was used up meanwhile.
        """
        with _masking():
            done = self.member.mask(
                self.task, update, min(max(round(weight), 1), self.member.federation.w_max), metrics
            )
        self.summed.masked(done.context, self.purpose)
        return MaskedBody(bytes(done.upload)), done.clipped


def expected(
    session: Session, request: TrainRequest | EvaluateRequest, *, size: int, metrics: tuple[str, ...]
) -> Masking | None:
    """See how a request wants to be answered; None where it is in the clear, and that is allowed here.

    Args:
        session: The node.
        request: A request whose header the pinned charter allows.
        size: Elements that the answer will have.
        metrics: Names of the sums that it will have.

    Raises:
        PolicyError: The charter asks for masks and the request does not; or there are neither, and this hospital is
            not a virtual one.
        ProtocolError: The masks would be for another request than this one.
        MaskingError: This hospital has no keys for it, or too few take part.
    """
    if not request.masking:
        if session.charter.masking is not None:
            raise PolicyError("the pinned charter asks for masked updates, and the request for readable ones")
        if not session.node.virtual:
            raise PolicyError("the charter has no secure aggregation; only virtual hospitals take part in the clear")
        return None
    member = member_of(session)
    task = RoundTask.read(request.masking)
    wanted = (size, bytes.fromhex(request.header.model), request.digest, metrics)
    if (task.size, task.model, task.config, task.metrics) != wanted:
        raise ProtocolError(
            "the masks are for another model, configuration, size or metrics than the request",
            hint="send everyone the same request",
        )
    with _masking():
        member.expect(task)
    return Masking(member, task, purpose_of(request.kind, request.header), summed(session))


def purpose_of(kind: str, header: Header) -> Purpose:
    """What an answer to a request of ``kind`` (``train.request``, ``evaluate.request``) under ``header`` is for."""
    return Purpose(kind.partition(".")[0], header.task, header.round)


def summed(session: Session) -> Summed:
    """The sums of which this hospital has been a part under its pinned charter."""
    return Summed(session.node.folder / "sums" / f"{session.charter.sha256}.jsonl")


def member_of(session: Session) -> Member:
    """This hospital in the federation of its pinned charter.

    Raises:
        PolicyError: The charter asks for no masks, does not name this hospital, or has another key for it.
    """
    charter, site = session.charter, session.node.site
    if charter.masking is None:
        raise PolicyError("the pinned charter asks for no secure aggregation")
    index = next((peer.index for peer in charter.federation.peers if peer.name == site), None)
    if index is None:
        raise PolicyError(f"the pinned charter does not name {site} among its members")
    ledger = MaskLedger(session.node.folder / LEDGER, charter.federation.fingerprint)
    return Member(charter.federation, index, session.node.identity, ledger)


def _step(session: Session, request: MaskRequest) -> RecordDict:
    header = request.header
    node = session.node
    decision = decide(header, session.charter, policy_of(node), purpose=node.purpose, training=False)
    if not decision.allowed:
        raise PolicyError(decision.reason)
    member, facts = member_of(session), _facts(request)
    with session.act(Action.SECURE_AGGREGATION, header, facts), _masking():
        payload = _payload(session, member, request)
    reply = MaskReply(header, session.node.site, request.step, payload).to_record()
    return session.sent(Action.SECURE_AGGREGATION, header, reply, facts)


def _facts(request: MaskRequest) -> dict[str, Scalar]:
    """What the record says of a step: of a sum, its epoch, its number there, and who is in it, by index."""
    facts: dict[str, Scalar] = {"step": request.step, "attempt": request.header.attempt}
    if request.step in {"confirm", "unmask"}:
        read = ConfirmRequest.read if request.step == "confirm" else UnmaskRequest.read
        asked = read(request.payload)
        included = " ".join(map(str, asked.included))
        facts |= {"epoch": asked.epoch, "masked_round": asked.round, "included": included}
    return facts


def _summed(session: Session, member: Member, request: MaskRequest) -> bytes:
    """The answer to the two questions about a sum; none helps with a second sum over one round.

    Raises:
        PolicyError: It would be one, or the answer in question was for another task or round.
    """
    sums, place = summed(session), (request.header.task, request.header.round)
    if request.step == "confirm":
        asked = ConfirmRequest.read(request.payload)
        sums.check(asked.context, asked.included, *place)
        return member.confirm(request.payload)
    unmask = UnmaskRequest.read(request.payload)
    sums.check(unmask.context, unmask.included, *place)
    shares = member.unmask(request.payload)
    sums.revealed(unmask.context, unmask.included, *place)  # durable before the shares leave
    return shares


def _payload(session: Session, member: Member, request: MaskRequest) -> bytes:
    match request.step:
        case "advertise":
            epoch = AdvertiseRequest.read(request.payload).epoch
            if epoch > time.time_ns() // 1_000_000 + AHEAD:
                raise MaskingError("the epoch's number is a time more than a day ahead", hint="set the clocks right")
            return member.advertise(epoch)
        case "kem":
            asked = KemRequest.read(request.payload)
            return member.encapsulate(asked.epoch, asked.adverts)
        case "share":
            return member.share(request.payload)
        case "confirm" | "unmask":
            return _summed(session, member, request)


@contextlib.contextmanager
def _masking() -> Iterator[None]:
    """What the protocol will not do in this epoch or round is no decision of the hospital against the run."""
    try:
        yield
    except PolicyError as error:
        raise MaskingError(error.message, hint=error.hint) from error
