"""The part of :mod:`client.preflight` that is about the coordinator: the certificate, the connection, and the clock."""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from client.certificate import LinkCertificate
from client.link_http import BoundedHttp, client_context
from client.link_trouble import EARLY, LATE, RejectedError, UnreachableError
from client.preflight import Answer, Look, Verdict, check
from shared.charter_plans import CoordinatorPlan
from shared.errors import ProtocolError
from shared.places import Address

SOON: Final = 30
"""Days before its end from which a certificate is worth a word."""
NEAR: Final = 3.0
"""Seconds that clocks may differ without a word; a date in a header is right to about a second."""
NO_COORDINATOR: Final = "the charter names no coordinator to connect to"

_EXPIRED, _EARLY, _NAMES = 10, 9, {62, 64}  # X509_V_ERR_* of OpenSSL


@check("certificate", needs=("charter",))
def _certificate(look: Look) -> Answer:
    node, plan = look.node, look.charter.coordinator
    if plan is None:
        return NO_COORDINATOR
    found = LinkCertificate.stored(node)
    found.check(node, look.charter)
    days = (found.until - datetime.now(UTC)).days
    said = f"for {node.site} at {plan.name}, until {found.until:%Y-%m-%d}"
    if days < SOON:
        return Verdict.WARN, f"{said}: {days} days", "have the coordinator approve this node again, and join with that"
    return said


@check("connection", needs=("certificate",), online=True)
def _connection(look: Look) -> Answer:
    plan = look.charter.coordinator
    if plan is None:
        return NO_COORDINATOR
    url, way = f"https://{plan.address}", _proxy(plan)
    waiting = {"timeout": httpx.Timeout(look.timeout).as_dict()}
    tls = client_context(look.node.authority, look.node.certificate, look.node.link_key)
    http = BoundedHttp(url, tls, look.seen)
    try:
        status = http.send(httpx.Request("GET", f"{url}/health", extensions=waiting)).status_code
    except (httpx.HTTPError, ssl.SSLError, OSError) as error:
        raise _trouble(error, plan, way) from error
    finally:
        http.close()
    if status != httpx.codes.OK:
        found = RejectedError.with_status(status)
        raise ProtocolError(f"{plan.address}{way}: {found.message}", hint=found.hint)
    return f"{plan.name} at {plan.address} answers{way}, TLS 1.3, both certificates hold"


@check("clock", online=True)
def _clock(look: Look) -> Answer:
    ahead = look.ahead
    if ahead is None:
        return Verdict.WARN, "compared with nobody: the coordinator said no time", "mend the connection first"
    way = "ahead of" if ahead > 0 else "behind"
    said = f"{abs(ahead):.1f} s {way} the coordinator's"
    if ahead > EARLY or -ahead > LATE:
        raise ProtocolError(
            f"this machine's clock is {said}, which takes {EARLY:.0f} s ahead and {LATE:.0f} s behind at most",
            hint="set it, and keep it set: timedatectl set-ntp true",
        )
    if abs(ahead) > NEAR:
        return Verdict.WARN, said, "set it before it drifts further: timedatectl set-ntp true"
    return said


def _proxy(plan: CoordinatorPlan) -> str:
    """Words for the proxy on the way, without its password; empty where the way is direct."""
    known, host = getproxies(), Address.parse(plan.address).host
    proxy = known.get("https") or known.get("all")
    if not proxy or proxy_bypass(host):
        return ""
    parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    return f" through the proxy {parts.hostname}:{parts.port}" if parts.port else f" through the proxy {parts.hostname}"


def _trouble(error: Exception, plan: CoordinatorPlan, way: str) -> ProtocolError:
    """What went wrong on the way, as exactly as it can be told from here."""
    found = next((one for one in _chain(error) if isinstance(one, ssl.SSLError)), None)
    if found is not None and (said := _of_tls(found, way)):
        return ProtocolError(f"{plan.address}{way}: {said[0]}", hint=said[1])
    other = UnreachableError.because(error)
    return ProtocolError(f"{plan.address}{way}: {other.message}", hint=other.hint)


def _of_tls(error: ssl.SSLError, way: str) -> tuple[str, str] | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in {_EXPIRED, _EARLY}:
            return (
                f"the certificate there does not hold today: {error.verify_message}",
                "look at this machine's date; if it is right, the coordinator must run 'fedward server init' again",
            )
        if error.verify_code in _NAMES:
            return (
                "the certificate there is of the charter's authority and for another address",
                "the coordinator must name this address with --address or --also of 'fedward server init'",
            )
        return (
            "the certificate there is not of the authority that the charter names: it is another coordinator, or "
            f"something between opens TLS{', such as the proxy' if way else ''}",
            "have the network's people pass this address through unopened; if they do, call the coordinator",
        )
    reason = error.reason or ""
    if "ALERT" in reason:
        said = reason.partition("ALERT_")[2].replace("_", " ").lower()
        return (
            f"the gate does not take this hospital's certificate: {said}",
            "have the coordinator approve this node again, and join with the certificate that comes of it",
        )
    if reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION"}:
        return (
            "what answers there speaks no TLS 1.3: another service, or a proxy that answers in its place",
            "compare the address with the coordinator; have the network's people pass it through unopened",
        )
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
