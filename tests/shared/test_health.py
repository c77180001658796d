"""The health service of a process, asked over the network of this machine."""

import socket

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from shared import health
from shared.errors import UsageError


def test_it_says_what_is_so_at_the_moment() -> None:
    serving = True
    with health.serve(0, lambda: serving) as port:
        assert health.check(port)
        serving = False
        assert not health.check(port)


def test_nobody_there_is_not_serving() -> None:
    with socket.socket() as held:
        held.bind((health.LOOPBACK, 0))
        assert not health.check(held.getsockname()[1])


def test_the_question_goes_through_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with health.serve(0, lambda: True) as port:
        assert health.check(port)


def test_a_port_that_is_taken_is_said() -> None:
    with (
        health.serve(0, lambda: True) as port,
        pytest.raises(UsageError, match=f"cannot listen on .*:{port}"),
        health.serve(port, lambda: True),
    ):
        pass


def test_it_is_on_this_machine_alone_and_knows_no_other_service() -> None:
    with health.serve(0, lambda: True) as port:
        with socket.socket() as other, pytest.raises(ConnectionRefusedError):
            other.connect(("127.0.0.2", port))
        with grpc.insecure_channel(f"{health.LOOPBACK}:{port}") as channel, pytest.raises(grpc.RpcError) as caught:
            HealthStub(channel).Check(HealthCheckRequest(service="other"), timeout=3)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
