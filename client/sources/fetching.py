"""Study after study out of a source into the spool: the next one comes while the caller works on the one that is there.

Only the thread that works on the studies writes the audit log. It records that a fetch begins before the thread that
fetches is started, and how it ended when it takes the study over; no more than one study is fetched ahead.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from client.sources.ahead import Ahead
from client.sources.intake import ClosedError, Intake, Spool
from client.sources.ledger import DIGEST, Ledger
from client.sources.retry import Patience
from client.sources.selection import Instance, Selection
from client.sources.source import Source, Study, WithheldError
from compliance.log import Action, AuditLog, Entry, Outcome, Scalar
from shared.errors import FedwardError, ProtocolError

GRACE = 1.0
"""Seconds to wait for a fetch that nobody needs any more."""


@dataclass(frozen=True)
class _Wanted:
    """A study of which something is not there yet."""

    number: int
    study: Study
    digest: str
    instances: Sequence[Instance]


@dataclass(frozen=True)
class Fetched:
    """A study whose fetch has ended.

    Attributes:
        number: Its place among the studies, from 1.
        study: The study.
        digest: The keyed digest that stands for it in the records.
        intake: Its files.
        missing: What did not come.
    """

    number: int
    study: Study
    digest: str
    intake: Intake
    missing: Sequence[Instance]


class Fetcher:
    """Fetches what is not there yet.

    Args:
        source: Where the images are.
        selection: Which are wanted.
        patience: How long to try again.
        log: Where each fetch is recorded before it begins.
        ledger: What was taken in before.
        spool: Where files are kept.

    Attributes:
        unchanged: Studies passed over since nothing of them is new.
    """

    def __init__(
        self, source: Source, selection: Selection, *, patience: Patience, log: AuditLog, ledger: Ledger, spool: Spool
    ) -> None:
        self._source, self._selection, self._patience = source, selection, patience
        self._log, self._ledger, self._spool = log, ledger, spool
        self._arrived = 0
        self.unchanged = 0

    def fetched(self, studies: Sequence[Study]) -> Generator[Fetched, None, None]:
        """Each study of which something is new, once it is there; close the iterator if you leave it early.

        Raises:
            ProtocolError: The other end refuses, or does not answer; every study before was handed out.
            OutputError: The spool does not take it.
            RecordError: The audit log cannot be written.
        """
        todo = self._wanted(studies)
        first = next(todo, None)
        upcoming = _Fetch(self, first, todo) if first else None
        try:
            while upcoming:
                present, upcoming = upcoming, None
                following = present.end()
                if isinstance(following, _Wanted):
                    upcoming = _Fetch(self, following, todo)
                yield present.fetched()
                if isinstance(following, FedwardError):
                    raise following
        finally:
            if upcoming:
                upcoming.abandon()

    def _wanted(self, studies: Sequence[Study]) -> Iterator[_Wanted]:
        for number, study in enumerate(studies, start=1):
            named = self._persist_listing(study)
            digest = self._log.digest(study.uid)
            done = self._ledger.done(digest)
            wanted = [one for one in named if self._log.digest(one.uid)[:DIGEST] not in done]
            if wanted:
                yield _Wanted(number, study, digest, wanted)
            else:
                self.unchanged += 1

    def _persist_listing(self, study: Study) -> Sequence[Instance]:
        return self._patience.persist(self._source.name, lambda: self._source.instances(study, self._selection))

    def begin(self, wanted: _Wanted, ending: ExitStack) -> tuple[Intake, dict[str, Scalar]]:
        """Record that a fetch begins; ``ending`` records how it ended."""
        intake = Intake(self._spool.of(wanted.study.uid), wanted.study.uid, wanted.instances, self._selection)
        intake.readmit()
        facts: dict[str, Scalar] = {"source": self._source.kind, "step": "fetch", "instances": len(wanted.instances)}
        facts["there"] = len(intake.kept())
        entry = Entry(Action.INGEST, Outcome.STARTED, subject=("study", wanted.digest), detail=facts)
        return intake, ending.enter_context(self._log.act(entry))

    def fetch(self, study: Study, intake: Intake) -> None:
        """Bring in what is missing; runs in the thread that fetches."""

        def step() -> None:
            if missing := intake.missing():
                self._source.fetch(study, missing, intake)

        try:
            for _ in range(2):  # what an archive leaves out in silence is asked for once more, and then reported
                self._patience.persist(self._source.name, step, progress=lambda: intake.files)
        except ProtocolError as error:
            # One study that the archive cannot send must not keep the others from coming; if none came, nothing works.
            if not isinstance(error.__cause__, WithheldError) or not (self._arrived or intake.kept()):
                raise
        self._arrived += len(intake.kept())


class _Fetch:
    """The fetch of one study, and the look for the next one that has something new."""

    def __init__(self, fetcher: Fetcher, wanted: _Wanted, todo: Iterator[_Wanted]) -> None:
        self._wanted, self._ending = wanted, ExitStack()
        self.intake, self._detail = fetcher.begin(wanted, self._ending)

        def work() -> _Wanted | FedwardError | None:
            fetcher.fetch(wanted.study, self.intake)
            try:
                return next(todo, None)
            except FedwardError as error:  # no fault of this study, which is to be worked on first
                return error

        self._ahead = Ahead(work)

    def end(self) -> _Wanted | FedwardError | None:
        """Wait for the fetch and record how it ended; what comes next, or why nothing does."""
        try:
            with self._ending:
                following = self._ahead.result()
                self._missing = self.intake.missing()
                facts = {"files": self.intake.files, "bytes": self.intake.bytes, "missing": len(self._missing)}
                self._detail.update(facts)
        except BaseException:
            self.intake.close()
            raise
        return following

    def fetched(self) -> Fetched:
        wanted = self._wanted
        return Fetched(wanted.number, wanted.study, wanted.digest, self.intake, self._missing)

    def abandon(self) -> None:
        """Take nothing in any more, and record that the fetch did not come to its end."""
        self.intake.close()
        self._ahead.leave(GRACE)
        ended = ClosedError("the ingest ended")
        self._ending.__exit__(ClosedError, ended, None)
