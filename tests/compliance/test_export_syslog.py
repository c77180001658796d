"""Audit messages to a collector over TLS: nothing is lost, whatever happens to the connection."""

import json
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compliance.export import syslog
from compliance.export.line import Line
from compliance.export.reading import Reader, Selection
from compliance.log import Action, AuditLog, Entry, Outcome
from shared.errors import PolicyError, ProtocolError, RecordError, UsageError
from shared.files import locked
from tests.compliance.collector import Authority, Collector
from tests.compliance.exports import KEY, NOTE, export, filled, records
from tests.compliance.test_export_dicom import checked


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> tuple[Path, Path]:
    return authority.pair("127.0.0.1")


def send(log: Path, to: Collector, ca: Path, folder: Path, **options: Any) -> syslog.Sent:
    receiver = syslog.Receiver("127.0.0.1", to.port)
    state = syslog.State(folder / "state.json", "collector", Selection().facts())
    context = syslog.tls_context(ca)
    return syslog.send(Reader(log), receiver, context, state, **{"seconds": 5.0} | options)


@pytest.mark.control("HIPAA-164.312-b-export")
@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("polite", [True, False])
def test_every_entry_comes_as_a_valid_message_in_its_frame(
    tmp_path: Path, authority: Authority, pair: tuple[Path, Path], newest: ssl.TLSVersion, polite: bool
) -> None:
    log = filled(tmp_path)
    (log.parent / "checkpoint").write_text(NOTE, encoding="utf-8")
    with Collector(pair, newest=newest, polite=polite) as collector:
        result = export(log, "--to", f"syslog+tls://127.0.0.1:{collector.port}", "--ca", authority.ca, "--json")
    assert result.exit_code == 0, result.exception
    found, sent = list(collector.messages()), records(log)
    assert len(found) == len(sent) == json.loads(result.output)["sent"]
    for one, record in zip(found, sent, strict=True):
        checked(one["xml"])
        assert record.leaf.encode() in one["xml"]
        assert one["time"].decode() == record.stamp
        assert one["id"] == b"DICOM+RFC3881"
        assert int(one["sequence"]) == record.index + 1
        assert one["pri"] == (b"84" if record.outcome in {"failed", "refused"} else b"85")
    assert collector.versions == {newest.name.replace("_", ".")}


def test_a_second_export_sends_what_came_since(tmp_path: Path, authority: Authority, pair: tuple[Path, Path]) -> None:
    log = filled(tmp_path, actions=(Action.TRAIN,))
    with Collector(pair) as collector:
        words = (log, "--to", f"syslog+tls://127.0.0.1:{collector.port}", "--ca", authority.ca)
        assert "5 messages taken in, 0 before" in export(*words).output
        assert "0 messages taken in, 5 before" in export(*words).output
        with AuditLog(log, site="H1", subject_key=KEY) as writer:
            writer.append(Entry(Action.ROUND, Outcome.OK))
        assert "1 message taken in, 5 before" in export(*words).output
    assert collector.sequence() == [1, 2, 3, 4, 5, 6]
    assert collector.connections == 2
    [state] = (log.parent / "exports").glob("127.0.0.1_*.json")
    assert state.stat().st_mode & 0o777 == 0o600
    assert json.loads(state.read_bytes())["index"] == 5


@given(st.lists(st.none() | st.integers(1, 9000), max_size=4), st.integers(1, 9))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cut_connections_lose_nothing(
    tmp_path: Path, authority: Authority, pair: tuple[Path, Path], cuts: list[int | None], batch: int
) -> None:
    log = tmp_path / "audit" / "log.jsonl"
    if not log.exists():
        filled(tmp_path, actions=(Action.TRAIN, Action.ROUND))
    (tmp_path / "state.json").unlink(missing_ok=True)
    taken = 0
    with Collector(pair, cuts=cuts) as collector:
        for _ in range(len(cuts) + 1):
            try:
                taken += send(log, collector, authority.ca, tmp_path, batch=batch).messages
            except ProtocolError:
                continue
        assert send(log, collector, authority.ca, tmp_path).messages == 0
    assert set(collector.sequence()) == set(range(1, 11))
    # What is behind the last batch that was taken in comes again, in order, and nothing else does.
    assert len(collector.sequence()) <= 10 + batch * len(cuts)


def test_what_was_not_read_is_not_remembered_as_taken_in(
    tmp_path: Path, authority: Authority, pair: tuple[Path, Path]
) -> None:
    log = filled(tmp_path, actions=(Action.TRAIN, Action.ROUND))
    with Collector(pair, cuts=[None, 1]) as collector:
        with pytest.raises(ProtocolError, match="run the same command again"):
            send(log, collector, authority.ca, tmp_path, batch=4)
        assert json.loads((tmp_path / "state.json").read_bytes())["index"] == 3
        assert send(log, collector, authority.ca, tmp_path).messages == 6
    assert set(collector.sequence()) == set(range(1, 11))


def test_a_receiver_that_reads_nothing_ends_the_export_in_time(
    tmp_path: Path, authority: Authority, pair: tuple[Path, Path]
) -> None:
    log = tmp_path / "log.jsonl"
    with AuditLog(log, site="H1", subject_key=KEY) as writer:
        writer.append_many([Entry(Action.TRAIN, Outcome.OK, detail={"why": "x" * 20000})] * 300)
    with Collector(pair, deaf=True) as collector:
        before = time.monotonic()
        with pytest.raises(ProtocolError, match="took nothing in for 1 seconds"):
            send(log, collector, authority.ca, tmp_path, seconds=1.0)
        assert time.monotonic() - before < 10
    assert not (tmp_path / "state.json").exists()


def test_a_receiver_that_never_closes_has_not_taken_anything_in(
    tmp_path: Path, authority: Authority, pair: tuple[Path, Path]
) -> None:
    log = filled(tmp_path, actions=(Action.TRAIN,))
    with Collector(pair, deaf=True) as collector, pytest.raises(ProtocolError, match="took nothing in"):
        send(log, collector, authority.ca, tmp_path, seconds=0.5)
    assert not (tmp_path / "state.json").exists()


@pytest.mark.control("HIPAA-164.312-b-export")
def test_nothing_is_sent_to_a_receiver_of_another_authority_or_name(
    tmp_path: Path, authority: Authority, pair: tuple[Path, Path]
) -> None:
    log = filled(tmp_path, actions=(Action.TRAIN,))
    other = Authority(tmp_path / "other")
    with Collector(pair) as collector, pytest.raises(ProtocolError, match="not who it should be"):
        send(log, collector, other.ca, tmp_path)
    with (
        Collector(authority.pair("localhost")) as named,
        pytest.raises(ProtocolError, match="not who it should be"),
    ):
        send(log, named, authority.ca, tmp_path)
    assert collector.kept == named.kept == []


def test_a_receiver_may_want_our_certificate(tmp_path: Path, authority: Authority, pair: tuple[Path, Path]) -> None:
    log = filled(tmp_path, actions=(Action.TRAIN,))
    certificate, key = authority.pair("h1.example")
    with Collector(pair, clients=authority.ca) as collector:
        words = (log, "--to", f"syslog+tls://127.0.0.1:{collector.port}", "--ca", authority.ca)
        assert isinstance(export(*words).exception, ProtocolError)
        assert collector.kept == []
        assert export(*words, "--certificate", certificate, "--key", key).exit_code == 0
        key.chmod(0o644)
        assert isinstance(export(*words, "--certificate", certificate, "--key", key).exception, PolicyError)
    assert collector.sequence() == [1, 2, 3, 4, 5]


def test_nobody_listening_is_told_in_one_line(tmp_path: Path, authority: Authority, pair: tuple[Path, Path]) -> None:
    log = filled(tmp_path, actions=(Action.TRAIN,))
    with Collector(pair) as collector:
        port = collector.port
    found = export(log, "--to", f"syslog+tls://127.0.0.1:{port}", "--ca", authority.ca).exception
    assert isinstance(found, ProtocolError)
    assert "\n" not in str(found)


@pytest.mark.parametrize(("host", "options"), [(".example", ()), ("x" * 70, ()), ("127.0.0.1", ("--timeout", "nan"))])
def test_what_is_no_name_or_no_time_is_wrong_use(
    tmp_path: Path, authority: Authority, host: str, options: tuple[str, ...]
) -> None:
    log = filled(tmp_path, actions=(Action.TRAIN,))
    found = export(log, "--to", f"syslog+tls://{host}", "--ca", authority.ca, *options).exception
    assert isinstance(found, UsageError)


def test_another_log_in_its_place_is_not_sent_behind_the_first(
    tmp_path: Path, authority: Authority, pair: tuple[Path, Path]
) -> None:
    first, second = filled(tmp_path / "a", actions=(Action.TRAIN,)), filled(tmp_path / "b", actions=(Action.ROUND,))
    short = tmp_path / "short.jsonl"
    short.write_bytes(b"".join(first.read_bytes().splitlines(keepends=True)[:2]))
    with Collector(pair) as collector:
        send(first, collector, authority.ca, tmp_path)
        for log in (second, short):
            with pytest.raises(RecordError, match="not the one that the receiver was sent"):
                send(log, collector, authority.ca, tmp_path)
    assert collector.sequence() == [1, 2, 3, 4, 5]


def test_a_state_is_for_one_receiver_and_selection(
    tmp_path: Path, authority: Authority, pair: tuple[Path, Path]
) -> None:
    log = filled(tmp_path, actions=(Action.TRAIN,))
    with Collector(pair) as collector:
        words = (log, "--to", f"syslog+tls://127.0.0.1:{collector.port}", "--ca", authority.ca)
        export(*words, "--run", "run-0")
        assert isinstance(export(*words).exception, UsageError)
        assert export(*words, "--state", tmp_path / "all.json").exit_code == 0
    assert collector.sequence() == [1, 3, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"v":1,"index":-2,"leaf":"","receiver":"","selection":{}}'])
def test_a_damaged_state_is_not_guessed_at(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(RecordError, match="damaged"):
        syslog.State(tmp_path / "state.json", "", {}).read()


def test_two_exports_to_one_receiver_do_not_run_at_once(
    tmp_path: Path, authority: Authority, pair: tuple[Path, Path]
) -> None:
    log = filled(tmp_path, actions=(Action.TRAIN,))
    with (
        locked(tmp_path / "state.json.lock", "another"),
        Collector(pair) as collector,
        pytest.raises(RecordError, match="under way"),
    ):
        send(log, collector, authority.ca, tmp_path)
    assert collector.kept == []


def test_a_log_that_breaks_off_is_sent_as_far_as_whole_batches_verify(
    tmp_path: Path, authority: Authority, pair: tuple[Path, Path]
) -> None:
    log = filled(tmp_path, actions=(Action.TRAIN, Action.ROUND))
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:7], lines[7].replace(b"H1", b"H2"), *lines[8:]]))
    with Collector(pair) as collector, pytest.raises(RecordError, match="does not verify"):
        send(log, collector, authority.ca, tmp_path, batch=5)
    assert collector.sequence() == [1, 2, 3, 4, 5]


def test_large_messages_are_counted(tmp_path: Path, authority: Authority, pair: tuple[Path, Path]) -> None:
    log = tmp_path / "log.jsonl"
    with AuditLog(log, site="H1", subject_key=KEY) as writer:
        writer.append(Entry(Action.TRAIN, Outcome.OK, detail={"why": "x" * syslog.LARGE}))
    with Collector(pair) as collector:
        assert send(log, collector, authority.ca, tmp_path).large == 1
    assert collector.sequence() == [1]


@pytest.mark.parametrize("ca", ["missing", "empty", "text"])
def test_a_file_that_is_no_authority_is_named(tmp_path: Path, ca: str) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("no certificate")
    with pytest.raises(UsageError, match=ca):
        syslog.tls_context(tmp_path / ca)


def test_an_address_may_be_of_ip_version_6_and_needs_no_port() -> None:
    assert str(syslog.Receiver.parse("syslog+tls://[2001:db8::1]:7000")) == "[2001:db8::1]:7000"
    assert syslog.Receiver.parse("syslog+tls://collector.example") == syslog.Receiver("collector.example", 6514)


def test_this_machines_name_fits_a_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "prüf rechner" + "x" * 300)
    assert syslog.this_host() == ("prfrechner" + "x" * 300)[:255]
    monkeypatch.setattr("socket.gethostname", lambda: "")
    assert syslog.this_host() == "-"


class Late(Collector):
    """Refuses a client without a certificate only once it has everything: the alert comes behind our close_notify."""

    def _take(self, plain: socket.socket, cut: int | None) -> None:
        time.sleep(0.3)
        super()._take(plain, cut)


def test_a_refusal_that_comes_late_is_no_close(tmp_path: Path, authority: Authority, pair: tuple[Path, Path]) -> None:
    log = filled(tmp_path, actions=(Action.TRAIN,))
    for _ in range(3):
        with Late(pair, clients=authority.ca) as collector, pytest.raises(ProtocolError):
            send(log, collector, authority.ca, tmp_path)
        assert not (tmp_path / "state.json").exists()


class Deserter(Collector):
    """Shakes hands and is gone, without an alert."""

    def _take(self, plain: socket.socket, cut: int | None) -> None:
        self._context.wrap_socket(plain, server_side=True).close()


def test_a_receiver_that_is_gone_after_the_handshake_has_taken_nothing_in(
    tmp_path: Path, authority: Authority, pair: tuple[Path, Path]
) -> None:
    log = filled(tmp_path, actions=(Action.TRAIN,))
    for _ in range(20):
        with Deserter(pair) as collector, pytest.raises(ProtocolError):
            send(log, collector, authority.ca, tmp_path)
        assert not (tmp_path / "state.json").exists()


class Chatty(Collector):
    """Answers, as no syslog receiver does."""

    def _keep(self, data: bytearray) -> None:
        super()._keep(data)
        self.line.sendall(b"ok")

    def _take(self, plain: socket.socket, cut: int | None) -> None:
        with self._context.wrap_socket(plain, server_side=True) as self.line:
            while self.line.recv(1024):
                pass
            self._keep(bytearray())


def test_a_server_that_answers_is_no_syslog_receiver(
    tmp_path: Path, authority: Authority, pair: tuple[Path, Path]
) -> None:
    log = filled(tmp_path, actions=(Action.TRAIN,))
    with Chatty(pair) as collector, pytest.raises(ProtocolError, match="answered"):
        send(log, collector, authority.ca, tmp_path)


class Early(Collector):
    """Closes at once, and would read later."""

    def _take(self, plain: socket.socket, cut: int | None) -> None:
        with self._context.wrap_socket(plain, server_side=True) as line:
            line.shutdown(socket.SHUT_WR)
            self._done.wait(5)


class Stuck(Collector):
    """Reads nothing, so that most of what comes stays with the sender, and then closes its own direction."""

    def __enter__(self) -> Self:
        super().__enter__()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        return self

    def _take(self, plain: socket.socket, cut: int | None) -> None:
        with self._context.wrap_socket(plain, server_side=True) as line:
            time.sleep(0.5)
            line.shutdown(socket.SHUT_WR)
            self._done.wait(5)


def test_an_end_in_front_of_ours_is_no_answer_to_it(authority: Authority, pair: tuple[Path, Path]) -> None:
    with Early(pair) as collector, Line("127.0.0.1", collector.port, syslog.tls_context(authority.ca), 5.0) as line:
        time.sleep(0.2)
        with pytest.raises(ConnectionAbortedError, match="before all was sent"):
            line.finish()


def test_an_end_with_bytes_on_the_way_is_not_taken_for_all_read(authority: Authority, pair: tuple[Path, Path]) -> None:
    with Stuck(pair) as collector, Line("127.0.0.1", collector.port, syslog.tls_context(authority.ca), 5.0) as line:
        line.send(bytes(100_000))
        with pytest.raises(ConnectionAbortedError, match="before it had read all"):
            line.finish()


def test_what_is_no_tls_and_what_says_nothing_end_in_time(tmp_path: Path, authority: Authority) -> None:
    log = filled(tmp_path, actions=(Action.TRAIN,))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        words = (log, "--to", f"syslog+tls://127.0.0.1:{silent.getsockname()[1]}", "--ca", authority.ca)
        assert isinstance(found := export(*words, "--timeout", "0.3").exception, ProtocolError)
        assert "took nothing in" in found.message
    with socket.create_server(("127.0.0.1", 0)) as plain:
        words = (log, "--to", f"syslog+tls://127.0.0.1:{plain.getsockname()[1]}", "--ca", authority.ca)
        answer = threading.Thread(target=lambda: plain.accept()[0].sendall(b"220 mail.example\r\n"))
        answer.start()
        assert isinstance(found := export(*words, "--timeout", "2").exception, ProtocolError)
        answer.join()
        assert "no TLS" in found.message
