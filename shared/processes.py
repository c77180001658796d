"""Worker processes that end without a word when somebody presses Ctrl-C, and with the process that started them."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


@contextmanager
def interrupt_held_back() -> Iterator[None]:
    """Hold back an interrupt from the keyboard, and in each process that is started meanwhile until it unblocks it.

    The mask alone does not do: it is this thread's, and where another thread takes the signal, Python raises
    ``KeyboardInterrupt`` in the main thread all the same.
    """
    came: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    handler = signal.signal(signal.SIGINT, lambda number, _: came.append(number)) if main else None
    try:
        yield
    finally:
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if came:
            signal.raise_signal(signal.SIGINT)


_open: "set[WorkerPool]" = set()


class WorkerPool(ProcessPoolExecutor):
    """A process pool whose workers an interrupt from the keyboard ends at once and silently.

    What they write is whole or absent, so nothing is lost by that; the parent tells the person. An interrupt that comes
    while a worker is still starting is held back until it can be taken in silence.

    Args:
        workers: Number of processes.
        method: ``spawn``, or ``fork`` where this process runs no other thread.
        prepare: Called with ``arguments`` at the start of each worker.
        arguments: What ``prepare`` is given.
    """

    def __init__(
        self,
        workers: int,
        *,
        method: str = "spawn",
        prepare: Callable[..., None] | None = None,
        arguments: tuple[Any, ...] = (),
    ) -> None:
        super().__init__(workers, get_context(method), _start, (prepare, arguments))
        _open.add(self)

    def submit(
        self, fn: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Future[Result]:
        """As in the base class; a worker that it starts inherits a blocked interrupt."""
        with interrupt_held_back():
            return super().submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As in the base class."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            _open.discard(self)


def end_pools() -> None:
    """End every pool that is still open; call it where a process ends after an interrupt, which it ignores from here.

    An interrupt may come between a pool and the statement that would have ended it. Left to the interpreter's own end,
    the pool's thread may close its pipe at the moment at which the interpreter writes to it, and a trace is printed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would interrupt this
    for pool in tuple(_open):
        pool.shutdown(cancel_futures=True)


def _start(prepare: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if prepare is not None:
        prepare(*arguments)


def _end_with_parent() -> None:
    """End this process when its parent was killed: it would wait for work for ever, with what it inherited locked."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
