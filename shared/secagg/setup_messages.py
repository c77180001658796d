"""The messages that open an epoch, as frozen dataclasses, to and from bytes.

What a hospital signs is the message's ``body()``, an encoding of its own domain.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from shared.errors import ProtocolError
from shared.secagg.encoding import Reader, encode, pieces
from shared.secagg.federation import SIGNATURE_BYTES, Federation
from shared.secagg.keys import KEY_BYTES, MAX_ROUND, Digest, digest
from shared.secagg.signing import (
    BOX_BYTES,
    DIGEST_BYTES,
    EXCHANGE_BYTES,
    KEM_CIPHERTEXT_BYTES,
    KEM_KEY_BYTES,
    MAX_DEALT,
    MAX_EPOCH,
    TAG_BYTES,
    unsign,
)


@dataclass(frozen=True)
class AdvertiseRequest:
    """``query.secagg_advertise``, to a hospital: begin an epoch.

    Attributes:
        epoch: Higher than every epoch before.
    """

    epoch: int

    def to_bytes(self) -> bytes:
        """The message."""
        return encode("advertise request", self.epoch)

    @classmethod
    def read(cls, raw: bytes) -> "AdvertiseRequest":
        """Read a request.

        Raises:
            ProtocolError: Malformed.
        """
        reader = Reader(raw, "advertise request", party="the coordinator")
        request = cls(reader.integer(0, MAX_EPOCH))
        reader.end()
        return request


@dataclass(frozen=True)
class KemRequest:
    """``query.secagg_kem``, to a hospital: encapsulate a secret for each higher index among those who advertised."""

    epoch: int
    adverts: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        """The message."""
        return encode("kem request", self.epoch, self.adverts)

    @classmethod
    def read(cls, raw: bytes) -> "KemRequest":
        """Read a request; its adverts are not read yet.

        Raises:
            ProtocolError: Malformed.
        """
        reader = Reader(raw, "kem request", party="the coordinator")
        request = cls(reader.integer(0, MAX_EPOCH), reader.many(lambda one: one.data()))
        reader.end()
        return request


@dataclass(frozen=True)
class Advert:
    """``query.secagg_advertise``: a hospital's public keys of an epoch, signed.

    Attributes:
        fingerprint: Of the federation that it pinned.
        epoch: The epoch.
        index: Who.
        exchange: X25519 public key.
        kem: ML-KEM-768 public key, or empty.
    """

    fingerprint: bytes
    epoch: int
    index: int
    exchange: bytes
    kem: bytes

    def body(self) -> bytes:
        """What is signed."""
        return encode("advert", self.fingerprint, self.epoch, self.index, self.exchange, self.kem)

    @classmethod
    def read(cls, raw: bytes, federation: Federation) -> "Advert":
        """Read a signed advert and check everything that does not depend on the epoch.

        Raises:
            ProtocolError: Malformed, of a stranger, under another charter, or not signed by its member.
        """
        body, signature = unsign(raw)
        reader = Reader(body, "advert")
        fingerprint, epoch = reader.data(DIGEST_BYTES), reader.integer(0, MAX_EPOCH)
        index, exchange = reader.integer(1), reader.data(EXCHANGE_BYTES)
        kem = reader.data(KEM_KEY_BYTES if federation.post_quantum else 0)
        reader.end()
        name = federation.peer(index).name
        if fingerprint != federation.fingerprint:
            raise ProtocolError(
                f"{name} advertises under another charter or other parameters", hint="compare the charters' hashes"
            )
        federation.verify(index, body, signature, "advert")
        return cls(fingerprint, epoch, index, exchange, kem)


def transcript(federation: Federation, epoch: int, adverts: Iterable[Advert]) -> bytes:
    """T: the hash of all adverts of an epoch, by index; 32 bytes."""
    ordered = sorted(adverts, key=lambda advert: advert.index)
    return digest(Digest.TRANSCRIPT, federation.fingerprint, epoch, [advert.body() for advert in ordered])


@dataclass(frozen=True)
class KemOffer:
    """``query.secagg_kem``: ML-KEM ciphertexts of one hospital to each higher index.

    The signature covers their hashes, so that each reader needs its own ciphertext only.

    Attributes:
        transcript: T.
        index: Who.
        peers: To whom, ascending.
        hashes: SHA-256 of the ciphertexts, in that order.
        sealed: The KEM secrets, encrypted by the sender for itself after a restart.
        signature: Of the body.
        ciphertexts: By place in ``peers``; those not meant for the reader are empty.
    """

    transcript: bytes
    index: int
    peers: tuple[int, ...]
    hashes: tuple[bytes, ...]
    sealed: bytes
    signature: bytes
    ciphertexts: tuple[bytes, ...]

    def body(self) -> bytes:
        """What is signed."""
        return encode("kem", self.transcript, self.index, self.peers, self.hashes, self.sealed)

    def to_bytes(self, reader: int | None = None) -> bytes:
        """The message; for ``reader`` only with what it needs."""
        kept = [
            ciphertext if reader in (None, peer) else b""
            for peer, ciphertext in zip(self.peers, self.ciphertexts, strict=True)
        ]
        return encode("kem offer", self.body(), self.signature, kept)

    @classmethod
    def read(cls, raw: bytes, federation: Federation) -> "KemOffer":
        """Read an offer and check its signature and the ciphertexts that it has.

        Raises:
            ProtocolError: Malformed, not signed by its member, or a ciphertext is not the one that was signed.
        """
        outer = Reader(raw, "kem offer")
        body, signature = outer.data(), outer.data(SIGNATURE_BYTES)
        ciphertexts = outer.many(lambda one: one.data())
        outer.end()
        reader = Reader(body, "kem")
        t, index, peers = reader.data(DIGEST_BYTES), reader.integer(1), reader.indices()
        hashes, sealed = reader.many(lambda one: one.data(DIGEST_BYTES)), reader.data()
        reader.end()
        name = federation.peer(index).name
        federation.verify(index, body, signature, "key encapsulation")
        fits = len(peers) == len(hashes) == len(ciphertexts) and all(
            not one or (len(one) == KEM_CIPHERTEXT_BYTES and hashlib.sha256(one).digest() == wanted)
            for one, wanted in zip(ciphertexts, hashes, strict=True)
        )
        if not fits:
            raise ProtocolError(
                f"a key encapsulation of {name} is not the one that it signed", hint="begin a new epoch"
            )
        return cls(t, index, peers, hashes, sealed, signature, ciphertexts)


@dataclass(frozen=True)
class ShareRequest:
    """``query.secagg_share``, to a hospital: deal the secrets of rounds [first, first + count)."""

    epoch: int
    first: int
    count: int
    adverts: tuple[bytes, ...]
    kems: tuple[bytes, ...] = ()

    def to_bytes(self) -> bytes:
        """The message."""
        return encode("share request", self.epoch, self.first, self.count, self.adverts, self.kems)

    @classmethod
    def read(cls, raw: bytes) -> "ShareRequest":
        """Read a request; adverts and offers inside are not read yet.

        Raises:
            ProtocolError: Malformed.
        """
        reader = Reader(raw, "share request", party="the coordinator")
        request = cls(
            reader.integer(0, MAX_EPOCH),
            reader.integer(1, MAX_ROUND),
            reader.integer(1, MAX_DEALT),
            reader.many(lambda one: one.data()),
            reader.many(lambda one: one.data()),
        )
        reader.end()
        return request


@dataclass(frozen=True)
class DealtRound:
    """What a hospital deals for one round, apart from the boxes.

    Attributes:
        vault: AES-GCM under the key of R^r of all its round seeds, by peer index.
        secrets: Hashes of b^r and of R^r.
        shares: Hashes of the b-share and of the R-share of every member, by index.
        seeds: Hashes of its round seeds, by peer index; the other end of a pair signs the same hash.
    """

    vault: bytes
    secrets: tuple[bytes, bytes]
    shares: tuple[tuple[bytes, bytes], ...]
    seeds: tuple[bytes, ...]


@dataclass(frozen=True)
class Deal:
    """The answer to a :class:`ShareRequest`, signed.

    Attributes:
        transcript: T.
        index: Who deals.
        first: Its first round.
        members: Everyone in the epoch, the dealer included, ascending.
        rounds: By round from ``first``.
        boxes: By peer (members without the dealer), then by round: AES-GCM of that peer's b-share and R-share.
    """

    transcript: bytes
    index: int
    first: int
    members: tuple[int, ...]
    rounds: tuple[DealtRound, ...]
    boxes: tuple[tuple[bytes, ...], ...]

    @cached_property
    def peers(self) -> tuple[int, ...]:
        """The members without the dealer."""
        return tuple(index for index in self.members if index != self.index)

    def body(self) -> bytes:
        """What is signed."""
        rounds = [
            [
                one.vault,
                b"".join(one.secrets),
                b"".join(part for pair in one.shares for part in pair),
                b"".join(one.seeds),
            ]
            for one in self.rounds
        ]
        boxes = [b"".join(row) for row in self.boxes]
        return encode("deal", self.transcript, self.index, self.first, len(self.rounds), self.members, *rounds, boxes)

    @classmethod
    def read(cls, raw: bytes, federation: Federation) -> "Deal":
        """Read a signed deal.

        Raises:
            ProtocolError: Malformed, or not signed by its member.
        """
        body, signature = unsign(raw)
        reader = Reader(body, "deal")
        t, index = reader.data(DIGEST_BYTES), reader.integer(1)
        first, count = reader.integer(1, MAX_ROUND), reader.integer(1, MAX_DEALT)
        members = reader.indices()
        rounds = tuple(_read_dealt(reader, len(members)) for _ in range(count))
        boxes = reader.many(lambda one: tuple(pieces(one.data(count * BOX_BYTES), BOX_BYTES)))
        reader.end()
        name = federation.peer(index).name
        federation.verify(index, body, signature, "shares")
        if index not in members or len(boxes) != len(members) - 1:
            raise ProtocolError(f"the shares of {name} do not fit its own list of members", hint="begin a new epoch")
        return cls(t, index, first, members, rounds, boxes)


def _read_dealt(reader: Reader, members: int) -> DealtRound:
    lengths = (KEY_BYTES * (members - 1) + TAG_BYTES, 2 * DIGEST_BYTES, 2 * DIGEST_BYTES * members)
    parts = reader.fields(lambda one: one.data(), 4)
    vault, secrets, shares, seeds = parts
    if tuple(map(len, parts)) != (*lengths, DIGEST_BYTES * (members - 1)):
        raise reader.fault("a round of it has a field of another length")
    b, r = pieces(secrets, DIGEST_BYTES)
    each = pieces(shares, DIGEST_BYTES)
    return DealtRound(vault, (b, r), tuple(zip(each[::2], each[1::2], strict=True)), tuple(pieces(seeds, DIGEST_BYTES)))
