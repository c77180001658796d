"""A process that keeps others running: starts them, starts them again with patience, and ends them in good order.

What it starts is on a leash (:mod:`shared.leash`): it ends with the supervisor, also where that is killed. Each child
has a process group of its own, so that Ctrl-C reaches the supervisor alone, which then ends the children one by one.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

from shared.errors import PolicyError, UsageError
from shared.leash import leashed

FINAL = frozenset({UsageError.exit_code, PolicyError.exit_code})
"""Exit statuses after which starting again cannot help: wrong use, and what is forbidden."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_AGAIN = 1.0
"""Seconds after the first word to stop from which a second one means haste. Some say it twice at once, such as
timeout(1) of the GNU coreutils: to the process, and to its group."""


@dataclass(frozen=True)
class Patience:
    """How long a supervisor waits.

    Attributes:
        first: Seconds before the first restart of a child; doubled for each that follows.
        longest: Seconds before any restart, at most.
        healthy: A child that lived that many seconds is restarted as if it had never ended.
        grace: Seconds between SIGTERM and SIGKILL.
    """

    first: float = 1.0
    longest: float = 60.0
    healthy: float = 300.0
    grace: float = 10.0


@dataclass(frozen=True)
class Child:
    """A process to keep running.

    Attributes:
        name: What it is called in lines for people.
        arguments: The program and its arguments; every user of the machine can read them, so nothing secret.
        environment: Set for it beside what this process has; nothing secret either.
        vital: Whether a final exit status of it ends the whole; else it is started again whatever its status.
    """

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    vital: bool = True


@dataclass
class _Life:
    """A child through all its lives."""

    child: Child
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    due: float = 0.0  # when it is to be started
    delay: float = 0.0  # seconds waited before the life that is under way


class Supervisor:
    """Keeps children running until it is told to stop.

    Args:
        children: Started in this order, ended in the opposite one.
        say: Told in one line of every start and every end.
        patience: Its times.
        final: Exit statuses of a vital child that end the whole.
    """

    def __init__(
        self,
        children: Sequence[Child],
        *,
        say: Callable[[str], None],
        patience: Patience = Patience(),  # frozen
        final: Collection[int] = FINAL,
    ) -> None:
        self._lives = [_Life(child) for child in children]
        self._say, self._patience, self._final = say, patience, frozenset(final)
        self._stopping = False
        self._told = 0.0  # when it was first told to stop by a signal
        self._hurry = False

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the children that run, by name."""
        running = [(one.child.name, one.process) for one in self._lives if one.process]
        return {name: process.pid for name, process in running if process.returncode is None}

    def run(self) -> int:
        """Keep the children running until SIGTERM or SIGINT, or until one ends in a way that is final.

        Only in the main thread of a process, since it takes over the signals SIGTERM, SIGINT and SIGCHLD meanwhile. A
        second SIGTERM or SIGINT, a second or more after the first, ends the children at once.

        Returns:
            0 where it was told to stop, else the exit status of the child that ended for good.
        """
        with self._signals() as woken:
            status = 0
            try:
                while not self._stopping:
                    self._start_due()
                    final = self._reap()
                    if final is not None:
                        status = final
                        break
                    woken(self._next_due())
            finally:
                self._end_all(woken)
        return status

    def stop(self) -> None:
        """Have :meth:`run` end the children and return; from any thread or signal handler of this process."""
        self._stopping = True
        os.kill(os.getpid(), signal.SIGCHLD)  # wakes it

    @contextlib.contextmanager
    def _signals(self) -> Iterator[Callable[[float | None], None]]:
        """What waits for a signal or a number of seconds, whichever is first; no signal is lost between two waits."""
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            selector.register(reader, selectors.EVENT_READ)

            def woken(seconds: float | None) -> None:
                if selector.select(seconds):
                    os.read(reader, 4096)

            try:
                yield woken
            finally:
                signal.set_wakeup_fd(wakeup)
                for number, handler in before.items():
                    signal.signal(number, handler)
                os.close(reader)
                os.close(writer)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number in {signal.SIGTERM, signal.SIGINT}:
            now = time.monotonic()
            self._told = self._told or now
            self._hurry = self._hurry or now - self._told >= _AGAIN
            self._stopping = True

    def _start_due(self) -> None:
        for life in self._lives:
            if life.process is None and life.due <= time.monotonic() and not self._stopping:
                self._start(life)

    def _start(self, life: _Life) -> None:
        child = life.child
        life.process = subprocess.Popen(
            leashed(child.arguments),
            stdin=subprocess.DEVNULL,
            env=dict(os.environ) | dict(child.environment),
            process_group=0,
        )
        life.started = time.monotonic()
        self._say(f"{child.name} started, process {life.process.pid}")

    def _reap(self) -> int | None:
        """See who has ended; the exit status of one that must not be started again."""
        for life in self._lives:
            if life.process is None or (status := life.process.poll()) is None:
                continue
            now = time.monotonic()
            life.process = None
            if status in self._final and life.child.vital:
                self._say(f"{life.child.name} {_ended(status)}, which starting it again would not mend")
                return status
            lived = now - life.started
            times = self._patience
            life.delay = times.first if lived >= times.healthy or not life.delay else min(2 * life.delay, times.longest)
            life.due = now + life.delay
            self._say(f"{life.child.name} {_ended(status)} after {lived:.0f} s; started again in {life.delay:.0f} s")
        return None

    def _next_due(self) -> float | None:
        """Seconds until a child is to be started, or None where all run."""
        due = [life.due for life in self._lives if life.process is None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _end_all(self, woken: Callable[[float | None], None]) -> None:
        for life in reversed(self._lives):
            if life.process is not None:
                self._end(life.process, life.child.name, woken)
                life.process = None

    def _end(self, process: subprocess.Popen[bytes], name: str, woken: Callable[[float | None], None]) -> None:
        process.terminate()
        deadline = time.monotonic() + self._patience.grace
        while process.poll() is None:
            left = deadline - time.monotonic()
            if left <= 0 or self._hurry:
                process.kill()
                process.wait()
                self._say(f"{name} did not end when it was asked to and was killed")
                return
            woken(left)
        self._say(f"{name} {_ended(process.returncode)}")


def _ended(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
