"""Worker processes that de-identify files of one folder after another.

A file can end the process that reads it: a decoder written in C meets bytes that it does not expect, or the system is
out of memory. Here that is a worker, and costs that file alone.
"""

import contextlib
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import ParamSpec, Self, TypeVar

from client.deid.clearance import Clerk
from client.deid.profile import Profile
from client.deid.pseudonyms import SiteKey
from client.deid.quarantine import Decided
from client.deid.report import FileRecord, Status
from client.deid.single import Processed, Processor, limit_memory
from shared.errors import FedwardError
from shared.processes import WorkerPool

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

DIED = "a worker process died on it, twice"
"""Why a file is refused that ended the process that read it, also when nothing else was in that process."""

_NO_MEMORY = "it and another file of its instance need more memory together than files may take"
_CHUNK = 8


class Crew:
    """A few worker processes under one profile and one key. Used as a context manager: they end with it.

    Make it before anything starts a thread: a copy of this process is ready at once where a fresh one takes as long as
    300 files, but a copy of a process with threads may inherit a lock that nobody will open.

    Args:
        workers: How many.
        profile: What is done to which attribute.
        key: The site's key.
    """

    def __init__(self, workers: int, profile: Profile, key: SiteKey) -> None:
        self._workers, self._terms = workers, (profile, key)
        self._pool = self._made()
        self._submit(_ready)

    def process(
        self, source: Path, out: Path, paths: Sequence[str], decided: Decided, room: Path | None = None
    ) -> Iterator[Processed]:
        """De-identify files of ``source`` into ``out``; the results come in the order of ``paths``.

        Where a worker dies, the files that it may have died on are tried again one by one; the one that is at fault is
        refused, and all others go on.

        Args:
            source: The input folder.
            out: The output folder.
            paths: The files, below ``source``.
            decided: What people decided.
            room: Where the workers note the faces of the folder (:func:`client.deid.faces.room_for`).

        Raises:
            OutputError: The output folder does not take a file.
            FedwardError: No worker can be started any more.
        """

        def handed(chunk: Sequence[str]) -> "tuple[Sequence[str], Future[list[Processed]]]":
            known = decided.about(chunk)
            return chunk, self._submit(_work, source, out, chunk, known, room)

        ahead = deque(handed(paths[start : start + _CHUNK]) for start in range(0, len(paths), _CHUNK))
        while ahead:
            chunk, future = ahead.popleft()
            try:
                results = future.result()
            except BrokenProcessPool:
                self._renew(out)
                for path in chunk:
                    alone = self._alone(out, _work, source, out, [path], decided, room)
                    yield alone[0] if alone else Processed(FileRecord(path, Status.REFUSED, DIED))
                # Whatever was handed out then went down with the same pool, unless it was done.
                ahead = deque(handed(one) if _died(its) else (one, its) for one, its in ahead)
            else:
                yield from results

    def settle(
        self, source: Path, out: Path, first: str, second: str, decided: Decided, *, room: Path | None = None
    ) -> Processed:
        """As :meth:`Processor.settle`, in a worker: what becomes of the second of two files of one instance.

        Raises:
            OutputError: The output folder does not take a file.
            FedwardError: No worker can be started any more.
        """
        known = decided.about([first, second])
        for _ in range(2):  # the worker may have died on a file that was handed out before these two
            if settled := self._alone(out, _settle, source, out, first, second, known, room=room):
                return settled
        self._alone(out, _work, source, out, [first], known, room)  # the first keeps the place
        return Processed(FileRecord(second, Status.REFUSED, DIED))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _made(self) -> WorkerPool:
        alone = sys.platform == "linux" and threading.active_count() == 1
        return WorkerPool(self._workers, method="fork" if alone else "spawn", prepare=_start, arguments=self._terms)

    def _submit(
        self, task: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Future[Result]:
        """Hand out a task; where the pool is broken already, its future says so as if it had broken a moment later."""
        try:
            return self._pool.submit(task, *args, **kwargs)
        except BrokenProcessPool as error:
            failed: Future[Result] = Future()
            failed.set_exception(error)
            return failed

    def _alone(
        self, out: Path, task: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result | None:
        """Hand out a task and wait for it; None where a worker died meanwhile, and there are fresh ones then."""
        try:
            return self._submit(task, *args, **kwargs).result()
        except BrokenProcessPool:
            self._renew(out)
            return None

    def _renew(self, out: Path) -> None:
        """Fresh workers in the place of a pool in which one died; what they had begun to write to ``out`` goes."""
        self._pool.shutdown(wait=True)  # after that, every future of it says what became of it
        for part in out.rglob(".*.part"):  # all of them ended, and some amid a file
            with contextlib.suppress(OSError):
                part.unlink()
        self._pool = self._made()
        try:
            self._submit(_ready).result()
        except BrokenProcessPool as error:
            raise FedwardError(
                "worker processes die as soon as they start", hint="free some memory and run the same command again"
            ) from error


def _died(future: "Future[list[Processed]]") -> bool:
    return isinstance(future.exception(), BrokenProcessPool)


_terms: list[tuple[Profile, SiteKey]] = []  # of this worker process
_processors: dict[tuple[Path, Path, Path | None], Processor] = {}  # the one of the folders at hand


def _start(profile: Profile, key: SiteKey) -> None:
    limit_memory()
    _terms[:] = [(profile, key)]


def _ready() -> None:
    """Nothing: the first task starts the processes."""


def _clerk(source: Path, out: Path, decided: Decided, room: Path | None) -> Clerk:
    if (source, out, room) not in _processors:
        _processors.clear()
        _processors[source, out, room] = Processor(source, out, *_terms[0], room)
    return Clerk(source, out, _processors[source, out, room], decided)


def _work(source: Path, out: Path, paths: Sequence[str], decided: Decided, room: Path | None = None) -> list[Processed]:
    clerk = _clerk(source, out, decided, room)
    return [clerk.process(path) for path in paths]


def _settle(
    source: Path, out: Path, first: str, second: str, decided: Decided, *, room: Path | None = None
) -> Processed:
    clerk = _clerk(source, out, decided, room)
    try:
        return clerk.settle(first, second)
    except MemoryError:
        clerk.process(first)  # the first keeps the place
        return Processed(FileRecord(second, Status.REFUSED, _NO_MEMORY))
