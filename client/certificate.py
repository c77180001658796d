"""A hospital's certificate for the connection to its coordinator, and the authority that it believes."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from client.node import Node
from shared.certificates import check_client, digest, pem, read, site_of
from shared.charter import Charter
from shared.errors import PolicyError, UsageError
from shared.files import private_folder, write_bytes
from shared.link_keys import PublicKey, public_der, read_key


@dataclass(frozen=True)
class LinkCertificate:
    """What a hospital shows at the gate, and what it holds the gate against.

    Attributes:
        own: The hospital's certificate.
        authority: That of the coordinator's authority.
    """

    own: x509.Certificate
    authority: x509.Certificate

    @classmethod
    def read(cls, path: Path) -> "LinkCertificate":
        """What ``fedward server approve`` wrote: the hospital's certificate, then the authority's.

        Raises:
            UsageError: The file cannot be read, or does not hold two certificates.
        """
        return cls(*read(path, count=2))

    @classmethod
    def stored(cls, node: Node) -> "LinkCertificate":
        """What the node keeps from an earlier ``join``.

        Raises:
            UsageError: It is missing or damaged.
        """
        return cls(*read(node.certificate, count=1), *read(node.authority, count=1))

    @property
    def sha256(self) -> str:
        """SHA-256 of the DER of the hospital's certificate, 64 hexadecimal digits."""
        return digest(self.own)

    @property
    def until(self) -> datetime:
        """When it ends, in UTC."""
        return self.own.not_valid_after_utc

    def check(self, node: Node, charter: Charter, *, now: datetime | None = None) -> None:
        """Refuse a certificate that is not for this node under this charter.

        Args:
            node: Whose it must be.
            charter: Names the authority that must have issued it.
            now: When it must hold; the clock's time where None.

        Raises:
            UsageError: The charter names no coordinator, or the node's key is missing or damaged.
            PolicyError: It is another hospital's, for another key, or of another authority than the charter's; or
                others may read the node's key.
            ProtocolError: The authority did not issue it, it is not for a client, or its time is over or not begun.
        """
        plan = charter.coordinator
        if plan is None:
            raise UsageError(
                f"the charter {charter.id} names no coordinator that a certificate could be for",
                hint="leave --certificate out, or ask for the charter with a [coordinator]",
            )
        if (site := site_of(self.own)) != node.site:
            raise PolicyError(
                f"the certificate is that of {site!r}, not of {node.site}", hint="ask for this site's own"
            )
        public = self.own.public_key()
        own = public_der(read_key(node.link_key).public_key())
        if not isinstance(public, PublicKey) or public_der(public) != own:
            raise PolicyError(
                f"the certificate is for another key than {node.link_key}",
                hint="send the coordinator what 'fedward node request' writes now, and ask for a certificate for it",
            )
        if digest(self.authority) != plan.authority:
            raise PolicyError(
                f"the certificate comes from the authority {digest(self.authority)[:16]}..., the charter names "
                f"{plan.authority[:16]}...",
                hint="ask the coordinator for the one that belongs to this charter",
            )
        check_client(self.own, self.authority, now=now)

    def store(self, node: Node) -> None:
        """Keep it in the node's folder.

        Raises:
            OutputError: It cannot be written.
        """
        private_folder(node.link)
        write_bytes(node.authority, pem(self.authority), durable=True)
        write_bytes(node.certificate, pem(self.own), durable=True)
