"""``fedward model``: check a released model."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from compliance.told import charter_digits
from shared.console import emit_json, plural, say
from shared.errors import RecordError

app = typer.Typer(help="A released model: check where it comes from.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep ``verify`` a command of its own."""


@app.command("verify")
def verify_command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A release, from 'fedward server release'.")],
    *,
    charter: Annotated[
        str | None,
        typer.Option(
            metavar="SHA256", help="The charter's, as a member told you: 32 digits or more. Not the sender's."
        ),
    ] = None,
    quorum: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="So many hospitals must have cosigned the coordinator's checkpoint; 0: none. "
            "Default: over half of the charter's, two at least.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a released model offline: every file, the signature under the charter's authority, the statements of the
    hospitals, the checkpoints of their logs, and the weights. Nothing but the files of FOLDER is read.

    Without --charter, compare the SHA-256 that is printed with one that a member of the federation tells you: all
    other checks rest on it.

    Exit status 0: all that was checked holds. 2: FOLDER is no release. 9: something does not hold; do not use the
    model.
    """
    from compliance.bundle_check import check_bundle

    digits = charter_digits(charter)
    report = check_bundle(folder, charter=digits, quorum=quorum)
    if as_json:
        facts = {"verified": report.holds, "charter": report.charter, "manifest": report.manifest}
        emit_json({**facts, "checks": [asdict(one) for one in report.findings]})
    else:
        for one in report.findings:
            say(f"{one.verdict:<11}  {one.what}: {one.detail}")
    if not report.holds:
        first = report.failed[0]
        raise RecordError(
            f"{plural(len(report.failed), 'check')} failed; the first: {first.what}: {first.detail}",
            hint="do not use this model; ask for the release again, and compare its charter",
        )
    if not as_json:
        say(f"{folder}: what was checked holds, under the charter {report.charter}")
