"""Folders of members as the record sees them, and a charter that names them."""

import dataclasses
import json
import secrets
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compliance.note import read_log_key
from compliance.place import Place, establish
from shared.certificates import Authority, pem
from shared.charter import Charter
from shared.charter_plans import CharterMember, MaskingPlan
from shared.link_keys import make_key

DRAFT = Path(__file__).parents[2] / "simulation" / "charters" / "demo.toml"


def node(home: Path, site: str) -> Place:
    place = fresh(home, site)
    establish(place)
    return place


def fresh(home: Path, site: str) -> Place:
    """A node whose log has no key yet."""
    folder = home / site
    (folder / "keys").mkdir(parents=True)
    for name in ("identity", "audit"):
        path = folder / "keys" / f"{name}.key"
        path.write_text(secrets.token_hex(32))
        path.chmod(0o600)
    (folder / "node.json").write_text(json.dumps({"site": site, "purpose": "tests", "virtual": False}))
    return Place.open(folder)


def coordinator(home: Path) -> tuple[Place, x509.Certificate]:
    folder = home / "hub"
    (folder / "keys").mkdir(parents=True)
    key = make_key(folder / "keys" / "authority.key")
    certificate = Authority.make(key, "hub").certificate
    (folder / "authority.pem").write_bytes(pem(certificate))
    facts = {"name": "hub", "address": "hub.example:9092", "country": None, "version": 1}
    (folder / "coordinator.json").write_text(json.dumps(facts))
    place = Place.open(folder)
    establish(place)
    return place, certificate


def identity(place: Place) -> str:
    key = read_log_key(place.folder / "keys" / "identity.key")
    return key.public_key().public_bytes_raw().hex()


def charter_of(places: Sequence[Place]) -> Charter:
    """A charter of these sites, and of as many more as masks need."""
    members = [CharterMember(place.name, identity(place)) for place in places]
    for number in range(4 - len(members)):
        key = Ed25519PrivateKey.from_private_bytes(bytes([number + 1]) * 32)
        members.append(CharterMember(f"X{number}", key.public_key().public_bytes_raw().hex()))
    draft = Charter.load(DRAFT)
    return dataclasses.replace(draft, purpose="tests", members=tuple(members), masking=MaskingPlan(threshold=3))
