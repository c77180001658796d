"""How a hospital becomes a member: it asks with a request that it signs, and pins the charter that it agreed to."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from client.certificate import LinkCertificate
from client.node import Node
from client.policy import require_allowed
from compliance.log import Action, Entry, Outcome, Scalar
from shared.bundle import require_listed
from shared.certificates import digest
from shared.charter import Charter
from shared.errors import CharterError, FedwardError, PolicyError, UsageError
from shared.identity import Request, fingerprint
from shared.link_keys import public_der, read_key

LEAST_DIGITS: Final = 32
"""Of a charter's SHA-256: who writes two charters finds two that share 16 digits after about 2^32 attempts."""


def request(node: Node, out: Path) -> Request:
    """Write the node's request for membership to ``out``, and record it first.

    Raises:
        PolicyError: The node is a virtual hospital, whose keys anybody can compute; or others may read its key.
        UsageError: The key is missing or damaged, or the purpose is none that a charter can have.
        RecordError: It cannot be recorded; nothing was written.
        OutputError: It cannot be written.
    """
    node.require_real()
    link_key = public_der(read_key(node.link_key).public_key())
    made = Request.make(node.identity, site=node.site, purpose=node.purpose, link_key=link_key)
    detail: dict[str, Scalar] = {"fingerprint": made.fingerprint}
    with node.open_log() as log, log.act(Entry(Action.MEMBER_REQUEST, Outcome.STARTED, detail=detail)):
        made.write(out)
    return made


@dataclass(frozen=True)
class Joining:
    """A charter that this hospital may pin, once a person has confirmed that all members hold the same.

    Attributes:
        node: The hospital's node.
        charter: A charter with the node's purpose, its name and its key.
        pinned: The hash of the charter that is pinned now; empty where there is none, or a damaged one.
        certificate: A certificate to keep, or None where there is none or the one that is kept will do.
    """

    node: Node
    charter: Charter
    pinned: str = ""
    certificate: LinkCertificate | None = None

    @classmethod
    def prepare(
        cls, node: Node, charter: Charter, *, replace: bool, certificate: LinkCertificate | None = None
    ) -> "Joining":
        """Hold ``charter``, and a certificate for its coordinator, against the node.

        Raises:
            PolicyError: Its purpose is not the node's, it does not name the node with its key, it would show this
                hospital's updates to the coordinator, it lists other releases than the one that is installed, the
                hospital's policy does not allow it, or another charter is pinned and ``replace`` is false; or the
                certificate is not this node's.
            UsageError: The charter names a coordinator and there is no certificate, or the other way round.
            CharterError: The pinned charter is damaged, and ``replace`` is false.
            ProtocolError: The certificate was not issued by its authority, or its time is over or not begun.
        """
        if charter.purpose != node.purpose:
            raise PolicyError(
                f"the charter's purpose '{charter.purpose}' is not that of {node.site}, '{node.purpose}'",
                hint="agree on one purpose before you join",
            )
        check_member(node, charter)
        require_listed(charter)
        require_allowed(node, charter)
        _check_certificate(node, charter, certificate)
        pinned = ""
        if (node.folder / "charter.toml").exists():
            try:
                pinned = node.charter.sha256
            except CharterError:
                if not replace:
                    raise
            if pinned != charter.sha256 and not replace:
                raise PolicyError(
                    f"{node.site} has pinned another charter, SHA-256 {pinned[:LEAST_DIGITS]}...",
                    hint="if the members agreed on a new one, give --replace",
                )
        return cls(node, charter, pinned, certificate)

    @property
    def already(self) -> bool:
        """Whether this very charter is pinned."""
        return self.pinned == self.charter.sha256

    def confirm(self, heard: str) -> None:
        """Hold the hash that somebody read out against the charter's; case, spaces, dashes and colons are free.

        Raises:
            UsageError: It is no hash, or has too few digits.
            PolicyError: It is another one.
        """
        digits = re.sub(r"[\s:-]", "", heard).lower()
        if not re.fullmatch(rf"[0-9a-f]{{{LEAST_DIGITS},64}}", digits):
            raise UsageError(
                f"--sha256 takes the first {LEAST_DIGITS} to 64 hexadecimal digits of a SHA-256",
                hint="ask another member what 'fedward charter check' prints there",
            )
        if not self.charter.sha256.startswith(digits):
            raise PolicyError(
                "this is not the charter whose SHA-256 was given: the members hold different ones",
                hint="do not join; ask the coordinator and the other members which one they agreed to",
            )

    def pin(self, *, confirmed: str) -> None:
        """Keep the certificate and pin the charter, and record each first; ``confirmed`` says how it was confirmed.

        Raises:
            RecordError: It cannot be recorded; nothing was pinned.
            OutputError: It cannot be written.
        """
        self.keep()
        detail: dict[str, Scalar] = {
            "federation": self.charter.id,
            "charter": self.charter.sha256,
            "replaces": self.pinned or None,
            "members": len(self.charter.members),
            "confirmed": confirmed,
        }
        with self.node.open_log() as log, log.act(Entry(Action.CHARTER_PIN, Outcome.STARTED, detail=detail)):
            self.node.pin(self.charter)

    def keep(self) -> None:
        """Keep the certificate, where there is one, and record it first.

        Raises:
            RecordError: It cannot be recorded; nothing was kept.
            OutputError: It cannot be written.
        """
        if (found := self.certificate) is None:
            return
        detail: dict[str, Scalar] = {
            "federation": self.charter.id,
            "certificate": found.sha256,
            "authority": digest(found.authority),
            "until": found.until.isoformat(),
        }
        with self.node.open_log() as log, log.act(Entry(Action.LINK_CERTIFICATE, Outcome.STARTED, detail=detail)):
            found.store(self.node)


def own_fingerprint(node: Node) -> str:
    """The fingerprint of the node's identity, to be read out."""
    return fingerprint(node.identity.public_key().public_bytes_raw())


def _check_certificate(node: Node, charter: Charter, certificate: LinkCertificate | None) -> None:
    """A hospital that is to connect needs a certificate for the coordinator of this charter: this one, or the one kept.

    A virtual hospital connects to nobody.
    """
    if certificate is not None:
        node.require_real()
        certificate.check(node, charter)
    elif charter.coordinator is not None and not node.virtual:
        read_key(node.link_key)  # what is wrong with the key is no matter of the certificate
        try:
            LinkCertificate.stored(node).check(node, charter)
        except FedwardError as error:
            raise UsageError(
                f"{node.site} has no certificate for the coordinator {charter.coordinator.name}: {error.message}",
                hint=f"give the file that it sent with --certificate {node.site}.pem",
            ) from error


def check_member(node: Node, charter: Charter) -> None:
    """Refuse a charter that does not name the node with its own key, or that would show its updates to anybody.

    Raises:
        PolicyError: It does not, or would.
    """
    if charter.masking is None:
        if node.virtual:
            return
        raise PolicyError(
            f"the charter {charter.id} has no [secure_aggregation]: the coordinator would read this hospital's updates",
            hint="only virtual hospitals take part in it; ask for a charter with members and a threshold",
        )
    own = node.identity.public_key().public_bytes_raw().hex()
    by_name = {member.name: member for member in charter.members}
    named = next((member.name for member in charter.members if member.identity == own), "")
    if named == node.site:
        return
    if node.site in by_name:
        other = fingerprint(bytes.fromhex(by_name[node.site].identity))
        raise PolicyError(
            f"the charter names {node.site} with another key: {other}, not {own_fingerprint(node)}",
            hint="do not join: somebody would sign in this hospital's name; call the coordinator",
        )
    if named:
        raise PolicyError(
            f"the charter names this node's key {named}, and the node is {node.site}",
            hint="ask the coordinator to take it out and to approve this node's own request",
        )
    raise PolicyError(
        f"{node.site} is not a member of {charter.id}",
        hint="send the coordinator what 'fedward node request' writes, and read out its fingerprint",
    )
