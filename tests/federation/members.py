"""Charters with members, and hospitals that are nobody's simulation: keys of their own, not from a seed."""

from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from client.node import Node
from shared.charter import Charter, CharterMember, MaskingPlan
from shared.identity import Request
from shared.link_keys import public_der
from tests.federation import toy

DRAFT = f"""# the draft of a federation
[federation]
id = "test"  # its name
purpose = "{toy.PURPOSE}"

[secure_aggregation]
threshold = 3

[[task]]
name = "toy"
rounds = 3
local_steps = 2
"""


def member(node: Node) -> CharterMember:
    return CharterMember(node.site, node.identity.public_key().public_bytes_raw().hex())


def hospitals(root: Path, count: int = 3) -> list[Node]:
    sites = [f"H{number}" for number in range(1, count + 1)]
    nodes = [Node.create(root / site, site=site, purpose=toy.PURPOSE) for site in sites]
    for node in nodes:
        toy.allow_charters(node.folder)
    return nodes


def link_key(number: int) -> bytes:
    """The public key of a link, the same for the same number."""
    return public_der(ec.derive_private_key(number, ec.SECP384R1()).public_key())


def request_of(site: str, number: int, *, purpose: str = toy.PURPOSE, link: int = 0) -> Request:
    """A request of ``site`` with the identity of that number, and the key of link of the same or another one."""
    key = Ed25519PrivateKey.from_private_bytes(bytes([number] * 32))
    return Request.make(key, site=site, purpose=purpose, link_key=link_key(link or number))


def invented(count: int) -> tuple[CharterMember, ...]:
    """Members whose keys belong to nobody."""
    return tuple(CharterMember(f"H{n}", bytes([n] * 32).hex()) for n in range(1, count + 1))


def masked(members: tuple[CharterMember, ...], threshold: int, plan: dict[str, Any], **changes: Any) -> Charter:
    """The toy's charter with masks; ``plan`` changes them, and ``changes`` the rest."""
    return toy.charter(members=members, masking=MaskingPlan(threshold=threshold, **plan), **changes)


def command(app: Any, *arguments: object, status: int = 0, text: str | None = None) -> str:
    """What a command of ``app`` printed; its errors are raised."""
    result = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False, input=text)
    assert result.exit_code == status, result.output
    return result.stdout
