"""Trying again: with pauses that grow, for a limited time, and with one line that says what to check in the end."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from client.sources.source import UnreachableError
from shared.errors import ProtocolError

T = TypeVar("T")


@dataclass(frozen=True)
class Patience:
    """How long to go on.

    Attributes:
        attempts: Tries in a row without any progress.
        deadline: Seconds from the first failure until it is given up.
        pause: Seconds before the second try; doubled before each one after it.
        longest_pause: Seconds.
    """

    attempts: int = 5
    deadline: float = 120.0
    pause: float = 1.0
    longest_pause: float = 30.0

    def persist(
        self,
        name: str,
        step: Callable[[], T],
        *,
        progress: Callable[[], int] = lambda: 0,
        kept: str = "what was fetched is kept",
    ) -> T:
        """Run ``step`` until it succeeds.

        Args:
            name: The host, for the message.
            step: Raises :class:`UnreachableError` where another try may help.
            progress: A count that grows with what was achieved; when it has grown, patience starts anew.
            kept: What is not lost, for the message.

        Raises:
            ProtocolError: Patience is over.
        """
        failures, achieved, since = 0, progress(), time.monotonic()
        while True:
            try:
                return step()
            except UnreachableError as error:
                if progress() > achieved:
                    failures, achieved, since = 0, progress(), time.monotonic()
                failures += 1
                pause = min(self.pause * 2 ** (failures - 1), self.longest_pause)
                if failures >= self.attempts or time.monotonic() + pause - since > self.deadline:
                    raise ProtocolError(
                        f"{name} {error.reason} ({failures} tries)",
                        hint=f"{error.check}; {kept}, run the same command again to go on",
                    ) from error
                time.sleep(pause)
