"""What the messages of secure aggregation have in common: sizes, limits and the form of a signature."""

from typing import TypeAlias

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.errors import ProtocolError
from shared.secagg.federation import SIGNATURE_BYTES
from shared.secagg.field import SHARE_BYTES

DIGEST_BYTES = 32
EXCHANGE_BYTES = 32
KEM_KEY_BYTES = 1184  # FIPS 203, table 3
KEM_CIPHERTEXT_BYTES = 1088
TAG_BYTES = 16
BOX_BYTES = 2 * SHARE_BYTES + TAG_BYTES
MAX_EPOCH = 2**63 - 1
MAX_DEALT = 1000  # rounds in one deal
MAX_SIZE = 2**31
UPLOAD_ALIGNMENT = 16

Buffer: TypeAlias = bytes | bytearray | memoryview


def signed(body: bytes, identity: Ed25519PrivateKey) -> bytes:
    """``body`` and behind it its Ed25519 signature, 64 bytes."""
    return body + identity.sign(body)


def unsign(raw: bytes) -> tuple[bytes, bytes]:
    """Body and signature of a signed message; the signature is not checked yet.

    Raises:
        ProtocolError: It is too short for a signature.
    """
    if len(raw) <= SIGNATURE_BYTES:
        raise ProtocolError("a signed message ends too early", hint="its sender must send it again")
    return raw[:-SIGNATURE_BYTES], raw[-SIGNATURE_BYTES:]


def check_subset(inner: tuple[int, ...], outer: tuple[int, ...], what: str) -> None:
    """Refuse a set with strangers in it.

    Raises:
        ProtocolError: A member of ``inner`` is not in ``outer``.
    """
    strangers = sorted(set(inner) - set(outer))
    if strangers:
        raise ProtocolError(
            f"{what} names member {strangers[0]}, who cannot be in it", hint="the coordinator must send another set"
        )
