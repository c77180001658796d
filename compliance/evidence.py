"""The evidence report: everything that a party's record says, gathered once, for a page and for programs.

A record of processing (GDPR Art. 30; PIPL Art. 55, 56), facts for an impact assessment (GDPR Art. 35), the method of
de-identification (45 CFR 164.514(b)), the privacy ledgers, the lineage of models, incidents, logs, and the matrix of
controls. Each figure names the file that says so. What is not known is *not recorded*, and what does not verify is said
where it stands, and again at the top.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from compliance.incident import Incidents
from compliance.incident_form import Incident
from compliance.log import entries
from compliance.matrix import Matrix
from compliance.party import Facts, Figure, Kind, Party, Table, Topic
from compliance.standing import Standing, standing
from compliance.suppress import shown
from compliance.witness import FOLDER, split_logs
from shared.errors import FedwardError, RecordError

VERSION: Final = 1
NOT_RECORDED: Final = "not recorded"


@dataclass(frozen=True)
class LogFound:
    """An audit log as it was found.

    Attributes:
        name: Its path below the party's folder.
        entries: How many; None where it is missing or does not verify.
        head: SHA-256 of the last line.
        first: Time of the first entry.
        last: Time of the last entry.
        torn: Bytes behind it of an entry that was never finished.
        fault: Why it does not verify; empty where it does.
        published: Entries of the newest checkpoint that verifies; None without one.
        cosigned: Other hospitals that cosigned that one.
        needed: So many make a checkpoint a witnessed one; None where none was checked.
        witnessed: Entries of the newest checkpoint that so many cosigned; None without one.
        when: When so many had cosigned that one.
        unchecked: Why a checkpoint that is there was not checked.
        split: Logs that showed this party's witness two histories.
    """

    name: str
    entries: int | None = None
    head: str = ""
    first: str = ""
    last: str = ""
    torn: int = 0
    fault: str = ""
    published: int | None = None
    cosigned: tuple[str, ...] = ()
    needed: int | None = None
    witnessed: int | None = None
    when: str = ""
    unchecked: str = ""
    split: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chapter:
    """One party's facts.

    Attributes:
        name: The party's.
        kind: What it is.
        facts: What its files say.
    """

    name: str
    kind: Kind
    facts: Facts

    def figures(self, topic: Topic) -> tuple[Figure, ...]:
        """The figures of a topic."""
        return tuple(self.facts.figures.get(topic, ()))

    def tables(self, topic: Topic) -> tuple[Table, ...]:
        """The tables of a topic."""
        return tuple(self.facts.tables.get(topic, ()))


@dataclass(frozen=True)
class Line:
    """A figure as the page has it.

    Attributes:
        what: What it is about.
        values: Each value with the parties that have it; one without a name where all have the same.
        source: Where it stands.
    """

    what: str
    values: tuple[tuple[str, str | None], ...]
    source: str


@dataclass(frozen=True)
class Shown:
    """What the page has of a topic for one party, or for several side by side.

    Attributes:
        name: The party's, or those of all.
        lines: The figures.
        tables: The tables, those of several parties with a column of names.
    """

    name: str
    lines: tuple[Line, ...]
    tables: tuple[Table, ...]


@dataclass(frozen=True)
class IncidentFound:
    """An incident in short, with small numbers of people suppressed.

    Attributes:
        id: Its name.
        party: Whose.
        state: ``open`` or ``closed``.
        aware: When the party became aware, UTC.
        people: How many are affected, as it may be shown.
        pending: Duties that nobody has done yet, with their last moments.
        overdue: How many of them are overdue.
    """

    id: str
    party: str
    state: str
    aware: str
    people: str
    pending: tuple[str, ...]
    overdue: int

    @property
    def waiting(self) -> int:
        """How many duties nobody has done, or decided not to be any."""
        return len(self.pending)


@dataclass(frozen=True)
class Evidence:
    """The whole report.

    Attributes:
        party: Whose.
        made: When.
        chapters: The party's facts, and those of each part of a simulation.
        logs: Their audit logs.
        incidents: Their incidents.
        matrix: The controls.
        faults: What does not verify, one line each.
    """

    party: Party
    made: datetime
    chapters: tuple[Chapter, ...]
    logs: tuple[LogFound, ...]
    incidents: tuple[IncidentFound, ...]
    matrix: Matrix
    faults: tuple[str, ...]

    def shown(self, topic: Topic) -> tuple[Shown, ...]:
        """What the page has of a topic: the party, and the parts of a simulation side by side."""
        groups = (self.chapters[:1], self.chapters[1:])
        return tuple(_shown(group, topic) for group in groups if any(map(_says(topic), group)))

    def require_verified(self) -> None:
        """See that all of the record verifies.

        Raises:
            RecordError: Something does not; the report says what.
        """
        if self.faults:
            more = f", and {len(self.faults) - 1} more" if len(self.faults) > 1 else ""
            raise RecordError(
                f"the record does not verify: {self.faults[0]}{more}", hint="the report names each; keep the files"
            )

    def to_json(self) -> dict[str, Any]:
        """The report for programs; a value of null is not recorded."""
        return {
            "version": VERSION,
            "made": self.made.isoformat(timespec="seconds"),
            "party": {"name": self.party.name, "kind": self.party.kind.value},
            "declares": "evidence for the controls it lists; nothing is declared compliant",
            "chapters": [_chapter(one) for one in self.chapters],
            "logs": [asdict(one) for one in self.logs],
            "incidents": [asdict(one) for one in self.incidents],
            "matrix": self.matrix.to_json(),
            "faults": list(self.faults),
        }


def gather(party: Party, matrix: Matrix, *, now: datetime | None = None) -> Evidence:
    """Everything that the record of a party says.

    Args:
        party: Whose; the parts of a simulation are gathered as well.
        matrix: The controls.
        now: The time of the report; now where None.
    """
    made = now or datetime.now(UTC)
    chapters: list[Chapter] = []
    incidents: list[IncidentFound] = []
    faults: list[str] = []
    whole = (party, *party.parts)
    for one in whole:
        try:
            facts = one.facts()
        except FedwardError as error:
            faults.append(f"{one.name}: {_without(error.message, party.folder)}")
            facts = Facts()
        chapters.append(Chapter(one.name, one.kind, facts))
        try:
            incidents += [_incident(found, one, facts.least, made) for found in Incidents(one).all()]
        except FedwardError as error:
            faults.append(f"{one.name}, incidents: {_without(error.message, party.folder)}")
    logs = tuple(_log(path, one, party.folder, made) for one in whole for path in one.logs)
    faults += [f"{log.name}: {log.fault}" for log in logs if log.fault]
    faults += [f"{origin} showed two histories of its log" for log in logs for origin in log.split]
    return Evidence(party, made, tuple(chapters), logs, tuple(incidents), matrix, tuple(dict.fromkeys(faults)))


def _log(path: Path, party: Party, folder: Path, now: datetime) -> LogFound:
    """One log, its checkpoints and their cosignatures, verified as far as somebody says whose keys they are."""
    name = path.relative_to(folder).as_posix()
    split = tuple(split_logs(path.parent / FOLDER))
    if not path.exists():
        return LogFound(name, fault="there is none: nothing was recorded, or it was taken away", split=split)
    try:
        needed = party.needed() if party.needed and party.vouch else None
        found = standing(path.parent, party.vouch, needed, now=now)
        first = last = ""
        for row in entries(path):
            last = str(row.get("time"))
            first = first or last
    except FedwardError as error:
        return LogFound(name, fault=_without(error.message, folder), split=split)
    return _found(name, found, first, last)


def _found(name: str, found: Standing, first: str, last: str) -> LogFound:
    log = found.checked
    return LogFound(
        name,
        log.entries,
        log.head,
        first,
        last,
        log.torn,
        published=log.published,
        cosigned=found.cosigned,
        needed=found.needed,
        witnessed=found.witnessed,
        when=_minute(found.when) if found.when else "",
        unchecked=found.unchecked,
        split=found.split,
    )


def _incident(found: Incident, party: Party, least: int, now: datetime) -> IncidentFound:
    total = found.breach.total
    pending = tuple(f"{one.id}: {_due(one.due)}" for one in found.pending()) if found.closed is None else ()
    return IncidentFound(
        found.id,
        party.name,
        "open" if found.closed is None else "closed",
        _minute(found.breach.aware),
        NOT_RECORDED if total is None else shown(total, least),
        pending,
        len(found.overdue(now)),
    )


def _due(due: datetime | None) -> str:
    return "at once" if due is None else f"by {due:%Y-%m-%d %H:%M} UTC"


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _without(text: str, folder: Path) -> str:
    """A message without the path of the folder, which may name people or projects."""
    return text.replace(f"{folder}/", "").replace(str(folder), "the folder")


def _says(topic: Topic) -> Callable[[Chapter], bool]:
    return lambda one: bool(one.figures(topic) or one.tables(topic))


def _shown(group: Sequence[Chapter], topic: Topic) -> Shown:
    """Equal values once, others with the names of who has them; tables with equal heads as one."""
    values: dict[str, dict[str | None, list[str]]] = {}
    sources: dict[str, str] = {}
    tables: dict[str, Table] = {}
    for one in group:
        for figure in one.figures(topic):
            values.setdefault(figure.what, {}).setdefault(figure.value, []).append(one.name)
            sources.setdefault(figure.what, figure.source)
        for table in one.tables(topic):
            mine = table if len(group) == 1 else _named(table, one.name)
            before = tables.get(table.caption)
            tables[table.caption] = replace(before, rows=before.rows + mine.rows) if before else mine
    lines = tuple(
        Line(what, _by_name(found, len(group)), where)
        for (what, found), where in zip(values.items(), sources.values(), strict=True)
    )
    return Shown(", ".join(one.name for one in group), lines, tuple(tables.values()))


def _by_name(found: Mapping[str | None, Sequence[str]], parties: int) -> tuple[tuple[str, str | None], ...]:
    """Values with the names of who has them; without names where all have the same, or where the name is the value."""
    if all([value] == list(names) for value, names in found.items()):
        return (("", ", ".join(value for value in found if value)),)
    return tuple(("" if len(names) == parties else ", ".join(names), value) for value, names in found.items())


def _named(table: Table, name: str) -> Table:
    """The table with a first column of the party's name."""
    rows = tuple((name, *row) for row in table.rows)
    wide = frozenset(place + 1 for place in table.wide)
    return replace(table, columns=("Hospital", *table.columns), rows=rows, wide=wide)


def _chapter(one: Chapter) -> dict[str, Any]:
    return {
        "name": one.name,
        "kind": one.kind.value,
        "smallest_count_shown": one.facts.least,
        "topics": {topic.value: dict(_topic(one, topic)) for topic in Topic if one.figures(topic) or one.tables(topic)},
    }


def _topic(one: Chapter, topic: Topic) -> Iterator[tuple[str, Any]]:
    yield "figures", [asdict(figure) for figure in one.figures(topic)]
    yield (
        "tables",
        [
            {"caption": table.caption, "columns": table.columns, "rows": table.rows, "source": table.source}
            for table in one.tables(topic)
        ],
    )
