"""The inner listener is a name in a private folder: nobody else is ever told the coordinator's secret."""

import http.client
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.superlink.grid import HttpGrid

from server import within
from server.coordinator import Coordinator
from server.flower_line import Line, LinkGrid
from server.keeper import serving
from shared.errors import FedwardError, OutputError, PolicyError, ProtocolError
from shared.files import locked
from tests.federation.links import HOST, Desk

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@contextmanager
def answering(coordinator: Coordinator) -> Iterator[list[bytes]]:
    """Somebody at the socket who answers one request on each connection; what was asked."""
    listener, heard = within.listening(coordinator), list[bytes]()
    listener.settimeout(10)

    def work() -> None:
        while True:
            try:
                line, _ = listener.accept()
            except OSError:
                return
            with line:
                line.settimeout(10)
                heard.append(line.recv(65536))
                if heard[-1]:
                    line.sendall(OK)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield heard
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk.make(tmp_path)


def test_a_folder_of_any_depth_can_be_that_of_the_socket(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*(["deeper" * 8] * 5))
    deep.mkdir(parents=True)
    desk = Desk.make(deep)
    assert len(str(desk.coordinator.inner_path)) > 200
    with answering(desk.coordinator) as heard, desk.within(**desk.secret) as client:
        assert client.get("/health").text == "ok"
        line = http.client.HTTPConnection("superlink")
        line.sock = within.connected(desk.coordinator, 5)
        line.request("GET", "/health")
        assert line.getresponse().read() == b"ok"
        line.close()
    assert len(heard) == 2


def test_the_socket_is_for_its_owner_and_the_secret_goes_nowhere_else(desk: Desk) -> None:
    with answering(desk.coordinator) as heard, desk.within(**desk.secret) as client:
        mode = desk.coordinator.inner_path.stat().st_mode
        assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
        client.get(f"http://{HOST}:9/health")  # whatever host a request names
    assert [desk.coordinator.secret().encode() in one for one in heard] == [True]
    assert not list(desk.coordinator.superlink_folder.glob("address")), "there is no port to be taken"


def test_a_proxy_of_the_environment_is_passed_by(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://{HOST}:9")
    with answering(desk.coordinator) as heard, desk.within() as client:
        assert client.get("/health").status_code == 200
    assert len(heard) == 1


def test_what_an_earlier_listener_left_is_in_nobodys_way(desk: Desk) -> None:
    within.listening(desk.coordinator).close()  # its name stays
    with pytest.raises(httpx.ConnectError), desk.within() as client:
        client.get("/health")
    assert not serving(desk.coordinator)
    with answering(desk.coordinator), desk.within() as client:
        assert client.get("/health").status_code == 200


def test_a_client_finds_a_listener_whose_folder_was_made_anew(desk: Desk) -> None:
    with desk.within() as client:
        with answering(desk.coordinator):
            assert client.get("/health").status_code == 200
        folder = desk.coordinator.superlink_folder
        folder.rename(folder.with_name("old"))
        with pytest.raises(httpx.ConnectError):
            client.get("/health")
        folder.mkdir(mode=0o700)
        with answering(desk.coordinator):
            assert client.get("/health").status_code == 200


def test_a_folder_that_others_may_enter_is_not_used(desk: Desk) -> None:
    with answering(desk.coordinator) as heard:
        desk.coordinator.superlink_folder.chmod(0o750)
        with locked(desk.coordinator.executor_path, "somebody"):
            assert not serving(desk.coordinator)
        with Line(desk.coordinator) as line, pytest.raises(PolicyError, match="others may enter"):
            line.nodes()
        with pytest.raises(PolicyError, match="chmod 700"):
            within.listening(desk.coordinator)
        desk.coordinator.superlink_folder.chmod(0o700)
    assert heard == [], "the secret was told"


def test_without_a_folder_or_a_listener_the_line_says_that_nobody_answers(desk: Desk) -> None:
    with Line(desk.coordinator) as line:
        with pytest.raises(ProtocolError, match="does not answer"):
            line.nodes()
        desk.coordinator.superlink_folder.rename(desk.coordinator.folder / "old")
        with pytest.raises(ProtocolError, match="does not answer"):
            line.nodes()
    with pytest.raises(OutputError):
        within.listening(desk.coordinator)
    assert not serving(desk.coordinator)


def test_no_descriptor_is_left_open(desk: Desk) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(OSError, match=r"No such file|refused"):
            within.connected(desk.coordinator, 1)
        with answering(desk.coordinator), desk.within() as client:
            client.get("/health")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_errors_are_told_as_ours(desk: Desk) -> None:
    desk.coordinator.superlink_folder.chmod(0o755)
    with pytest.raises(FedwardError) as met:
        within.connected(desk.coordinator, 1)
    assert (met.value.exit_code, bool(met.value.hint)) == (6, True)


@pytest.mark.parametrize("what", ["push_messages", "pull_messages"])
def test_a_part_of_a_message_that_the_superlink_has_lost_is_told_as_what_the_other_end_did(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def lost(*_: object) -> list[str]:
        raise ObjectPushError("a" * 64, 1, "session")

    monkeypatch.setattr(HttpGrid, what, lost)
    grid = LinkGrid(desk.coordinator, "a token")
    with pytest.raises(ProtocolError, match="lost a part of a message") as caught:
        getattr(grid, what)([])
    assert "resume the run" in caught.value.hint
