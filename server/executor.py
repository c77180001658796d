"""What carries out the runs that are asked for, one at a time: ``python -m server.executor FOLDER``.

It takes a run's task from the SuperLink, starts a process for it, and looks after that: a process that dies ends its
run, and a run is over only when nothing of its messages is left. It also has the SuperLink know every member's node.
"""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

from server.coordinator import Coordinator
from server.flower_line import Claim, Line
from server.members import Members, pem_of
from server.runs import INTERRUPTED, Ending, Outcome, RunFolder
from shared.console import complain
from shared.errors import FedwardError, ProtocolError, UsageError
from shared.files import held, locked
from shared.leash import leashed
from shared.processes import interrupt_held_back

POLL: Final = 0.5  # seconds between two looks for a run
GRACE: Final = 8.0  # seconds that a run has to write down where it is; a supervisor waits for ten
_STARTING: Final = 20.0  # seconds in which it is no news that the SuperLink, started beside this, is not there yet
_LOG_BYTES: Final = 2**20


class Executor:
    """Carries out runs until it is told to stop.

    Args:
        coordinator: Whose runs.
        line: To its SuperLink.
        say: Told in one line of what begins and ends.
    """

    def __init__(self, coordinator: Coordinator, line: Line, *, say: Callable[[str], None]) -> None:
        self._coordinator, self._line, self._say = coordinator, line, say
        self._members = Members(coordinator)
        self._registered: dict[str, bytes] = {}
        self._stop = threading.Event()
        self._trouble = ""
        self._settled = False
        self._begun = time.monotonic()

    def stop(self) -> None:
        """Have :meth:`run` end the run that is under way and return; from a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Carry out runs until :meth:`stop`; a SuperLink that is away is waited for."""
        with contextlib.ExitStack() as taking:
            while not self._stop.is_set():
                with self._patiently():
                    self._register()
                    if not self._settled:
                        self._settle()
                        taking.enter_context(self._lock())
                        self._settled = True
                    if claim := self._line.acquire():
                        self._carry_out(claim)
                self._stop.wait(POLL)

    def _lock(self) -> IO[bytes]:
        """The lock by which others know that runs are taken; it ends with this process, however that ends."""
        path = self._coordinator.executor_path
        return locked(path, "another process carries out runs here", error=ProtocolError, patience=1.0)

    @contextlib.contextmanager
    def _patiently(self) -> Iterator[None]:
        """What does not work is tried again in the next turn; each trouble is said once."""
        try:
            yield
        except FedwardError as error:
            starting = isinstance(error, ProtocolError) and time.monotonic() - self._begun < _STARTING
            if starting and not self._settled:
                return
            if self._trouble != str(error):
                self._say(str(error))
            self._trouble = str(error)
        else:
            if self._trouble:
                self._say("it works again")
            self._trouble = ""

    def _settle(self) -> None:
        """End what an earlier executor left: its processes ended with it, and nobody goes on with it by himself."""
        if held(self._coordinator.executor_path):
            raise ProtocolError("another process carries out runs here", hint="wait for its end")
        under_way = [one for one in self._line.runs() if one.status in {"starting", "running"}]
        for one in under_way:
            self._line.stop(one.number)
        waiting = {one.name for one in self._line.runs() if one.status == "pending"}
        for run in RunFolder.all(self._coordinator, skipped=lambda error: self._say(f"left alone: {error}")):
            if run.number is None or run.name in waiting:
                continue
            try:
                ended = run.outcome() is not None
            except UsageError as error:
                self._say(f"left alone: {error}")
                continue
            if not ended:
                self._end(run, "interrupted", "the coordinator was stopped while it ran", INTERRUPTED)
        self._sweep()

    def _register(self) -> None:
        """Have the SuperLink know the nodes of all members, also of those that were approved just now.

        A node that it refuses is said, and keeps nobody else out.
        """
        keys = {site: pem_of(key) for key, site in self._members().items()}
        if keys != self._registered:
            self._line.register(keys, refused=lambda site, error: self._say(f"{site} is not registered: {error}"))
            self._registered = keys

    def _carry_out(self, claim: Claim) -> None:
        """Start the process of a run, and wait for its end."""
        try:
            (found,) = self._line.runs(claim.number)
            run = RunFolder.open(self._coordinator, found.name)
        except UsageError as error:
            self._say(f"a run that nobody asked for here is ended: {error.message}")
            self._line.stop(claim.number)
            return
        _shorten(run.log_path)
        with run.log_path.open("ab") as log:
            process = self._start(run, claim, log.fileno())
        self._say(f"{run.name} begins, process {process.pid}")
        self._wait(run, process)
        try:
            if run.outcome() is None:
                how = f"ended with status {process.returncode}" if process.returncode >= 0 else "was killed"
                self._end(run, "failed", f"the process of the run {how}; {run.log_path} has what it said", 1)
            outcome = run.outcome()
            self._say(f"{run.name} ended: {outcome.outcome if outcome else 'unknown'}")
        finally:
            self._finish(claim.number)

    def _start(self, run: RunFolder, claim: Claim, log: int) -> "subprocess.Popen[bytes]":
        arguments = [sys.executable, "-P", "-m", "server.flower_run", str(self._coordinator.folder), run.name]
        with interrupt_held_back():
            process = subprocess.Popen(
                leashed(arguments),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=dict(os.environ) | self._coordinator.environment(),
                process_group=0,
            )
        if process.stdin:
            with contextlib.suppress(BrokenPipeError), process.stdin as stream:
                stream.write(f"{claim.token}\n".encode())
        return process

    def _wait(self, run: RunFolder, process: "subprocess.Popen[bytes]") -> None:
        """Until the process has ended, by itself or because it was asked to."""
        asked = None
        while process.poll() is None:
            if asked is None and (self._stop.is_set() or run.to_stop):
                process.terminate()
                asked = time.monotonic()
            if asked is not None and time.monotonic() - asked > GRACE:
                process.kill()
            with self._patiently():
                self._register()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL)

    def _end(self, run: RunFolder, outcome: Ending, error: str, status: int) -> None:
        hint = f"'fedward server resume {self._coordinator.folder} {run.name}' goes on with it"
        try:
            run.end(Outcome.now(outcome, error, hint, exit_code=status))
        except FedwardError as failure:  # a full disk; the run stays without an end, and can be resumed
            self._say(str(failure))

    def _finish(self, number: int) -> None:
        """Have the SuperLink forget the run's messages; it may be away just now."""
        while True:
            try:
                self._line.stop(number)
                self._line.runs(number)
            except ProtocolError:
                if self._stop.wait(POLL):  # the next start does it
                    return
            else:
                self._sweep()
                return

    def _sweep(self) -> None:
        with contextlib.suppress(sqlite3.Error):  # it is busy: the next run's end, or the next start, is as good
            sweep(self._coordinator.database_path)


def sweep(database: Path) -> None:
    """Give back what deleted messages took, so that nothing of them is left in the file or beside it.

    Raises:
        sqlite3.Error: The database is busy, or is none.
    """
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=rw", uri=True, timeout=5.0)) as connection:
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _shorten(log: Path) -> None:
    """A log that has grown over the runs of a folder begins anew."""
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))


def main(arguments: list[str]) -> int:
    """Run the process; the exit status is that of the error where it cannot."""
    os.umask(0o077)
    try:
        coordinator = Coordinator.open(Path(arguments[0]))
        with Line(coordinator) as line:
            executor = Executor(coordinator, line, say=complain)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: executor.stop())
            executor.run()
    except FedwardError as error:
        complain(error.message, error.hint)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
