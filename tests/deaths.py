"""A process that is killed before one of its calls to the system; for programs of their own, since it forks."""

import io
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def asks_the_system(function: Any) -> bool:
    owner = getattr(function, "__self__", None)
    if isinstance(owner, io.IOBase):
        return not isinstance(owner, io.BytesIO)  # memory asks nobody
    return function.__module__ in {"posix", "fcntl"}


def dies(work: Callable[[], object], calls: int) -> bool:
    """Whether a process that does ``work`` was killed before its call number ``calls`` to the system."""
    child = os.fork()
    if not child:
        left = calls

        def count(_frame: FrameType, event: str, function: object) -> None:
            nonlocal left
            if event == "c_call" and asks_the_system(function):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(count)
        work()
        sys.setprofile(None)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the step itself failed"
    return os.WIFSIGNALED(status)
