"""Results on their way to an archive by DICOMweb (STOW-RS, PS3.18 10.5); each study is recorded before any of it goes.

What an archive has already it takes again as the same: instances are never changed once they are written.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

from pydicom import dcmread

from client.enhance.folder import Progress
from client.sources.dicomweb import DicomWeb
from client.sources.retry import Patience
from compliance.log import Action, AuditLog, Entry, Outcome, Scalar


@dataclass(frozen=True)
class Sent:
    """What became of results that were sent.

    Attributes:
        stored: How many the archive took.
        refused: Those that it did not, by their paths below the output folder.
    """

    stored: int
    refused: tuple[str, ...]


def send(
    out: Path,
    results: Sequence[str],
    archive: DicomWeb,
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
    stored, refused = 0, list[str]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of pydicom quote values of headers
        for study, paths in groupby(results, key=lambda one: one.split("/", 1)[0]):
            names = list(paths)
            facts: dict[str, Scalar] = {"results": len(names), "sent_to": archive.name}
            entry = Entry(Action.ENHANCE, Outcome.STARTED, subject=("study", log.digest(study)), detail=facts)
            with log.act(entry) as detail:
                for name in names:
                    if patience.persist(archive.name, partial(archive.store, dcmread(out / name))):
                        stored += 1
                    else:
                        refused.append(name)
                    if on_progress:
                        on_progress(stored + len(refused), len(results))
                detail["refused"] = sum(one in names for one in refused)
    return Sent(stored, tuple(refused))
