"""The audit exchange at the coordinator: ``python -m server.witness_link FOLDER IP:PORT``, kept by ``server start``.

It answers the hospitals' turns (:mod:`compliance.exchange`) and takes turns itself: the coordinator is a log and a
witness like the others. Nothing here needs Flower.
"""

import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Final

from compliance.exchange import Relay
from compliance.exchange_grpc import Papers, serve
from compliance.log import AuditLog
from compliance.place import Place
from compliance.turning import OFTEN, Turning, persist
from server.coordinator import Coordinator
from server.members import Members
from server.witnessing import correspondent, origins
from shared.console import complain
from shared.link_keys import check_key_file

EVERY: Final = 2.0  # seconds between two turns of the coordinator's own


def papers(coordinator: Coordinator) -> Papers:
    """What the coordinator shows: the gate's certificate.

    Raises:
        PolicyError: Others may read the gate's key.
        UsageError: A file is missing.
    """
    check_key_file(coordinator.gate_key_path, missing="make it with 'fedward server init'")
    return Papers.read(coordinator.gate_path, coordinator.gate_key_path, coordinator.authority_path)


def run(coordinator: Coordinator, listen: str, stop: threading.Event) -> None:
    """Answer and take turns until ``stop``.

    Raises:
        FedwardError: A key or a certificate cannot be used, or the address is in use.
    """
    relay = Relay(lambda: origins(coordinator))
    place = Place.open(coordinator.folder)

    def log() -> AuditLog:
        return place.open_log()

    side = correspondent(coordinator)
    own = Turning(side, place, lambda asked: relay.turn(coordinator.name, asked), log, complain, every=OFTEN)
    with serve(listen, papers(coordinator), Members(coordinator), relay):
        while not stop.wait(EVERY):
            own.turn()
        own.close()


def main(arguments: list[str]) -> int:
    """Be the process, until it is told to stop; what it cannot do it says once and tries again."""
    folder, listen = arguments
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    logging.getLogger("fedward.audit").addHandler(logging.StreamHandler(sys.stderr))
    persist(lambda: run(Coordinator.open(Path(folder)), listen, stop), stop, complain)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
