"""``fedward node init`` and ``fedward node ingest``."""

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared import console
from shared.errors import PartialError, UsageError

if TYPE_CHECKING:
    from rich.progress import Progress

    from client.ingest import Ingested, Standing
    from client.ingest_schedule import Pass
    from client.registration import Kind
    from client.sources.selection import Selection
    from client.sources.source import Source

_DATE = "Study date, as 2024-02-29 or 20240229."
_CREDENTIALS = "File (0600): 'bearer TOKEN' or 'basic USER:PASSWORD'."
_DIMSE_TLS = "DIMSE over TLS 1.2 or newer, both ways; needs --ca."
_DETERMINATION = "Expert determination (JSON), where the profile needs one."
_UNPAIRED = "Take studies without a reference series into the cohort too."
_AFFINE = "Lay second contrasts onto the first with stretch and shear too, not as one rigid body."
_PROFILE = "How to de-identify: basic, safe-harbor, research, or a TOML file."
_EVERY = "Do it again every 30m, 1h, 1d, ..., until SIGTERM or Ctrl-C; a line a pass."


def mount(app: typer.Typer) -> None:
    """Add the commands to the node's group."""
    app.command("init")(init_command)
    app.command("ingest")(ingest_command)


def init_command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The node's folder; made with mode 0700 where missing.")
    ],
    *,
    site: Annotated[str, typer.Option(help="The hospital's name in the federation.")],
    purpose: Annotated[str, typer.Option(help="Why data is processed here; must be the charter's.")],
) -> None:
    """Make a node: its folder and its keys."""
    from client.node import KEYS, LINK, Node

    there = (folder / "node.json").exists()
    node = Node.create(folder, site=site, purpose=purpose)
    console.say(f"{folder} {'is' if there else 'is now'} the node of {node.site}")
    for name in (*KEYS, LINK):
        console.say(f"{name} key: {folder / 'keys' / f'{name}.key'} (0600; keep a copy, and keep it secret)")


def ingest_command(
    node: Annotated[Path, typer.Argument(metavar="NODE", help="The node's folder, from 'fedward node init'.")],
    *,
    folder: Annotated[Path | None, typer.Option(help="A folder of DICOM files, or a zip archive.")] = None,
    dicomweb: Annotated[str | None, typer.Option(metavar="URL", help="A DICOMweb service.")] = None,
    credentials: Annotated[Path | None, typer.Option(help=_CREDENTIALS)] = None,
    ca: Annotated[Path | None, typer.Option(help="PEM certificates to trust, for --dicomweb and --dimse-tls.")] = None,
    dimse: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="An archive that speaks DIMSE.")] = None,
    called: Annotated[str, typer.Option(metavar="AET", help="Its AE title.")] = "",
    calling: Annotated[str, typer.Option(metavar="AET", help="Our AE title.")] = "",
    listen: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where C-MOVE is to send to.")] = None,
    get: Annotated[bool, typer.Option("--get", help="Retrieve with C-GET instead of C-MOVE.")] = False,
    dimse_tls: Annotated[bool, typer.Option("--dimse-tls", help=_DIMSE_TLS)] = False,
    certificate: Annotated[Path | None, typer.Option(help="Our certificate for --dimse-tls (PEM).")] = None,
    private_key: Annotated[Path | None, typer.Option(help="Its key (PEM, 0600).")] = None,
    modality: Annotated[list[str] | None, typer.Option(help="MR, CT, ...; may be given more than once.")] = None,
    first: Annotated[str | None, typer.Option("--from", metavar="DATE", help=_DATE)] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="DATE", help=_DATE)] = None,
    description: Annotated[str, typer.Option(metavar="GLOB", help="Study or series description, with * and ?.")] = "",
    patients: Annotated[Path | None, typer.Option(help="File with one Patient ID a line.")] = None,
    profile: Annotated[str, typer.Option(help=_PROFILE)] = "basic",
    determination: Annotated[Path | None, typer.Option(help=_DETERMINATION)] = None,
    unpaired: Annotated[bool, typer.Option("--unpaired", help=_UNPAIRED)] = False,
    affine: Annotated[bool, typer.Option("--affine", help=_AFFINE)] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes that de-identify.")] = 1,
    every: Annotated[str | None, typer.Option(metavar="TIME", help=_EVERY)] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Take in anew what was taken in under another profile, and replace it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the totals as JSON.")] = False,
) -> None:
    """Take studies from a folder or an archive into the node, de-identified, and build its cohort.

    A series of another MR contrast in a study is registered onto the first, for tasks that use two (denoise_pair,
    segment_pair); where it cannot be, the study goes on without it.

    With --every a pass that fails is tried again, with growing pauses; only what is wrong with the command ends it.

    Exit status 0: all released, or the schedule was stopped. 3: some missing, quarantined or refused; the report names
    each. 6: a virtual hospital, or the profile needs an expert. 8: the archive failed. 9: another ingest runs.
    """
    from client.ingest_page import review_command

    lines = _Lines(folder, dicomweb, credentials, ca, dimse, called, calling, listen, get)
    take = _taker(
        node,
        lambda: lines.source(node, tls=dimse_tls, certificate=certificate, private_key=private_key),
        lambda: _selection(modality or [], first, last, description, patients),
        (profile, determination),
        workers=workers,
        overwrite=overwrite,
        unpaired=unpaired,
        registration="affine" if affine else "rigid",
    )
    if every is not None:
        _repeat(take, every, overwrite=overwrite, as_json=as_json)
        return
    with ExitStack() as stack:
        done = take(Bar(stack, quiet=as_json).show)
    _tell(done, review_command(node, profile, determination), as_json=as_json)


def _taker(
    folder: Path,
    source: Callable[[], "Source"],
    selection: Callable[[], "Selection"],
    profile: tuple[str, Path | None],
    *,
    workers: int,
    overwrite: bool,
    unpaired: bool,
    registration: "Kind",
) -> Callable[[Callable[["Standing"], None] | None], "Ingested"]:
    """One pass; all that its options name is read when it begins."""
    from client.deid import Profile
    from client.ingest import ingest
    from client.node import Node

    node = Node.open(folder)
    node.require_real()

    def take(tell: Callable[["Standing"], None] | None) -> "Ingested":
        chosen = Profile.load(profile[0], determination=profile[1])
        wanted, where = selection(), source()
        return ingest(
            node,
            where,
            wanted,
            profile=chosen,
            workers=workers,
            overwrite=overwrite,
            unpaired=unpaired,
            registration=registration,
            on_progress=tell,
        )

    return take


class Bar:
    """A progress bar that starts when it is told to: its thread must not be there when worker processes are made."""

    def __init__(self, stack: ExitStack, *, quiet: bool) -> None:
        self._stack, self._quiet = stack, quiet
        self._progress: Progress | None = None
        self._started = time.monotonic()

    def show(self, standing: "Standing") -> None:
        """Show how far it is: studies, files, files a second and the time so far.

        How long the rest takes is not said: how many files a study has is known when it is its turn, and one is fetched
        while another is worked on.
        """
        if self._progress is None:
            self._progress = self._stack.enter_context(console.progress(quiet=self._quiet, foresees=False))
            self._task = self._progress.add_task("Looking for studies", total=None)
        if standing.total is not None:
            rate = standing.files / max(time.monotonic() - self._started, 1e-3)
            files = f"{console.plural(standing.files, 'file')}, {rate:.1f} files/s"
            words = f"Studies; {files if standing.files else 'fetching the first'}"
            self._progress.update(self._task, completed=standing.studies, total=standing.total, description=words)


@dataclass(frozen=True)
class _Lines:
    """The options that say where the images are."""

    folder: Path | None
    dicomweb: str | None
    credentials: Path | None
    ca: Path | None
    dimse: str | None
    called: str
    calling: str
    listen: str | None
    get: bool

    def source(self, node: Path, *, tls: bool, certificate: Path | None, private_key: Path | None) -> "Source":
        """The one source that was named, with the options that belong to it and no others."""
        if sum(one is not None for one in (self.folder, self.dicomweb, self.dimse)) != 1:
            raise UsageError("one source is needed", hint="give one of --folder, --dicomweb and --dimse")
        if self.dicomweb is None and self.credentials:
            raise UsageError("--credentials belongs to --dicomweb", hint="leave it out")
        if self.ca and not (self.dicomweb or tls):
            raise UsageError("--ca belongs to --dicomweb and to --dimse-tls", hint="leave it out, or add --dimse-tls")
        if self.dimse is None and (self.called or self.calling or self.listen or self.get or tls):
            raise UsageError(
                "--called, --calling, --listen, --get and --dimse-tls belong to --dimse", hint="leave them out"
            )
        if (certificate or private_key) and not tls:
            raise UsageError("--certificate and --private-key belong to --dimse-tls", hint="add it, or leave them out")
        if self.folder is not None:
            from client.ingest import check_apart
            from client.sources.folder import Folder

            check_apart(node, self.folder)
            return Folder(self.folder)
        if self.dicomweb is not None:
            from client.sources.credentials import Credentials
            from client.sources.dicomweb import DicomWeb

            known = Credentials.load(self.credentials) if self.credentials else None
            return DicomWeb(self.dicomweb, credentials=known, authority=self.ca)
        return self._archive(tls=tls, certificate=certificate, private_key=private_key)

    def _archive(self, *, tls: bool, certificate: Path | None, private_key: Path | None) -> "Source":
        if not (self.called and self.calling):
            raise UsageError("--dimse needs two AE titles", hint="give --called (the archive's) and --calling (ours)")
        if self.get == bool(self.listen):
            raise UsageError(
                "--dimse needs a way to retrieve", hint="give --listen HOST:PORT for C-MOVE, or --get for C-GET"
            )
        if tls and self.ca is None:
            raise UsageError("--dimse-tls needs an authority to trust", hint="name its PEM file with --ca")
        from client.sources.dimse import Address, Dimse
        from client.sources.tls import Tls

        assert self.dimse is not None  # noqa: S101  # one of the three was given
        secured = Tls(self.ca, certificate, private_key) if self.ca else None
        receiver = Address.parse(self.listen) if self.listen else None
        return Dimse(Address.parse(self.dimse), called=self.called, calling=self.calling, listen=receiver, tls=secured)


def _selection(
    modalities: list[str], first: str | None, last: str | None, description: str, patients: Path | None
) -> "Selection":
    from client.sources.selection import Selection

    return Selection(
        modalities=frozenset(one.upper() for one in modalities),
        first=_day(first),
        last=_day(last),
        description=description,
        patients=Selection.patients_from(patients) if patients else frozenset(),
    )


def _day(text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return datetime.strptime(text.replace("-", ""), "%Y%m%d").replace(tzinfo=UTC).date()
    except ValueError as error:
        raise UsageError(f"'{text}' is no date", hint="use the form 2024-02-29") from error


def _repeat(
    take: Callable[[Callable[["Standing"], None] | None], "Ingested"], every: str, *, overwrite: bool, as_json: bool
) -> None:
    from client.ingest_schedule import Pass, repeat, seconds, stoppable

    if overwrite:
        raise UsageError("--overwrite takes everything in anew with each pass", hint="run it once without --every")

    def tell(one: Pass) -> None:
        facts = _facts(one)
        if as_json:
            console.say(json.dumps(facts))
        elif one.error is not None:
            console.complain(f"{facts['began']} pass {one.number}: {one.error.message}", one.error.hint)
            console.say(f"{facts['began']} pass {one.number}: nothing more was taken in; next at {facts['next']}")
        else:
            console.say(
                f"{facts['began']} pass {one.number}: {facts['studies']} studies, {facts['unchanged']} unchanged; "
                f"{facts['released']} of {facts['fetched']} files released, {facts['waiting']} wait for a person; "
                f"cohort {facts['train']} to train on, {facts['held_out']} held out; next at {facts['next']}"
            )

    with stoppable():
        repeat(lambda: take(None), seconds(every), tell)
    console.say("stopped; what was fetched is kept, run the same command again to go on")


def _facts(one: "Pass") -> dict[str, object]:
    """A pass as plain values."""
    from client.cohort import Split

    times: dict[str, object] = {
        "pass": one.number,
        "began": one.began.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "next": one.following.isoformat(timespec="seconds").replace("+00:00", "Z"),
    }
    if one.done is None:
        return times | {"error": one.error.message if one.error else "", "hint": one.error.hint if one.error else ""}
    return times | one.done.tally.counts | {side.value: len(one.done.cohort.patients(side)) for side in Split}


def _tell(done: "Ingested", review: str, *, as_json: bool) -> None:
    from client.cohort import Split

    tally, sides = done.tally, {side.value: len(done.cohort.patients(side)) for side in Split}
    if as_json:
        where = {"report": str(done.report), "page": str(done.page)}
        cohort = done.cohort
        about = {"cohort": sides, "no_labels": cohort.no_labels, "no_second": dict(cohort.no_second)}
        console.emit_json({**tally.counts, "seconds": tally.seconds, **about, **where})
    else:
        studies, files = console.plural(tally.studies, "study", "studies"), console.plural(tally.fetched, "file")
        console.say(f"{studies}, {tally.unchanged} of them without anything new")
        console.say(f"{tally.released} of {files} released; report {done.report}")
        console.say(f"page for people: {done.page}; it names studies, keep it inside")
        if tally.waiting:
            console.say(f"{console.plural(tally.waiting, 'file waits', 'files wait')} for a person: {review}")
        console.say(f"cohort: {console.plural(sides['train'], 'patient')} to train on, {sides['held_out']} held out")
        if count := done.cohort.no_labels:
            told = console.plural(count, "segmentation tells", "segmentations tell")
            console.say(f"{told} probabilities or shares (FRACTIONAL), no classes: not taken for labels")
        for reason, count in sorted(done.cohort.no_second.items()):
            studies = console.plural(count, "study", "studies")
            console.say(f"{studies} without their second contrast: {reason}")
    if tally.incomplete:
        raise PartialError(
            f"not everything came out: {tally.missing} not sent, {tally.unreadable + tally.refused} unreadable or "
            f"refused, {tally.quarantined} quarantined",
            hint=f"{done.report} names each of them and says why",
        )
