"""The hospital's side of secure aggregation: bytes in, bytes out, refusing all that an honest party must refuse.

A member holds its identity key, the federation that it pinned, and a ledger; between two calls it keeps nothing, so a
process may be restarted at every step. Follows Bonawitz et al., "Practical secure aggregation for privacy-preserving
machine learning", CCS 2017, figure 4, with keys agreed once per epoch.
"""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.errors import PolicyError, ProtocolError
from shared.secagg import field
from shared.secagg.codec import CHUNK, Codec, Lanes, Quantiser, Verbatim, Words
from shared.secagg.dealing import deal, open_box, own_share
from shared.secagg.epoch_keys import EpochKeys, read_adverts
from shared.secagg.federation import Federation
from shared.secagg.keys import EpochState, Label, expand, mask_keys, round_seed, self_secret
from shared.secagg.ledger import Claim, Ledger
from shared.secagg.masks import MaskStreams, Ring, apply_masks
from shared.secagg.round_messages import (
    Confirmation,
    ConfirmRequest,
    Reveal,
    RoundTask,
    UnmaskRequest,
    Upload,
)
from shared.secagg.setup_messages import ShareRequest, transcript
from shared.secagg.signing import MAX_EPOCH, check_subset, signed
from shared.vector import Vector


@dataclass(frozen=True, eq=False)
class Masked:
    """What leaves the hospital in a round, and what it wants to know about it.

    Attributes:
        upload: The message, ready to send.
        clipped: Elements that were clipped to [-C, C].
        context: Ctx, 32 bytes: under which the coordinator will ask for the rest of the round.
    """

    upload: memoryview
    clipped: int
    context: bytes


class Member:
    """One hospital.

    Args:
        federation: From the pinned charter.
        index: This hospital's index in it.
        identity: Its Ed25519 key (RFC 8032).
        ledger: Its memory.

    Raises:
        PolicyError: The key is not that of member ``index``.

    Every method raises :class:`ProtocolError` where the coordinator's message is malformed or lies, and
    :class:`PolicyError` where this hospital will not do what is asked. Nothing leaves in either case.
    """

    def __init__(self, federation: Federation, index: int, identity: Ed25519PrivateKey, ledger: Ledger) -> None:
        if federation.peer(index).identity != identity.public_key().public_bytes_raw():
            raise PolicyError(
                f"the identity key is not that of {federation.peer(index).name} in the charter",
                hint="give this hospital's key, or have the charter amended",
            )
        self._federation, self._index, self._identity, self._ledger = federation, index, identity, ledger
        self._codec = Codec.of(federation)

    @property
    def federation(self) -> Federation:
        """What this hospital knows beforehand."""
        return self._federation

    def advertise(self, epoch: int) -> bytes:
        """``query.secagg_advertise``: the signed public keys of ``epoch``; the same until the first deal."""
        if not 0 <= epoch <= MAX_EPOCH:
            raise ProtocolError(f"an epoch's number is 0 to {MAX_EPOCH}", hint="begin an epoch with a number in range")
        return signed(self._keys(epoch).advert().body(), self._identity)

    def encapsulate(self, epoch: int, adverts: Sequence[bytes]) -> bytes:
        """``query.secagg_kem``, only with ``post_quantum``: an ML-KEM ciphertext for each higher index."""
        if not self._federation.post_quantum:
            raise PolicyError("the charter does not ask for ML-KEM", hint="leave this step out")
        found = read_adverts(self._federation, self._index, epoch, adverts)
        return self._keys(epoch).offer(found, self._identity)

    def share(self, request: bytes) -> bytes:
        """``query.secagg_share``: deal the secrets of some rounds.

        The first deal of an epoch fixes who is in it and erases the epoch's private keys; later ones may only add
        rounds for the same members.
        """
        asked = ShareRequest.read(request)
        adverts = read_adverts(self._federation, self._index, asked.epoch, asked.adverts)
        state = self._ledger.state(asked.epoch)
        if state is None:
            state = self._keys(asked.epoch).start(adverts, asked.kems)
            self._ledger.pin(asked.epoch, state)
        elif state.transcript != transcript(self._federation, asked.epoch, adverts.values()):
            raise ProtocolError(
                f"the adverts are not those with which epoch {asked.epoch} began", hint="begin a new epoch"
            )
        return signed(deal(state, asked.first, asked.count, self._federation.threshold).body(), self._identity)

    def expect(self, task: RoundTask) -> None:
        """See before the work of a round that :meth:`mask` will take its task; nothing is claimed."""
        self._expected(task)

    def mask(self, task: RoundTask, update: Vector | Words, weight: int, metrics: Mapping[str, float]) -> Masked:
        """``train``: the masked vector of one round.

        What is wrong with the update is found before the round is claimed; after the claim the round is used up,
        also if the process dies before the vector leaves.

        Args:
            task: What the round is about; hashed into every mask.
            update: float32 ``[d]``, finite, clipped to [-C, C]; where the federation sums integers uint32 ``[d]``.
            weight: 1 to w_max.
            metrics: Sums of this hospital by name, exactly those of the task, each within 2^36.
        """
        state = self._expected(task)
        if update.size != task.size or set(metrics) != set(task.metrics):
            raise PolicyError(
                f"the task wants {task.size} elements and the metrics {', '.join(task.metrics) or 'none'}",
                hint="install the same release at both ends",
            )
        clips = self._codec.check(update, weight)
        lanes = self._codec.header(weight, [metrics[name] for name in task.metrics])
        context = task.context(state.transcript, self._codec)
        self._ledger.claim(task.epoch, task.round, context, task.participants)
        coins = expand(state.own, Label.COINS) if self._codec.bits == 16 else None
        quantiser = Verbatim() if self._codec.integers else Quantiser(self._codec, weight, clips=clips, coins=coins)
        message, body = Upload.blank(task, self._codec)
        streams = self._mask_header(state, task.participants, context, lanes)
        head = Upload.head(self._index, context, lanes)
        message[: len(head)] = bytearray(head)
        for place in range(0, body.size, CHUNK):
            # Quantised and masked while it is in the cache.
            words: Ring = body[place : place + CHUNK]
            quantiser.quantise(update[place : place + CHUNK], words)
            streams.apply(words)
        return Masked(message.data, quantiser.clipped, context)

    def confirm(self, request: bytes) -> bytes:
        """``query.secagg_confirm``: sign the included set, one per round, forever."""
        asked = ConfirmRequest.read(request)
        state = self._state(asked.epoch)
        self._check_included(asked.epoch, asked.round, asked.context, asked.included)
        self._ledger.confirm(asked.epoch, asked.round, asked.included)
        body = Confirmation(state.transcript, asked.round, asked.context, self._index, asked.included).body()
        return signed(body, self._identity)

    def unmask(self, request: bytes) -> bytes:
        """``query.secagg_unmask``: of each participant one share, on t confirmations of the set that was signed."""
        asked = UnmaskRequest.read(request)
        claim = self._check_included(asked.epoch, asked.round, asked.context, asked.included)
        if claim.included != asked.included:
            raise PolicyError(
                f"the included set of round {asked.round} is not the one that this hospital signed",
                hint="only the confirmed sum is unmasked",
            )
        state = self._state(asked.epoch).at(asked.round)
        self._check_confirmations(state, asked)
        shares = self._shares(state, asked, claim)
        self._ledger.unmask(asked.epoch, asked.round, asked.included)
        reveal = Reveal(state.transcript, asked.round, asked.context, self._index, claim.participants, shares)
        return signed(reveal.body(), self._identity)

    def _expected(self, task: RoundTask) -> EpochState:
        state = self._state(task.epoch)
        self._check_quorum(task.participants, "the list of participants")
        check_subset(task.participants, state.members, "the list of participants")
        if self._ledger.claimed(task.epoch, task.round) is not None:
            raise PolicyError(
                f"round {task.round} of epoch {task.epoch} is used up: a second vector under its masks would show both",
                hint="repeat it under a new number",
            )
        return state.at(task.round)

    def _mask_header(
        self, state: EpochState, participants: tuple[int, ...], context: bytes, lanes: Lanes
    ) -> MaskStreams:
        """Mask ``lanes`` in place; gives the streams for the body."""
        seeds = {peer: round_seed(chain) for peer, chain in state.pairs if peer in participants}
        # Of a pair, the lower index adds the stream and the higher one subtracts it.
        plus = [field.to_bytes(self_secret(state.own)), *(seed for peer, seed in seeds.items() if peer > self._index)]
        minus = [seed for peer, seed in seeds.items() if peer < self._index]
        apply_masks(lanes, mask_keys(plus, Label.MASK_HEADER, context), mask_keys(minus, Label.MASK_HEADER, context))
        return MaskStreams(mask_keys(plus, Label.MASK_BODY, context), mask_keys(minus, Label.MASK_BODY, context))

    def _keys(self, epoch: int) -> EpochKeys:
        return EpochKeys(self._federation, self._index, epoch, self._ledger.seed(epoch))

    def _state(self, epoch: int) -> EpochState:
        state = self._ledger.state(epoch)
        if state is None:
            raise PolicyError(
                f"this hospital has no keys for epoch {epoch}", hint="begin a new epoch: advertise, then share"
            )
        return state

    def _check_quorum(self, members: tuple[int, ...], what: str) -> None:
        if self._index not in members:
            raise ProtocolError(f"{what} leaves this hospital out", hint="ask only those who are in it")
        if len(members) < self._federation.quorum:
            raise PolicyError(
                f"{what} has {len(members)} members, fewer than {self._federation.quorum}",
                hint="a sum over so few would show too much; repeat the round when more are there",
            )

    def _check_included(self, epoch: int, number: int, context: bytes, included: tuple[int, ...]) -> Claim:
        claim = self._ledger.claimed(epoch, number)
        if claim is None or not hmac.compare_digest(claim.context, context):
            raise PolicyError(
                f"this hospital sent no vector under that context in round {number} of epoch {epoch}",
                hint="model, configuration and participants must be the same for everyone",
            )
        self._check_quorum(included, "the included set")
        check_subset(included, claim.participants, "the included set")
        return claim

    def _check_confirmations(self, state: EpochState, asked: UnmaskRequest) -> None:
        check_subset(asked.signers, asked.included, "the list of confirmations")
        if len(asked.signers) < self._federation.threshold:
            raise PolicyError(
                f"{len(asked.signers)} confirmations are fewer than {self._federation.threshold}",
                hint="repeat the round under a new number",
            )
        for signer, signature in zip(asked.signers, asked.signatures, strict=True):
            body = Confirmation(state.transcript, asked.round, asked.context, signer, asked.included).body()
            self._federation.verify(signer, body, signature, "confirmation")

    def _shares(self, state: EpochState, asked: UnmaskRequest, claim: Claim) -> tuple[bytes, ...]:
        others = [member for member in claim.participants if member != self._index]
        if len(asked.boxes) != len(others):
            raise ProtocolError("there is not one box for each other participant", hint="send them by index")
        shares = {self._index: own_share(state, self._federation.threshold)}
        for source, box in zip(others, asked.boxes, strict=True):
            b_share, r_share = open_box(state, source, box, self._federation.peer(source).name)
            shares[source] = b_share if source in asked.included else r_share
        return tuple(shares[member] for member in claim.participants)
