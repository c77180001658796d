"""Another application entity (PS3.8): where it listens, who it is, who we are to it, and associations with it."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.events import EventHandlerType
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext

from client.sources.source import UnreachableError
from client.sources.tls import Tls
from shared.errors import ProtocolError, UsageError

CONNECT, ANSWER = 10.0, 60.0
"""Seconds to wait for an association, and for the next message."""
_TITLE = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,16}")


class UnacceptedError(ProtocolError):
    """It speaks with us, but takes nothing of what was proposed."""


@dataclass(frozen=True)
class Address:
    """A host and a port, as ``HOST:PORT``; an IPv6 address stands in brackets."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read ``HOST:PORT``.

        Raises:
            UsageError: It is none.
        """
        host, _, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise UsageError(f"'{text}' is no address", hint="use the form HOST:PORT")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Peer:
    """An archive as somebody to speak DIMSE with.

    Args:
        address: Where it listens.
        called: Its AE title.
        calling: Ours, as it knows it.
        tls: Whom we trust and who we are; None for open lines.

    Raises:
        UsageError: An AE title is none (PS3.5 6.2: up to 16 characters, not all blank, no backslash).
    """

    def __init__(self, address: Address, *, called: str, calling: str, tls: Tls | None) -> None:
        for title in (called, calling):
            if not _TITLE.fullmatch(title) or not title.strip():
                raise UsageError(f"'{title}' is no AE title", hint="1 to 16 characters of ASCII, no backslash")
        self.called, self.calling = called.strip(), calling.strip()
        self.name = f"{self.called} at {address}"
        self._address, self._tls = address, tls

    def ae(self) -> AE:
        """Us, with limits for how long we wait."""
        ae = AE(self.calling)
        ae.acse_timeout = ae.connection_timeout = CONNECT
        ae.dimse_timeout = ae.network_timeout = ANSWER
        return ae

    def associate(
        self,
        contexts: list[PresentationContext],
        *,
        roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
        handlers: Sequence[EventHandlerType] = (),
    ) -> Association:
        """An established association in which some of ``contexts`` are accepted.

        Raises:
            UnreachableError: There is none now.
            UnacceptedError: It accepts none of ``contexts``.
            ProtocolError: It refuses us, or TLS cannot be had.
        """
        tls = self._tls.client() if self._tls else None
        association = self.ae().associate(
            self._address.host,
            self._address.port,
            contexts=contexts,
            ae_title=self.called,
            ext_neg=list(roles),
            evt_handlers=list(handlers),
            tls_args=(tls, self._address.host) if tls else None,
        )
        if association.is_rejected:
            raise self._rejection(association)
        if association.is_established:
            return association
        if association.rejected_contexts and not association.accepted_contexts:
            raise UnacceptedError(f"{self.name} accepts none of our requests", hint="ask its administrator for rights")
        if tls and (fault := tls.fault()):
            if fault.passing:
                raise UnreachableError(fault.reason, fault.check)
            raise ProtocolError(f"{self.name} {fault.reason}", hint=fault.check)
        hint = "" if tls else ", and whether it wants --dimse-tls"
        raise UnreachableError("does not answer", f"check the host, the port, the firewall and the archive{hint}")

    @contextlib.contextmanager
    def associated(
        self,
        contexts: list[PresentationContext],
        *,
        roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
        handlers: Sequence[EventHandlerType] = (),
    ) -> Iterator[Association]:
        """As :meth:`associate`, for as long as the block runs."""
        association = self.associate(contexts, roles=roles, handlers=handlers)
        try:
            yield association
            association.release()
        finally:
            if association.is_established:
                association.abort()

    def _rejection(self, association: Association) -> Exception:
        answer = association.acceptor.primitive
        reason = answer.reason_str if answer else "no reason given"
        if answer and answer.result == 2:  # PS3.8 Table 9-21: rejected-transient
            return UnreachableError(f"rejects the association for now: {reason}", "ask its administrator")
        return ProtocolError(
            f"{self.name} rejects the association: {reason}",
            hint=f"check the AE title {self.called} and that it knows --calling {self.calling}",
        )
