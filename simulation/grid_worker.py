"""One worker of :mod:`simulation.local_grid`: ``python -m simulation.grid_worker``, messages on stdin and stdout.

The first frame names the ClientApp and the nodes; the answer to it is ``ready``, or what is wrong. Then one frame in,
one frame out, until the other end closes.
"""

import os
import signal
import sys
from typing import IO

from shared.errors import UsageError
from shared.parsing import parse_json
from simulation.frames import read_frame, write_frame
from simulation.local_grid import (
    READY,
    Nodes,
    receive_message,
    send_message,
    set_identity,
)


def main() -> None:
    """Serve messages until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the grid ends its workers itself
    incoming, outgoing = _own_streams()
    set_identity()
    setup = parse_json(read_frame(incoming) or b"{}")
    if not setup:
        return
    try:
        nodes = Nodes(setup["app"], {int(node): config for node, config in setup["nodes"].items()})
    except UsageError as error:
        write_frame(outgoing, error.message.encode())
        return
    try:
        write_frame(outgoing, READY)
        while (message := receive_message(incoming)) is not None:
            send_message(outgoing, nodes.handle(message))
    except BrokenPipeError:
        os._exit(0)  # nobody is left to tell; the usual end would complain about the pipe once more


def _own_streams() -> tuple[IO[bytes], IO[bytes]]:
    """The two pipes under descriptors of their own, so that whatever a library prints goes to stderr instead."""
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, sys.stdin.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return incoming, outgoing


if __name__ == "__main__":
    main()
