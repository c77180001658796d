"""A folder: every file in it gets a line in the report, every batch an entry in the audit log before and after."""

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from client.deid.clearance import Clerk
from client.deid.codec import MalformedError
from client.deid.crew import Crew
from client.deid.faces import room_for
from client.deid.profile import Profile
from client.deid.pseudonyms import SiteKey
from client.deid.quarantine import Decided, Quarantine
from client.deid.report import DeidReport, FileRecord, Status, open_report
from client.deid.single import Processed, Processor, head_of, kind_of
from compliance.log import Action, AuditLog, Entry, Outcome, Scalar
from shared.errors import DataError, OutputError, UsageError

BATCH = 256
"""Files per audit entry."""

Progress = Callable[[int, int], None]
"""Called with the number of files done and the number of files in all."""


def deidentify_folder(
    source: Path,
    out: Path,
    *,
    profile: Profile,
    key: SiteKey,
    log: AuditLog | None,
    reports: Path,
    workers: int = 1,
    crew: Crew | None = None,
    quarantine: Quarantine | None = None,
    on_progress: Progress | None = None,
) -> DeidReport:
    """De-identify every file below ``source`` into ``out``.

    ``out`` gets released files only, at ``<patient>/<study>/<series>/<instance>.dcm``, all names pseudonymous. A second
    run writes the same files again, and keeps to what people decided on those that were held.

    Args:
        source: The folder to read; links to folders are not followed.
        out: The folder to write; made where missing.
        profile: What is done to which attribute.
        key: The site's key.
        log: Where the acts are recorded; None only where the caller keeps no record.
        reports: The folder for ``deid.json``.
        workers: Processes to use. One is this process: without a bound on its memory, and a file that ends it ends all.
        crew: Processes that are there already, under the same profile and key; the commands always use some.
        quarantine: Where held files are recorded; by default in ``reports``.
        on_progress: Told how far it is.

    Raises:
        UsageError: The folders overlap, or ``source`` is no folder.
        DataError: There is no DICOM in ``source``; nothing is written then.
        OutputError: ``out`` or ``reports`` cannot be written.
        RecordError: The audit log cannot be written; nothing further is done then.
    """
    paths, unreadable = examine(source, out, reports)
    total = len(paths) + len(unreadable)
    with ExitStack() as stack:
        report = stack.enter_context(open_report(reports, profile, key))
        quarantine = (quarantine or Quarantine(reports)).under(key)
        decided = quarantine.decided(profile)
        if crew is None and workers > 1:
            crew = stack.enter_context(Crew(workers, profile, key))
        room = stack.enter_context(room_for(profile, reports))
        process, settle = _hands(source, out, decided, profile=profile, key=key, crew=crew, room=room)
        written: dict[str, str] = {}
        for start in range(0, len(paths), BATCH):
            batch = paths[start : start + BATCH]
            with _recorded(log, profile, batch) as lines:
                for done, result in enumerate(process(batch), start + 1):
                    settled = _settled(result, written, settle)
                    _hold(settled, quarantine, source, profile)
                    report.add(settled.record)
                    lines.append(settled.record)
                    if on_progress:
                        on_progress(done, total)
        for record in unreadable:
            report.add(record)
        return report.close()


def examine(source: Path, out: Path, reports: Path) -> tuple[list[str], list[FileRecord]]:
    """See whether there is something to do, before anything is written.

    Returns:
        The files, by their paths below ``source``, in order; and a record for everything else that stands there.

    Raises:
        UsageError: The folders overlap, or ``source`` is no folder.
        DataError: There is no DICOM in ``source``.
        OutputError: A file stands where ``out`` or ``reports`` should be.
    """
    _check_folders(source, out, reports)
    paths, unreadable = _walk(source)
    _require_dicom(source, paths)
    return paths, unreadable


def _check_folders(source: Path, out: Path, reports: Path) -> None:
    if not source.is_dir():
        raise UsageError(f"there is no folder {source}", hint="name the folder that holds the DICOM files")
    inner, outer = out.resolve(), source.resolve()
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise UsageError(f"{out} and {source} lie in each other", hint="choose an output folder apart from the input")
    if inner in {reports.resolve(), *reports.resolve().parents}:
        raise UsageError(
            f"the reports folder {reports} lies in {out}", hint="the output holds released files only; choose another"
        )
    if outer in {reports.resolve(), *reports.resolve().parents}:  # the next run would take them for images
        raise UsageError(
            f"the reports folder {reports} lies in {source}", hint="choose a folder apart from the input with --reports"
        )
    for folder in (out, reports):
        # A link that leads nowhere stands in the way as a file does, hence lexists.
        standing = next((one for one in (folder, *folder.parents) if os.path.lexists(one)), Path())
        if not standing.is_dir():
            raise OutputError(f"cannot write {folder}: {standing} is no folder", hint="choose another folder")


def _walk(source: Path) -> tuple[list[str], list[FileRecord]]:
    """Every file below ``source`` in order, and a record for everything else that stands there."""
    paths: list[str] = []
    unreadable: list[FileRecord] = []

    def refuse(path: str, reason: str) -> None:
        unreadable.append(FileRecord(os.path.relpath(path, source), Status.REFUSED, reason))

    def failed(error: OSError) -> None:
        refuse(str(error.filename), f"the folder cannot be read: {error.strerror}")

    for folder, folders, files in os.walk(source, onerror=failed):
        folders.sort()
        for name in folders:
            if (Path(folder) / name).is_symlink():
                refuse(str(Path(folder) / name), "a link to a folder is not followed")
        paths += (os.path.relpath(Path(folder) / name, source) for name in sorted(files))
    return paths, unreadable


def _require_dicom(source: Path, paths: list[str]) -> None:
    """Raise before anything is written where there is nothing to do."""
    if not paths:
        raise DataError(f"{source} holds no files", hint="name the folder that holds the DICOM files")
    kinds: Counter[str] = Counter()
    for path in paths:
        try:
            kind = kind_of(head_of(source / path))
        except MalformedError:
            kind = "file that cannot be read"
        if kind == "DICOM file":
            return
        kinds[kind] += 1
    found = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common(4))
    raise DataError(
        f"{source} holds no DICOM file but {found}",
        hint="export the studies as DICOM Part 10 files, unpacked, and name their folder",
    )


def _hold(result: Processed, quarantine: Quarantine, source: Path, profile: Profile) -> None:
    record = result.record
    if record.status is Status.QUARANTINED:
        quarantine.hold(source, record.path, record.reason, profile, result.proposed)


_Process = Callable[[Sequence[str]], Iterable[Processed]]
_Settle = Callable[[str, str], Processed]


def _hands(
    source: Path, out: Path, decided: Decided, *, profile: Profile, key: SiteKey, crew: Crew | None, room: Path | None
) -> tuple[_Process, _Settle]:
    """Who works on a batch, and who settles which of two files of one instance stays: a crew, or this process."""
    if crew is None:
        clerk = Clerk(source, out, Processor(source, out, profile, key, room), decided)
        return lambda batch: map(clerk.process, batch), clerk.settle
    return (
        lambda batch: crew.process(source, out, batch, decided, room),
        lambda first, second: crew.settle(source, out, first, second, decided, room=room),
    )


def _settled(result: Processed, written: dict[str, str], settle: _Settle) -> Processed:
    """The result, once it is sure that no other file of this folder came out as the same instance."""
    if not result.target:
        return result
    first = written.setdefault(result.target, result.record.path)
    return result if first == result.record.path else settle(first, result.record.path)


@contextlib.contextmanager
def _recorded(log: AuditLog | None, profile: Profile, batch: list[str]) -> Iterator[list[FileRecord]]:
    """Record a batch before it starts and after it ended: counts and a keyed digest of its report lines, no paths."""
    lines: list[FileRecord] = []
    if log is None:
        yield lines
        return
    # File names need not be UTF-8, which the log's digest expects.
    names = hashlib.sha256(os.fsencode("\0".join(batch))).hexdigest()
    subject = ("batch", log.digest(names))
    facts: dict[str, Scalar] = {"files": len(batch), "profile": profile.name, "profile_sha256": profile.sha256}
    with log.act(Entry(Action.DEIDENTIFY, Outcome.STARTED, subject=subject, detail=facts)) as detail:
        yield lines
        detail |= {status.value: sum(line.status is status for line in lines) for status in Status}
        detail["report_lines"] = log.digest("\n".join(line.line() for line in lines))
