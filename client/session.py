"""A hospital's node while it answers requests of a federation: its record, its pinned charter, and how it refuses.

One order, for every request: read and check, decide by the pinned charter, make the record durable, charge the privacy
budget, act, record the outcome, answer. Where a step fails, those after it do not happen, and the answer is a refusal.
What is done with patients' images is in :mod:`client.rounds`; nothing here needs torch, whose import costs seconds.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Protocol, Self, TypeVar

from flwr.app import RecordDict

from client.node import Node
from compliance.checkpoint import head_of
from compliance.log import Action, AuditLog, Entry, Outcome, Scalar
from shared.charter import Charter
from shared.errors import BudgetError, FedwardError, PolicyError, ProtocolError, RecordError, UsageError
from shared.files import locked
from shared.header import Header
from shared.records import record_bytes
from shared.wire import Refusal, RefusalCode, record_in

LOCK = "session.lock"
"""Held by the process that answers for a node."""


class MaskingError(ProtocolError):
    """Secure aggregation does not go on here in this epoch or round; another round or epoch may."""


_CODES: tuple[tuple[type[FedwardError], RefusalCode], ...] = (
    (PolicyError, "policy"),
    (BudgetError, "budget"),
    (MaskingError, "masks"),
    (ProtocolError, "protocol"),
    (RecordError, "record"),
)


_UNSAID: Final[Mapping[RefusalCode, str]] = {
    "budget": "this hospital's privacy ledger does not pay for this round",
    "record": "this hospital cannot keep its record of it",
}
"""What is said of errors whose own words are for the hospital alone."""


class Request(Protocol):
    """Any request of the coordinator."""

    @property
    def header(self) -> Header:
        """What it belongs to."""


RequestT = TypeVar("RequestT", bound=Request)


@dataclass
class Session:
    """An open node. Everything it keeps is read again from the folder by the next session; nothing rests on it.

    One at a time: what a hospital has masked, summed and paid for is decided by one process after another.

    Attributes:
        node: The node.
        log: The audit log; other commands may write it too.
        charter: The pinned charter; read again for every request, since the hospital may pin another one.
        run: The run that the link has checked and whose requests it hands over now; empty where there is no link.
    """

    node: Node
    log: AuditLog
    charter: Charter
    run: str = ""
    _pinned: bytes = b""
    _lock: IO[bytes] | None = None

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the node in ``folder``.

        Raises:
            FedwardError: There is no node, no charter, another process has it open, or the log cannot be written.
        """
        node = Node.open(folder)
        charter = node.charter
        lock = locked(folder / LOCK, "another process answers for this node")
        try:
            return cls(node, node.open_log(), charter, _lock=lock)
        except BaseException:
            lock.close()
            raise

    def close(self) -> None:
        """Leave the node to another process."""
        self.log.close()
        if self._lock is not None:
            self._lock.close()

    def answer(
        self,
        content: RecordDict,
        read: Callable[[RecordDict], RequestT],
        act: Callable[[RequestT], RecordDict],
    ) -> RecordDict:
        """What ``act`` answers to a request, or a :class:`~shared.wire.Refusal`; either stands in the record before.

        Raises:
            RecordError: The record of a refusal cannot be written; the caller refuses without one.
        """
        header: Header | None = None
        try:
            self._follow()
            request = read(content)
            header = request.header
            received: dict[str, Scalar] = {"bytes": record_bytes(content), "model": header.model}
            received |= head_of(record_in(content))
            self.log.append(self.entry(Action.MESSAGE_IN, Outcome.OK, header, received))
            self._require_run(header)
            return act(request)
        except Exception as error:  # noqa: BLE001  # the boundary of the process: a request must not end the node
            return self._refuse(error, header)

    def _require_run(self, header: Header) -> None:
        """Refuse a request of another run than the one that the link has checked: charges and records are kept by it.

        Raises:
            ProtocolError: It is one.
        """
        if self.run and header.run != self.run:
            raise ProtocolError("the request names another run than the one that it came in")

    def _follow(self) -> None:
        """Take the pinned charter as it is now; reading the file again is cheap, understanding it is not.

        Raises:
            FedwardError: None is pinned, or it was damaged.
        """
        pinned = self.node.pinned
        if pinned != self._pinned:
            self.charter, self._pinned = self.node.charter, pinned

    def _refuse(self, error: Exception, header: Header | None) -> RecordDict:
        """Record and say why a request is not done. Only policy and protocol errors speak: others may quote data."""
        code: RefusalCode = next((code for kind, code in _CODES if isinstance(error, kind)), "error")
        speaks = isinstance(error, PolicyError | ProtocolError)
        local = speaks and self._names_a_file(str(error))
        reason = str(error.args[0]) if speaks and not local else _UNSAID.get(code, type(error).__name__)
        refusal = Refusal(self.node.site, code, "".join(c for c in reason if c.isprintable())[:300], header)
        detail: dict[str, Scalar] = {"code": code, "reason": refusal.reason}
        if local or isinstance(error, BudgetError | RecordError | UsageError):
            # What is wrong with this hospital's own files and device, or left of its budget, is for itself.
            detail["here"] = str(error.args[0])
        reply = refusal.to_record()
        self.log.append_many(
            [
                self.entry(Action.REFUSAL, Outcome.REFUSED, header, detail),
                self.entry(Action.MESSAGE_OUT, Outcome.STARTED, header, {"bytes": record_bytes(reply)}),
            ]
        )
        return reply

    def _names_a_file(self, text: str) -> bool:
        """Whether a text tells of this machine: a folder of a hospital may bear anybody's name."""
        return any(str(folder) in text for folder in (self.node.folder, self.node.folder.absolute()))

    @contextlib.contextmanager
    def act(self, action: Action, header: Header, facts: dict[str, Scalar]) -> Iterator[None]:
        """Record that the act begins; and if it fails, that it failed."""
        self.log.append(self.entry(action, Outcome.STARTED, header, facts))
        try:
            yield
        except BaseException as error:
            with contextlib.suppress(RecordError):
                self.log.append(self.entry(action, Outcome.FAILED, header, {"error": type(error).__name__}))
            raise

    def sent(self, action: Action, header: Header, reply: RecordDict, facts: dict[str, Scalar]) -> RecordDict:
        """Record that the act is done and that ``reply`` leaves, with one fsync, before it leaves."""
        self.log.append_many(
            [
                self.entry(action, Outcome.OK, header, facts),
                self.entry(Action.MESSAGE_OUT, Outcome.STARTED, header, {"bytes": record_bytes(reply)}),
            ]
        )
        return reply

    def entry(self, action: Action, outcome: Outcome, header: Header | None, detail: dict[str, Scalar]) -> Entry:
        """An entry of the record about the round of ``header``."""
        if header is None:
            return Entry(action, outcome, detail=detail)
        return Entry(action, outcome, run=header.run, round=header.round, detail={"task": header.task, **detail})
