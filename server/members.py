"""Whom the gate lets in: the keys of the hospitals that were approved, as they are in the coordinator's folder now."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from server.coordinator import Coordinator
from shared.errors import FedwardError
from shared.identity import Request
from shared.link_keys import public_key

LOG: Final = logging.getLogger("fedward.members")
_LOOK: Final = 1.0  # seconds between two looks into the folder


@dataclass
class Members:
    """The site of each admitted key; a hospital that is approved or taken out counts within a second.

    A file that is damaged or altered admits nobody, and does not keep the others out.

    Attributes:
        coordinator: Whose members.
        clock: Seconds; for tests.
    """

    coordinator: Coordinator
    clock: Callable[[], float] = time.monotonic
    _looked: float = float("-inf")
    _seen: tuple[tuple[str, int, int], ...] = ()
    _sites: Mapping[bytes, str] = field(default_factory=dict)

    def __call__(self) -> Mapping[bytes, str]:
        """Name of the site by its link key (DER of the SubjectPublicKeyInfo)."""
        now = self.clock()
        if now - self._looked >= _LOOK:
            self._looked = now
            folder = self.coordinator.members_folder
            seen = tuple(
                (path.name, stat.st_mtime_ns, stat.st_ino)
                for path in sorted(folder.glob("*.json"))
                if (stat := path.stat())
            )
            if seen != self._seen:
                self._sites = self._read([name for name, _, _ in seen])
                self._seen = seen
        return self._sites

    def _read(self, names: list[str]) -> Mapping[bytes, str]:
        found: dict[bytes, str] = {}
        for name in names:
            path = self.coordinator.members_folder / name
            try:
                request = Request.read(path)
            except FedwardError as error:
                LOG.warning("%s admits nobody: %s", path.name, error.message)
                continue
            if path.stem != request.site:
                LOG.warning("%s admits nobody: it is the request of another site", path.name)
                continue
            found[request.link_key] = request.site
        return found


def pem_of(key: bytes) -> bytes:
    """A public key in PEM, as Flower knows its nodes, from DER."""
    return public_key(key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
