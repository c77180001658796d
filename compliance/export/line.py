"""One TLS connection that carries data one way, and whose end says whether all of it was read.

The TLS state is kept apart from the socket (``ssl.MemoryBIO``). With ``SSLSocket.unwrap`` a fatal alert of the other
end passes for a proper close: OpenSSL takes both for the end of what it will read (SSL_shutdown(3)).
"""

import contextlib
import fcntl
import socket
import ssl
import struct
import termios
import time
from types import TracebackType
from typing import Final, Self

_CHUNK: Final = 1 << 16  # bytes


class Line:
    """A connection to ``host``; a context that lets go of the socket at its end, without a word to the other end.

    Args:
        host: Its name or address, which its certificate must have.
        port: Where it listens.
        context: For clients.
        seconds: How long one step may take: to connect, to take in more, to close.

    Raises:
        ssl.SSLError: The other end is not who it should be, or ends the connection with an alert.
        OSError: It cannot be reached.
    """

    def __init__(self, host: str, port: int, context: ssl.SSLContext, seconds: float) -> None:
        self._seconds = seconds
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._plain = socket.create_connection((host, port), timeout=seconds)
        try:
            self._shake_hands()
        except BaseException:
            self._plain.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._plain.close()

    def _shake_hands(self) -> None:
        end = time.monotonic() + self._seconds
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._fill(end)
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self._flush()  # the alert that tells the other end why
                raise
            else:
                self._flush()
                return

    def send(self, data: bytes) -> None:
        """Give ``data`` to the system, which sends it."""
        left = memoryview(data)
        while left:
            left = left[self._tls.write(left) :]
        self._flush()

    def finish(self) -> None:
        """Say that nothing more comes, and wait until the other end has read everything and closes in turn.

        An end without close_notify is taken too, since there are receivers that just close: the system of one that
        closes with data unread, or that gets data afterwards, resets the connection or leaves data unacknowledged.

        Raises:
            ssl.SSLError: It answered with an alert.
            ConnectionError: It closed before all was sent, did not read all, or reset the connection.
            TimeoutError: It did neither in time.
        """
        self._plain.settimeout(0.0)
        with contextlib.suppress(BlockingIOError):
            while True:  # TLS 1.3 has sent tickets for later sessions, with its end behind them if it came
                self._take(self._plain.recv(_CHUNK))
                if self._ended():
                    raise ConnectionAbortedError("it closed before all was sent")
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        self._plain.settimeout(self._seconds)
        self._flush()
        end = time.monotonic() + self._seconds
        while not self._ended():
            self._fill(end)
        if self._unread():
            raise ConnectionAbortedError("it closed before it had read all")

    def _ended(self) -> bool:
        """Whether the other end has said, or shown, that it sends nothing more; an alert is an error."""
        try:
            if self._tls.read(1):
                raise ConnectionAbortedError("it answered, as no syslog receiver does")
        except ssl.SSLWantReadError:
            return False
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            pass
        return True

    def _unread(self) -> int:
        """Bytes that the other system has not acknowledged (tcp(7), SIOCOUTQ)."""
        return int(struct.unpack("i", fcntl.ioctl(self._plain, termios.TIOCOUTQ, bytes(4)))[0])

    def _flush(self) -> None:
        self._plain.sendall(self._outgoing.read())

    def _fill(self, end: float) -> None:
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._plain.settimeout(left)
        data = self._plain.recv(_CHUNK)
        self._plain.settimeout(self._seconds)
        self._take(data)

    def _take(self, data: bytes) -> None:
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
