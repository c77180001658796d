"""What a hospital must remember, whatever happens to its processes: the ledger of secure aggregation.

A member keeps nothing else between two calls. Every method is durable before it returns; none may be undone; and each
is one act, also where several threads or processes call at once: of two claims of one round only one succeeds. A ledger
that was lost, or restored from an older copy, must not serve its epochs again: it would mask two vectors with one key.
"""

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

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


@dataclass(frozen=True)
class Memory:
    """All that a ledger remembers, at one moment.

    Attributes:
        epoch: The newest epoch, or -1 before any.
        seed: Its seed until it is pinned, 32 bytes.
        state: Its state once it is pinned, as :meth:`EpochState.to_bytes`.
        claims: What was done in its rounds, as far as it is not forgotten.
        newest: The newest round that was claimed, or 0.
    """

    epoch: int = -1
    seed: bytes | None = field(default=None, repr=False)
    state: bytes | None = field(default=None, repr=False)
    claims: Mapping[int, Claim] = field(default_factory=dict)
    newest: int = 0

    @property
    def lost(self) -> bool:
        """Whether nothing but the number of the epoch is left: nobody can take part in it any more."""
        return self.seed is None and self.state is None


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
        """Take a round for one upload, and erase what came before it.

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
        memory: What it remembers at first.

    Attributes:
        memory: What it remembers now; the same object where nothing has changed.
    """

    def __init__(self, draw: Callable[[int], bytes] = os.urandom, memory: Memory | None = None) -> None:
        self._draw = draw
        self.memory = memory or Memory()
        self._lock = threading.RLock()

    def seed(self, epoch: int) -> bytes:
        """See :class:`Ledger`."""
        with self._lock:
            if epoch > self.memory.epoch:
                self.memory = Memory(epoch, seed=self._draw(KEY_BYTES))
            if epoch < self.memory.epoch or self.memory.seed is None:
                raise PolicyError(
                    f"epoch {epoch} is over, or its keys are in use", hint="begin a new epoch with a higher number"
                )
            return self.memory.seed

    def pin(self, epoch: int, state: EpochState) -> None:
        """See :class:`Ledger`."""
        with self._lock:
            raw = state.to_bytes()
            if epoch != self.memory.epoch or self.memory.lost or self.memory.state not in (None, raw):
                raise PolicyError(f"epoch {epoch} has another state", hint="begin a new epoch")
            self._change(state=raw, seed=None)

    def state(self, epoch: int) -> EpochState | None:
        """See :class:`Ledger`."""
        if epoch != self.memory.epoch or self.memory.state is None:
            return None
        return EpochState.from_bytes(self.memory.state)

    def claim(self, epoch: int, number: int, context: bytes, participants: tuple[int, ...]) -> None:
        """See :class:`Ledger`."""
        with self._lock:
            if epoch != self.memory.epoch or self.memory.lost or number <= self.memory.newest:
                raise PolicyError(
                    f"round {number} of epoch {epoch} is used up: a second vector under its masks would show both",
                    hint="repeat it under a new number",
                )
            self._note(number, Claim(context, participants))
            self._change(newest=number)
            self.forget(epoch, number - 1)

    def claimed(self, epoch: int, number: int) -> Claim | None:
        """See :class:`Ledger`."""
        return self.memory.claims.get(number) if epoch == self.memory.epoch else None

    def confirm(self, epoch: int, number: int, included: tuple[int, ...]) -> None:
        """See :class:`Ledger`."""
        with self._lock:
            claim = self.claimed(epoch, number)
            if claim is None or claim.included not in (None, included):
                raise PolicyError(
                    f"this hospital has signed another included set of round {number}, or none can be signed",
                    hint="two sums over one round would give away their difference; repeat it under a new number",
                )
            self._note(number, replace(claim, included=included))

    def unmask(self, epoch: int, number: int, included: tuple[int, ...]) -> None:
        """See :class:`Ledger`."""
        with self._lock:
            claim = self.claimed(epoch, number)
            if claim is None or claim.included != included:
                raise PolicyError(
                    f"the included set of round {number} is not the one that this hospital signed",
                    hint="only the confirmed sum is unmasked",
                )
            self._note(number, replace(claim, revealed=True))

    def forget(self, epoch: int, number: int) -> None:
        """See :class:`Ledger`."""
        with self._lock:
            if epoch != self.memory.epoch:
                return
            state = self.state(epoch)
            if state is not None and number >= state.round:
                self._change(state=state.at(number + 1).to_bytes())
            self._change(claims={taken: claim for taken, claim in self.memory.claims.items() if taken > number})

    def _note(self, number: int, claim: Claim) -> None:
        self._change(claims={**self.memory.claims, number: claim})

    def _change(self, **changes: Any) -> None:
        changed = replace(self.memory, **changes)
        if changed != self.memory:
            self.memory = changed
