"""What the children of a worker do in its tests; each is named in ``tests/client/test_worker.py``."""

import fcntl
import os
import random
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

WARM = {"pieces": 0}


def do(work: list[bytes]) -> Iterable[bytes]:
    """The first string says what, the others are its arguments."""
    act, *arguments = work
    answer: Iterable[bytes] = globals()[f"do_{act.decode()}"](*arguments)
    return answer


def do_echo(*parts: bytes) -> Iterable[bytes]:
    return parts


def do_count() -> Iterable[bytes]:
    WARM["pieces"] += 1
    return [str(WARM["pieces"]).encode(), str("torch" in sys.modules).encode()]


def do_raise(text: bytes) -> Iterable[bytes]:
    raise ValueError(text.decode())


def do_break_off() -> Iterable[bytes]:
    yield b"half of it"
    raise ValueError


def do_exit(status: bytes) -> Iterable[bytes]:
    os._exit(int(status))


def do_die() -> Iterable[bytes]:
    os.kill(os.getpid(), signal.SIGKILL)
    return []


def do_pids() -> Iterable[bytes]:
    return [str(os.getpid()).encode(), str(os.getppid()).encode()]


def do_chance() -> Iterable[bytes]:
    drawn = (random.random(), np.random.random(), torch.rand(1).item())
    return [str(number).encode() for number in drawn]


def do_ways() -> Iterable[bytes]:
    return [str(torch.get_num_threads()).encode(), Path("/proc/self/oom_score_adj").read_bytes().strip()]


def do_print(text: bytes) -> Iterable[bytes]:
    sys.stdout.write(text.decode())
    return [sys.stdin.read().encode()]


def do_hold(path: bytes) -> Iterable[bytes]:
    """Hold a lock and never come to an end."""
    with Path(path.decode()).open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        stream.write(str(os.getpid()))
        stream.flush()
        time.sleep(60)
    return []
