"""Where a hospital's coordinator is, and what it takes to connect to it."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from client.link_http import client_context
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
            PolicyError: It has pinned no charter, or its charter names no coordinator; or others may read its key.
            UsageError: It has no key or no certificate.
        """
        coordinator = node.charter.coordinator
        if coordinator is None:
            raise PolicyError(
                "the charter that is pinned here names no coordinator",
                hint="pin one that does with 'fedward node join'",
            )
        for path in (node.authority, node.certificate):
            if not path.exists():
                raise UsageError(f"there is no {path}", hint="join with 'fedward node join --certificate'")
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
