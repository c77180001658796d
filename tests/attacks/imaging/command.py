"""The real command in this process: what it prints, how it ends, and that a refusal is one line."""

import contextlib
import io
import os
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shared import cli

# Every code of docs/exit-codes.md; 1 is a fault of fedward itself and never an answer to an attack.
REFUSALS = {2, 3, 4, 5, 6, 7, 8, 9}


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err


def fedward(*words: object) -> Done:
    """``fedward WORDS``, with its process boundary, in this process."""
    out, err, before = io.StringIO(), io.StringIO(), (sys.argv, dict(os.environ))
    sys.argv = ["fedward", *map(str, words)]
    handler = signal.getsignal(signal.SIGINT)
    code: object = 0
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as stop:
        code = stop.code or 0
    except Exception:  # noqa: BLE001  what nobody caught: a traceback for whoever typed the command
        code = 1
        err.write(traceback.format_exc())
    finally:
        signal.signal(signal.SIGINT, handler)  # a command that was interrupted ignores a second one until it has ended
        sys.argv, environment = before
        os.environ.clear()
        os.environ.update(environment)
    assert isinstance(code, int), code
    return Done(code, out.getvalue(), err.getvalue())


def refusal(done: Done, *codes: int) -> str:
    """The one line of a refusal with one of these codes; asserts that there is no other and no traceback."""
    lines = [line for line in done.err.splitlines() if line.startswith("fedward: ")]
    assert "Traceback" not in done.said, done.said
    assert done.code in (codes or REFUSALS), (done.code, done.said)
    assert len(lines) == 1, done.said
    assert ("; " in lines[0] or "(" in lines[0]) and len(lines[0]) < 1500
    return lines[0]


def printable(text: str) -> bool:
    """Whether a terminal shows the text as it is: no control characters but the ends of lines."""
    return all(one == "\n" or one.isprintable() for one in text)


def files(folder: Path) -> set[str]:
    """All files below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


@contextlib.contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file grows beyond ``limit`` bytes, which stands for a disk that fills up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
