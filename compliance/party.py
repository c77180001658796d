"""Whose folder this is: a hospital's node, a coordinator, a simulation, as the room that made it says.

The record has no knowledge of how a node or a coordinator keeps its files. A room that does gives it by an entry point
of the group ``fedward.parties``: a function that takes a folder and returns a :class:`Party`, or None where the folder
is none of its own.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from compliance.endorse import Endorsement, Vouched
from compliance.log import AuditLog
from shared.cli import ROOMS
from shared.errors import UsageError

GROUP: Final = "fedward.parties"


class Kind(StrEnum):
    """What a party is."""

    HOSPITAL = "hospital"
    COORDINATOR = "coordinator"
    SIMULATION = "simulation"


class Topic(StrEnum):
    """The chapters that facts belong to."""

    PROCESSING = "processing"
    DPIA = "dpia"
    DEIDENTIFICATION = "deidentification"
    PRIVACY = "privacy"
    LINEAGE = "lineage"


@dataclass(frozen=True)
class Figure:
    """One fact.

    Attributes:
        what: What it is about.
        value: In words; None where nobody recorded it.
        source: The file and the entry in it that say so, or where it would stand.
    """

    what: str
    value: str | None
    source: str


@dataclass(frozen=True)
class Table:
    """Facts in rows.

    Attributes:
        caption: What it shows.
        columns: Their heads.
        rows: Texts, as many as columns; None where nobody recorded it.
        source: The files that say so.
        wide: Columns of digests and the like, which may break anywhere.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | None, ...], ...]
    source: str
    wide: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Facts:
    """What a party's files say.

    Attributes:
        figures: By topic.
        tables: By topic.
        least: The smallest number of patients that is shown (:mod:`compliance.suppress`).
    """

    figures: Mapping[Topic, Sequence[Figure]] = field(default_factory=dict)
    tables: Mapping[Topic, Sequence[Table]] = field(default_factory=dict)
    least: int = 10


@dataclass(frozen=True)
class Party:
    """A party of a federation, or a simulation of several.

    Attributes:
        folder: Where it keeps everything.
        kind: What it is.
        name: The hospital's or the coordinator's.
        logs: Its audit logs.
        open_log: Its own log, to write to.
        facts: What its files say; read when it is asked for.
        parts: The parties of a simulation.
        knows_pseudonyms: Whether pseudonyms of patients mean anything here.
        vouch: Tells of endorsements which log keys its federation vouches for; None where nobody can say.
        needed: How many hospitals make a checkpoint of its log a witnessed one; None for over half of those whose keys
            are vouched for, and two at least.
    """

    folder: Path
    kind: Kind
    name: str
    logs: tuple[Path, ...]
    open_log: Callable[[], AuditLog]
    facts: Callable[[], Facts]
    parts: tuple["Party", ...] = ()
    knows_pseudonyms: bool = False
    vouch: Callable[[Iterable[Endorsement]], Vouched] | None = None
    needed: Callable[[], int] | None = None

    @property
    def incidents(self) -> Path:
        """The folder of its incidents."""
        return self.folder / "incidents"


def party_in(folder: Path) -> Party:
    """The party whose folder this is.

    Raises:
        UsageError: There is no such folder, or no installed room knows it.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}", hint="name that of a node, a coordinator or a simulation")
    for point in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            recognise = point.load()
        except ModuleNotFoundError as error:
            if error.name and "." in error.name and error.name.split(".")[0] in ROOMS:
                raise  # a module of ours is missing: a fault, not another installation
            continue
        found = recognise(folder)
        if isinstance(found, Party):
            return found
    raise UsageError(
        f"{folder} is no node, no coordinator and no simulation that this installation knows",
        hint="name the folder itself, and run the command where that part of fedward is installed",
    )
