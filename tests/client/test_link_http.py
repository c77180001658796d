"""HTTP to a coordinator that does not mean well, and what errors of the network mean."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from client import link_http
from client.link_http import BoundedHttp
from client.link_trouble import (
    CutError,
    GarbledError,
    LinkError,
    RejectedError,
    UnreachableError,
    clock_line,
)
from shared.certificates import Authority, pem
from shared.link_keys import make_key

HOST = "127.0.0.1"


@contextmanager
def server(folder: Path, answer: Callable[[ssl.SSLSocket], None]) -> Iterator[tuple[str, ssl.SSLContext]]:
    """A server with TLS that treats every connection with ``answer``; its address, and what trusts it."""
    authority = Authority.make(make_key(folder / "authority.key"), "test")
    key = make_key(folder / "gate.key")
    (folder / "gate.pem").write_bytes(pem(authority.server(key.public_key(), "test", [HOST])))
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(folder / "gate.pem", folder / "gate.key")
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    theirs.load_verify_locations(cadata=pem(authority.certificate).decode())

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            with plain:
                try:
                    with ours.wrap_socket(plain, server_side=True) as secure:
                        asked = b""
                        while not asked.endswith(b"\r\n\r\nx"):  # what is left unread turns the end into a reset
                            asked += secure.recv(65536) or b"\r\n\r\nx"
                        answer(secure)
                except OSError:
                    continue

    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"https://{HOST}:{listener.getsockname()[1]}", theirs


def ask(url: str, tls: ssl.SSLContext, seen: Callable[[float | None], None] = lambda _: None) -> httpx.Response:
    http = BoundedHttp(url, tls, seen)
    try:
        return http.send(httpx.Request("POST", url + "/v1/fleet/pull-messages", content=b"x"))
    finally:
        http.close()


def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    asked: list[int] = []

    def answer(stream: ssl.SSLSocket) -> None:
        asked.append(1)
        stream.sendall(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n")

    with server(tmp_path, answer) as (url, tls):
        assert ask(url, tls).status_code == 307
    assert asked == [1]


def test_an_answer_without_end_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_http, "MAX_ANSWER", 100_000)

    def answer(stream: ssl.SSLSocket) -> None:
        stream.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            stream.sendall(bytes(65536))

    with server(tmp_path, answer) as (url, tls), pytest.raises(GarbledError, match="more than 100000 bytes"):
        ask(url, tls)


def test_a_compressed_answer_is_not_unpacked(tmp_path: Path) -> None:
    def answer(stream: ssl.SSLSocket) -> None:
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc")

    with server(tmp_path, answer) as (url, tls), pytest.raises(GarbledError, match="compressed"):
        ask(url, tls)


@pytest.mark.parametrize("date", ["", "Date: \r\n", "Date: yesterday\r\n", "Date: 7\r\n"])
def test_a_date_that_is_none_says_nothing_of_the_clock(date: str, tmp_path: Path) -> None:
    seen: list[float | None] = []

    def answer(stream: ssl.SSLSocket) -> None:
        stream.sendall(f"HTTP/1.1 200 OK\r\n{date}Content-Length: 0\r\n\r\n".encode())

    with server(tmp_path, answer) as (url, tls):
        ask(url, tls, seen.append)
    assert seen == [None]


def failure(call: Callable[[], object]) -> UnreachableError:
    with pytest.raises((httpx.HTTPError, OSError)) as caught:
        call()
    return UnreachableError.because(caught.value)


def test_each_way_not_to_reach_somebody_is_told_in_its_own_words(tmp_path: Path) -> None:
    trusting = ssl.create_default_context()
    with socket.socket() as nobody:
        nobody.bind((HOST, 0))
        refused = failure(lambda: ask(f"https://{HOST}:{nobody.getsockname()[1]}", trusting))
    assert "nobody listens" in refused.message
    assert "name cannot be resolved" in failure(lambda: ask("https://no.such.host.invalid", trusting)).message
    with server(tmp_path, lambda stream: None) as (url, tls):
        cut = failure(lambda: ask(url, tls))
        assert isinstance(cut, CutError)
        untrusted = failure(lambda: ask(url, trusting))
    assert "its certificate does not hold here: unable to get local issuer certificate" in untrusted.message
    assert "the authority of the charter" in untrusted.hint


def test_something_that_speaks_no_tls_is_told(tmp_path: Path) -> None:
    def speak() -> None:
        stream, _ = listener.accept()
        with stream:
            stream.recv(1000)
            stream.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=speak, daemon=True).start()
        told = failure(lambda: ask(f"https://{HOST}:{listener.getsockname()[1]}", ssl.create_default_context()))
    assert "no TLS 1.3 at its address" in told.message


@pytest.mark.parametrize("status", [301, 307, 401, 403, 404, 405, 407, 412])
def test_a_refusal_says_what_to_do(status: int) -> None:
    error = RejectedError.with_status(status)
    assert isinstance(error, RejectedError)
    assert error.status == status
    assert str(status) in error.message
    assert error.hint


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_what_was_asked_wrongly_is_not_asked_for_ever(status: int) -> None:
    assert isinstance(RejectedError.with_status(status), GarbledError)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_server_in_trouble_is_tried_again(status: int) -> None:
    error: LinkError = RejectedError.with_status(status)
    assert isinstance(error, UnreachableError)


@pytest.mark.parametrize(
    ("ahead", "words"),
    [
        (0.0, ""),
        (3.0, ""),
        (-300.0, ""),
        (10.2, "this machine's clock is 10 s ahead of the coordinator's"),
        (-400.0, "this machine's clock is 400 s behind the coordinator's"),
    ],
)
def test_a_clock_is_spoken_of_where_it_matters(ahead: float, words: str) -> None:
    assert clock_line(ahead).startswith(words)
    assert bool(clock_line(ahead)) == bool(words)


@contextmanager
def proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy that carries one connection for each that it is asked for; its address, and what it was asked."""
    asked: list[str] = []

    def carry(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            return

    def serve() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            line = near.recv(65536).split(b"\r\n")[0].decode()
            asked.append(line)
            host, _, port = line.split()[1].partition(":")
            far = socket.create_connection((host, int(port)))
            near.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            for pair in ((near, far), (far, near)):
                threading.Thread(target=carry, args=pair, daemon=True).start()

    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://{HOST}:{listener.getsockname()[1]}", asked


def test_a_proxy_is_used_where_it_is_named_and_sees_nothing_but_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(stream: ssl.SSLSocket) -> None:
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    with server(tmp_path, answer) as (url, tls), proxy() as (through, asked):
        monkeypatch.setenv("HTTPS_PROXY", through)
        assert ask(url, tls).content == b"hi"
        assert asked == [f"CONNECT {url.removeprefix('https://')} HTTP/1.1"]
        monkeypatch.setenv("NO_PROXY", HOST)
        assert ask(url, tls).content == b"hi"
        assert len(asked) == 1
