"""Ports for the servers of tests: what is free when it is asked for is still free when the server listens.

A port that the system chooses (port 0) is not: it lies where the near ends of connections are taken from too, so that
any connection of another test may have it a moment later. These lie outside that range, and no two processes of one run
of the tests take from the same part.
"""

import itertools
import os
import re
import socket
from collections.abc import Iterator
from functools import cache
from pathlib import Path

HOST = "127.0.0.1"
LOWEST, HIGHEST = 20_000, 65_535  # below 20,000 are Ray's own, and those of well-known services
PARTS = 8


def ours(low: int, high: int, part: int) -> range:
    """Every second port of one of ``PARTS`` parts of what lies outside ``low`` to ``high``, where connections begin."""
    below, above = range(LOWEST, low), range(high + 1, HIGHEST)
    whole = max(below, above, key=len)
    if len(whole) < 100 * PARTS:  # a machine whose connections may begin anywhere
        whole = range(LOWEST, HIGHEST)
    size = len(whole) // PARTS
    return whole[part % PARTS * size :][: size - 1 : 2]


@cache
def _turns() -> Iterator[int]:
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split())
    worker = re.fullmatch(r"gw(\d+)", os.environ.get("PYTEST_XDIST_WORKER", ""))
    ports = ours(low, high, int(worker[1]) if worker else PARTS - 1)
    begin = os.getpid() % len(ports)  # another run of the tests on this machine begins elsewhere
    return itertools.cycle((*ports[begin:], *ports[:begin]))


def free_port() -> int:
    """A port of this machine that is free, as is the one above it, where a coordinator's audit exchange will be.

    It is not given out again before all others were.
    """
    while True:
        port = next(_turns())
        try:
            for one in (port, port + 1):
                socket.create_server((HOST, one)).close()
        except OSError:
            continue
        return port
