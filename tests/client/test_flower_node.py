"""The link of a hospital against a real SuperLink behind mutual TLS: what it answers, refuses and survives."""

import datetime
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.common import serde
from flwr.proto.transport_pb2 import Scalar
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supernode import node_auth_http_interceptor

from client import link as link_module
from client import link_http, link_life
from client import worker as worker_module
from client.flower_messages import deflate
from shared.bundle import build, bundle
from shared.certificates import Authority, digest, pem
from shared.charter import Charter
from shared.charter_plans import CoordinatorPlan
from shared.link_keys import make_key
from simulation.local_grid import set_identity
from tests.client.linked import RULES, Hospital, config, process, refusal, until, wish
from tests.client.superlink import HOST, SuperLink, superlink
from tests.federation import toy
from tests.shared.test_supervisor import alive


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SuperLink]:
    with superlink(tmp_path_factory.mktemp("coordinator") / "dir") as made:
        yield made


@pytest.fixture(scope="module")
def hospital(coordinator: SuperLink, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    """A connected hospital that the tests which disturb nothing share."""
    made = Hospital.make(tmp_path_factory.mktemp("nodes") / "H1", coordinator)
    made.connect(coordinator)
    coordinator.wait_for(made.number)
    yield made
    made.leave()


@pytest.fixture
def own(coordinator: SuperLink, tmp_path: Path) -> Iterator[Hospital]:
    """A hospital of the test's own, not connected yet."""
    made = Hospital.make(tmp_path / "H2", coordinator)
    yield made
    made.leave()


# --- what it answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 3, 5_000_000])
def test_records_of_any_size_come_back_as_they_were(size: int, coordinator: SuperLink, hospital: Hospital) -> None:
    run = coordinator.begin(config())
    reply = coordinator.reply(run, coordinator.send(run, hospital.number, wish(size)))
    assert not reply.has_error()
    if size:
        model = reply.content["model"]
        assert isinstance(model, ArrayRecord)
        np.testing.assert_array_equal(model.to_numpy_ndarrays()[0], np.arange(size, dtype=np.float32))
    seen = reply.content["seen"]
    assert isinstance(seen, ConfigRecord)
    assert dict(seen) == {"node-dir": str(hospital.node.folder), "site": "H1"} | {
        f"run-{key}": value for key, value in config().items()
    }


def test_runs_beside_one_another_are_told_apart(coordinator: SuperLink, hospital: Hospital) -> None:
    runs = [coordinator.begin(config(run=f"run-{number}")) for number in range(3)]
    sent = [(run, coordinator.send(run, hospital.number, wish())) for run in runs for _ in range(2)]
    names = [str(coordinator.reply(run, message).content["seen"]["run-run"]) for run, message in sent]
    assert names == ["run-0", "run-0", "run-1", "run-1", "run-2", "run-2"]


def test_a_message_is_answered_soon_while_a_run_is_under_way(coordinator: SuperLink, hospital: Hospital) -> None:
    run = coordinator.begin(config())
    coordinator.reply(run, coordinator.send(run, hospital.number, wish()))
    begun = time.monotonic()
    for _ in range(3):
        coordinator.reply(run, coordinator.send(run, hospital.number, wish()))
    assert (time.monotonic() - begun) / 3 < 1.5


def test_the_state_says_so(coordinator: SuperLink, hospital: Hospital) -> None:
    run = coordinator.begin(config(run="told"))
    coordinator.reply(run, coordinator.send(run, hospital.number, wish()))
    until(lambda: hospital.status["state"] == "connected", "it is connected")
    status = hospital.status
    assert (hospital.node.link / "status.json").stat().st_mode & 0o777 == 0o600
    assert (status["coordinator"], status["run"], status["error"]) == (coordinator.address, "told", "")
    assert status["device"].startswith("CPU")
    assert abs(status["clock_skew_s"]) < 2
    assert status["answered"] > 0


# --- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "why"),
    [
        ({"fab": build("9.9", {"shared/a.py": b"import os"})}, "is not the release that is installed here"),
        ({"kind": "flwr-agentapp"}, "has an agent"),
        ({"config": config(epsilon=100.0)}, "nothing else"),
        ({"config": config(charter="0" * 64)}, "another charter"),
    ],
    ids=["app", "agent", "config", "charter"],
)
def test_a_run_that_nobody_agreed_on_gets_its_reason_and_the_next_run_its_answer(
    run: dict[str, Any], why: str, coordinator: SuperLink, hospital: Hospital
) -> None:
    before = len(hospital.log())
    bad = coordinator.begin(run.get("config", config()), fab=run.get("fab"), kind=run.get("kind", "flwr-serverapp"))
    for _ in range(2):
        refused = refusal(coordinator.reply(bad, coordinator.send(bad, hospital.number, wish())))
        assert (refused.site, refused.code) == ("H1", "policy")
        assert why in refused.reason
    rows = hospital.log()[before:]
    assert [(row["outcome"], row["detail"]["reason"]) for row in rows] == [("refused", refused.reason)] * 2
    good = coordinator.begin(config())
    assert "seen" in coordinator.reply(good, coordinator.send(good, hospital.number, wish())).content


def test_the_policy_of_the_hospital_is_asked_again_when_it_has_changed(
    coordinator: SuperLink, hospital: Hospital
) -> None:
    run = coordinator.begin(config())
    assert "seen" in coordinator.reply(run, coordinator.send(run, hospital.number, wish())).content
    (hospital.node.folder / "policy.toml").unlink()  # then masks and privacy are asked for
    refused = refusal(coordinator.reply(run, coordinator.send(run, hospital.number, wish())))
    assert refused.code == "policy"
    assert "secure aggregation" in refused.reason
    (hospital.node.folder / "policy.toml").write_text("what = 1\n")
    refused = refusal(coordinator.reply(run, coordinator.send(run, hospital.number, wish())))
    assert refused.code == "error", "it decided nothing: it is asked again in this run"
    assert hospital.log()[-1]["outcome"] == "failed"
    assert "cannot say what it allows" in refused.reason
    assert str(hospital.node.folder) not in refused.reason
    toy.allow_all(hospital.node.folder)
    assert "seen" in coordinator.reply(run, coordinator.send(run, hospital.number, wish())).content


def test_a_part_that_is_not_what_its_digest_says_is_refused(coordinator: SuperLink, hospital: Hospital) -> None:
    run = coordinator.begin(config())
    state = coordinator.state
    genuine = state.object_store.get

    def other(object_id: str) -> bytes | None:
        found = genuine(object_id)
        return found.replace(b"RecordDict", b"RecordDicT") if found and found.startswith(b"RecordDict") else found

    type(state.object_store).get, kept = (lambda _self, object_id: other(object_id)), type(state.object_store).get  # type: ignore[method-assign,assignment]
    try:
        message = coordinator.send(run, hospital.number, wish())
        until(lambda: hospital.log()[-1]["detail"]["code"] == "protocol", "it is refused")
    finally:
        type(state.object_store).get = kept  # type: ignore[method-assign]
    refused = refusal(coordinator.reply(run, message))
    assert (refused.code, "is not what its digest says" in refused.reason) == ("protocol", True)


def longer_than_any_answer(patch: pytest.MonkeyPatch) -> bytes:
    patch.setattr(link_http, "MAX_ANSWER", 1 << 20)
    return os.urandom(2 << 20)


def with_a_value_of_no_kind(patch: pytest.MonkeyPatch) -> bytes:
    patch.setattr(serde, "user_config_value_to_proto", lambda _: Scalar())
    return bundle()


@pytest.mark.parametrize("spoil", [longer_than_any_answer, with_a_value_of_no_kind])
def test_a_run_that_cannot_be_read_gets_its_reason_and_the_next_run_its_answer(
    spoil: Callable[[pytest.MonkeyPatch], bytes], coordinator: SuperLink, hospital: Hospital
) -> None:
    before = len(hospital.log())
    with pytest.MonkeyPatch.context() as patch:
        bad = coordinator.begin(config(), fab=spoil(patch))
        refused = refusal(coordinator.reply(bad, coordinator.send(bad, hospital.number, wish())))
        assert (refused.site, refused.code, refused.reason[:20]) == ("H1", "protocol", "the coordinator sent")
    assert [row["detail"]["reason"] for row in hospital.log()[before:]] == [refused.reason]
    good = coordinator.begin(config())
    assert "seen" in coordinator.reply(good, coordinator.send(good, hospital.number, wish())).content


def test_word_of_a_run_that_is_over_where_there_should_be_a_message_is_no_end(
    coordinator: SuperLink, hospital: Hospital
) -> None:
    def over(*_: object, **__: object) -> None:
        raise FlowerError(ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED, "")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(coordinator.state), "get_message_ins", over)
        until(lambda: "the coordinator sent word of a run that is over, and no message" in hospital.said, "it says so")
    run = coordinator.begin(config())
    assert "seen" in coordinator.reply(run, coordinator.send(run, hospital.number, wish())).content


# --- what it survives -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "code", "why"),
    [
        ({"die": "now"}, "lost", "was ended by SIGKILL"),  # the coordinator may ask again
        ({"raise": "patient Mustermann"}, "error", "it failed with ValueError"),
    ],
    ids=["killed", "error"],
)
def test_work_that_fails_costs_its_own_message_alone(
    what: dict[str, Any], code: str, why: str, coordinator: SuperLink, hospital: Hospital
) -> None:
    run = coordinator.begin(config())
    refused = refusal(coordinator.reply(run, coordinator.send(run, hospital.number, wish(**what))))
    assert (refused.code, why in refused.reason, "Mustermann" in refused.reason) == (code, True, False)
    assert hospital.log()[-1]["outcome"] == "failed"
    assert "seen" in coordinator.reply(run, coordinator.send(run, hospital.number, wish())).content


def test_work_for_a_run_that_ended_is_ended(
    coordinator: SuperLink, hospital: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "_IS_OVER", 0.2)
    monkeypatch.setattr(worker_module, "_LOOK", 0.1)
    run = coordinator.begin(config())
    started = tmp_path / "started"
    coordinator.send(run, hospital.number, wish(wait=str(started)))
    until(lambda: started.exists() and started.read_text() != "", "the work begins")
    coordinator.end(run)
    until(lambda: not alive(int(started.read_text())), "the work ends")
    after = coordinator.begin(config())
    assert "seen" in coordinator.reply(after, coordinator.send(after, hospital.number, wish())).content


@pytest.mark.live
def test_a_coordinator_that_goes_and_comes_back_finds_the_node_again(own: Hospital, tmp_path: Path) -> None:
    with superlink(tmp_path / "dir") as coordinator:
        away = Hospital.make(tmp_path / "H3", coordinator)
        away.connect(coordinator)
        try:
            coordinator.wait_for(away.number)
            coordinator.stop()
            until(lambda: away.status["state"] == "disconnected", "it sees that nobody is there")
            assert "nobody listens" in away.status["error"]
            coordinator.start()
            until(lambda: away.status["state"] == "connected", "it comes back")
            run = coordinator.begin(config())
            assert "seen" in coordinator.reply(run, coordinator.send(run, away.number, wish())).content
            assert away.status["error"] == ""
            assert f"{coordinator.address} answers again" in away.said
        finally:
            away.leave()


@pytest.mark.live
def test_a_coordinator_that_begins_anew_gets_the_node_under_a_new_number(tmp_path: Path) -> None:
    with superlink(tmp_path / "dir") as coordinator:
        hospital = Hospital.make(tmp_path / "H3", coordinator)
        hospital.connect(coordinator)
        try:
            coordinator.wait_for(hospital.number)
            coordinator.stop()
            (coordinator.folder / "state.db").unlink()
            coordinator.start()
            until(lambda: "no run for this node's key yet" in hospital.status["error"], "it is not known")
            new = coordinator.register(Hospital.public(hospital.node), "H3")
            coordinator.wait_for(new)
            run = coordinator.begin(config())
            assert "seen" in coordinator.reply(run, coordinator.send(run, new, wish())).content
        finally:
            hospital.leave()


def test_a_clock_that_is_ahead_is_said_and_nothing_is_corrected(
    coordinator: SuperLink, own: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_now, real_time = node_auth_http_interceptor.now, time.time  # type: ignore[attr-defined]
    monkeypatch.setattr(node_auth_http_interceptor, "now", lambda: real_now() + datetime.timedelta(seconds=10))

    class Ahead:
        time = staticmethod(lambda: real_time() + 10)

    monkeypatch.setattr(link_http, "time", Ahead)
    own.connect(coordinator)
    until(lambda: own.status["state"] == "disconnected", "it is refused")
    assert re.match(r"this machine's clock is 1[012] s ahead of the coordinator's, which takes", own.status["error"])
    assert not coordinator.online(own.number)
    monkeypatch.setattr(node_auth_http_interceptor, "now", real_now)
    monkeypatch.setattr(link_http, "time", time)
    coordinator.wait_for(own.number)


# --- both certificates ------------------------------------------------------------------------------------------------


def test_a_hospital_of_another_federation_is_told_that_its_certificate_is_not_taken(
    coordinator: SuperLink, tmp_path: Path
) -> None:
    other = Authority.make(make_key(tmp_path / "other.key"), "other")
    stranger = Hospital.make(tmp_path / "H4", coordinator, signed_by=other)
    stranger.connect(coordinator)
    try:
        until(lambda: stranger.status["state"] == "disconnected", "it is not let in")
        assert "its gate does not take this hospital's certificate" in stranger.status["error"]
        assert "ask the coordinator's people for a new one" in stranger.status["error"]
    finally:
        stranger.leave()
    assert not coordinator.online(stranger.number)


def test_a_coordinator_of_another_federation_gets_nothing(own: Hospital, tmp_path: Path) -> None:
    other = Authority.make(make_key(tmp_path / "other.key"), "other")
    own.node.authority.write_bytes(pem(other.certificate))
    with superlink(tmp_path / "dir") as coordinator:  # of its own: to a shared one, links of other tests still speak
        own.connect(coordinator)
        until(lambda: own.status["state"] == "disconnected", "it does not connect")
        assert "its certificate does not hold here" in own.status["error"]
        own.leave()
        assert coordinator.requests == []


def test_a_certificate_for_another_address_does_not_hold(own: Hospital, tmp_path: Path) -> None:
    with superlink(tmp_path / "dir") as coordinator:
        hospital = Hospital.make(tmp_path / "H3", coordinator)
        coordinator.stop()
        key = make_key(coordinator.folder / "elsewhere.key")
        elsewhere = coordinator.authority.server(key.public_key(), "test", ["fl.example.org"])
        (coordinator.folder / "elsewhere.pem").write_bytes(pem(elsewhere))
        coordinator.start("elsewhere")
        hospital.connect(coordinator)
        until(lambda: hospital.status["state"] == "disconnected", "it does not connect")
        assert f"not valid for '{HOST}'" in hospital.status["error"]
        hospital.leave()
        assert coordinator.requests == []


# --- lives ------------------------------------------------------------------------------------------------------------


def at(coordinator: SuperLink) -> tuple[str, str]:
    """Lines for a link of its own process: its place, since the toy charter names no coordinator."""
    return (
        f"address = '{coordinator.address}'",
        "link.Place.of = lambda node: link.Place(address, node.authority, node.certificate, node.link_key)",
    )


@pytest.mark.live
def test_a_killed_link_is_back_at_once_and_says_what_it_left_behind(
    coordinator: SuperLink, own: Hospital, tmp_path: Path
) -> None:
    run = coordinator.begin(config())
    started = tmp_path / "started"
    with process(own, *at(coordinator)) as first:
        coordinator.wait_for(own.number)
        message = coordinator.send(run, own.number, wish(wait=str(started)))
        until(lambda: started.exists() and started.read_text() != "", "the work begins")
        first.kill()
        first.wait(10)
        until(lambda: not alive(int(started.read_text())), "the child ends with it")
    begun = time.monotonic()
    with process(own, *at(coordinator)) as second:
        refused = refusal(coordinator.reply(run, message))
        assert (refused.code, "was ended while it worked" in refused.reason) == ("lost", True)
        assert time.monotonic() - begun < 12  # and not after twice the interval of signs of life
        assert "seen" in coordinator.reply(run, coordinator.send(run, own.number, wish())).content
        second.send_signal(signal.SIGTERM)
        assert second.wait(10) == 0
    coordinator.wait_for(own.number, online=False, seconds=1)
    assert own.status["state"] == "stopped"


def named(coordinator: SuperLink) -> Charter:
    plan = CoordinatorPlan("test", coordinator.address, digest(coordinator.authority.certificate))
    return replace(RULES, coordinator=plan)


@pytest.mark.live
def test_a_link_whose_node_joins_anew_ends_so_that_the_next_connects_by_that(
    coordinator: SuperLink, tmp_path: Path
) -> None:
    with superlink(tmp_path / "old") as old:
        hospital = Hospital.make(tmp_path / "H5", old, rules=named(old))
        with process(hospital) as first:
            old.wait_for(hospital.number, seconds=60)
            hospital.certify(old.authority)  # a certificate that was renewed
            assert first.wait(60) == 8
        with process(hospital) as second:
            until(lambda: hospital.status["pid"] == second.pid and hospital.status["device"] != "", "it connects", 60)
            old.stop()
            until(lambda: hospital.status["state"] == "disconnected", "it sees that nobody is there")
            hospital.node.authority.write_bytes(pem(coordinator.authority.certificate))
            hospital.certify(coordinator.authority)
            hospital.node.pin(named(coordinator))
            assert second.wait(60) == 8
    number = coordinator.register(hospital.public(hospital.node), "H5")
    set_identity()
    left = deflate(Message(wish(), dst_node_id=hospital.number, message_type="train"))[0]
    link_life.take_up(hospital.node.link, left)
    run = coordinator.begin(config(named(coordinator)))
    with process(hospital):
        coordinator.wait_for(number, seconds=60)
        assert "seen" in coordinator.reply(run, coordinator.send(run, number, wish()), 60).content
    assert hospital.log() == [], "nobody is answered who waits at the old coordinator"


def test_a_copy_of_a_connected_node_does_not_get_in(coordinator: SuperLink, own: Hospital) -> None:
    own.connect(coordinator)
    coordinator.wait_for(own.number)
    copy = own.node.folder.with_name("copy") / "H2"
    shutil.copytree(own.node.folder, copy)
    twin = Hospital(type(own.node).open(copy), own.number)
    twin.connect(coordinator)
    try:
        until(lambda: "a copy of this node's folder" in twin.status["error"], "it is kept out")
        run = coordinator.begin(config())
        seen = coordinator.reply(run, coordinator.send(run, own.number, wish())).content["seen"]
        assert isinstance(seen, ConfigRecord)
        assert seen["node-dir"] == str(own.node.folder)
        assert twin.status["answered"] == 0
    finally:
        twin.leave()
    assert coordinator.online(own.number)  # the copy has no say in that


def test_two_links_of_one_node_are_one_too_many(coordinator: SuperLink, own: Hospital) -> None:
    with process(own, *at(coordinator)) as first:
        coordinator.wait_for(own.number)
        with process(own, *at(coordinator)) as second:
            assert second.wait(30) == 2
        assert first.poll() is None


def test_nobody_but_the_coordinator_is_contacted(coordinator: SuperLink, own: Hospital, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    watch = (
        "import os, sys",
        f"out = open({str(seen)!r}, 'a', buffering=1)",
        "sys.addaudithook(lambda event, arguments: event in ('socket.connect', 'socket.sendto') and "
        "out.write(repr(arguments[1]) + chr(10)))",
        "sys.addaudithook(lambda event, arguments: event == 'socket.getaddrinfo' and "
        "out.write('name ' + repr(arguments[:2]) + chr(10)))",
    )
    run = coordinator.begin(config())
    with process(own, *watch, *at(coordinator)) as link:
        coordinator.wait_for(own.number)
        coordinator.reply(run, coordinator.send(run, own.number, wish()))
        link.send_signal(signal.SIGTERM)
        assert link.wait(10) == 0
    found = set(seen.read_text().splitlines())
    assert found <= {repr((HOST, coordinator.port)), f"name {(HOST, coordinator.port)!r}"}
    assert found
