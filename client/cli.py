"""``fedward node``: what a hospital does with its own data on its own machine."""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from client.budget_cli import app as budget_app
from client.check_cli import mount as mount_check
from client.deid import DeidReport, Profile, SiteKey, deidentify_folder
from client.deid.batch import examine
from client.deid.expert_cli import app as expert_app
from client.deid.profile_cli import app as profile_app
from client.enhance_cli import mount as mount_enhance
from client.ingest_cli import mount
from client.join_cli import mount as mount_join
from client.link_cli import mount as mount_link
from client.personal_cli import mount as mount_personal
from client.statement_cli import mount as mount_statement
from client.subject_cli import mount as mount_rights
from compliance.log import AuditLog
from shared import console
from shared.errors import PartialError, UsageError
from shared.files import private_folder
from shared.parsing import parse_json

app = typer.Typer(help="A hospital's node: de-identify, build the cohort, take part.", no_args_is_help=True)
mount(app)
mount_join(app)
mount_check(app)
mount_link(app)
mount_rights(app)
mount_statement(app)
mount_enhance(app)
mount_personal(app)

app.add_typer(budget_app, name="budget")
app.add_typer(profile_app, name="profile")
app.add_typer(expert_app, name="expert")

KEY_NAME = "fedward-deid.key"


@app.callback()
def node() -> None:
    """A hospital's node."""


@app.command()
def deidentify(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Folder of DICOM files; read recursively.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for released files, under pseudonymous names.")],
    *,
    profile: Annotated[
        str, typer.Option(help="basic, safe-harbor, research, or a profile of your own (TOML).")
    ] = "basic",
    key: Annotated[
        Path | None,
        typer.Option(help="The site's key (0600), made where missing; not beside --node, which has one."),
    ] = None,
    reports: Annotated[
        Path | None, typer.Option(help="Folder for deid.json and deid.html. Default: the node's, else beside OUT.")
    ] = None,
    determination: Annotated[
        Path | None, typer.Option(help="Expert determination (JSON), where the profile needs one.")
    ] = None,
    node: Annotated[Path | None, typer.Option(help="The node's folder; its keys, log and reports are used.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that de-identify.")] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files of OUT that were released under another profile.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the totals as JSON.")] = False,
) -> None:
    """De-identify a folder of DICOM files.

    The report is deid.json, with a line for every file, and deid.html, a page for people; both name input files.

    Exit status 0: all released. 3: some quarantined or refused; the report names each. 2: wrong use. 6: forbidden.
    """
    from client.deid.crew import Crew
    from client.deid.earlier import check_same
    from client.deid.page import write_page
    from client.deid.quarantine import Quarantine
    from client.node import HELD, Node

    chosen = Profile.load(profile, determination=determination)
    reports = reports or (node / "reports" if node else out.parent / f"{out.name}-reports")
    examine(source, out, reports)  # nothing is made for a folder that holds nothing
    if node and (node / "node.json").exists():
        Node.open(node).require_real()
    with ExitStack() as stack:
        site_key = _key_for(source, _key_path(key, node, out), out)
        check_same(out, reports, chosen, site_key, overwrite=overwrite)
        log = stack.enter_context(_log(node, reports, site_key))
        # Always other processes, also for one worker: no file takes more memory than it may, or ends the command.
        crew = stack.enter_context(Crew(workers, chosen, site_key))
        bar = _Bar(stack, quiet=as_json)
        report = deidentify_folder(
            source,
            out,
            profile=chosen,
            key=site_key,
            log=log,
            reports=reports,
            quarantine=Quarantine(reports, node / HELD) if node else None,
            crew=crew,
            on_progress=bar.update,
        )
    _tell(report, write_page(report, chosen, source=source), as_json=as_json)


@app.command()
def review(
    reports: Annotated[Path, typer.Argument(metavar="REPORTS", help="The folder with deid.json and quarantine/.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder of released files; cleared ones go there.")],
    *,
    reviewer: Annotated[str, typer.Option(help="Who decides; stands in the audit log.")],
    profile: Annotated[str, typer.Option(help="The profile that the files were held under.")] = "basic",
    key: Annotated[Path | None, typer.Option(help="The site's key; not beside --node, which has one.")] = None,
    determination: Annotated[Path | None, typer.Option(help="Expert determination (JSON).")] = None,
    node: Annotated[Path | None, typer.Option(help="The node's folder; its keys and log are used.")] = None,
) -> None:
    """Look at quarantined images on a page of this machine: release each, blank boxes in it first, or refuse it."""
    from client.node import HELD
    from client.review.cli import review as serve

    chosen = Profile.load(profile, determination=determination)
    site_key = SiteKey.load(_key_path(key, node, out))  # one made here would give other pseudonyms than the run's
    serve(
        reports,
        out,
        reviewer=reviewer,
        profile=chosen,
        key=site_key,
        log=lambda: _log(node, reports, site_key),
        shelf=node / HELD if node else None,
    )


class _Bar:
    """A progress bar that starts with the first file: its thread must not be there when worker processes are made."""

    def __init__(self, stack: ExitStack, *, quiet: bool) -> None:
        self._stack, self._quiet = stack, quiet
        self._progress: Progress | None = None
        self._started = time.monotonic()

    def update(self, done: int, total: int) -> None:
        """Show how far it is, and files a second."""
        if self._progress is None:
            self._progress = self._stack.enter_context(console.progress(quiet=self._quiet))
            self._task = self._progress.add_task("De-identifying", total=total)
        rate = done / max(time.monotonic() - self._started, 1e-3)
        self._progress.update(self._task, completed=done, description=f"De-identifying, {rate:.1f} files/s")


def _tell(report: DeidReport, page: Path, *, as_json: bool) -> None:
    if as_json:
        console.emit_json(
            {
                **report.counts,
                "redacted": report.redacted,
                "profile": report.profile,
                "profile_sha256": report.profile_sha256,
                "report": str(report.path),
                "page": str(page),
            }
        )
    else:
        console.say(
            f"{report.released} of {console.plural(report.files, 'file')} released under profile {report.profile}; "
            f"report {report.path}"
        )
        if report.redacted:
            console.say(
                f"{report.redacted} of them with text blanked in their pixels; compare some of them with the input"
            )
        console.say(f"page for people: {page}; it names input files, keep it inside")
    held = report.quarantined + report.refused
    if held:
        raise PartialError(
            f"{console.plural(report.quarantined, 'file was', 'files were')} quarantined and {report.refused} refused",
            hint=f"{report.path} names each of them and says why",
        )


def _key_path(key: Path | None, node: Path | None, out: Path) -> Path:
    """The node's key, else the one that was named, else one beside the output that later runs find again."""
    if node is not None:
        own = node / "keys" / "pseudonym.key"
        if key is not None and key.resolve() != own.resolve():
            raise UsageError(f"--key names {key}, and the node has a key of its own", hint="leave out --key, or --node")
        return own
    chosen = key or out.resolve().parent / KEY_NAME
    if out.resolve() in chosen.resolve().parents:
        raise UsageError(f"the key {chosen} lies in the output folder", hint="keep it where released files do not go")
    return chosen


def _key_for(source: Path, path: Path, out: Path) -> SiteKey:
    """The key at ``path`` for files of ``source``; made where nothing was released under one that is missing now."""
    if source.resolve() in path.resolve().parents:
        raise UsageError(
            f"the key {path} lies in the input folder {source}", hint="keep it elsewhere, and name it with --key"
        )
    if path.exists() or not path.parent.is_dir():
        return SiteKey.load(path)
    if out.exists() and any(out.iterdir()):  # a second key would give the same patients second pseudonyms
        raise UsageError(
            f"there is no key {path}, and {out} was made under one", hint="name that key, or choose another folder"
        )
    made = SiteKey.create(path)
    console.err.print(f"a new site key was made: {path}; keep it, and keep it secret", markup=False, soft_wrap=True)
    return made


def _log(node: Path | None, reports: Path, site_key: SiteKey) -> AuditLog:
    """The node's audit log; for a bare folder, one beside the report."""
    if node is None:
        private_folder(reports)
        return AuditLog(reports / "audit.jsonl", site="", subject_key=site_key.derive("audit-subject"))
    try:
        about = parse_json((node / "node.json").read_text("utf-8"))
        audit_key = SiteKey.load(node / "keys" / "audit.key")
        return AuditLog(
            node / "audit" / "log.jsonl",
            site=str(about["site"]),
            purpose=str(about["purpose"]),
            subject_key=audit_key.secret,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{node} is no node's folder: {type(error).__name__}", hint="name the folder with node.json"
        ) from error
