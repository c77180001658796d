"""What keeps a coordinator running, and how others know that somebody does."""

import os
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.keeper import alone, children, keep, running, serving
from shared.certificates import pem
from shared.cli import build
from shared.errors import ProtocolError, UsageError
from shared.files import locked
from shared.link_keys import make_key
from tests.federation.hospitals import Founded
from tests.federation.links import HOST, Desk
from tests.ports import free_port


@pytest.mark.live
def test_a_superlink_whose_folder_was_removed_is_built_anew(tmp_path: Path) -> None:
    founded = Founded.make(tmp_path)
    folder = founded.desk.coordinator.superlink_folder
    folder.rename(tmp_path / "lost")
    assert not running(founded.desk.coordinator)
    with founded.started():
        assert folder.stat().st_mode & 0o777 == 0o700
        assert running(founded.desk.coordinator)
        assert serving(founded.desk.coordinator)
    assert founded.state() == "stopped"
    assert [one for one in ("inner.sock", "executor", "address") if (folder / one).exists()] == []


def test_what_was_left_by_one_that_was_killed_does_not_count_as_serving(tmp_path: Path) -> None:
    desk = Desk.make(tmp_path)
    with desk.served():
        desk.coordinator.executor_path.write_text(str(os.getpid()))
        assert not serving(desk.coordinator)
        with locked(desk.coordinator.executor_path, "an executor"):
            assert serving(desk.coordinator)
        assert not serving(desk.coordinator)


def test_who_looks_whether_it_runs_keeps_nobody_from_starting_it(tmp_path: Path) -> None:
    coordinator = Desk.make(tmp_path).coordinator
    over, seen = threading.Event(), set[bool]()

    def look() -> None:
        while not over.is_set():
            seen.add(running(coordinator))
            time.sleep(0.005)

    watchers = [threading.Thread(target=look) for _ in range(3)]
    for one in watchers:
        one.start()
    try:
        for _ in range(30):
            alone(coordinator).close()
    finally:
        over.set()
        for one in watchers:
            one.join()
    assert seen  # nobody was refused, and those who look together are not taken for one that keeps it
    with alone(coordinator):
        assert running(coordinator)
        begun = time.monotonic()
        with pytest.raises(UsageError, match="running already"):
            alone(coordinator)
        assert time.monotonic() - begun < 5
    assert not running(coordinator)


def test_two_who_look_at_once_do_not_see_each_other(tmp_path: Path) -> None:
    coordinator = Desk.make(tmp_path).coordinator
    alone(coordinator).close()
    found: list[bool] = []

    def look() -> None:
        found.extend(running(coordinator) for _ in range(300))

    watchers = [threading.Thread(target=look) for _ in range(4)]
    for one in watchers:
        one.start()
    for one in watchers:
        one.join()
    assert set(found) == {False}


def test_a_gate_whose_certificate_no_hospital_takes_is_not_opened(tmp_path: Path) -> None:
    desk = Desk.make(tmp_path)
    old = datetime.now(UTC) - timedelta(days=900)
    late = desk.authority.server(make_key(tmp_path / "key").public_key(), "hub", ["localhost"], now=old)
    other = desk.authority.server(make_key(tmp_path / "key2").public_key(), "hub", ["elsewhere.example"])
    for certificate, said in ((late, "expired on"), (other, "is not one for localhost")):
        desk.coordinator.gate_path.write_bytes(pem(certificate))
        with pytest.raises(ProtocolError, match=said) as met:
            keep(desk.coordinator.folder, listen=f"{HOST}:{desk.port}")
        assert f"fedward server init {desk.coordinator.folder} --address {desk.coordinator.address}" in met.value.hint
    assert not running(desk.coordinator)


def test_what_is_wrong_with_the_port_of_the_audit_exchange_is_said_in_one_line(tmp_path: Path) -> None:
    folder, port = Desk.make(tmp_path).coordinator.folder, free_port()
    with socket.create_server((HOST, port + 1)):
        for listen, audit, said in (
            (f"{HOST}:{port}", None, f"the audit exchange cannot listen on {HOST}:{port + 1}"),
            (f"{HOST}:{free_port()}", f"{HOST}:{port + 1}", f"the audit exchange cannot listen on {HOST}:{port + 1}"),
            (f"{HOST}:65535", None, "there is no port above 65535 for the audit exchange"),
        ):
            with pytest.raises(UsageError, match=said) as met:
                keep(folder, listen=listen, audit_listen=audit)
            assert "give --audit-listen IP:PORT" in met.value.hint
            assert met.value.exit_code == 2


def test_runs_do_not_end_with_what_takes_turns_of_witnesses(tmp_path: Path) -> None:
    parts = children(Desk.make(tmp_path).coordinator, f"{HOST}:1", f"{HOST}:2")
    assert [(one.name, one.vital) for one in parts] == [("link", True), ("executor", True), ("witness", False)]


@pytest.mark.parametrize("port", ["0", "70000", "-1"])
@pytest.mark.parametrize("words", ["server health {}", "server start {folder} --health {}"])
def test_a_port_that_cannot_be_one_is_wrong_use(tmp_path: Path, words: str, port: str) -> None:
    folder = Desk.make(tmp_path).coordinator.folder
    given = [word.format(port, folder=folder) for word in words.split()]
    if port == "-1" and words.startswith("server health"):
        given.insert(2, "--")
    assert CliRunner().invoke(build(), given).exit_code == 2
