"""The keys of a federation's links: elliptic curve P-384 (FIPS 186-5, SP 800-186), as files and on the wire."""

from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from shared.errors import PolicyError, UsageError
from shared.files import write_bytes

PRIVATE: Final = 0o600

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey


def on_p384(key: object) -> bool:
    """Whether ``key`` is a public key on P-384."""
    return isinstance(key, PublicKey) and isinstance(key.curve, ec.SECP384R1)


def make_key(path: Path) -> PrivateKey:
    """A fresh key on P-384, written to ``path`` (PEM PKCS#8, 0600), durably.

    Raises:
        OutputError: It cannot be written.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_bytes(path, pem, mode=PRIVATE, durable=True)
    return key


def check_key_file(path: Path, *, missing: str) -> None:
    """Refuse a key that is not there, or that others than its owner may read (45 CFR 164.312(a)(1), access control).

    Args:
        path: The key's file.
        missing: What to do where it is not there.

    Raises:
        UsageError: It is not there.
        PolicyError: Others may read it.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UsageError(f"the key {path} cannot be read: {error.strerror}", hint=missing) from error
    if mode & 0o077:
        raise PolicyError(f"others may read the key {path}", hint=f"run: chmod 600 {path}")


def read_key(path: Path, *, missing: str = "restore it from a copy") -> PrivateKey:
    """The key in ``path``.

    Raises:
        UsageError: It is missing or damaged, or not a key on P-384.
        PolicyError: Others than its owner may read it.
    """
    check_key_file(path, missing=missing)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(f"the key {path} is damaged", hint="restore it from a copy") from error
    if not isinstance(key, PrivateKey) or not on_p384(key.public_key()):
        raise UsageError(f"the key {path} is not one on P-384", hint="restore it from a copy")
    return key


def public_der(key: PublicKey) -> bytes:
    """A public key as DER SubjectPublicKeyInfo (RFC 5480), the point uncompressed: 120 bytes on P-384."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_key(der: bytes) -> PublicKey:
    """The public key that ``der`` is, if it is a point of P-384 in the one form of :func:`public_der`.

    Raises:
        ValueError: It is not.
    """
    try:
        key = serialization.load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("is no public key") from error
    if not isinstance(key, PublicKey) or not on_p384(key) or public_der(key) != der:
        raise ValueError("is no public key on P-384")
    return key
