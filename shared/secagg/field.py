"""Secret sharing over the integers modulo 2^255 - 19 (Shamir, "How to share a secret", CACM 1979).

A secret is a field element, carried as 32 bytes, big-endian. Share x (x = 1 ... n) is the value at x of a polynomial of
degree t - 1 whose value at 0 is the secret: any t shares give it, t - 1 say nothing about it. Coefficients are the
caller's, since a restarted hospital must deal the same shares again. Python's integers are not constant-time.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence

from shared.errors import ProtocolError

PRIME = 2**255 - 19
SHARE_BYTES = 32  # of a share and of a secret
WIDE_BYTES = 64  # uniform bytes that reduce to a field element with a bias below 2^-256
MAX_INDEX = 1000


def element(wide: bytes) -> int:
    """A field element, uniform up to 2^-256, from 64 uniform bytes.

    Raises:
        ValueError: Not 64 bytes.
    """
    if len(wide) != WIDE_BYTES:
        raise ValueError(f"a field element is drawn from {WIDE_BYTES} bytes, not {len(wide)}")
    return int.from_bytes(wide, "big") % PRIME


def to_bytes(value: int) -> bytes:
    """A field element as 32 bytes."""
    return value.to_bytes(SHARE_BYTES, "big")


def from_bytes(raw: bytes) -> int:
    """The field element that 32 bytes stand for; only the one canonical form is accepted.

    Raises:
        ProtocolError: Not 32 bytes, or not below the prime.
    """
    value = int.from_bytes(raw, "big")
    if len(raw) != SHARE_BYTES or value >= PRIME:
        raise ProtocolError("a share is not a field element", hint="its sender must answer again")
    return value


def split(secret: int, coefficients: Sequence[int], indices: Iterable[int]) -> dict[int, bytes]:
    """Shares of ``secret`` by index.

    Args:
        secret: In [0, PRIME).
        coefficients: The t - 1 coefficients of x, x^2 ..., uniform in [0, PRIME); t is one more than their number.
        indices: Distinct, 1 to 1000.

    Raises:
        ValueError: A number out of range.
    """
    powers = [secret, *coefficients]
    if not all(0 <= one < PRIME for one in powers):
        raise ValueError("a secret or coefficient is not a field element")
    shares: dict[int, bytes] = {}
    for x in indices:
        if not 1 <= x <= MAX_INDEX or x in shares:
            # The share at 0 would be the secret itself.
            raise ValueError(f"{x} is not an index of a share, or stands twice")
        value = 0
        for coefficient in reversed(powers):
            value = (value * x + coefficient) % PRIME
        shares[x] = to_bytes(value)
    return shares


@functools.lru_cache(maxsize=64)
def weights_at_zero(indices: tuple[int, ...]) -> tuple[int, ...]:
    """The Lagrange weights w_i with f(0) = sum_i w_i f(x_i) for every polynomial of degree below ``len(indices)``.

    Kept, since a round asks for the same holders once for every hospital.
    """
    weights = []
    for i in indices:
        top = bottom = 1
        for j in indices:
            if i != j:
                top = top * j % PRIME
                bottom = bottom * (j - i) % PRIME
        weights.append(top * pow(bottom, -1, PRIME) % PRIME)
    return tuple(weights)


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret, 32 bytes, from the ``threshold`` shares of lowest index.

    Raises:
        ProtocolError: Fewer shares than that, an index out of range, or a share that is not a field element.
    """
    chosen = tuple(sorted(shares)[:threshold])
    if len(chosen) < threshold or threshold < 1:
        raise ProtocolError(
            f"{len(shares)} shares are fewer than the threshold of {threshold}", hint="repeat the round"
        )
    if not all(1 <= x <= MAX_INDEX for x in chosen):
        raise ProtocolError("a share has an impossible index", hint="its sender must answer again")
    weights = weights_at_zero(chosen)
    return to_bytes(sum(w * from_bytes(shares[x]) for w, x in zip(weights, chosen, strict=True)) % PRIME)
