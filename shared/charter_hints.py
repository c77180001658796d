"""What to do about a wrong entry of a charter file, for those entries where "mend it" would not say enough."""

from collections.abc import Sequence
from typing import Final

from shared.identity import forgeable

_DEFAULT: Final = "mend that entry"
_HINTS: Final = {
    ("member",): "write [[member]] with a name and an identity for each hospital",
    ("member", "name"): "take the name from the hospital's request: letters, digits, dots and dashes, at most 64",
    ("member", "identity"): "take the 64 lower-case hexadecimal digits of the public key from the hospital's request, "
    "or let 'fedward server approve' add the member",
    ("member", "country"): "say where the hospital is: DE, CN, US, ...; or leave it out",
    ("coordinator",): "write [coordinator] once, with name, address and authority, or let 'fedward server approve "
    "--server' write it",
    ("coordinator", "name"): "take the name from 'fedward server init': letters, digits, dots and dashes, at most 64",
    ("coordinator", "address"): "take the address from 'fedward server init': what hospitals connect to",
    ("coordinator", "authority"): "take the 64 lower-case hexadecimal digits that 'fedward server init' prints",
    ("coordinator", "country"): "say where the coordinator is: DE, CN, US, ...; or leave it out",
    ("secure_aggregation",): "write [secure_aggregation] once, with a threshold",
    ("secure_aggregation", "threshold"): "say how many hospitals must answer a round: 3 of 3, 3 of 4, 4 of 5, 8 of 10",
    ("secure_aggregation", "colluding"): "say how many hospitals might work with the coordinator: 0 or more",
    ("secure_aggregation", "min_included"): "say 3 or more: in a sum over two, each hospital reads the other's update",
    ("secure_aggregation", "ring_bits"): "say 32, or 16 for half the upload",
    ("secure_aggregation", "clip"): "say the greatest size of an element of an update: above 0, at most 1e6",
    ("secure_aggregation", "w_max"): "say the greatest number of training slices that counts: 1 to 1000000",
    ("secure_aggregation", "post_quantum"): "say true or false",
    ("secure_aggregation", "apps"): "list SHA-256 digests of app bundles, 64 lower-case hexadecimal digits each",
}


def how_to_mend(place: Sequence[str | int]) -> str:
    """What to do about the entry at ``place`` (table, number in it, key)."""
    names = tuple(part for part in place if isinstance(part, str))
    return _HINTS.get(names, _DEFAULT)


def sound_identity(identity: str) -> str:
    """``identity``, unless anybody could sign under it.

    Raises:
        ValueError: It is a point of small order.
    """
    if forgeable(bytes.fromhex(identity)):
        raise ValueError("is a key under which anybody could sign")
    return identity
