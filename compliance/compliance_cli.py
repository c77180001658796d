"""``fedward compliance``: the matrix of controls, the evidence report, incidents."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compliance.incident_cli import mount as mount_incident
from shared.console import emit_json, plural, say

if TYPE_CHECKING:
    from compliance.matrix import Row

app = typer.Typer(
    help="Evidence for controls of data protection law: it declares nothing compliant.", no_args_is_help=True
)
mount_incident(app)

Tests = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="The folder of the tests. Default: that of the source tree, where this is one."),
]


@app.command()
def matrix(
    *,
    tests: Tests = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it as a page.")] = None,
) -> None:
    """Print each control with its source, code, tests, evidence and what it cannot show.

    Tests are found by their marker without running them; an installation without a source tree has none to look at, and
    says so.

    Exit status 0: the matrix holds. 2: DIR is not there or a file in it is no Python. 5: FILE cannot be written. 9: an
    enforced control lacks its code or a test that carries its id, or a test carries an id that is none; it is printed
    all the same.
    """
    from compliance.matrix import matrix as build

    found = build(tests)
    if html is not None:
        from compliance.evidence_page import write_matrix

        write_matrix(html, found)
        say(f"{html}: {plural(len(found.rows), 'control')}")
    elif json:
        emit_json(found.to_json())
    else:
        _print(found.rows, looked=found.tests is not None)
    found.require_whole()


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a node, a coordinator or a simulation.")],
    *,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Gets evidence.html and evidence.json (0600); made new.")],
    tests: Tests = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a report that is there.")] = False,
) -> None:
    """Write the evidence report of FOLDER: a page to print, and the same as JSON.

    Exit status 0: written; open the page. 2: FOLDER is none that fedward knows, or DIR has a report already. 5: DIR
    cannot be written. 9: an audit log, a ledger or an incident does not verify: that is in the report, which is written
    all the same.
    """
    from compliance.evidence import gather
    from compliance.evidence_page import write_report
    from compliance.matrix import matrix as build
    from compliance.party import party_in

    found = gather(party_in(folder), build(tests))
    page = write_report(out, found, overwrite=overwrite)
    entries = sum(one.entries or 0 for one in found.logs)
    say(f"{page}: {plural(len(found.logs), 'audit log')}, {plural(entries, 'entry', 'entries')}")
    say("it is evidence for what it lists; it declares nothing compliant")
    found.require_verified()


def _print(rows: "tuple[Row, ...]", *, looked: bool) -> None:
    from compliance.matrix import counts

    for row in rows:
        control = row.control
        say(f"{control.id}: {control.title} [{control.status.value}]")
        say(f"  source    {'; '.join(control.sources)}")
        say(f"  enforced  {control.enforced}")
        for name, values in (("code", control.code), ("evidence", control.evidence)):
            say(f"  {name:<9} {'; '.join(values) or 'none yet'}")
        tests = "; ".join(row.tests or ()) or "none"
        say(f"  tests     {tests if looked else 'not looked for: this is no source tree; name one with --tests'}")
        say(f"  cannot    {control.cannot}")
        if control.missing:
            say(f"  missing   {control.missing}")
    say(", ".join(f"{number} {status.value}" for status, number in counts(rows).items()) + "; evidence, no verdict")
