"""One ingest after another until somebody stops it: what the archive gets today is in the cohort of the next round.

A pass that fails does not end the schedule. What is wrong with the command itself shows in the first pass, and does.
"""

import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from client.ingest import Ingested
from shared.errors import DataError, FedwardError, OutputError, PolicyError, UsageError

SOON: Final = 60.0
"""Seconds after the first failure; twice as many after each further one in a row."""
LONGEST: Final = 3600.0
"""Seconds after any number of failures, where passes do not lie further apart anyway."""
MOST: Final = 7 * 86400.0
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> float:
    """What ``30m``, ``1h`` or ``1d`` means, from 1 second to 7 days.

    Raises:
        UsageError: It means nothing, or another time.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text)
    value = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 1.0 <= value <= MOST:
        raise UsageError(f"'{text}' is no time from 1s to 7d", hint="write a number and s, m, h or d, such as 30m")
    return value


@dataclass(frozen=True)
class Pass:
    """How one pass ended.

    Attributes:
        number: From 1.
        began: When, UTC.
        done: What came of it; None where it failed.
        error: Why it failed; None where it did not.
        following: When the next one begins, UTC.
    """

    number: int
    began: datetime
    done: Ingested | None
    error: FedwardError | None
    following: datetime


def pause(every: float, failures: int, took: float = 0.0) -> float:
    """Seconds until the next pass.

    Passes begin ``every`` seconds after each other, or at once where one took longer. After failures in a row the next
    try comes sooner at first and then ever later, since an archive that is away must not be asked without end.
    """
    if failures == 0:
        return max(every - took, 0.0)
    return float(min(min(SOON, every) * 2 ** min(failures - 1, 30), max(LONGEST, every)))


def repeat(
    take: Callable[[], Ingested],
    every: float,
    tell: Callable[[Pass], None],
    *,
    wait: Callable[[float], object] = time.sleep,
) -> None:
    """Call ``take`` again and again until an interrupt (:func:`stoppable`); it then ends in good order and returns.

    Args:
        take: One pass.
        every: Seconds from the beginning of one to that of the next.
        tell: Told of each pass when it is over.
        wait: Waits so many seconds.

    Raises:
        UsageError: The first pass says that the command is wrong.
        PolicyError: The first pass is forbidden.
    """
    number = failures = 0
    try:
        while True:
            number += 1
            began, started = datetime.now(UTC), time.monotonic()
            done, error = _one(take, first=number == 1)
            # That there is nothing in the archive yet is no failure of it.
            failures = failures + 1 if error is not None and not isinstance(error, DataError) else 0
            rest = pause(every, failures, time.monotonic() - started)
            tell(Pass(number, began, done, error, datetime.now(UTC) + timedelta(seconds=rest)))
            wait(rest)
    except KeyboardInterrupt:
        return


def _one(take: Callable[[], Ingested], *, first: bool) -> tuple[Ingested | None, FedwardError | None]:
    try:
        return take(), None
    except (UsageError, PolicyError) as error:
        if first:
            raise
        return None, error
    except FedwardError as error:
        return None, error
    except OSError as error:
        return None, OutputError(f"{error.filename or 'a file'}: {error.strerror or error}", hint="check the disk")


@contextmanager
def stoppable() -> Iterator[None]:
    """Take SIGTERM for an interrupt from the keyboard within the block: what ends one well ends the other well.

    Started in the background by a shell, SIGINT would be ignored; it is not here.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {kind: signal.signal(kind, signal.default_int_handler) for kind in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
