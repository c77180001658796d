"""A hospital's keys of one epoch: what it advertises, and how it agrees on a secret with every other member."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.errors import ProtocolError
from shared.secagg.encoding import encode, pieces
from shared.secagg.federation import Federation
from shared.secagg.keys import (
    KEY_BYTES,
    EpochState,
    Label,
    exchange_key,
    expand,
    kem_key,
    pair_secret,
)
from shared.secagg.setup_messages import Advert, KemOffer, transcript

NONCE_BYTES = 12
FIRST_ROUND = 1


@dataclass(frozen=True)
class EpochKeys:
    """The keys that follow from an epoch's seed.

    Attributes:
        federation: From the pinned charter.
        index: Whose keys.
        epoch: The epoch.
        seed: 32 random bytes; not shown.
    """

    federation: Federation
    index: int
    epoch: int
    seed: bytes = field(repr=False)

    def advert(self) -> Advert:
        """The advert; the same whenever it is asked for."""
        kem = kem_key(self.seed).public_key().public_bytes_raw() if self.federation.post_quantum else b""
        exchange = exchange_key(self.seed).public_key().public_bytes_raw()
        return Advert(self.federation.fingerprint, self.epoch, self.index, exchange, kem)

    def offer(self, adverts: dict[int, Advert], identity: Ed25519PrivateKey) -> bytes:
        """ML-KEM ciphertexts for every higher index; their secrets are sealed for oneself, as a KEM cannot repeat.

        Raises:
            ProtocolError: An ML-KEM key is not one.
        """
        t = transcript(self.federation, self.epoch, adverts.values())
        peers = tuple(peer for peer in adverts if peer > self.index)
        secrets, ciphertexts = [], []
        for peer in peers:
            try:
                secret, ciphertext = MLKEM768PublicKey.from_public_bytes(adverts[peer].kem).encapsulate()
            except ValueError as error:
                raise ProtocolError(
                    f"the ML-KEM key of {self.federation.peer(peer).name} is not one",
                    hint="begin a new epoch without it",
                ) from error
            secrets.append(secret)
            ciphertexts.append(ciphertext)
        nonce = os.urandom(NONCE_BYTES)
        hashes = tuple(hashlib.sha256(ciphertext).digest() for ciphertext in ciphertexts)
        sealed = nonce + AESGCM(expand(self.seed, Label.KEM_SEAL, t)).encrypt(
            nonce, b"".join(secrets), encode("kem seal", t, self.index, hashes)
        )
        unsigned = KemOffer(t, self.index, peers, hashes, sealed, b"", tuple(ciphertexts))
        return replace(unsigned, signature=identity.sign(unsigned.body())).to_bytes()

    def start(self, adverts: dict[int, Advert], kems: Sequence[bytes]) -> EpochState:
        """The state of the epoch at its first round.

        Raises:
            ProtocolError: One's own advert was replaced, a key exchange fails, or an offer is missing or foreign.
        """
        if adverts[self.index] != self.advert():
            raise ProtocolError(
                "this hospital's own advert was altered, or is from before its ledger was lost",
                hint="begin a new epoch",
            )
        t = transcript(self.federation, self.epoch, adverts.values())
        kem = self._kem_secrets(t, kems, tuple(adverts)) if self.federation.post_quantum else {}
        private = exchange_key(self.seed)
        pairs = []
        for peer, other in adverts.items():
            if peer == self.index:
                continue
            try:
                shared = private.exchange(X25519PublicKey.from_public_bytes(other.exchange))
            except ValueError as error:  # RFC 7748, section 6.1: a point of small order gives an all-zero secret
                raise ProtocolError(
                    f"the key exchange with {self.federation.peer(peer).name} fails: its public key is of small order",
                    hint="begin a new epoch without it",
                ) from error
            secret, ciphertext_hash = kem.get(peer, (b"", b""))
            pair = (min(self.index, peer), max(self.index, peer))
            pairs.append((peer, pair_secret(shared, secret, ciphertext_hash, t, pair)))
        return EpochState(self.index, self.epoch, t, FIRST_ROUND, expand(self.seed, Label.OWN, t), tuple(pairs))

    def _kem_secrets(self, t: bytes, kems: Sequence[bytes], members: tuple[int, ...]) -> dict[int, tuple[bytes, bytes]]:
        """KEM secret and hash of its ciphertext by peer: lower indices offered them, higher ones were offered them."""
        found: dict[int, tuple[bytes, bytes]] = {}
        private = kem_key(self.seed)
        for raw in kems:
            one = KemOffer.read(raw, self.federation)
            name = self.federation.peer(one.index).name
            if one.transcript != t or one.peers != tuple(peer for peer in members if peer > one.index):
                raise ProtocolError(f"the key encapsulation of {name} is of another epoch", hint="begin a new epoch")
            if one.index == self.index:
                found.update(self._unseal(one, t))
            elif self.index in one.peers:
                place = one.peers.index(self.index)
                if not one.ciphertexts[place]:
                    raise ProtocolError(f"the key encapsulation of {name} for this hospital is missing", hint="send it")
                found[one.index] = private.decapsulate(one.ciphertexts[place]), one.hashes[place]
        missing = sorted(set(members) - set(found) - {self.index})
        if missing:
            raise ProtocolError(
                f"there is no key encapsulation with {self.federation.peer(missing[0]).name}",
                hint="begin a new epoch without the hospital that dropped out",
            )
        return found

    def _unseal(self, own: KemOffer, t: bytes) -> dict[int, tuple[bytes, bytes]]:
        nonce, sealed = own.sealed[:NONCE_BYTES], own.sealed[NONCE_BYTES:]
        try:
            plain = AESGCM(expand(self.seed, Label.KEM_SEAL, t)).decrypt(
                nonce, sealed, encode("kem seal", t, own.index, own.hashes)
            )
        except (InvalidTag, ValueError) as error:
            raise ProtocolError(
                "this hospital's own key encapsulation was altered", hint="begin a new epoch"
            ) from error
        return dict(zip(own.peers, zip(pieces(plain, KEY_BYTES), own.hashes, strict=True), strict=True))


def read_adverts(federation: Federation, index: int, epoch: int, raw: Sequence[bytes]) -> dict[int, Advert]:
    """The adverts of an epoch by index, every one checked.

    Raises:
        ProtocolError: One is not signed by a member, of another epoch or there twice; too few; or not one's own.
    """
    found: dict[int, Advert] = {}
    for one in raw:
        read = Advert.read(one, federation)
        name = federation.peer(read.index).name
        if read.epoch != epoch:
            raise ProtocolError(
                f"the advert of {name} is of epoch {read.epoch}, not {epoch}", hint="ask it for a new one"
            )
        if read.index in found or read.exchange in {other.exchange for other in found.values()}:
            raise ProtocolError(f"the advert of {name} stands twice", hint="send every advert once")
        found[read.index] = read
    if len(found) < federation.quorum:
        raise ProtocolError(
            f"{len(found)} adverts are fewer than {federation.quorum}", hint="wait until more hospitals are there"
        )
    if index not in found:
        raise ProtocolError("this hospital's own advert is missing", hint="ask it to advertise before it shares")
    return dict(sorted(found.items()))
