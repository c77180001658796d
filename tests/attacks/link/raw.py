"""A client that speaks TLS and HTTP byte by byte: what a polite library would not send."""

import os
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Answer:
    """One HTTP response."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Talk:
    """What came back on one connection.

    Attributes:
        raw: All bytes.
        answers: The responses in them, those of status 100 left out.
        closed: Whether the other end closed the connection, or broke it.
    """

    raw: bytes
    answers: tuple[Answer, ...]
    closed: bool

    @property
    def statuses(self) -> tuple[int, ...]:
        return tuple(one.status for one in self.answers)


def connect(
    place: int | Path, context: ssl.SSLContext | None, *, host: str = "127.0.0.1", wait: float = 10.0
) -> socket.socket:
    """A connection to a port, or to a Unix socket, with the handshake done where there is a ``context``.

    Under TLS 1.3 a server judges a client's certificate after the client's own handshake is over: read to find out.
    """
    plain = _at(place, wait) if isinstance(place, Path) else socket.create_connection((host, place), timeout=wait)
    try:
        return context.wrap_socket(plain, server_hostname=host) if context else plain
    except BaseException:
        plain.close()
        raise


def _at(place: Path, wait: float) -> socket.socket:
    """A connection to a Unix socket, whose path may be longer than its address."""
    folder = os.open(place.parent, os.O_PATH | os.O_DIRECTORY)
    made = socket.socket(socket.AF_UNIX)
    try:
        made.settimeout(wait)
        made.connect(f"/proc/self/fd/{folder}/{place.name}")
    except BaseException:
        made.close()
        raise
    finally:
        os.close(folder)
    return made


def talk(
    place: int | Path,
    data: bytes | Iterable[bytes],
    context: ssl.SSLContext | None,
    *,
    expect: int = 1,
    wait: float = 10.0,
    pause: float = 0.0,
    linger: float = 0.0,
    head: bool = False,
) -> Talk:
    """Send ``data`` as it is, and read until ``expect`` responses came, the other end closed, or ``wait`` seconds went.

    A response may be followed by one that nobody asked for, as smuggling has it: ``linger`` seconds are left for that.
    An answer to ``head`` says how long it would be, and has no body.
    """
    with closing(connect(place, context, wait=wait)) as link:
        broken = False
        try:
            for part in [data] if isinstance(data, bytes) else data:
                link.sendall(part)
                if pause:
                    time.sleep(pause)
        except OSError:
            broken = True
        raw, closed = _read(link, expect, wait, linger, head=head)
        return Talk(raw, _answers(raw, head=head), closed or broken)


def _read(link: socket.socket, expect: int, wait: float, linger: float, *, head: bool) -> tuple[bytes, bool]:
    raw, until = b"", time.monotonic() + wait
    while len(_answers(raw, head=head)) < expect:
        link.settimeout(max(until - time.monotonic(), 0.01))
        try:
            more = link.recv(65536)
        except TimeoutError:
            return raw, False
        except OSError:  # reset, or an alert of TLS
            return raw, True
        if not more:
            return raw, True
        raw += more
    link.settimeout(linger or 0.001)
    try:
        while more := link.recv(65536):
            raw += more
    except TimeoutError:
        return raw, False
    except OSError:
        pass
    return raw, True


def _answers(raw: bytes, *, head: bool) -> tuple[Answer, ...]:
    found = []
    while (end := raw.find(b"\r\n\r\n")) >= 0:
        first, *lines = raw[:end].decode("latin-1").split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        rest, status = raw[end + 4 :], int(first.split(" ")[1])
        if headers.get("transfer-encoding") == "chunked" and not head:
            stop = rest.find(b"0\r\n\r\n")
            if stop < 0:
                break
            body, raw = rest[:stop], rest[stop + 5 :]
        else:
            length = 0 if head else int(headers.get("content-length", "0"))
            if len(rest) < length:
                break
            body, raw = rest[:length], rest[length:]
        if status != 100:
            found.append(Answer(status, headers, body))
    return tuple(found)


def request(
    method: str,
    target: str,
    body: bytes = b"",
    headers: Iterable[tuple[str, str]] = (),
    *,
    host: str | None = "127.0.0.1",
    version: str = "HTTP/1.1",
) -> bytes:
    """An HTTP request as bytes; nothing in ``target`` or ``headers`` is changed or checked."""
    lines = [f"{method} {target} {version}"]
    if host is not None:
        lines.append(f"Host: {host}")
    given = {name.lower() for name, _ in headers}
    if method == "POST" and not given & {"content-length", "transfer-encoding"}:
        lines += [f"Content-Length: {len(body)}"]
    if method == "POST" and "content-type" not in given:
        lines.append("Content-Type: application/protobuf")
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
