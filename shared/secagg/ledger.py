"""What a hospital must remember, whatever happens to its processes: the ledger of secure aggregation.

A member keeps nothing else between two calls. Every method is durable before it returns; none may be undone. A ledger
that was lost, or restored from an older copy, must not serve its epochs again: it would mask two vectors with one key.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from shared.errors import PolicyError
from shared.secagg.keys import KEY_BYTES, EpochState


@dataclass(frozen=True)
class Claim:
    """What this hospital did in one round.

    Attributes:
        context: Ctx of the one upload of the round, 32 bytes.
        participants: Who was asked, ascending.
        included: The set that it signed, or None before that.
        revealed: Whether it has given out shares.
    """

    context: bytes
    participants: tuple[int, ...]
    included: tuple[int, ...] | None = None
    revealed: bool = False


class Ledger(Protocol):
    """The durable memory of one member."""

    def seed(self, epoch: int) -> bytes:
        """The 32 random bytes of an epoch, made at the first call; the same until :meth:`pin`.

        A newer epoch than any before forgets all secrets of the older ones.

        Raises:
            PolicyError: The epoch is older than the newest, or its seed is erased.
        """

    def pin(self, epoch: int, state: EpochState) -> None:
        """Keep the state of an epoch and erase its seed.

        Raises:
            PolicyError: The epoch is not the newest, or has another state.
        """

    def state(self, epoch: int) -> EpochState | None:
        """The state of the newest epoch, or None where nothing is pinned for ``epoch``."""

    def claim(self, epoch: int, number: int, context: bytes, participants: tuple[int, ...]) -> None:
        """Take a round for one upload.

        Raises:
            PolicyError: That round or a later one of the epoch is taken, whatever its context.
        """

    def claimed(self, epoch: int, number: int) -> Claim | None:
        """What was done in a round; None where it was not claimed or is forgotten."""

    def confirm(self, epoch: int, number: int, included: tuple[int, ...]) -> None:
        """Note the included set of a claimed round; the same set again is no error.

        Raises:
            PolicyError: The round is not claimed, or has another set.
        """

    def unmask(self, epoch: int, number: int, included: tuple[int, ...]) -> None:
        """Note that the shares of a round are given out; again is no error.

        Raises:
            PolicyError: ``included`` is not the set that was confirmed.
        """

    def forget(self, epoch: int, number: int) -> None:
        """Move the state on past round ``number`` and erase what came before it; again is no error."""


class MemoryLedger:
    """The behaviour that a durable ledger must have, without the durability: for tests and for simulations.

    Args:
        draw: Gives so many random bytes; the operating system's by default.
    """

    def __init__(self, draw: Callable[[int], bytes] = os.urandom) -> None:
        self._draw = draw
        self._epoch = -1
        self._seed: bytes | None = None
        self._state: bytes | None = None
        self._claims: dict[int, Claim] = {}
        self._newest = 0  # round

    def seed(self, epoch: int) -> bytes:
        """See :class:`Ledger`."""
        if epoch > self._epoch:
            self._epoch, self._seed, self._state = epoch, self._draw(KEY_BYTES), None
            self._claims, self._newest = {}, 0
        if epoch < self._epoch or self._seed is None:
            raise PolicyError(
                f"epoch {epoch} is over, or its keys are in use", hint="begin a new epoch with a higher number"
            )
        return self._seed

    def pin(self, epoch: int, state: EpochState) -> None:
        """See :class:`Ledger`."""
        if epoch != self._epoch or (self._state is not None and self._state != state.to_bytes()):
            raise PolicyError(f"epoch {epoch} has another state", hint="begin a new epoch")
        self._state, self._seed = state.to_bytes(), None

    def state(self, epoch: int) -> EpochState | None:
        """See :class:`Ledger`."""
        if epoch != self._epoch or self._state is None:
            return None
        return EpochState.from_bytes(self._state)

    def claim(self, epoch: int, number: int, context: bytes, participants: tuple[int, ...]) -> None:
        """See :class:`Ledger`."""
        if epoch != self._epoch or number <= self._newest:
            raise PolicyError(
                f"round {number} of epoch {epoch} is used up: a second vector under its masks would show both",
                hint="repeat it under a new number",
            )
        self._claims[number], self._newest = Claim(context, participants), number

    def claimed(self, epoch: int, number: int) -> Claim | None:
        """See :class:`Ledger`."""
        return self._claims.get(number) if epoch == self._epoch else None

    def confirm(self, epoch: int, number: int, included: tuple[int, ...]) -> None:
        """See :class:`Ledger`."""
        claim = self.claimed(epoch, number)
        if claim is None or claim.included not in (None, included):
            raise PolicyError(
                f"this hospital has signed another included set of round {number}, or none can be signed",
                hint="two sums over one round would give away their difference; repeat it under a new number",
            )
        self._claims[number] = replace(claim, included=included)

    def unmask(self, epoch: int, number: int, included: tuple[int, ...]) -> None:
        """See :class:`Ledger`."""
        claim = self.claimed(epoch, number)
        if claim is None or claim.included != included:
            raise PolicyError(
                f"the included set of round {number} is not the one that this hospital signed",
                hint="only the confirmed sum is unmasked",
            )
        self._claims[number] = replace(claim, revealed=True)

    def forget(self, epoch: int, number: int) -> None:
        """See :class:`Ledger`."""
        state = self.state(epoch)
        if state is not None and number >= state.round:
            self._state = state.at(number + 1).to_bytes()
        self._claims = {taken: claim for taken, claim in self._claims.items() if taken > number}
