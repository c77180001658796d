"""A warm process that forks a child for every piece of work: what takes seconds to import is there already.

The child has the work's memory to itself, so that nothing stays from one message to the next, and a crash, or the
kernel's killing it for want of memory, costs this one answer alone. It ends with the worker, and the worker with the
process that started it (:mod:`shared.leash`): none is left behind that holds a lock of the node.

Between the two processes go byte strings, each behind its length, over a socket that is made for each piece of work and
handed to the worker; the worker itself reads none of it and stays small.
"""

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

from shared.errors import FedwardError
from shared.leash import die_with_parent, leashed
from shared.parsing import parse_json

Handler = Callable[[list[bytes]], Iterable[bytes]]
"""What a child does: byte strings in, byte strings out. It is named ``module:function``."""

_LENGTH = struct.Struct("<Q")
_NUMBER = struct.Struct("<i")
_LARGEST = 1 << 34  # bytes of one string; more is a fault
_GOOD, _BAD, _END = b"=", b"!", b"."
_READY = b"ready"
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_LOOK = 5.0  # seconds between two looks whether the work is still wanted
_WORST = "800"  # of 1000: when memory runs out the kernel takes the child, not the link


class WorkerError(FedwardError):
    """A piece of work has no answer: its child failed, was killed, or is not wanted any more."""


class KilledError(WorkerError):
    """The work was ended amid it, from outside or for want of memory; the same work may have an answer next time."""


class Worker:
    """The warm process, seen from the one that gives it work, one piece after the other.

    Args:
        handler: What a child calls, as ``module:function``.
        preload: Modules that the worker imports before the first piece of work.
        threads: Threads for arithmetic in a child; 0 for as many as it may use processors.

    Only the thread that calls :meth:`start` or :meth:`answer` first may end last: the worker ends with it.
    """

    def __init__(self, handler: str, *, preload: Sequence[str] = (), threads: int = 0) -> None:
        chosen = threads or int(os.environ.get(_THREADS[0], "0") or 0) or len(os.sched_getaffinity(0))
        self._setup = json.dumps({"handler": handler, "preload": list(preload), "threads": chosen})
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._is_ready = False

    @property
    def pid(self) -> int:
        """Process id of the worker; 0 where there is none."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Start the worker where it does not run; it becomes ready by itself meanwhile."""
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        ours, theirs = socket.socketpair()
        with theirs:
            # -P: the current folder may have a folder called client of its own, and no code of it may run.
            self._process = subprocess.Popen(
                leashed([sys.executable, "-P", "-m", "client.worker", self._setup]),
                stdin=theirs.fileno(),
                env=dict(os.environ) | dict.fromkeys(_THREADS, "1"),
            )
        self._control, self._is_ready = ours, False

    def answer(self, work: Iterable[bytes], *, wanted: Callable[[], bool] = lambda: True) -> list[bytes]:
        """What a child answers to ``work``.

        Args:
            work: Byte strings, handed over one by one.
            wanted: Asked every 5 s while the child works; where it says no, the child is killed.

        Raises:
            KilledError: The child was killed, also because it is not wanted any more, or the worker was.
            WorkerError: The child raised, or ended too early.
        """
        self.start()
        control = self._ready()
        ours, theirs = socket.socketpair()
        with ours:
            try:
                with theirs:
                    socket.send_fds(control, [b"w"], [theirs.fileno()])
                child = self._number()
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has ended; its status says how
                    for part in work:
                        _send(ours, part)
                    ours.shutdown(socket.SHUT_WR)
                parts = _receive_all(ours, lambda: self._look(wanted, child))
                status = self._number()
            except OSError as error:  # no worker at the other end
                self.close()
                raise KilledError("the worker process ended", hint="it is started again") from error
        return _answer_in(parts, status)

    def close(self) -> None:
        """End the worker, and with it the child."""
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._control = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ready(self) -> socket.socket:
        assert self._control is not None  # noqa: S101  # start() made it
        if not self._is_ready:
            if _read(self._control, len(_READY)) != _READY:
                self.close()
                raise WorkerError("the worker process could not start", hint="see what it said before")
            self._is_ready = True
        return self._control

    def _number(self) -> int:
        assert self._control is not None  # noqa: S101  # start() made it
        data = _read(self._control, _NUMBER.size)
        if len(data) < _NUMBER.size:
            raise ConnectionResetError
        number: int = _NUMBER.unpack(data)[0]
        return number

    @staticmethod
    def _look(wanted: Callable[[], bool], child: int) -> None:
        if not wanted():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def _answer_in(parts: list[bytes], status: int) -> list[bytes]:
    """The answer in what a child sent before it ended with ``status``."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        raise KilledError(f"the process that worked on it was ended by {name}")
    if len(parts) >= 2 and parts[0] == _BAD:
        raise WorkerError(f"it failed with {parts[1].decode(errors='replace')}")
    if code or len(parts) < 2 or parts[0] != _GOOD or parts[-1] != _END:
        raise WorkerError(f"the process that worked on it ended early, with status {code}")
    return parts[1:-1]


# --- byte strings on a socket -----------------------------------------------------------------------------------------


def _send(stream: socket.socket, data: bytes) -> None:
    stream.sendall(_LENGTH.pack(len(data)))
    stream.sendall(data)


def _read(stream: socket.socket, size: int) -> bytes:
    """That many bytes, or fewer where the other end is gone."""
    data = bytearray(size)
    view, done = memoryview(data), 0
    while done < size:
        with contextlib.suppress(ConnectionResetError):
            if taken := stream.recv_into(view[done:]):
                done += taken
                continue
        break
    return bytes(view[:done])


def _strings(stream: socket.socket) -> Iterator[bytes]:
    """The strings up to the end of the stream; one that is cut off is left out."""
    while len(head := _read(stream, _LENGTH.size)) == _LENGTH.size:
        (size,) = _LENGTH.unpack(head)
        if size > _LARGEST or len(data := _read(stream, size)) < size:
            return
        yield data


def _receive_all(stream: socket.socket, look: Callable[[], None]) -> list[bytes]:
    """Everything up to the end; ``look`` is called every few seconds while nothing comes."""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while not selector.select(_LOOK):
            look()
    return list(_strings(stream))


# --- in the worker ----------------------------------------------------------------------------------------------------


def main() -> None:
    """Be the worker: ``python -m client.worker SETUP``, with a socket as standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the link ends its worker itself
    control = _own_socket()
    setup = parse_json(sys.argv[1])
    handler = _load(setup["handler"], setup["preload"])
    gc.collect()
    gc.freeze()  # a collection in a child would otherwise copy every page that it looks at
    with contextlib.suppress(BrokenPipeError):
        control.sendall(_READY)
    while True:
        signal_byte, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not signal_byte:
            return
        parent = os.getpid()
        child = os.fork()
        if not child:
            control.close()
            _work(descriptors[0], handler, parent, int(setup["threads"]))
        os.close(descriptors[0])
        control.sendall(_NUMBER.pack(child))
        _, status = os.waitpid(child, 0)
        control.sendall(_NUMBER.pack(status))


def _work(descriptor: int, handler: Handler, parent: int, threads: int) -> None:
    """Be the child; never returns."""
    status = 1
    try:
        die_with_parent(parent)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(_WORST, encoding="ascii")
        _own_ways(threads)
        with socket.socket(fileno=descriptor) as stream:
            try:
                answer = iter(handler(list(_strings(stream))))
                _send(stream, _GOOD)
            except Exception as error:  # noqa: BLE001  # the boundary of the process; a text could quote data
                answer = iter([type(error).__name__.encode()])
                _send(stream, _BAD)
            for part in answer:
                _send(stream, part)
            _send(stream, _END)
        status = 0
    finally:
        sys.stderr.flush()
        os._exit(status)  # nothing of the worker's own is to be tidied up here


def _own_ways(threads: int) -> None:
    """Threads for arithmetic, and chance of its own: children must not draw the numbers that their brothers draw."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)
        torch.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # Python's own generator does that by itself at a fork


def _load(handler: str, preload: Iterable[str]) -> Handler:
    for name in preload:
        importlib.import_module(name)
    module, _, name = handler.partition(":")
    found: Handler = getattr(importlib.import_module(module), name)
    return found


def _own_socket() -> socket.socket:
    """The socket under a descriptor of its own; what a library prints goes to standard error."""
    control = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return control


if __name__ == "__main__":
    main()
