"""The audit exchange at a hospital: ``python -m client.witness_link NODE``, kept running by ``node start``.

Every few seconds it calls the coordinator: shows the newest checkpoint of this hospital's log, cosigns those of the
others, and fetches their cosignatures. Nobody can reach it. It has nothing to do with training, and no round waits for
it but where the hospital's policy asks for witnesses (:mod:`client.witnessing`).
"""

import signal
import sys
import threading
from pathlib import Path
from typing import Final

from client.link_place import Place as LinkPlace
from client.link_place import Post
from client.link_trouble import MovedError
from client.node import Node
from client.witnessing import correspondent, stale
from compliance.exchange_grpc import PORT_STEP, Caller, Papers
from compliance.place import Place
from compliance.turning import Turning, persist
from shared.console import complain
from shared.errors import FedwardError
from shared.places import Address

EVERY: Final = 5.0  # seconds between two turns
LONGEST: Final = 60.0  # where the coordinator cannot be reached


def run(folder: Path, stop: threading.Event) -> None:
    """Take turns until ``stop``, or until the node has joined anew.

    Raises:
        FedwardError: It is no node, or a key or a certificate cannot be used; :class:`MovedError`: it joined anew.
    """
    node = Node.open(folder)
    node.require_real()
    post = Post(node, lambda: LinkPlace.of(node))
    where = post.place
    address = Address.parse(where.address)
    caller = Caller(
        str(Address(address.host, address.port + PORT_STEP)),
        Papers.read(where.certificate, where.key, where.authority),
    )
    side, place = correspondent(node), Place.open(folder)
    own = Turning(side, place, caller.turn, node.open_log, complain, stale=lambda: stale(node))
    pause, unsettled = EVERY, ""
    try:
        while not stop.wait(pause):
            try:
                post.hold()
            except MovedError:
                raise
            except FedwardError as error:  # it may be joining at this moment; no turn is taken meanwhile
                if str(error) != unsettled:
                    complain(error.message, error.hint)
                pause, unsettled = EVERY, str(error)
                continue
            pause, unsettled = EVERY if own.turn() else min(2 * pause, LONGEST), ""
        own.close()
    finally:
        caller.close()


def main(arguments: list[str]) -> int:
    """Be the process, until it is told to stop; what it cannot do it tries again, by what the node has joined then."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    persist(lambda: run(Path(arguments[0]), stop), stop, complain)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
