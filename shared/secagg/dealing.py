"""What a hospital deals for rounds to come: sealed shares of two secrets per round, and the vault.

Sealing is AES-256-GCM (NIST SP 800-38D) under keys that seal one text each, with a nonce of zeros: a repeated deal is
the same bytes. Every hash is of a value with 255 or 256 bits of entropy, so it gives nothing away.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shared.errors import ProtocolError
from shared.secagg import field
from shared.secagg.encoding import encode, pieces
from shared.secagg.keys import (
    KEY_BYTES,
    Digest,
    EpochState,
    Label,
    box_key,
    digest,
    polynomial,
    round_seed,
    self_secret,
    vault_key,
    vault_secret,
)
from shared.secagg.setup_messages import Deal, DealtRound

_NONCE = bytes(12)  # each key seals one text


def deal(state: EpochState, first: int, count: int, threshold: int) -> Deal:
    """The deal of rounds [first, first + count).

    Raises:
        PolicyError: The first of them is forgotten, or the last is too far ahead.
    """
    rounds: list[DealtRound] = []
    boxes: dict[int, list[bytes]] = {peer: [] for peer, _ in state.pairs}
    state = state.at(first)
    for number in range(first, first + count):
        state = state.at(number)
        dealt, sealed = _deal_round(state, threshold)
        rounds.append(dealt)
        for peer, box in sealed.items():
            boxes[peer].append(box)
    return Deal(
        state.transcript, state.index, first, state.members, tuple(rounds), tuple(tuple(row) for row in boxes.values())
    )


def _deal_round(state: EpochState, threshold: int) -> tuple[DealtRound, dict[int, bytes]]:
    place = (state.transcript, state.round, state.index)
    b, r = self_secret(state.own), vault_secret(state.own)
    b_shares = field.split(b, polynomial(state.own, Label.SELF_POLYNOMIAL, threshold), state.members)
    r_shares = field.split(r, polynomial(state.own, Label.VAULT_POLYNOMIAL, threshold), state.members)
    seeds = {peer: round_seed(chain) for peer, chain in state.pairs}
    vault = AESGCM(vault_key(field.to_bytes(r))).encrypt(
        _NONCE, b"".join(seeds.values()), encode("vault", *place, list(seeds))
    )
    boxes = {
        peer: AESGCM(box_key(chain, state.index, peer)).encrypt(
            _NONCE, b_shares[peer] + r_shares[peer], encode("box", *place, peer)
        )
        for peer, chain in state.pairs
    }
    dealt = DealtRound(
        vault,
        (
            digest(Digest.SELF_SECRET, *place, field.to_bytes(b)),
            digest(Digest.VAULT_SECRET, *place, field.to_bytes(r)),
        ),
        tuple(
            (
                digest(Digest.SELF_SHARE, *place, x, b_shares[x]),
                digest(Digest.VAULT_SHARE, *place, x, r_shares[x]),
            )
            for x in state.members
        ),
        tuple(seed_digest(state.transcript, state.round, state.index, peer, seed) for peer, seed in seeds.items()),
    )
    return dealt, boxes


def seed_digest(transcript: bytes, number: int, one: int, other: int, seed: bytes) -> bytes:
    """The hash of a pair's round seed; the same from both ends."""
    return digest(Digest.ROUND_SEED, transcript, number, min(one, other), max(one, other), seed)


def own_share(state: EpochState, threshold: int) -> bytes:
    """One's own share of one's own b^r."""
    coefficients = polynomial(state.own, Label.SELF_POLYNOMIAL, threshold)
    return field.split(self_secret(state.own), coefficients, [state.index])[state.index]


def open_box(state: EpochState, source: int, box: bytes, name: str) -> tuple[bytes, bytes]:
    """The b-share and the R-share that ``source`` sealed for this hospital in the round at which ``state`` stands.

    Raises:
        ProtocolError: It was altered, or is of another round, sender or receiver.
    """
    bound = encode("box", state.transcript, state.round, source, state.index)
    try:
        plain = AESGCM(box_key(state.chain(source), source, state.index)).decrypt(_NONCE, box, bound)
    except InvalidTag as error:
        raise ProtocolError(
            f"the box of {name} was altered, or is of another round or hospital", hint="repeat the round"
        ) from error
    return plain[: field.SHARE_BYTES], plain[field.SHARE_BYTES :]


def open_vault(secret: bytes, dealt: Deal, number: int, name: str) -> dict[int, bytes]:
    """The round seeds of a hospital that dropped out, by peer, each checked against the hash that it signed.

    Raises:
        ProtocolError: The vault does not hold what its owner signed.
    """
    one = dealt.rounds[number - dealt.first]
    bound = encode("vault", dealt.transcript, number, dealt.index, dealt.peers)
    fault = ProtocolError(
        f"the vault of {name} does not hold what {name} signed", hint="repeat the round without that hospital"
    )
    try:
        plain = AESGCM(vault_key(secret)).decrypt(_NONCE, one.vault, bound)
    except InvalidTag as error:
        raise fault from error
    seeds = dict(zip(dealt.peers, pieces(plain, KEY_BYTES), strict=True))
    for (peer, seed), signed in zip(seeds.items(), one.seeds, strict=True):
        if seed_digest(dealt.transcript, number, dealt.index, peer, seed) != signed:
            raise fault
    return seeds
