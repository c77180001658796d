"""What a person at a terminal sees: progress, results, and errors in one line."""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
BETWEEN_LINES: Final = 30.0
"""Seconds between two lines of progress where there is no terminal."""


# Control characters but tab and line feed, and those that turn the direction of writing: a text that came from outside
# could otherwise rewrite what a person reads (Unicode TR 36, "Unicode Security Considerations").
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """``text`` with a question mark for everything that would steer a terminal instead of being read."""
    return _UNSEEN.sub("?", text)


def say(text: str) -> None:
    """Print one line of result to standard output."""
    out.print(plain(text), markup=False, soft_wrap=True)


def plural(number: int, one: str, many: str = "") -> str:
    """``3, "file"`` as ``"3 files"``, the figure as programs read it."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def complain(message: str, hint: str = "") -> None:
    """Print one line of error to standard error: what is wrong, then what to do."""
    line = f"fedward: {message}" + (f"; {hint}" if hint else "")
    err.print(" ".join(plain(line).splitlines()), markup=False, soft_wrap=True)


def emit_json(value: object) -> None:
    """Print ``value`` as JSON to standard output, for ``--json``."""
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def progress(*, quiet: bool = False, foresees: bool = True) -> Iterator[Progress]:
    """A progress bar on standard error with counts, time spent and time left.

    Where standard error is no terminal but a file or a journal, a line for what is under way every half minute.

    Args:
        quiet: Show nothing.
        foresees: Whether the steps take about the same time, so that the share done says how long the rest takes.
    """
    columns = [TextColumn("{task.description:<34}"), BarColumn(bar_width=24), MofNCompleteColumn()]
    if foresees:
        columns += [TaskProgressColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()]
    else:
        columns += [TimeElapsedColumn()]
    with Progress(*columns, console=err, disable=quiet, refresh_per_second=4) as bar:
        ended = Event()
        teller = Thread(target=_tell, args=(bar, ended), name="progress", daemon=True)
        if not (quiet or err.is_terminal):
            teller.start()
        try:
            yield bar
        except BaseException:
            for task in bar.tasks:  # above an error, a bar that never moved says nothing
                bar.update(task.id, visible=task.completed > 0)
            raise
        finally:
            ended.set()
            if teller.is_alive():
                teller.join()


def _tell(bar: Progress, ended: Event) -> None:
    """A line for each task that moved since the last line."""
    told: dict[int, float] = {}
    while not ended.wait(BETWEEN_LINES):
        for task in bar.tasks:
            if task.started and not task.finished and told.get(task.id) != task.completed:
                told[task.id] = task.completed
                total = f"/{task.total:.0f}" if task.total is not None else ""
                err.print(plain(f"{task.description} {task.completed:.0f}{total}"), markup=False, soft_wrap=True)
