"""What a training cost in processor time, noted beside its weights: that of this process and of all below it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from shared.files import write_json
from shared.parsing import parse_json

FILE: Final = "{name}.cpu.json"
_KEY: Final = "cpu_seconds"


def cpu_seconds() -> float | None:
    """Processor time of this process and of its living descendants, seconds; None where there is no ``/proc``."""
    try:
        return _of(os.getpid()) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return None


@contextmanager
def metered(weights: Path) -> Iterator[None]:
    """Add what the block costs to what stands beside ``weights``; also where it breaks off, since it goes on later."""
    before = cpu_seconds()
    try:
        yield
    finally:
        after = cpu_seconds()
        if before is not None and after is not None:
            write_json(_file(weights), {_KEY: round((noted(weights) or 0.0) + after - before, 2)})


def noted(weights: Path) -> float | None:
    """Seconds that stand beside ``weights``; None where none do."""
    try:
        return float(parse_json(_file(weights).read_bytes())[_KEY])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _file(weights: Path) -> Path:
    return weights.with_name(FILE.format(name=weights.stem))


def _of(process: int) -> int:
    """Clock ticks of a process and of those below it (proc(5), fields 14 and 15 of ``stat``)."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    total = int(fields[11]) + int(fields[12])
    for thread in Path(f"/proc/{process}/task").iterdir():
        for child in (thread / "children").read_text(encoding="ascii").split():
            try:
                total += _of(int(child))
            except (FileNotFoundError, ProcessLookupError):  # it has ended
                continue
    return total
