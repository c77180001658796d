"""From where a hospital keeps its images to its cohort: study by study, recorded before it is done, resumable.

Of each study the instances that are not there yet are fetched into a private spool, de-identified from there into
``released/``, noted as done, and taken out of the spool. While one study is de-identified the next one is fetched: two
studies of identified images are on disk at a time, and those files that wait for a person, which ``held/`` keeps.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client.cohort import Cohort, build_cohort
from client.deid import Profile, SiteKey, Status, deidentify_folder
from client.deid.crew import Crew
from client.deid.quarantine import Quarantine
from client.ingest_page import NAME as PAGE
from client.ingest_page import write_ingest_page
from client.ingest_rights import Doorkeeper
from client.node import HELD, Node
from client.registration import Kind
from client.sources.fetching import Fetched, Fetcher
from client.sources.intake import Spool, file_name
from client.sources.ledger import DIGEST, Ledger
from client.sources.retry import Patience
from client.sources.selection import Selection
from client.sources.source import Source, Study
from compliance.log import Action, AuditLog, Entry, Outcome
from shared.errors import DataError, FedwardError, UsageError
from shared.files import locked, private_folder, write_json

LOCK = "ingest.lock"
"""Held while an ingest runs: spool and cohort are one process's at a time."""
NOT_SENT = "it was named in answer to the query, and not sent"
_STRAY = "nothing says why it is held; delete it, and move ingest.jsonl away to have it fetched again"


@dataclass(frozen=True)
class Standing:
    """How far an ingest is.

    Attributes:
        studies: Studies that are done; of the one at hand the share that is.
        total: Studies in all; None as long as the source was not asked.
        files: Files that were de-identified.
    """

    studies: float
    total: int | None
    files: int


Progress = Callable[[Standing], None]


@dataclass
class Tally:
    """What an ingest came to, as it stands in its report.

    Attributes:
        studies: How many studies the selection names.
        unchanged: How many of them held nothing new.
        fetched: Files that were brought in.
        released: Of these, how many came out de-identified.
        quarantined: How many wait for a person.
        refused: How many could not be read.
        missing: Instances that the source named and did not send.
        turned_away: Instances that were sent without having been asked for, or without a readable header.
        unreadable: Files of the source that could not be looked into before anything was selected.
        waiting: Files of this and of earlier runs that are held for a person to decide on.
        spooled: Files that were fetched and not worked on, for the next run; none where a run came to its end.
        seconds: How long it took.
        lines: One for each file that is missing, unreadable, quarantined or refused.
        held: One for each file that waits.
    """

    studies: int = 0
    unchanged: int = 0
    fetched: int = 0
    released: int = 0
    quarantined: int = 0
    refused: int = 0
    missing: int = 0
    turned_away: int = 0
    unreadable: int = 0
    waiting: int = 0
    spooled: int = 0
    seconds: float = 0.0
    lines: list[dict[str, str]] = field(default_factory=list)
    held: list[dict[str, str]] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """All numbers."""
        return {name: value for name, value in vars(self).items() if isinstance(value, int)}

    @property
    def incomplete(self) -> bool:
        """Whether something of the selection did not come out in this run."""
        return bool(self.quarantined + self.refused + self.missing + self.unreadable)


@dataclass(frozen=True)
class Ingested:
    """A finished ingest: its numbers, where its report lies, and the cohort."""

    tally: Tally
    report: Path
    cohort: Cohort

    @property
    def page(self) -> Path:
        """The page beside the report."""
        return self.report.with_name(PAGE)


@dataclass
class _Run:
    """One ingest while it goes on."""

    node: Node
    source: Source
    selection: Selection
    profile: Profile
    patience: Patience
    key: SiteKey
    log: AuditLog
    ledger: Ledger
    spool: Spool
    quarantine: Quarantine
    crew: Crew
    tell: Progress
    door: Doorkeeper
    tally: Tally = field(default_factory=Tally)

    @property
    def released(self) -> Path:
        return self.node.folder / "released"

    @property
    def reports(self) -> Path:
        return self.node.folder / "reports"


def ingest(
    node: Node,
    source: Source,
    selection: Selection,
    *,
    profile: Profile,
    patience: Patience | None = None,
    workers: int = 1,
    overwrite: bool = False,
    unpaired: bool = False,
    registration: Kind = "rigid",
    on_progress: Progress | None = None,
) -> Ingested:
    """Take the selected studies of ``source`` into the node, and build its cohort.

    Args:
        node: The hospital's node.
        source: Where the images are.
        selection: Which are wanted.
        profile: How they are de-identified.
        patience: How long to try again where the other end does not answer.
        workers: Processes that de-identify, besides this one.
        overwrite: Whether what was taken in under another profile may be taken in anew, and replaced.
        unpaired: Whether studies without a reference series come into the cohort too.
        registration: How second contrasts are laid onto the first.
        on_progress: Told how far it is, for the first time when all processes were started.

    Raises:
        UsageError: The node was filled under another profile, and nothing may be replaced.
        DataError: No study meets the selection, or none can be used for a cohort.
        ProtocolError: The other end refuses, or does not answer; what was fetched is kept for the next run.
        OutputError: The disk does not take it.
        RecordError: Another ingest of this node runs; or the audit log or the ledger cannot be written: nothing further
            is done then.
    """
    started = time.monotonic()
    tell = on_progress or (lambda _: None)
    with ExitStack() as stack:
        key = SiteKey(node.key("pseudonym"))
        crew = stack.enter_context(Crew(workers, profile, key))
        tell(Standing(0, None, 0))
        stack.enter_context(locked(node.folder / LOCK, "another ingest of this node runs"))
        log = stack.enter_context(node.open_log())
        door = Doorkeeper.open(node, log)  # and what of an erasure broke off is finished first
        stack.enter_context(source)
        ledger, spool = _ledger(node, profile, overwrite=overwrite), Spool(node.folder / "spool")
        quarantine = Quarantine(node.folder / "reports", node.folder / HELD, moves=True)
        given = (node, source, selection, profile, patience or Patience(), key, log, ledger, spool, quarantine)
        run = _Run(*given, crew, tell, door)
        complete = False
        try:
            quarantine.sweep()
            _take_in(run)
            spool.clear()
            complete = True
        finally:
            _count_kept(run)
            run.tally.seconds = round(time.monotonic() - started, 3)
            report = _write_report(run, complete=complete)
        return Ingested(run.tally, report, _built(run, unpaired=unpaired, registration=registration))


def _built(run: _Run, *, unpaired: bool, registration: Kind) -> Cohort:
    cohort = build_cohort(
        run.released,
        run.node.folder / "cohort",
        log=run.log,
        barred=run.door.barred,
        unpaired=unpaired,
        registration=registration,
    )
    run.door.close(cohort)
    return cohort


def check_apart(node: Path, source: Path) -> None:
    """Refuse to read the node's own folder, or one that holds it.

    Raises:
        UsageError: The folders lie in each other.
    """
    inner, outer = node.resolve(), source.resolve()
    if inner == outer or inner in outer.parents or outer in inner.parents:
        raise UsageError(f"{source} and {node} lie in each other", hint="keep the node apart from the images")


def _ledger(node: Node, profile: Profile, *, overwrite: bool) -> Ledger:
    ledger = Ledger(node.folder / "ingest.jsonl", profile.sha256)
    if ledger.last not in {"", profile.sha256} and not overwrite:
        raise UsageError(
            f"{node.folder} was filled under another profile than {profile.name} as it is now",
            hint="name that one with --profile, or take everything in anew under this one with --overwrite",
        )
    return ledger


def _take_in(run: _Run) -> None:
    studies = _studies(run)
    run.tally.studies = len(studies)
    run.tell(Standing(0, len(studies), 0))
    fetcher = Fetcher(run.source, run.selection, patience=run.patience, log=run.log, ledger=run.ledger, spool=run.spool)
    try:
        with closing(fetcher.fetched(studies)) as fetched:
            for one in fetched:
                _take_study(run, one)
    finally:
        run.tally.unchanged = fetcher.unchanged
    run.tell(Standing(len(studies), len(studies), run.tally.fetched))


def _studies(run: _Run) -> Sequence[Study]:
    """Ask the source which studies there are; the question is recorded first."""
    facts = {"source": run.source.kind, "step": "query", "profile": run.profile.name}
    try:
        with run.log.act(Entry(Action.INGEST, Outcome.STARTED, detail=facts)) as detail:
            found = run.patience.persist(run.source.name, lambda: run.source.studies(run.selection))
            detail["studies"] = len(found)
    finally:
        for problem in run.source.problems():
            run.tally.lines.append({"where": problem.where, "status": "unreadable", "reason": problem.reason})
        run.tally.unreadable = len(run.tally.lines)
    if not found and run.selection == Selection():
        raise DataError(
            f"{run.source.name} holds no study",
            hint="ask its administrator whether it is the right one, and whether this node may see its studies",
        )
    if not found:
        raise DataError(
            f"{run.source.name} holds no study of this selection",
            hint="widen --modality, --from, --to, --description or --patients",
        )
    return found


def _take_study(run: _Run, one: Fetched) -> None:
    _note_gaps(run, one)
    kept = one.intake.kept()
    if kept:
        run.door.admit(one, source=run.source.kind, profile=run.profile.sha256)
        held = _release(run, one) if one.intake.kept() else 0
        run.ledger.add(one.digest, (run.log.digest(uid)[:DIGEST] for uid in kept), held=held)
    run.spool.drop(one.study.uid)


def _note_gaps(run: _Run, one: Fetched) -> None:
    gaps = [(missing.uid, "missing", NOT_SENT) for missing in one.missing]
    gaps += [(uid, "refused", reason) for uid, reason in sorted(one.intake.problems.items())]
    run.tally.missing += len(one.missing)
    run.tally.refused += len(one.intake.problems)
    run.tally.turned_away += one.intake.turned_away.total()
    for uid, status, reason in gaps:
        run.tally.lines.append({"study": one.study.uid, "instance": uid, "status": status, "reason": reason})


def _release(run: _Run, one: Fetched) -> int:
    """De-identify what is in the spool; how many files of it were held back."""
    before = run.tally.fetched

    def tell(done: int, files: int) -> None:
        run.tell(Standing(one.number - 1 + done / files, run.tally.studies, before + done))

    report = deidentify_folder(
        one.intake.folder,
        run.released,
        profile=run.profile,
        key=run.key,
        log=run.log,
        reports=run.reports / "ingest" / one.digest[:DIGEST],
        crew=run.crew,
        quarantine=run.quarantine,
        on_progress=tell,
    )
    names = one.intake.uids()
    for record in report.records():
        if record.status is not Status.RELEASED:
            line = {"study": one.study.uid, "instance": names[record.path], "status": record.status.value}
            run.tally.lines.append({**line, "reason": record.reason})
    run.tally.fetched += report.files
    run.tally.released += report.released
    run.tally.quarantined += report.quarantined
    run.tally.refused += report.refused
    return report.quarantined + report.refused


def _count_kept(run: _Run) -> None:
    """Name every identified image that the node keeps, and say of those of this run under which name."""
    with suppress(FedwardError):  # what cannot be read was told already, and the report must be written
        waiting, strays = run.quarantine.waiting(), run.quarantine.sweep()
        names = {held.input: held.id for held in waiting}
        for line in run.tally.lines:
            if name := names.get(file_name(line.get("instance", ""))):
                line["held"] = name
        run.tally.held = [{"held": held.id, "reason": held.reason} for held in waiting]
        run.tally.held += [{"held": name, "reason": _STRAY} for name in strays]
        run.tally.waiting = len(run.tally.held)
    run.tally.spooled = sum(path.is_file() for path in run.spool.folder.rglob("*"))


def _write_report(run: _Run, *, complete: bool) -> Path:
    """The report, for its owner alone: it names studies and instances as the archive does."""
    path, tally = run.reports / "ingest.json", run.tally
    private_folder(run.reports)
    head = {"format": 1, "source": run.source.kind, "complete": complete, "profile": run.profile.name}
    body: Mapping[str, Any] = {"profile_sha256": run.profile.sha256, "counts": tally.counts, "seconds": tally.seconds}
    write_json(path, {**head, **body, "waiting": tally.held, "files": tally.lines}, mode=0o600)
    write_ingest_page(path, run.profile)
    return path
