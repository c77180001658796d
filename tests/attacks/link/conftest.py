"""The federation under attack: founded once, with real commands; each file of attacks works on a copy that is up."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLContext

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.attacks.link import keys
from tests.live.conftest import raw as raw  # noqa: PLC0414  # a fixture
from tests.live.conftest import template as template  # noqa: PLC0414  # a fixture
from tests.live.standing import SITES, Standing, copied, running, wait_until


@dataclass(frozen=True)
class Side:
    """What an attacker knows: the address, and what it has stolen or was given.

    Attributes:
        standing: The federation.
        scratch: A folder of the attacker.
    """

    standing: Standing
    scratch: Path

    @property
    def port(self) -> int:
        return self.standing.port

    @property
    def authority(self) -> Path:
        """The authority's certificate, which is public."""
        return self.standing.server / "authority.pem"

    @property
    def gate(self) -> tuple[Path, Path]:
        """Certificate and key of the gate, as the coordinator has them."""
        return self.standing.server / "gate.pem", self.standing.server / "keys" / "gate.key"

    def key_file(self, site: str) -> Path:
        return self.standing.node(site) / "keys" / "link.key"

    def key(self, site: str) -> ec.EllipticCurvePrivateKey:
        return keys.load_key(self.key_file(site))

    def certificate(self, site: str) -> Path:
        return self.standing.node(site) / "link" / "certificate.pem"

    def member(self, site: str) -> SSLContext:
        """How the hospital ``site`` greets the gate."""
        return keys.client_context(self.authority, self.certificate(site), self.key_file(site))

    def issuer(self) -> keys.Pair:
        """The authority itself, for certificates that it would once have given."""
        return keys.load(self.authority, self.standing.server / "keys" / "authority.key")

    def stranger(self) -> SSLContext:
        """Somebody without a certificate who asks nobody who they are."""
        return keys.client_context(None)


def silence(standing: Standing) -> None:
    """Everything of a federation is dead, and nobody listens at the gate's address."""
    for service in standing.services.values():
        if service.alive():
            service.kill()
    wait_until(lambda: not listened(standing.port), 20, "somebody still listens at the gate's port")
    # What was killed could not take back that it was connected.
    for path in (standing.server / "status.json", *(standing.node(site) / "link" / "status.json" for site in SITES)):
        path.unlink(missing_ok=True)
    (standing.server / "superlink" / "address").unlink(missing_ok=True)


def listened(port: int) -> bool:
    with socket.socket() as one:
        one.settimeout(2)
        return one.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def side(template: Standing, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    """A copy of the federation in which nothing runs yet."""
    root = tmp_path_factory.mktemp("attacked")
    scratch = root / "attacker"
    scratch.mkdir()
    with running(copied(template, root / "s")) as standing:
        yield Side(standing, scratch)


@pytest.fixture(scope="module")
def gate(side: Side) -> Side:
    """The coordinator and one hospital, H3, at work."""
    side.standing.up("coordinator", "H3")
    return side


@pytest.fixture(scope="module")
def everybody(side: Side) -> Side:
    """The coordinator and all hospitals at work."""
    side.standing.up("coordinator", *SITES)
    return side
