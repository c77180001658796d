"""From where a hospital keeps its images to its cohort: study by study, recorded before it is done, resumable.

Of each study the instances that are not there yet are fetched into a private spool, de-identified from there into
``released/``, noted as done, and taken out of the spool: one study of identified images is on disk at a time.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from client.cohort import Cohort, build_cohort
from client.deid import Profile, SiteKey, Status, deidentify_folder
from client.ingest_page import NAME as PAGE
from client.ingest_page import write_ingest_page
from client.node import Node
from client.sources.intake import Intake, Spool
from client.sources.ledger import DIGEST, Ledger
from client.sources.retry import Patience
from client.sources.selection import Instance, Selection
from client.sources.source import Source, Study, WithheldError
from compliance.log import Action, AuditLog, Entry, Outcome, Scalar
from shared.errors import DataError, ProtocolError, UsageError
from shared.files import write_json

Progress = Callable[[int, int, int], None]
"""Called with the studies done, the studies in all, and the files taken in so far."""

NOT_SENT = "it was named in answer to the query, and not sent"


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
        held_earlier: Files that earlier runs took in and did not release.
        seconds: How long it took.
        lines: One for each file that is missing, unreadable, quarantined or refused.
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
    held_earlier: int = 0
    seconds: float = 0.0
    lines: list[dict[str, str]] = field(default_factory=list)

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
    log: AuditLog
    ledger: Ledger
    spool: Spool
    key: SiteKey
    tally: Tally


def ingest(
    node: Node,
    source: Source,
    selection: Selection,
    *,
    profile: Profile,
    patience: Patience | None = None,
    on_progress: Progress | None = None,
) -> Ingested:
    """Take the selected studies of ``source`` into the node, and build its cohort.

    Args:
        node: The hospital's node.
        source: Where the images are.
        selection: Which are wanted.
        profile: How they are de-identified.
        patience: How long to try again where the other end does not answer.
        on_progress: Told how far it is.

    Raises:
        DataError: No study meets the selection, or none can be used for a cohort.
        ProtocolError: The other end refuses, or does not answer; what was fetched is kept for the next run.
        OutputError: The disk does not take it.
        RecordError: The audit log or the ledger cannot be written; nothing further is done then.
    """
    started = time.monotonic()
    with node.open_log() as log, source:
        ledger = Ledger(node.folder / "ingest.jsonl", profile.sha256)
        key = SiteKey(node.key("pseudonym"))
        tally = Tally(held_earlier=ledger.held)
        spool = Spool(node.folder / "spool")
        run = _Run(node, source, selection, profile, patience or Patience(), log, ledger, spool, key, tally)
        report = node.folder / "reports" / "ingest.json"
        complete = False
        try:
            _take_in(run, on_progress)
            spool.clear()
            complete = True
        finally:
            tally.seconds = round(time.monotonic() - started, 3)
            _write_report(report, run, complete=complete)
        return Ingested(tally, report, build_cohort(node.folder / "released", node.folder / "cohort", log=log))


def check_apart(node: Path, source: Path) -> None:
    """Refuse to read the node's own folder, or one that holds it.

    Raises:
        UsageError: The folders lie in each other.
    """
    inner, outer = node.resolve(), source.resolve()
    if inner == outer or inner in outer.parents or outer in inner.parents:
        raise UsageError(f"{source} and {node} lie in each other", hint="keep the node apart from the images")


def _take_in(run: _Run, on_progress: Progress | None) -> None:
    studies = _studies(run)
    run.tally.studies = len(studies)
    for number, study in enumerate(studies, start=1):
        _take_study(run, study)
        if on_progress:
            on_progress(number, len(studies), run.tally.fetched)


def _studies(run: _Run) -> Sequence[Study]:
    """Ask the source which studies there are; the question is recorded first."""
    facts = {"source": run.source.kind, "step": "query", "profile": run.profile.name}
    with run.log.act(Entry(Action.INGEST, Outcome.STARTED, detail=facts)) as detail:
        found = run.patience.persist(run.source.name, lambda: run.source.studies(run.selection))
        detail["studies"] = len(found)
    for problem in run.source.problems():
        run.tally.lines.append({"where": problem.where, "status": "unreadable", "reason": problem.reason})
    run.tally.unreadable = len(run.tally.lines)
    if not found:
        raise DataError(
            f"{run.source.name} holds no study of this selection",
            hint="widen --modality, --from, --to, --description or --patients",
        )
    return found


def _take_study(run: _Run, study: Study) -> None:
    named = run.patience.persist(run.source.name, lambda: run.source.instances(study, run.selection))
    digest = run.log.digest(study.uid)
    done = run.ledger.done(digest)
    wanted = [one for one in named if run.log.digest(one.uid)[:DIGEST] not in done]
    if not wanted:
        run.tally.unchanged += 1
        return
    intake = Intake(run.spool.of(study.uid), study.uid, wanted, run.selection)
    intake.readmit()
    facts: dict[str, Scalar] = {"source": run.source.kind, "step": "fetch", "instances": len(wanted)}
    facts["there"] = len(intake.kept())
    with run.log.act(Entry(Action.INGEST, Outcome.STARTED, subject=("study", digest), detail=facts)) as detail:
        _fetch(run, study, intake)
        missing = intake.missing()
        detail |= {"files": intake.files, "bytes": intake.bytes, "missing": len(missing)}
    _note_gaps(run, study, intake, missing)
    kept = intake.kept()
    if kept:
        held = _release(run, study, intake, digest)
        run.ledger.add(digest, (run.log.digest(uid)[:DIGEST] for uid in kept), held=held)
    run.spool.drop(study.uid)


def _fetch(run: _Run, study: Study, intake: Intake) -> None:
    def step() -> None:
        if missing := intake.missing():
            run.source.fetch(study, missing, intake)

    try:
        for _ in range(2):  # what an archive leaves out in silence is asked for once more, and then reported
            run.patience.persist(run.source.name, step, progress=lambda: intake.files)
    except ProtocolError as error:
        # One study that the archive cannot send must not keep the others from coming; if none came, nothing works.
        if not isinstance(error.__cause__, WithheldError) or not (run.tally.fetched or intake.kept()):
            raise


def _note_gaps(run: _Run, study: Study, intake: Intake, missing: Sequence[Instance]) -> None:
    gaps = [(one.uid, "missing", NOT_SENT) for one in missing]
    gaps += [(uid, "refused", reason) for uid, reason in sorted(intake.problems.items())]
    run.tally.missing += len(missing)
    run.tally.refused += len(intake.problems)
    run.tally.turned_away += intake.turned_away.total()
    for uid, status, reason in gaps:
        run.tally.lines.append({"study": study.uid, "instance": uid, "status": status, "reason": reason})


def _release(run: _Run, study: Study, intake: Intake, digest: str) -> int:
    """De-identify what is in the spool; how many files of it were held back."""
    report = deidentify_folder(
        intake.folder,
        run.node.folder / "released",
        profile=run.profile,
        key=run.key,
        log=run.log,
        reports=run.node.folder / "reports" / "ingest" / digest[:DIGEST],
    )
    names = intake.uids()
    for record in report.records():
        if record.status is not Status.RELEASED:
            line = {"study": study.uid, "instance": names[record.path], "status": record.status.value}
            run.tally.lines.append({**line, "reason": record.reason})
    run.tally.fetched += report.files
    run.tally.released += report.released
    run.tally.quarantined += report.quarantined
    run.tally.refused += report.refused
    return report.quarantined + report.refused


def _write_report(path: Path, run: _Run, *, complete: bool) -> None:
    """The report, for its owner alone: it names studies and instances as the archive does."""
    head = {"format": 1, "source": run.source.kind, "complete": complete, "profile": run.profile.name}
    body = {"profile_sha256": run.profile.sha256, "counts": run.tally.counts, "seconds": run.tally.seconds}
    write_json(path, {**head, **body, "files": run.tally.lines}, mode=0o600)
    write_ingest_page(path, run.profile)
