"""A TCP line between the hospitals and the gate in the hands of a test."""

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

Deed = Callable[["Line", bytes, bool], bytes | None]
"""What becomes of bytes on their way, and whether they come from the hospital; None ends the connection."""


def passes(_line: "Line", data: bytes, _outward: bool) -> bytes | None:
    """Nothing is done to them."""
    return data


@dataclass
class Line:
    """The line, from its ``port`` to the ``target``, both of this machine.

    Attributes:
        deed: What it does to what passes.
        seen: All bytes, both ways.
        done: How often it did something.
        luck: What a deed decides by.
    """

    port: int
    target: int
    deed: Deed = passes
    seen: bytearray = field(default_factory=bytearray)
    done: int = 0
    luck: random.Random = field(default_factory=lambda: random.Random(7))
    _ended: threading.Event = field(default_factory=threading.Event)
    _cut: threading.Event = field(default_factory=threading.Event)
    _ends: set[socket.socket] = field(default_factory=set)

    def __enter__(self) -> "Line":
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listener.settimeout(0.2)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._listener.close()
        self._drop()

    def cut(self) -> None:
        """Nothing passes from now on, and what was open is dead; nobody is told, as where a cable is pulled."""
        self._cut.set()

    def mend(self) -> None:
        """New connections pass again; the old ones end."""
        self._cut.clear()
        self._drop()

    def _drop(self) -> None:
        for one in list(self._ends):
            one.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                near, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            if self._cut.is_set():
                self._ends.add(near)  # held open, never answered
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self.target), timeout=5)
            except OSError:  # nobody listens there yet
                near.close()
                continue
            far.settimeout(None)
            self._ends |= {near, far}
            threading.Thread(target=self._pump, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, outward: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.seen += data
                while self._cut.is_set() and not self._ended.is_set():
                    time.sleep(0.05)
                changed = self.deed(self, data, outward)
                if changed is None:
                    break
                sink.sendall(changed)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
