"""``fedward node enhance``: a released model at work on DICOM."""

import secrets
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared import console
from shared.errors import PartialError, UsageError

if TYPE_CHECKING:
    from client.enhance.folder import Enhanced
    from client.enhance.model import Model
    from compliance.log import AuditLog


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
    as_json: Annotated[bool, typer.Option("--json", help="Print the totals as JSON.")] = False,
) -> None:
    """Apply a released model to MR and CT images, and write derived DICOM images, or a DICOM segmentation of each
    series. The release is checked first, as 'fedward model verify' does.

    Names, dates and numbers of patients stay: results belong into the same record, and not outside the hospital. What
    is there already is not made again. enhance.json has a line for each file. Research use, not for diagnosis.

    Exit status 0: done; files that the model is not for are listed. 3: some images failed; the report names each. 2:
    wrong use, or MODEL is no release. 4: no image that the model is for. 6: a virtual hospital. 9: the release does not
    hold, or the audit log cannot be written.
    """
    from client.enhance.folder import enhance_folder
    from client.enhance.model import open_model
    from client.node import Node
    from client.policy_file import DevicePlan, HospitalPolicy

    digits, plan = _digits(charter), DevicePlan()
    own = Node.open(node) if node else None
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
    reports = reports or (own.folder / "reports" if own else out.parent / f"{out.name}-reports")
    with ExitStack() as stack:
        log = stack.enter_context(own.open_log() if own else _log_of(reports, source, out))
        bar = stack.enter_context(console.progress(quiet=as_json))
        line = bar.add_task("Enhancing", total=None)
        done = enhance_folder(
            source,
            out,
            model=opened,
            log=log,
            reports=reports,
            on_progress=lambda count, total: bar.update(line, completed=count, total=total),
        )
    _tell(done, opened, out, as_json=as_json)


def _digits(charter: str | None) -> str:
    digits = "".join((charter or "").split()).lower()
    if charter is not None and (not 32 <= len(digits) <= 64 or set(digits) - set("0123456789abcdef")):
        raise UsageError("--charter must be 32 to 64 hexadecimal digits", hint="copy the SHA-256 whole")
    return digits


def _log_of(reports: Path, source: Path, out: Path) -> "AuditLog":
    """Without a node, a log beside the report; nobody can link its digests to studies, since nobody has the key."""
    from client.enhance.folder import check_folders
    from compliance.log import AuditLog
    from shared.files import private_folder

    check_folders(source, out, reports)  # before anything is made
    private_folder(reports)
    return AuditLog(reports / "audit.jsonl", site="", subject_key=secrets.token_bytes(32))


def _tell(done: "Enhanced", model: "Model", out: Path, *, as_json: bool) -> None:
    counts = done.counts
    if as_json:
        about = {"model": model.name, "task": model.task.name, "weights_sha256": model.digest}
        about |= {"manifest": model.manifest, "charter": model.charter}
        console.emit_json({**counts, **about, "results": len(done.results()), "report": str(done.path)})
    else:
        console.say(
            f"{model.task.title} by {model.called()}: {console.plural(counts['written'], 'image')} done now, "
            f"{counts['there']} before, {counts['skipped']} passed over, {counts['failed']} failed; report {done.path}"
        )
        console.say(
            f"{console.plural(len(done.results()), 'result')} in {out}; they name patients, as their sources do"
        )
    if counts["failed"]:
        raise PartialError(
            f"{console.plural(counts['failed'], 'file')} could not be worked on",
            hint=f"{done.path} names each of them and says why",
        )
