"""What a person at a terminal sees: progress, results, and errors in one line."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

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


def say(text: str) -> None:
    """Print one line of result to standard output."""
    out.print(text, markup=False, soft_wrap=True)


def complain(message: str, hint: str = "") -> None:
    """Print one line of error to standard error: what is wrong, then what to do."""
    err.print(f"fedward: {message}" + (f"; {hint}" if hint else ""), markup=False, soft_wrap=True)


def emit_json(value: object) -> None:
    """Print ``value`` as JSON to standard output, for ``--json``."""
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Progress]:
    """A progress bar on standard error with counts, time spent and time left."""
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, disable=quiet, refresh_per_second=4) as bar:
        yield bar
