"""``fedward audit``: check the record."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from compliance import export_cli
from compliance.log import verify
from shared.console import emit_json, plural, say
from shared.errors import UsageError

app = typer.Typer(
    help="The audit log: what was done, in an order that cannot be changed unnoticed.", no_args_is_help=True
)


@app.callback()
def _group() -> None:
    """Keep ``verify`` a command of its own: the group grows."""


@app.command("verify")
def verify_logs(
    logs: Annotated[list[Path], typer.Argument(help="Audit log files (log.jsonl).")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check form, order and hash chain of each LOG. Exit 9 at the first that does not verify, 2 where one is missing.

    The chain is evidence that nothing inside a log was altered, dropped or reordered since. It cannot show that the end
    was not cut off: compare the printed head with one that was noted elsewhere.
    """
    if missing := next((path for path in logs if not path.is_file()), None):
        raise UsageError(f"there is no audit log {missing}", hint="name a log.jsonl, or the audit.jsonl of a report")
    found = {str(path): verify(path) for path in logs}
    if json:
        emit_json({path: {**asdict(one), "verified": True} for path, one in found.items()})
        return
    for path, one in found.items():
        say(f"{path}: verified, {plural(one.entries, 'entry', 'entries')}, head {one.head}")
        if one.torn:
            say(f"{path}: {one.torn} bytes follow of an entry that was never finished; the next one to write cuts them")


export_cli.mount(app)
