"""What goes wrong on the way to the coordinator, in words that say which side it is and what to do."""

import socket
import ssl
from collections.abc import Iterator
from typing import Self

import httpx

from shared.errors import ProtocolError

LATE, EARLY = 305.0, 5.0
"""Seconds that a clock may be behind and ahead before Flower takes no signature of it."""


class LinkError(ProtocolError):
    """The coordinator cannot be reached, refuses, or sent what it must not send."""


class UnreachableError(LinkError):
    """Nothing came back; it may work the next time."""

    @classmethod
    def because(cls, error: BaseException) -> "UnreachableError":
        """Say what an error of the network means, and which side it is."""
        message, hint = next(filter(None, map(_meaning, _chain(error))), (type(error).__name__, _NETWORK))
        kind = CutError if message == _CUT else cls
        return kind(f"the coordinator cannot be reached: {message}", hint=hint)


class CutError(UnreachableError):
    """The other end closed the connection without an answer."""

    @classmethod
    def behind_handshake(cls) -> Self:
        """Say what it means that it does so whatever it is asked."""
        return cls(
            "its gate does not take this hospital's certificate: it closes every connection behind the handshake",
            hint=_OURS,
        )


class RejectedError(LinkError):
    """The coordinator or its gate refuses this node."""

    status: int = 0

    @classmethod
    def with_status(cls, status: int) -> LinkError:
        """Say what an HTTP status means (RFC 9110, section 15); a server in trouble is :class:`UnreachableError`."""
        if status in {408, 425, 429} or status >= 500:
            return UnreachableError(
                f"the coordinator is in trouble (HTTP status {status})", hint="tell the people who run it, if it stays"
            )
        if status in {400, 413, 415, 422}:  # the request itself; to send it again is of no use
            return GarbledError(f"nothing but a refusal of what it was sent (HTTP status {status})")
        message, hint = _STATUS.get(status, _OTHER)
        made = cls(f"{message} (HTTP status {status})", hint=hint)
        made.status = status
        return made


class StillActiveError(LinkError):
    """The node is not known, or counts as connected."""

    def __init__(self) -> None:
        super().__init__(
            "the coordinator has no run for this node's key yet, or an earlier life of this node counts as connected "
            "for up to half a minute",
            hint="wait; if it stays: no run was started for this federation, or another machine runs with a copy of "
            "this node's folder, which it must not",
        )


class UnknownNodeError(LinkError):
    """The coordinator has begun anew and does not know this node by its number."""


class RunOverError(LinkError):
    """The run that something belongs to has ended."""


class GarbledError(LinkError):
    """What came is not what must come."""


_STATUS = {
    401: (
        "the coordinator does not take this node's signature",
        "see the clock, and whether the coordinator has admitted this node's key",
    ),
    403: (
        "the coordinator's gate does not let this node in",
        "its certificate must be for this node's key, and the node a member; ask the coordinator",
    ),
    404: ("there is no coordinator at this address", "compare the charter's address with the coordinator's people"),
    407: ("the proxy wants a name and a password", "see HTTPS_PROXY and NO_PROXY"),
}
_OTHER = ("the coordinator refuses", "ask the people who run it for the line in its log")


_CUT = "the connection was cut"
_NETWORK = "see the network, the firewall, and HTTPS_PROXY and NO_PROXY"
_THEIRS = "the authority of the charter must have signed it for this address; ask the coordinator's people"
_OURS = "ask the coordinator's people for a new one, and join again with it"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came from, the first cause first."""
    if error is not None:
        yield from _chain(error.__cause__ or error.__context__)
        yield error


def _meaning(error: BaseException) -> tuple[str, str] | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not hold here: {error.verify_message}", _THEIRS
    if isinstance(error, ssl.SSLError):
        reason = (error.reason or "TLS").replace("_", " ").lower()
        if "alert" in reason:
            return f"its gate does not take this hospital's certificate: {reason}", _OURS
        return f"there is no TLS 1.3 at its address, or something between ends it: {reason}", _NETWORK
    if isinstance(error, socket.gaierror):
        return "its name cannot be resolved", "see the charter's address, and this machine's name service"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens at its address", "it may be starting; else see the charter's address, and the firewall"
    if isinstance(error, httpx.ProxyError):
        return "the proxy does not let this through", "see HTTPS_PROXY and NO_PROXY"
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return "no answer in time", _NETWORK
    if isinstance(error, ConnectionError | httpx.RemoteProtocolError):
        return _CUT, _NETWORK
    return None


def clock_line(ahead: float) -> str:
    """What to say of a clock that differs, or nothing where it does not matter; positive is ahead."""
    if -LATE < ahead < EARLY - 1.0:
        return ""
    way = "ahead of" if ahead > 0 else "behind"
    return (
        f"this machine's clock is {abs(ahead):.0f} s {way} the coordinator's, which takes at most {EARLY:.0f} s ahead "
        f"and {LATE:.0f} s behind; set it (timedatectl, chronyc tracking)"
    )
