"""A federation that would not protect its members cannot be made, and its fingerprint covers every number in it."""

import dataclasses
from typing import Any

import pytest

from shared.errors import CharterError, ProtocolError
from shared.secagg.federation import Peer
from tests.shared.secagg.world import federation, identity

BASE = federation(5)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"threshold": 3}, "threshold 3 is too low"),
        ({"colluding": 3}, "threshold 4 is too low"),
        ({"peers": BASE.peers[::-1]}, "not 1 to n in order"),
        ({"peers": (*BASE.peers[:4], dataclasses.replace(BASE.peers[4], name="hospital-1"))}, "same name"),
        ({"peers": (*BASE.peers[:4], dataclasses.replace(BASE.peers[0], index=5, name="x"))}, "same identity"),
        ({"peers": (*BASE.peers[:4], Peer(5, "x", b"short"))}, "not an Ed25519 public key"),
        ({"min_included": 2}, "min_included is 2"),
        ({"min_included": 6}, "min_included is 6"),
        ({"ring_bits": 64}, "64 bits"),
        ({"clip": 0.0}, "clip"),
        ({"clip": float("nan")}, "clip"),
        ({"w_max": 0}, "w_max"),
    ],
)
def test_what_does_not_protect_is_refused(change: dict[str, Any], what: str) -> None:
    with pytest.raises(CharterError, match=what):
        dataclasses.replace(BASE, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "other"},
        {"charter": "1" * 64},
        {"threshold": 5},
        {"min_included": 4},
        {"ring_bits": 16},
        {"clip": 1.0000001},
        {"w_max": 999},
        {"apps": ("a" * 64,)},
        {"colluding": 2},
        {"post_quantum": True},
        {"peers": (dataclasses.replace(BASE.peers[0], name="other"), *BASE.peers[1:])},
        {"peers": (dataclasses.replace(BASE.peers[0], identity=b"\x01" * 32), *BASE.peers[1:])},
    ],
)
def test_every_part_of_it_is_in_the_fingerprint(change: dict[str, Any]) -> None:
    assert dataclasses.replace(BASE, **change).fingerprint != BASE.fingerprint
    assert dataclasses.replace(BASE).fingerprint == BASE.fingerprint


def test_signatures_are_checked_against_the_charters_keys() -> None:
    BASE.verify(2, b"text", identity(2).sign(b"text"), "test")
    for index, body, signature in (
        (1, b"text", identity(2).sign(b"text")),
        (2, b"other", identity(2).sign(b"text")),
        (2, b"text", b""),
    ):
        with pytest.raises(ProtocolError, match=f"signature of hospital-{index} under its test"):
            BASE.verify(index, body, signature, "test")
    with pytest.raises(ProtocolError, match="member 6 is not in the charter"):
        BASE.verify(6, b"", b"", "test")
