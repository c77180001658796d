"""The coordinator's side of a round: a streaming sum of masked vectors, and the masks that come off it.

Memory is one vector, whatever the number of hospitals. Nothing here can see a single update: this code is honest, but
the protocol does not depend on it (docs/secure-aggregation.md).
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from shared.errors import ProtocolError
from shared.secagg import field
from shared.secagg.codec import CHUNK, Average, Codec, Lanes
from shared.secagg.dealing import open_vault
from shared.secagg.epoch import Epoch
from shared.secagg.keys import Digest, Label, digest, mask_keys
from shared.secagg.masks import MaskStreams, Ring, apply_masks, over_segments
from shared.secagg.round_messages import (
    Confirmation,
    ConfirmRequest,
    Reveal,
    RoundTask,
    UnmaskRequest,
    Upload,
)
from shared.secagg.signing import Buffer


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a round gives.

    Attributes:
        average: Weighted average of the updates, float64 ``[d]``; where the federation sums integers, their sum.
        included: Who is in it, ascending.
        weight: Sum of the weights.
        metrics: Sums of the metrics, by name.
        faults: One line for each share that was discarded, naming who is to be asked.
    """

    average: Average
    included: tuple[int, ...]
    weight: int
    metrics: Mapping[str, float]
    faults: tuple[str, ...] = ()


class Tally:
    """One round at the coordinator: absorb, confirm, reveal, finish.

    A hospital may drop out between any two messages: one that sent no vector is left out of the sum, one that is silent
    later costs only its share. Any failure ends the round; it is repeated under a new number.

    Args:
        epoch: The book of the epoch, with a deal of every participant for this round.
        task: What was sent to the participants.
        workers: Threads that take masks off.

    Raises:
        ProtocolError: A participant has dealt nothing for the round, or there are too few.

    Every method that takes a message raises :class:`ProtocolError` where it does not belong here; the sum is as before.
    """

    def __init__(self, epoch: Epoch, task: RoundTask, *, workers: int = 1) -> None:
        self._epoch, self._task, self._workers = epoch, task, workers
        self._federation = epoch.federation
        self._codec = Codec.of(epoch.federation)
        for member in task.participants:
            epoch.dealt(member, task.round)
        self._check_quorum(len(task.participants), "participants")
        self._context = task.context(epoch.transcript, self._codec)
        self._body: Ring | None = None
        self._lanes: Lanes | None = None
        self._included: tuple[int, ...] = ()
        self._closed = False
        self._confirmations: dict[int, bytes] = {}
        self._reveals: dict[int, dict[int, bytes]] = {}

    @property
    def included(self) -> tuple[int, ...]:
        """Whose vectors are in the sum, ascending."""
        return self._included

    def absorb(self, sender: int, raw: Buffer) -> None:
        """Add a masked vector to the sum.

        Args:
            sender: Who the link says has sent it; the vector itself is not signed.
            raw: The message.
        """
        upload = Upload.read(raw, self._task, self._codec)
        name = self._federation.peer(sender).name
        if upload.index != sender or sender not in self._task.participants:
            raise ProtocolError(f"{name} sends a vector that is not its own", hint="leave it out and ask it why")
        if not hmac.compare_digest(upload.context, self._context):
            raise ProtocolError(
                f"the vector of {name} is of another round, model, configuration or list of participants",
                hint="everyone must be sent the same task",
            )
        if self._closed or sender in self._included:
            raise ProtocolError(f"the vector of {name} is late or came twice", hint="it is left out of this round")
        if self._body is None or self._lanes is None:
            self._body, self._lanes = upload.body.copy(), upload.lanes.copy()
        else:
            np.add(self._body, upload.body, out=self._body)
            np.add(self._lanes, upload.lanes, out=self._lanes)
        self._included = tuple(sorted((*self._included, sender)))

    def confirm_request(self) -> bytes:
        """``query.secagg_confirm``, to everyone in :attr:`included`; the sum is closed by it.

        Raises:
            ProtocolError: Too few vectors came.
        """
        self._check_quorum(len(self._included), "vectors")
        self._closed = True
        return ConfirmRequest(self._task.epoch, self._task.round, self._context, self._included).to_bytes()

    def confirmation(self, raw: bytes) -> int:
        """Take a confirmation; gives its sender's index."""
        read, signature = Confirmation.read(raw)
        name = self._federation.peer(read.index).name
        wanted = Confirmation(self._epoch.transcript, self._task.round, self._context, read.index, self._included)
        if not self._closed or read != wanted or read.index not in self._included:
            raise ProtocolError(f"the confirmation of {name} is of another round or set", hint="ask it again")
        self._federation.verify(read.index, wanted.body(), signature, "confirmation")
        self._confirmations[read.index] = signature
        return read.index

    def unmask_request(self, index: int) -> bytes:
        """``query.secagg_unmask`` for a member of :attr:`included`.

        Raises:
            ProtocolError: Too few confirmations came.
        """
        self._check_threshold(len(self._confirmations), "confirmations")
        signers = tuple(sorted(self._confirmations))
        others = tuple(member for member in self._task.participants if member != index)
        return UnmaskRequest(
            self._task.epoch,
            self._task.round,
            self._context,
            self._included,
            signers,
            tuple(self._confirmations[signer] for signer in signers),
            self._epoch.boxes(index, others, self._task.round),
        ).to_bytes()

    def reveal(self, raw: bytes) -> int:
        """Take the shares of a hospital; gives its index. Whether each is right is seen in :meth:`finish`."""
        read = Reveal.read(raw, self._federation)
        name = self._federation.peer(read.index).name
        fits = (read.transcript, read.round, read.members) == (
            self._epoch.transcript,
            self._task.round,
            self._task.participants,
        )
        if not fits or not hmac.compare_digest(read.context, self._context) or read.index not in self._included:
            raise ProtocolError(f"the shares of {name} are of another round", hint="ask it again")
        self._reveals[read.index] = dict(zip(read.members, read.shares, strict=True))
        return read.index

    def finish(self) -> Outcome:
        """Take the masks off and decode; the object is spent afterwards.

        Raises:
            ProtocolError: Too few right shares came, a hospital dealt wrongly, or the canary is wrong. The first
                hospital to be asked is named.
        """
        self._check_threshold(len(self._reveals), "answers with shares")
        body, lanes = self._body, self._lanes
        if body is None or lanes is None:
            raise ProtocolError("this round is finished already", hint="begin a new one")
        faults: list[str] = []
        plus, minus = self._masks(faults)
        apply_masks(
            lanes,
            mask_keys(plus, Label.MASK_HEADER, self._context),
            mask_keys(minus, Label.MASK_HEADER, self._context),
        )
        self._body = self._lanes = None
        weight, metrics = self._codec.read_header(lanes, len(self._included), self._task.metrics)
        average = np.empty(body.size, np.float64)
        add = mask_keys(plus, Label.MASK_BODY, self._context)
        subtract = mask_keys(minus, Label.MASK_BODY, self._context)

        def unmask(start: int, stop: int) -> None:
            streams = MaskStreams(add, subtract, start * body.itemsize)
            for place in range(start, stop, CHUNK):
                # Unmasked and decoded while it is in the cache.
                words: Ring = body[place : min(place + CHUNK, stop)]
                streams.apply(words)
                self._codec.average(words, weight, average[place : place + words.size])

        over_segments(unmask, body.size, body.itemsize, self._workers)
        return Outcome(average, self._included, weight, metrics, tuple(faults))

    def _masks(self, faults: list[str]) -> tuple[list[bytes], list[bytes]]:
        """Secrets of the streams to add and to subtract: self secrets of the included, round seeds of the dropped."""
        plus: list[bytes] = []
        minus: list[bytes] = []
        for member in self._task.participants:
            kept = member in self._included
            secret = self._secret(member, kept, faults)
            if kept:
                minus.append(secret)
                continue
            deal, _ = self._epoch.dealt(member, self._task.round)
            seeds = open_vault(secret, deal, self._task.round, self._federation.peer(member).name)
            for other in self._included:
                # What the included one added for the pair comes off, and what it subtracted goes back.
                (minus if other < member else plus).append(seeds[other])
        return plus, minus

    def _secret(self, member: int, kept: bool, faults: list[str]) -> bytes:
        """B of an included member, R of a dropped one, from shares whose hashes its deal has."""
        deal, dealt = self._epoch.dealt(member, self._task.round)
        kind, which = (Digest.SELF_SHARE, 0) if kept else (Digest.VAULT_SHARE, 1)
        place = (self._epoch.transcript, self._task.round, member)
        name = self._federation.peer(member).name
        shares: dict[int, bytes] = {}
        for holder, revealed in sorted(self._reveals.items()):
            wanted = dealt.shares[deal.members.index(holder)][which]
            if hmac.compare_digest(digest(kind, *place, holder, revealed[member]), wanted):
                shares[holder] = revealed[member]
            else:
                # Either of the two may have lied: the dealer may have sealed another share than it signed.
                faults.append(
                    f"{self._federation.peer(holder).name} revealed a share of {name} that is not the one that {name} "
                    "signed; it was discarded, and one of these two is at fault"
                )
        if len(shares) < self._federation.threshold:
            raise ProtocolError(
                f"{len(shares)} right shares of {name} are fewer than {self._federation.threshold}"
                + (f": {faults[0]}" if faults else ""),
                hint="repeat the round under a new number",
            )
        secret = field.combine(shares, self._federation.threshold)
        secret_kind = Digest.SELF_SECRET if kept else Digest.VAULT_SECRET
        if not hmac.compare_digest(digest(secret_kind, *place, secret), dealt.secrets[which]):
            raise ProtocolError(
                f"{name} dealt shares that do not make the secret that it signed",
                hint="repeat the round without that hospital",
            )
        return secret

    def _check_quorum(self, count: int, what: str) -> None:
        if count < self._federation.quorum:
            raise ProtocolError(
                f"{count} {what} are fewer than {self._federation.quorum}", hint="repeat the round under a new number"
            )

    def _check_threshold(self, count: int, what: str) -> None:
        if count < self._federation.threshold:
            raise ProtocolError(
                f"{count} {what} are fewer than {self._federation.threshold}",
                hint="repeat the round under a new number",
            )
