"""Where a hospital's coordinator is, what it takes to connect to it, and whether that has changed since."""

import contextlib
import hashlib
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from client.certificate import LinkCertificate
from client.link_http import client_context
from client.link_trouble import MovedError
from client.node import Node
from shared.errors import PolicyError, UsageError


@dataclass(frozen=True)
class Place:
    """Where a node's coordinator is, and what it takes to connect.

    Attributes:
        address: ``host:port``.
        authority: File of the certificate of the federation's authority.
        certificate: File of this hospital's certificate.
        key: File of its key.
    """

    address: str
    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def of(cls, node: Node) -> "Place":
        """Where ``node`` connects to.

        Raises:
            PolicyError: It has pinned no charter, or its charter names no coordinator; the certificate is another
                hospital's, for another key or of another authority than the charter's; or others may read its key.
            UsageError: It has no key or no certificate.
            ProtocolError: The certificate's time is over or not begun, or its authority did not issue it.
        """
        charter = node.charter
        coordinator = charter.coordinator
        if coordinator is None:
            raise PolicyError(
                "the charter that is pinned here names no coordinator",
                hint="pin one that does with 'fedward node join'",
            )
        for path in (node.authority, node.certificate):
            if not path.exists():
                raise UsageError(f"there is no {path}", hint="join with 'fedward node join --certificate'")
        LinkCertificate.stored(node).check(node, charter)
        return cls(coordinator.address, node.authority, node.certificate, node.link_key)

    def tls(self) -> ssl.SSLContext:
        """TLS with both certificates.

        Raises:
            UsageError: The certificate is not for the key, or one of the files is damaged.
        """
        try:
            return client_context(self.authority, self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(
                f"the certificate {self.certificate} and this node's key do not fit together: {error}",
                hint="join again with the certificate that the coordinator made for this node's request",
            ) from error

    def mark(self) -> str:
        """What changes with the address and with either certificate: a SHA-256, 64 hexadecimal digits.

        Raises:
            UsageError: One of the files cannot be read.
        """
        parts = [self.address.encode()]
        for path in (self.authority, self.certificate):
            try:
                parts.append(path.read_bytes())
            except OSError as error:
                raise UsageError(f"cannot read {path}: {error.strerror}", hint="join again") from error
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


class Post:
    """Where a link stands, for as long as its node has not joined anew.

    Args:
        node: The hospital's node.
        where: Where it connects to by its files of this moment, such as :meth:`Place.of`.

    Raises:
        FedwardError: Whatever ``where`` raises.
    """

    def __init__(self, node: Node, where: Callable[[], Place]) -> None:
        self._node, self._where = node, where
        self._seen = self._version()
        self.place = where()
        self._mark = self.place.mark()

    def hold(self) -> None:
        """See that the node still connects to where it did; takes no time where no file has changed.

        Raises:
            MovedError: It does not: another charter is pinned, or there is another certificate.
            FedwardError: Its files do not fit together; perhaps only until the last of them is written.
        """
        if (found := self._version()) == self._seen:
            return
        if self._where().mark() != self._mark:
            raise MovedError(
                "this node has another coordinator or certificate than when it connected", hint="it connects anew"
            )
        self._seen = found

    def _version(self) -> tuple[object, ...]:
        node = self._node
        return tuple(map(version, (node.folder / "charter.toml", node.authority, node.certificate)))


def version(path: Path) -> tuple[int, ...]:
    """What changes when a file does, or the link that leads to it; empty where there is none."""
    found: list[os.stat_result] = []
    with contextlib.suppress(OSError):
        found += [path.lstat()]
        found += [path.stat()]
    return tuple(number for one in found for number in (one.st_mtime_ns, one.st_size, one.st_ino, one.st_mode))
