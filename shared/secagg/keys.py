"""Every key of secure aggregation, from what it is derived, and how it is forgotten.

The ladder (HKDF-SHA256, RFC 5869; X25519, RFC 7748; ML-KEM-768, FIPS 203)::

    epoch seed (32 random bytes, until the first deal)
     ├─ X25519 key, ML-KEM-768 key                    advertised, signed
     └─ own chain_1                                    pair chain_1 = HKDF(X25519 [|| KEM], salt T, pair)
         │ chain_{r+1} = Expand(chain_r, "ratchet")        │ the same step
         ├─ b^r, its coefficients ─ self mask keys          ├─ round seed k_ij^r ─ pair mask keys
         ├─ R^r, its coefficients ─ vault key               └─ box keys i→j, j→i
         └─ coins of stochastic rounding

T is the transcript of the epoch, ctx the context of the round. A chain moves on one way only, so what a hospital has
forgotten (:meth:`EpochState.at`) cannot be computed from what it still holds, nor from its identity key.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from shared.errors import PolicyError
from shared.secagg import field
from shared.secagg.encoding import Field, Reader, encode, pieces

KEY_BYTES = 32
KEM_SEED_BYTES = 64
MAX_ROUND = 2**32
MAX_AHEAD = 4096  # rounds that a chain is moved on at once: a bound on what a request can make a hospital compute


class Label(StrEnum):
    """The domain of every derivation."""

    EXCHANGE = "key x25519"
    KEM = "key ml-kem-768"
    KEM_SEAL = "key kem seal"
    PAIR = "key pair"
    OWN = "key own chain"
    RATCHET = "key ratchet"
    SELF_SECRET = "key self secret"  # noqa: S105 - a label, as are those below
    SELF_POLYNOMIAL = "key self polynomial"
    VAULT_SECRET = "key vault secret"  # noqa: S105
    VAULT_POLYNOMIAL = "key vault polynomial"
    VAULT = "key vault"
    COINS = "key coins"
    ROUND_SEED = "key round seed"
    BOX = "key box"
    MASK_BODY = "key mask body"
    MASK_HEADER = "key mask header"


class Digest(StrEnum):
    """The domain of every hash."""

    TRANSCRIPT = "hash transcript"
    CONTEXT = "hash context"
    SELF_SHARE = "hash self share"
    VAULT_SHARE = "hash vault share"
    SELF_SECRET = "hash self secret"  # noqa: S105
    VAULT_SECRET = "hash vault secret"  # noqa: S105
    ROUND_SEED = "hash round seed"


def digest(domain: Digest, *fields: Field) -> bytes:
    """SHA-256 of the encoding of ``fields`` in ``domain``."""
    return hashlib.sha256(encode(domain, *fields)).digest()


def expand(key: bytes, label: Label, *info: Field, length: int = KEY_BYTES) -> bytes:
    """HKDF-Expand with SHA-256 (RFC 5869, section 2.3) over the encoding of ``info`` in the domain ``label``."""
    return HKDFExpand(SHA256(), length, encode(label, *info)).derive(key)


def exchange_key(seed: bytes) -> X25519PrivateKey:
    """The epoch's X25519 key."""
    return X25519PrivateKey.from_private_bytes(expand(seed, Label.EXCHANGE))


def kem_key(seed: bytes) -> MLKEM768PrivateKey:
    """The epoch's ML-KEM-768 key, from the seed d || z of FIPS 203, algorithm 16."""
    return MLKEM768PrivateKey.from_seed_bytes(expand(seed, Label.KEM, length=KEM_SEED_BYTES))


def pair_secret(shared: bytes, kem: bytes, ciphertext: bytes, transcript: bytes, pair: tuple[int, int]) -> bytes:
    """S_ij, with which both ends start their chain of the pair.

    Args:
        shared: X25519 shared secret, 32 bytes.
        kem: ML-KEM-768 shared secret, 32 bytes, or empty.
        ciphertext: SHA-256 of the KEM ciphertext that carried it, bound into the key, or empty.
        transcript: T, which binds both public keys.
        pair: The two indices, the lower first.
    """
    info = encode(Label.PAIR, pair, ciphertext)
    return HKDF(SHA256(), KEY_BYTES, transcript, info).derive(shared + kem)


@dataclass(frozen=True)
class EpochState:
    """All secrets of an epoch after its first deal, standing at one round.

    Attributes:
        index: Whose they are.
        epoch: The epoch.
        transcript: T, 32 bytes.
        round: The round at which the chains stand; earlier rounds are forgotten.
        own: The own chain, 32 bytes.
        pairs: The pair chains by peer index, ascending, 32 bytes each.
    """

    index: int
    epoch: int
    transcript: bytes
    round: int
    own: bytes
    pairs: tuple[tuple[int, bytes], ...]

    def __repr__(self) -> str:
        """Without secrets."""
        return f"EpochState(index={self.index}, epoch={self.epoch}, round={self.round})"

    @property
    def members(self) -> tuple[int, ...]:
        """Indices of everyone in the epoch, oneself included, ascending."""
        return tuple(sorted([self.index, *(peer for peer, _ in self.pairs)]))

    def at(self, number: int) -> "EpochState":
        """The state at round ``number``, from which no earlier round can be computed.

        Raises:
            PolicyError: That round is forgotten, or too far ahead.
        """
        if not self.round <= number <= self.round + MAX_AHEAD:
            raise PolicyError(
                f"round {number} of epoch {self.epoch} is out of reach: this hospital stands at round {self.round}",
                hint="a round that is over stays over; take the next number, or begin a new epoch",
            )
        return replace(
            self,
            round=number,
            own=_ratchet(self.own, number - self.round),
            pairs=tuple((peer, _ratchet(chain, number - self.round)) for peer, chain in self.pairs),
        )

    def chain(self, peer: int) -> bytes:
        """The chain that is shared with ``peer``."""
        return dict(self.pairs)[peer]

    def to_bytes(self) -> bytes:
        """For the ledger; as secret as the seed."""
        peers, chains = [peer for peer, _ in self.pairs], b"".join(chain for _, chain in self.pairs)
        return encode("epoch state", self.index, self.epoch, self.transcript, self.round, self.own, peers, chains)

    @classmethod
    def from_bytes(cls, raw: bytes) -> "EpochState":
        """What :meth:`to_bytes` wrote.

        Raises:
            ProtocolError: It did not write that.
        """
        reader = Reader(raw, "epoch state", party="this hospital's own ledger")
        index, epoch = reader.integer(1, field.MAX_INDEX), reader.integer()
        transcript, number, own = reader.data(KEY_BYTES), reader.integer(0, MAX_ROUND), reader.data(KEY_BYTES)
        peers = reader.indices()
        chains = pieces(reader.data(KEY_BYTES * len(peers)), KEY_BYTES)
        reader.end()
        return cls(index, epoch, transcript, number, own, tuple(zip(peers, chains, strict=True)))


def _ratchet(chain: bytes, steps: int) -> bytes:
    for _ in range(steps):
        chain = expand(chain, Label.RATCHET)
    return chain


# --- secrets of one round, from a chain that stands at it -----------------------------------------------------------


def self_secret(own: bytes) -> int:
    """b^r, a field element: whoever has it can take the self mask off."""
    return field.element(expand(own, Label.SELF_SECRET, length=field.WIDE_BYTES))


def vault_secret(own: bytes) -> int:
    """R^r, a field element: whoever has it can open the vault."""
    return field.element(expand(own, Label.VAULT_SECRET, length=field.WIDE_BYTES))


def polynomial(own: bytes, label: Label, threshold: int) -> list[int]:
    """The t - 1 coefficients of a round's polynomial; the same whenever they are asked for."""
    return [field.element(expand(own, label, power, length=field.WIDE_BYTES)) for power in range(1, threshold)]


def vault_key(secret: bytes) -> bytes:
    """The AES-256-GCM key of a vault from R^r, 32 bytes."""
    return expand(secret, Label.VAULT)


def round_seed(chain: bytes) -> bytes:
    """k_ij^r, 32 bytes: the seed of the pair's masks of this round alone."""
    return expand(chain, Label.ROUND_SEED)


def box_key(chain: bytes, source: int, destination: int) -> bytes:
    """The AES-256-GCM key of the box with shares from ``source`` to ``destination``; it seals one box."""
    return expand(chain, Label.BOX, source, destination)


def mask_keys(secrets: Iterable[bytes], label: Label, context: bytes) -> list[bytes]:
    """One AES-256-CTR key for each self secret or round seed; used for one stream of one round."""
    return [expand(secret, label, context) for secret in secrets]
