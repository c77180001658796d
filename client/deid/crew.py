"""Worker processes that de-identify files of one folder after another."""

import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from client.deid.clearance import Clerk
from client.deid.profile import Profile
from client.deid.pseudonyms import SiteKey
from client.deid.quarantine import Decided
from client.deid.single import Processed, Processor, limit_memory
from shared.processes import WorkerPool

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
        alone = sys.platform == "linux" and threading.active_count() == 1
        method = "fork" if alone else "spawn"
        self._pool = WorkerPool(workers, method=method, prepare=_start, arguments=(profile, key))
        self._pool.submit(_ready)

    def process(self, source: Path, out: Path, paths: Sequence[str], decided: Decided) -> Iterator[Processed]:
        """De-identify files of ``source`` into ``out``; the results come in the order of ``paths``.

        Raises:
            OutputError: The output folder does not take a file.
        """
        chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
        known = [decided.about(chunk) for chunk in chunks]
        folders = [source] * len(chunks), [out] * len(chunks)
        for results in self._pool.map(_work, *folders, chunks, known):
            yield from results

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


_terms: list[tuple[Profile, SiteKey]] = []  # of this worker process
_processors: dict[tuple[Path, Path], Processor] = {}  # the one of the folders at hand


def _start(profile: Profile, key: SiteKey) -> None:
    limit_memory()
    _terms[:] = [(profile, key)]


def _ready() -> None:
    """Nothing: the first task starts the processes."""


def _work(source: Path, out: Path, paths: Sequence[str], decided: Decided) -> list[Processed]:
    if (source, out) not in _processors:
        _processors.clear()
        _processors[source, out] = Processor(source, out, *_terms[0])
    clerk = Clerk(source, out, _processors[source, out], decided)
    return [clerk.process(path) for path in paths]
