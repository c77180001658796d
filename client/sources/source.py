"""What every source of images can do, and what may be asked of it.

A source names its studies, names the instances of one study, and fetches instances into a spool, one study at a time.
The same :class:`Selection` is applied to what a source answers to a query and again to every file that arrives: an
archive may ignore a key that it does not support (PS3.4 C.2.2.1.3, optional keys).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from client.sources.intake import Intake, Problem
from client.sources.selection import Facts, Instance, Selection


@dataclass(frozen=True)
class Study:
    """One study by its UID, and what the source told of it."""

    uid: str
    facts: Facts = field(default_factory=Facts)


class UnreachableError(Exception):
    """The other end did not answer, or stopped answering; worth another try.

    Args:
        reason: What happened, for people.
        check: What to check if it goes on.
    """

    def __init__(self, reason: str, check: str) -> None:
        super().__init__(reason)
        self.reason, self.check = reason, check


class WithheldError(UnreachableError):
    """The other end answers, but does not send what it named."""


class Source(Protocol):
    """A place that holds studies. Used as a context manager: connections and listeners end with it."""

    @property
    def name(self) -> str:
        """For people: the folder, or the host."""

    @property
    def kind(self) -> str:
        """``folder``, ``dicomweb``, ``c-move`` or ``c-get``."""

    def studies(self, selection: Selection) -> Sequence[Study]:
        """The studies that may hold something of the selection, in order of their UIDs.

        Raises:
            UnreachableError: No answer.
            ProtocolError: The other end refuses.
        """

    def instances(self, study: Study, selection: Selection) -> Sequence[Instance]:
        """The instances of ``study`` that the selection wants, as far as can be known before they are read."""

    def fetch(self, study: Study, wanted: Iterable[Instance], intake: Intake) -> None:
        """Bring ``wanted`` into ``intake``; what the source does not hold any more is left out.

        Raises:
            UnreachableError: The connection failed; what arrived whole is kept.
            ProtocolError: The other end refuses.
        """

    def problems(self) -> Sequence[Problem]:
        """What :meth:`studies` found and could not read."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
