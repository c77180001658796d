"""Results sent to an archive by STOW-RS or C-STORE, one after the other, recorded before and after.

What an archive has already it takes again as the same: instances are never changed once they are written.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Protocol, Self

from pydicom import dcmread
from pydicom.dataset import Dataset

from client.enhance.folder import Progress
from client.sources.retry import Patience
from compliance.log import Action, AuditLog, Entry, Outcome, Scalar


class Archive(Protocol):
    """Where results go. Used as a context manager: connections end with it."""

    @property
    def name(self) -> str:
        """For people and for the record: the host, and the AE title where it has one."""

    def store(self, dataset: Dataset) -> str:
        """Send an instance; empty where the archive has it now, else why it does not take it.

        Raises:
            UnreachableError: Another try may help.
            ProtocolError: It refuses us.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


@dataclass(frozen=True)
class Sent:
    """What became of results that were sent.

    Attributes:
        stored: How many the archive took.
        refused: Why it did not take the others, by their paths below the output folder.
    """

    stored: int
    refused: Mapping[str, str]


def send(
    out: Path,
    results: Sequence[str],
    archive: Archive,
    *,
    log: AuditLog,
    patience: Patience = Patience(),  # noqa: B008  # it is frozen
    on_progress: Progress | None = None,
) -> Sent:
    """Send ``results``, paths below ``out`` in order, to ``archive``.

    Raises:
        ProtocolError: It refuses us, or does not answer in the end.
        RecordError: The audit log cannot be written; nothing further is sent then.
    """
    stored, refused = 0, dict[str, str]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of pydicom quote values of headers
        for study, paths in groupby(results, key=lambda one: one.split("/", 1)[0]):
            names = list(paths)
            facts: dict[str, Scalar] = {"results": len(names), "sent_to": archive.name}
            entry = Entry(Action.ENHANCE, Outcome.STARTED, subject=("study", log.digest(study)), detail=facts)
            with log.act(entry) as detail:
                for name in names:
                    step = partial(archive.store, dcmread(out / name))
                    if reason := patience.persist(archive.name, step, kept="the results are kept"):
                        refused[name] = reason
                    else:
                        stored += 1
                    if on_progress:
                        on_progress(stored + len(refused), len(results))
                detail["refused"] = sum(one in refused for one in names)
    return Sent(stored, refused)
