"""The way to the SuperLink's inner listener: a Unix socket in a folder that only its owner enters.

A port would be free for any user of the machine between the SuperLink's end and its next start, and whoever took it
would be told the secret. A name in this folder is nobody else's at any time.

The address of a Unix socket has 107 bytes at most (``unix(7)``), and a coordinator's folder may have a longer path. So
the folder is opened, and the socket named below ``/proc/self/fd``.
"""

import contextlib
import os
import socket
import stat
from collections.abc import Iterable, Iterator
from typing import Final

import httpcore
import httpx

from server.coordinator import Coordinator
from shared.errors import PolicyError
from shared.files import output_errors

NOWHERE: Final = "http://superlink.invalid"
"""What requests to the inner listener name as their host: no name server ever knows it (RFC 6761, section 6.4)."""
_IDLE: Final = 60.0  # seconds that a connection is kept for the next request; the listener keeps it longer


def opened(coordinator: Coordinator) -> int:
    """A descriptor of the folder of the socket, for :func:`path`; to be closed.

    Raises:
        FileNotFoundError: There is none.
        PolicyError: Others may enter it.
    """
    folder = coordinator.superlink_folder
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
        os.close(descriptor)
        raise PolicyError(f"others may enter the folder {folder}", hint=f"run: chmod 700 {folder}")
    return descriptor


def path(coordinator: Coordinator, descriptor: int) -> str:
    """The address of the socket in the folder of this descriptor, for this process while that is open."""
    return f"/proc/self/fd/{descriptor}/{coordinator.inner_path.name}"


def listening(coordinator: Coordinator) -> socket.socket:
    """The socket of the inner listener, in the place of what an earlier one left.

    Raises:
        OutputError: It cannot be made.
        PolicyError: Others may enter its folder.
    """
    with output_errors(coordinator.inner_path), _held(coordinator) as descriptor:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            coordinator.inner_path.unlink(missing_ok=True)
            made.bind(path(coordinator, descriptor))
            coordinator.inner_path.chmod(0o600)
            made.listen()
        except BaseException:
            made.close()
            raise
    return made


def connected(coordinator: Coordinator, seconds: float) -> socket.socket:
    """A connection to the inner listener, whose every wait ends after so many seconds.

    Raises:
        OSError: Nobody listens.
        PolicyError: Others may enter its folder.
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.settimeout(seconds)
        with _held(coordinator) as descriptor:
            made.connect(path(coordinator, descriptor))
    except BaseException:
        made.close()
        raise
    return made


def transport(coordinator: Coordinator) -> httpx.HTTPTransport:
    """What sends a request to the inner listener, whatever host it names, and past every proxy.

    A request raises ``httpx.ConnectError`` where nobody listens, and :class:`PolicyError` where others may enter the
    folder of the socket.
    """
    made = httpx.HTTPTransport()
    made.close()
    made._pool = httpcore.ConnectionPool(network_backend=_Way(coordinator), keepalive_expiry=_IDLE)
    return made


class _Way(httpcore.SyncBackend):
    """Leads every connection to the socket, where it is when the connection is made."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the socket instead."""
        try:
            with _held(self._coordinator) as descriptor:
                return super().connect_unix_socket(path(self._coordinator, descriptor), timeout)
        except OSError as error:
            raise httpcore.ConnectError(f"{self._coordinator.inner_path}: {error.strerror}") from error


@contextlib.contextmanager
def _held(coordinator: Coordinator) -> Iterator[int]:
    descriptor = opened(coordinator)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
