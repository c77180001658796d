"""One import: the data set looked through, its provenance recorded, and its studies taken in like any other's."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from client.deid import Profile
from client.importing.record import Provenance, Terms, path_of, read_record, write_record
from client.importing.settings import Settings
from client.importing.source import Dataset, Looked, look
from client.ingest import Ingested, Standing, check_apart, ingest
from client.node import Node
from client.sources.selection import Selection
from compliance.log import Action, Entry, Outcome, Scalar
from shared.errors import DataError, UsageError
from shared.files import locked, private_folder

LOCK = "import.lock"
_MOST_REASONS = 3


@dataclass(frozen=True)
class Imported:
    """A finished import: what was found, what became of it, and its record."""

    looked: Looked
    ingested: Ingested
    record: Path
    provenance: Provenance


def import_dataset(
    node: Node,
    root: Path,
    settings: Settings,
    terms: Terms,
    *,
    profile: Profile,
    workers: int = 1,
    overwrite: bool = False,
    on_look: Callable[[int, int], None] | None = None,
    on_progress: Callable[[Standing], None] | None = None,
) -> Imported:
    """Take a data set into a node.

    Args:
        node: The hospital's node.
        root: The folder of the data set.
        settings: How it is read.
        terms: On which terms it may be used; they were accepted.
        profile: How it is de-identified.
        workers: Processes that de-identify, besides this one.
        overwrite: Whether what the node took in under another profile may be replaced.
        on_look: Told the studies that were looked through, and how many there are.
        on_progress: Told how far the ingest is.

    Raises:
        UsageError: There is no such folder, or the data set came in before with other settings or terms.
        DataError: Nothing of it can be used.
        OutputError: The disk does not take it.
        RecordError: Another import or ingest runs, or the record cannot be read or written.
    """
    if not root.is_dir():
        raise UsageError(f"there is no folder {root}", hint="name the folder of the data set")
    check_apart(node.folder, root)
    path = path_of(node, settings.dataset)
    private_folder(path.parent)
    with locked(path.parent / LOCK, "another import into this node runs"), node.open_log() as log:
        before = read_record(path)
        if before is not None:
            before.require(settings, terms)
        with log.act(Entry(Action.DATA_IMPORT, Outcome.STARTED, detail=_facts(settings, terms))) as detail:
            looked = look(root, settings, before.known if before else {}, on_look)
            if not looked.ready:
                raise DataError(f"{root} holds nothing that can be used: {_reasons(looked)}", hint=_hint(settings))
            made = write_record(path, before, settings, terms, looked)
            detail |= {"record_sha256": made.digest, "studies": len(looked.ready), "problems": len(looked.problems)}
            detail |= {"files": sum(len(one.digests) for one in looked.ready)}
            detail |= {"simulated": sum(one.noisy.startswith("simulated") for one in looked.ready)}
            source = Dataset(root, settings, looked)
            done = ingest(
                node,
                source,
                Selection(),
                profile=profile,
                workers=workers,
                overwrite=overwrite,
                on_progress=on_progress,
            )
            detail |= {"fetched": done.tally.fetched, "released": done.tally.released}
    return Imported(looked, done, path, made)


def _facts(settings: Settings, terms: Terms) -> dict[str, Scalar]:
    """What the log says of an import before anything of it is read."""
    told: dict[str, Scalar] = {"dataset": settings.dataset, "layout": settings.layout, "url": terms.url}
    return told | {"settings_sha256": settings.digest, "terms_sha256": terms.digest}


def _reasons(looked: Looked) -> str:
    found = Counter(one.reason for one in looked.problems).most_common(_MOST_REASONS)
    return "; ".join(f"{why} ({number})" for why, number in found) or "there are no files"


def _hint(settings: Settings) -> str:
    return f"docs/import.md says how files of the layout {settings.layout} are named and what they must hold"
