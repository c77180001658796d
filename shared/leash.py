"""A process that ends with the one that started it, also where that one is killed and can say nothing any more.

As a program, ``python -I -S leash.py PARENT PROGRAM [ARGUMENT]...`` becomes the program, on a leash. Done that way and
not between fork and exec of the parent, which may run other threads: nothing of Python is safe there.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1  # linux/prctl.h; kept over execve(2), see prctl(2)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process (SIGKILL) when the thread that started it ends.

    Args:
        parent: The process id of the parent, as it knew it before it started this one.

    Raises:
        OSError: The kernel has no such thing.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if os.getppid() != parent:  # it ended before this was asked for
        os.kill(os.getpid(), signal.SIGKILL)


def leashed(arguments: Sequence[str]) -> list[str]:
    """The argument list that starts ``arguments`` on a leash of this process.

    The thread that starts it must live as long as the process: the kernel watches the thread (``prctl(2)``).
    """
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *arguments]


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606  # an argument list of our own, no shell
