"""``fedward node enhance``: a released model at work on DICOM."""

import secrets
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compliance.told import charter_digits
from shared import console
from shared.errors import PartialError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress

    from client.enhance.folder import Enhanced
    from client.enhance.model import Model
    from client.enhance.send import Archive, Sent
    from client.node import Node
    from client.registration import Kind
    from compliance.log import AuditLog

_MODEL = "Folder of a release or of a personal model; or public-1, to try it out, with --task."
_SEND = "Send the results: to a DICOMweb service (STOW-RS), or to dicom://AET@HOST:PORT (C-STORE)."
_CREDENTIALS = "For --send to DICOMweb. File (0600): 'bearer TOKEN' or 'basic USER:PASSWORD'."
_DIMSE_TLS = "C-STORE over TLS 1.2 or newer; needs --ca."
_SECOND = "For models that see two contrasts: folder with the other one, of the same studies; IN may lie in it."
_AFFINE = "Register the second contrast with stretch and shear too, not as one rigid body."
_FRACTIONAL = "Segmentations with the probability of each class instead of the most likely one (FRACTIONAL)."


def mount(app: typer.Typer) -> None:
    """Add the command to the node's group."""
    app.command("enhance")(enhance_command)


def enhance_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL)],
    source: Annotated[Path, typer.Argument(metavar="IN", help="A DICOM file, or a folder; read recursively.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for derived DICOM; it names the same patients.")],
    *,
    task: Annotated[str | None, typer.Option(help="Which public model: denoise, superres, segment.")] = None,
    charter: Annotated[
        str | None,
        typer.Option(metavar="SHA256", help="The release's charter, as a member told you. Default: the node's own."),
    ] = None,
    quorum: Annotated[
        int | None, typer.Option(min=0, help="As in 'fedward model verify'; 0 asks for no witness of the release.")
    ] = None,
    node: Annotated[
        Path | None, typer.Option(help="The node's folder; its charter, log, reports and device are used.")
    ] = None,
    reports: Annotated[
        Path | None, typer.Option(help="Folder for enhance.json. Default: the node's, else beside OUT.")
    ] = None,
    fractional: Annotated[bool, typer.Option("--fractional", help=_FRACTIONAL)] = False,
    second: Annotated[Path | None, typer.Option(metavar="FOLDER", help=_SECOND)] = None,
    affine: Annotated[bool, typer.Option("--affine", help=_AFFINE)] = False,
    send: Annotated[str | None, typer.Option(metavar="URL", help=_SEND)] = None,
    credentials: Annotated[Path | None, typer.Option(help=_CREDENTIALS)] = None,
    ca: Annotated[Path | None, typer.Option(help="PEM certificates to trust, for --send.")] = None,
    calling: Annotated[str, typer.Option(metavar="AET", help="Our AE title, for C-STORE.")] = "",
    dimse_tls: Annotated[bool, typer.Option("--dimse-tls", help=_DIMSE_TLS)] = False,
    certificate: Annotated[Path | None, typer.Option(help="Our certificate for --dimse-tls (PEM).")] = None,
    private_key: Annotated[Path | None, typer.Option(help="Its key (PEM, 0600).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the totals as JSON.")] = False,
) -> None:
    """Apply a released model to MR and CT images, and write derived DICOM images, or a DICOM segmentation of each
    series. The release is checked first, as 'fedward model verify' does.

    Names, dates and numbers of patients stay: results belong into the same record, and not outside the hospital. What
    is there already is not made again. enhance.json has a line for each file. Research use, not for diagnosis.

    Exit status 0: done; files that the model is not for are listed. 3: some images failed, or the archive did not take
    some; the report names each. 2: wrong use, or MODEL is no release. 4: no image that the model is for, or a
    damaged personal model. 5: OUT cannot be written. 6: a virtual hospital. 8: the archive failed. 9: the release does
    not hold, or the audit log cannot be written.
    """
    own, opened = _opened(model, node, task, charter, quorum)
    if fractional and not opened.segments:
        raise UsageError("--fractional belongs to models that segment", hint="leave it out")
    if affine and second is None:
        raise UsageError("--affine belongs to --second", hint="leave it out, or name the folder of the other contrast")
    work = _Work(source, out, opened, fractional, second, "affine" if affine else "rigid")
    archive = _Line(send, credentials, ca, calling, dimse_tls, certificate, private_key).archive()
    reports = reports or (own.folder / "reports" if own else out.parent / f"{out.name}-reports")
    with ExitStack() as stack:
        log = stack.enter_context(own.open_log() if own else _log_of(reports, work))
        bar = stack.enter_context(console.progress(quiet=as_json))
        done, sent = _applied(work, archive, log, reports, bar)
    _tell(done, sent, opened, out, as_json=as_json)


def _opened(
    model: str, folder: Path | None, task: str | None, charter: str | None, quorum: int | None
) -> "tuple[Node | None, Model]":
    """The node, and the model, checked against the charter that was told or pinned."""
    from client.enhance.model import open_model
    from client.node import Node
    from client.policy_file import DevicePlan, HospitalPolicy

    digits, plan = charter_digits(charter), DevicePlan()
    own = Node.open(folder) if folder else None
    if own:
        own.require_real()
        plan = HospitalPolicy.load(own.folder).device
        digits = digits or (own.charter.sha256 if own.pinned else "")
    opened = open_model(model, task=task, charter=digits, quorum=quorum, plan=plan)
    if opened.charter and not opened.compared:
        console.err.print(
            f"compare the release's charter with what a member tells you, and give it to --charter: {opened.charter}",
            markup=False,
            soft_wrap=True,
        )
    return own, opened


@dataclass(frozen=True)
class _Work:
    """What is applied to what."""

    source: Path
    out: Path
    model: "Model"
    fractional: bool
    second: Path | None
    kind: "Kind"

    def check(self, reports: Path) -> None:
        """See that input and output are apart, before anything is made."""
        from client.enhance.folder import check_folders

        for folder in filter(None, (self.source, self.second)):
            check_folders(folder, self.out, reports)


@dataclass(frozen=True)
class _Line:
    """The options that say where results are sent."""

    url: str | None
    credentials: Path | None
    ca: Path | None
    calling: str
    tls: bool
    certificate: Path | None
    private_key: Path | None

    def archive(self) -> "Archive | None":
        """The archive that was named, with the options that belong to it and no others; None where there is none."""
        dimse = bool(self.calling or self.tls or self.certificate or self.private_key)
        if self.url is None:
            if self.credentials or self.ca or dimse:
                raise UsageError(
                    "--credentials, --ca, --calling, --dimse-tls, --certificate and --private-key belong to --send",
                    hint="leave them out, or say where to send",
                )
            return None
        if self.url.startswith("dicom:"):
            return self._dimse(self.url)
        if dimse:
            raise UsageError(
                "--calling, --dimse-tls, --certificate and --private-key belong to an archive dicom://AET@HOST:PORT",
                hint="leave them out, or name such an archive",
            )
        from client.sources.credentials import Credentials
        from client.sources.dicomweb import DicomWeb

        known = Credentials.load(self.credentials) if self.credentials else None
        return DicomWeb(self.url, credentials=known, authority=self.ca)

    def _dimse(self, url: str) -> "Archive":
        if self.credentials:
            raise UsageError("--credentials belongs to a DICOMweb service", hint="leave it out; DIMSE has none")
        if not self.calling:
            raise UsageError("C-STORE needs our AE title", hint="give --calling, as the archive knows us")
        if self.tls != (self.ca is not None):
            raise UsageError(
                "--dimse-tls and --ca belong together", hint="give both, --ca with the PEM file of the authority"
            )
        if (self.certificate or self.private_key) and not self.tls:
            raise UsageError("--certificate and --private-key belong to --dimse-tls", hint="add it, or leave them out")
        from client.sources.dimse_store import DimseStore
        from client.sources.tls import Tls

        secured = Tls(self.ca, self.certificate, self.private_key) if self.ca else None
        return DimseStore(url, calling=self.calling, tls=secured)


def _applied(
    work: _Work, archive: "Archive | None", log: "AuditLog", reports: Path, bar: "Progress"
) -> "tuple[Enhanced, Sent | None]":
    """Write the results, and send those that lie there to the archive if there is one."""
    from client.enhance.folder import enhance_folder
    from client.enhance.send import send

    def shown(what: str) -> "Callable[[int, int], None]":
        line = bar.add_task(what, total=None)
        return lambda count, total: bar.update(line, completed=count, total=total)

    done = enhance_folder(
        work.source,
        work.out,
        model=work.model,
        log=log,
        reports=reports,
        fractional=work.fractional,
        second=work.second,
        kind=work.kind,
        on_progress=shown("Enhancing"),
    )
    if archive is None:
        return done, None
    with archive:
        return done, send(work.out, done.results(), archive, log=log, on_progress=shown("Sending"))


def _log_of(reports: Path, work: _Work) -> "AuditLog":
    """Without a node, a log beside the report; nobody can link its digests to studies, since nobody has the key."""
    from compliance.log import AuditLog
    from shared.files import private_folder

    work.check(reports)
    private_folder(reports)
    return AuditLog(reports / "audit.jsonl", site="", subject_key=secrets.token_bytes(32))


def _tell(done: "Enhanced", sent: "Sent | None", model: "Model", out: Path, *, as_json: bool) -> None:
    counts = done.counts
    if as_json:
        about = {"model": model.name, "task": model.task.name, "weights_sha256": model.digest}
        about |= {"manifest": model.manifest, "charter": model.charter}
        known = {"stored": sent.stored, "refused": list(sent.refused), "reasons": dict(sent.refused)} if sent else None
        console.emit_json({**counts, **about, "results": len(done.results()), "sent": known, "report": str(done.path)})
    else:
        console.say(
            f"{model.task.title} by {model.called()}: {console.plural(counts['written'], 'image')} done now, "
            f"{counts['there']} before, {counts['skipped']} passed over, {counts['failed']} failed; report {done.path}"
        )
        console.say(
            f"{console.plural(len(done.results()), 'result')} in {out}; they name patients, as their sources do"
        )
        if sent:
            console.say(f"{console.plural(sent.stored, 'result')} sent")
            for name, reason in sent.refused.items():
                console.say(f"the archive did not take {out / name}: {reason}")
    if counts["failed"]:
        raise PartialError(
            f"{console.plural(counts['failed'], 'file')} could not be worked on",
            hint=f"{done.path} names each of them and says why",
        )
    if sent and sent.refused:
        raise PartialError(
            f"the archive did not take {console.plural(len(sent.refused), 'result')}",
            hint="ask its administrator, and run the same command again",
        )
