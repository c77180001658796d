"""The standard health service of gRPC (``grpc.health.v1``) on this machine alone, and the question to one.

What watches a process, such as a container's runtime, asks it whether it serves. The answer is found anew each time.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer, HealthStub, add_HealthServicer_to_server

from shared.errors import UsageError

LOOPBACK = "127.0.0.1"
_SECONDS = 3.0
_THREADS = 2
_DIRECT = (("grpc.enable_http_proxy", 0),)
_OWN_PORT = (("grpc.so_reuseport", 0),)  # otherwise a second process could listen beside this one


class _Servicer(HealthServicer):  # type: ignore[misc]  # the generated class has no types
    def __init__(self, is_serving: Callable[[], bool]) -> None:
        self._is_serving = is_serving

    def Check(self, request: HealthCheckRequest, context: grpc.ServicerContext) -> HealthCheckResponse:  # noqa: N802
        """Whether this process serves; it has no services with a name of their own."""
        if request.service:
            context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service")
        serving = HealthCheckResponse.SERVING if self._is_serving() else HealthCheckResponse.NOT_SERVING
        return HealthCheckResponse(status=serving)


@contextmanager
def serve(port: int, is_serving: Callable[[], bool]) -> Iterator[int]:
    """Answer questions about this process's health while the block runs; yields the port.

    Args:
        port: On 127.0.0.1, 1 to 65535, or 0 for any that is free.
        is_serving: Asked for every question, by another thread; must be quick.

    Raises:
        UsageError: The port is taken, or is none that this account may have.
    """
    server = grpc.server(ThreadPoolExecutor(_THREADS), options=_OWN_PORT)
    add_HealthServicer_to_server(_Servicer(is_serving), server)
    try:
        bound = server.add_insecure_port(f"{LOOPBACK}:{port}")
    except RuntimeError as error:
        raise UsageError(f"cannot listen on {LOOPBACK}:{port}", hint="choose another port for --health") from error
    server.start()
    try:
        yield bound
    finally:
        server.stop(None).wait()


def check(port: int) -> bool:
    """Whether the process with a health service on this port of 127.0.0.1 serves; False where nobody answers in 3 s."""
    with grpc.insecure_channel(f"{LOOPBACK}:{port}", options=_DIRECT) as channel:
        try:
            answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=_SECONDS)
        except grpc.RpcError:
            return False
    return bool(answer.status == HealthCheckResponse.SERVING)
