"""What a hospital knows about its federation before the coordinator says a word: taken from the charter it pinned."""

import hashlib
import math
import struct
from dataclasses import dataclass
from functools import cached_property

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from shared.errors import CharterError, ProtocolError
from shared.secagg.encoding import Field, encode
from shared.secagg.parameters import MIN_MEMBERS, check_parameters

IDENTITY_BYTES = 32
SIGNATURE_BYTES = 64
MAX_WEIGHT = 2**32


@dataclass(frozen=True)
class Peer:
    """One member of the federation.

    Attributes:
        index: 1 to n; the x of its Shamir shares.
        name: For people.
        identity: Its Ed25519 public key, 32 bytes (RFC 8032).
    """

    index: int
    name: str
    identity: bytes


@dataclass(frozen=True)
class Federation:
    """Members and parameters of secure aggregation, pinned by every hospital.

    Attributes:
        id: The federation's name.
        charter: SHA-256 of the charter, hexadecimal.
        peers: The members, indices 1 to n in order.
        threshold: T: so many must confirm and reveal; checked with ``colluding`` by the rule of ``parameters``.
        min_included: A sum over fewer hospitals is refused; at least 3.
        ring_bits: 32, or 16 with stochastic rounding.
        clip: C: every element of an update is clipped to [-C, C].
        w_max: The greatest weight of one hospital, 1 to 2^32.
        apps: SHA-256 of the app bundles that the charter names, hexadecimal; bound into every signature.
        colluding: C of the parameters: hospitals that might work with the coordinator.
        post_quantum: Whether X25519 is joined by ML-KEM-768 (FIPS 203).
        integers: What is summed are integers modulo 2^32, as they are: nothing is clipped, weighted or divided.
    """

    id: str
    charter: str
    peers: tuple[Peer, ...]
    threshold: int
    min_included: int = MIN_MEMBERS
    ring_bits: int = 32
    clip: float = 1.0
    w_max: int = 1_000_000
    apps: tuple[str, ...] = ()
    colluding: int = 1
    post_quantum: bool = False
    integers: bool = False

    def __post_init__(self) -> None:
        """Refuse what would not protect the members."""
        check_parameters(len(self.peers), self.threshold, self.colluding)
        if [peer.index for peer in self.peers] != list(range(1, len(self.peers) + 1)):
            raise CharterError("the members' indices are not 1 to n in order", hint="number the members from 1")
        for what in ("name", "identity"):
            if len({getattr(peer, what) for peer in self.peers}) != len(self.peers):
                raise CharterError(f"two members have the same {what}", hint="every hospital has its own")
        if any(len(peer.identity) != IDENTITY_BYTES for peer in self.peers):
            raise CharterError("an identity is not an Ed25519 public key of 32 bytes", hint="ask the hospital again")
        if not MIN_MEMBERS <= self.min_included <= len(self.peers):
            raise CharterError(
                f"min_included is {self.min_included}, not {MIN_MEMBERS} to {len(self.peers)}",
                hint="in a sum over two, each hospital reads the other's update",
            )
        if self.ring_bits not in (16, 32):
            raise CharterError(f"a ring of {self.ring_bits} bits is not known", hint="say 32 or 16")
        if not (math.isfinite(self.clip) and 0 < self.clip <= 1e6 and 1 <= self.w_max <= MAX_WEIGHT):
            raise CharterError("clip is not in (0, 1e6] or w_max not in [1, 2^32]", hint="mend the charter")
        if self.integers and (self.ring_bits, self.w_max) != (32, 1):
            raise CharterError("integers are summed in a ring of 32 bits with weight 1", hint="say so")

    @property
    def quorum(self) -> int:
        """Fewer members than this are neither trained, confirmed nor unmasked: max(t, min_included)."""
        return max(self.threshold, self.min_included)

    @cached_property
    def fingerprint(self) -> bytes:
        """SHA-256 over everything above; it is inside every signature, by itself or through the transcript."""
        peers: list[list[Field]] = [[peer.index, peer.name, peer.identity] for peer in self.peers]
        rule = [self.threshold, self.min_included, self.colluding, self.ring_bits, self.w_max, int(self.post_quantum)]
        clip = struct.pack(">d", self.clip)
        kind: list[Field] = ["integers"] if self.integers else []
        return hashlib.sha256(
            encode("federation", self.id, self.charter, peers, rule, clip, sorted(self.apps), *kind)
        ).digest()

    def peer(self, index: int) -> Peer:
        """The member of that index.

        Raises:
            ProtocolError: The charter has none.
        """
        if not 1 <= index <= len(self.peers):
            raise ProtocolError(
                f"member {index} is not in the charter of {self.id}, which has {len(self.peers)}",
                hint="only members of the pinned charter take part",
            )
        return self.peers[index - 1]

    def verify(self, index: int, body: bytes, signature: bytes, what: str) -> None:
        """Check that member ``index`` signed ``body`` (Ed25519, RFC 8032); ``what`` names it in the error.

        Raises:
            ProtocolError: It did not.
        """
        peer = self.peer(index)
        try:
            Ed25519PublicKey.from_public_bytes(peer.identity).verify(signature, body)
        except (InvalidSignature, ValueError) as error:
            raise ProtocolError(
                f"the signature of {peer.name} under its {what} is not valid",
                hint="it was altered on its way, or belongs to another charter, epoch, round or set",
            ) from error
