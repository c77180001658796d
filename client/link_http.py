"""HTTP to one coordinator: no redirects, answers of bounded size, and what its clock says."""

import socket
import ssl
import time
import urllib.request
from collections import deque
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from client.link_trouble import GarbledError

MAX_ANSWER = 16 << 20
"""Bytes of one answer; a part of a message has at most 5 MiB."""
_SECONDS = httpx.Timeout(30.0, connect=10.0)  # without a byte; a call as a whole may take longer
_SAMPLES = 20
_PROBE = 2.0  # seconds


def client_context(authority: Path, certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.3 to one coordinator: its certificate must be of ``authority``, and this hospital shows its own.

    Raises:
        ssl.SSLError: The files do not fit together.
        OSError: One cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(authority)
    context.load_cert_chain(certificate, key)
    return context


def proxy_for(host: str) -> str:
    """The proxy on the way to ``host`` by HTTPS or all, as httpx chooses it; empty where the way is direct."""
    known = urllib.request.getproxies()
    proxy = known.get("https") or known.get("all") or ""
    return "" if not proxy or urllib.request.proxy_bypass(host) else proxy


class BoundedHttp:
    """A client for one address.

    Proxies are taken from ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``; through one the connection is still TLS with
    the coordinator alone (RFC 9110, section 9.3.6, CONNECT).

    Args:
        url: ``https://host:port``.
        tls: For every connection to it.
        seen: Told of every answer: seconds that this machine's clock is ahead, or None where the answer has no date.
    """

    def __init__(self, url: str, tls: ssl.SSLContext, seen: Callable[[float | None], None]) -> None:
        self._url, self._tls, self._seen = url, tls, seen
        self._ahead: deque[float] = deque(maxlen=_SAMPLES)
        self._client = httpx.Client(verify=tls, timeout=_SECONDS, follow_redirects=False)

    def send(self, request: httpx.Request) -> httpx.Response:
        """The answer to ``request``, read to its end.

        Raises:
            GarbledError: It is too long, or compressed, which nobody asked for.
            httpx.HTTPError: The coordinator cannot be reached.
        """
        request.headers["accept-encoding"] = "identity"
        begun = time.time()
        response = self._client.send(request, stream=True)
        try:
            self._seen(self._clock(response, (begun + time.time()) / 2))
            if response.headers.get("content-encoding", "identity") != "identity":
                raise GarbledError("an answer that is compressed")
            content = bytearray()
            for piece in response.iter_raw():
                content += piece
                if len(content) > MAX_ANSWER:
                    raise GarbledError(f"an answer of more than {MAX_ANSWER} bytes")
        finally:
            response.close()
        headers = [(name, value) for name, value in response.headers.multi_items() if name != "content-length"]
        return httpx.Response(response.status_code, headers=headers, content=bytes(content), request=request)

    def is_cut(self) -> bool:
        """Whether the other end closes a connection on which it is asked for nothing.

        A server that does not take a client's certificate says so behind the handshake (RFC 8446, section 4.4.2.4), if
        it says anything; and the word gets lost where a request is on its way to it. False where there is a proxy.

        Raises:
            ssl.SSLError: What the other end, or this one, says against a certificate.
            OSError: There is no connection.
        """
        url = httpx.URL(self._url)
        if proxy_for(url.host):
            return False
        with (
            socket.create_connection((url.host, url.port or 443), _PROBE) as plain,
            self._tls.wrap_socket(plain, server_hostname=url.host) as secure,
        ):
            try:
                return not secure.recv(1)
            except TimeoutError:
                return False
            except ConnectionError:
                return True

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _clock(self, response: httpx.Response, now: float) -> float | None:
        """Seconds that this machine is ahead of the Date header (RFC 9110, section 6.6.1).

        The header has whole seconds and is often a second old, so that one answer says too much; the least of several
        is right to a fraction of a second.
        """
        try:
            date = parsedate_to_datetime(response.headers["date"]).timestamp()
        except (KeyError, ValueError, TypeError):
            return None
        self._ahead.append(now - date)
        return min(self._ahead)
