"""``fedward node enhance``: a released model at work on DICOM."""

import secrets
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared import console
from shared.errors import PartialError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress

    from client.enhance.folder import Enhanced
    from client.enhance.model import Model
    from client.enhance.send import Sent
    from client.node import Node
    from client.sources.dicomweb import DicomWeb
    from compliance.log import AuditLog

_CREDENTIALS = "For --send. File (0600): 'bearer TOKEN' or 'basic USER:PASSWORD'."


def mount(app: typer.Typer) -> None:
    """Add the command to the node's group."""
    app.command("enhance")(enhance_command)


def enhance_command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Folder of a release; or public-1, to try it out, with --task.")
    ],
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
    send: Annotated[
        str | None, typer.Option(metavar="URL", help="Send the results to a DICOMweb service (STOW-RS).")
    ] = None,
    credentials: Annotated[Path | None, typer.Option(help=_CREDENTIALS)] = None,
    ca: Annotated[Path | None, typer.Option(help="PEM certificates to trust, for --send.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the totals as JSON.")] = False,
) -> None:
    """Apply a released model to MR and CT images, and write derived DICOM images, or a DICOM segmentation of each
    series. The release is checked first, as 'fedward model verify' does.

    Names, dates and numbers of patients stay: results belong into the same record, and not outside the hospital. What
    is there already is not made again. enhance.json has a line for each file. Research use, not for diagnosis.

    Exit status 0: done; files that the model is not for are listed. 3: some images failed, or the archive did not take
    some; the report names each. 2: wrong use, or MODEL is no release. 4: no image that the model is for. 6: a virtual
    hospital. 8: the archive failed. 9: the release does not hold, or the audit log cannot be written.
    """
    own, opened = _opened(model, node, task, charter, quorum)
    archive = _archive(send, credentials, ca)
    reports = reports or (own.folder / "reports" if own else out.parent / f"{out.name}-reports")
    with ExitStack() as stack:
        log = stack.enter_context(own.open_log() if own else _log_of(reports, source, out))
        bar = stack.enter_context(console.progress(quiet=as_json))
        done, sent = _applied(source, out, opened, archive, log, reports, bar)
    _tell(done, sent, opened, out, as_json=as_json)


def _opened(
    model: str, folder: Path | None, task: str | None, charter: str | None, quorum: int | None
) -> "tuple[Node | None, Model]":
    """The node, and the model, checked against the charter that was told or pinned."""
    from client.enhance.model import digits_of, open_model
    from client.node import Node
    from client.policy_file import DevicePlan, HospitalPolicy

    digits, plan = digits_of(charter), DevicePlan()
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


def _archive(url: str | None, credentials: Path | None, ca: Path | None) -> "DicomWeb | None":
    if url is None:
        if credentials or ca:
            raise UsageError("--credentials and --ca belong to --send", hint="leave them out, or say where to send")
        return None
    from client.sources.credentials import Credentials
    from client.sources.dicomweb import DicomWeb

    return DicomWeb(url, credentials=Credentials.load(credentials) if credentials else None, authority=ca)


def _applied(
    source: Path,
    out: Path,
    model: "Model",
    archive: "DicomWeb | None",
    log: "AuditLog",
    reports: Path,
    bar: "Progress",
) -> "tuple[Enhanced, Sent | None]":
    """Write the results, and send those that lie there to the archive if there is one."""
    from client.enhance.folder import enhance_folder
    from client.enhance.send import send

    def shown(what: str) -> "Callable[[int, int], None]":
        line = bar.add_task(what, total=None)
        return lambda count, total: bar.update(line, completed=count, total=total)

    done = enhance_folder(source, out, model=model, log=log, reports=reports, on_progress=shown("Enhancing"))
    if archive is None:
        return done, None
    with archive:
        return done, send(out, done.results(), archive, log=log, on_progress=shown("Sending"))


def _log_of(reports: Path, source: Path, out: Path) -> "AuditLog":
    """Without a node, a log beside the report; nobody can link its digests to studies, since nobody has the key."""
    from client.enhance.folder import check_folders
    from compliance.log import AuditLog
    from shared.files import private_folder

    check_folders(source, out, reports)  # before anything is made
    private_folder(reports)
    return AuditLog(reports / "audit.jsonl", site="", subject_key=secrets.token_bytes(32))


def _tell(done: "Enhanced", sent: "Sent | None", model: "Model", out: Path, *, as_json: bool) -> None:
    counts = done.counts
    if as_json:
        about = {"model": model.name, "task": model.task.name, "weights_sha256": model.digest}
        about |= {"manifest": model.manifest, "charter": model.charter}
        known = {"stored": sent.stored, "refused": list(sent.refused)} if sent else None
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
            for name in sent.refused:
                console.say(f"the archive did not take {out / name}")
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
