"""``fedward node check``: whether this hospital is ready to take part, and what to mend."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from shared import console


def mount(app: typer.Typer) -> None:
    """Add the command to the node's group."""
    app.command("check")(check_command)


def check_command(
    node: Annotated[Path, typer.Argument(metavar="NODE", help="The node's folder, from 'fedward node init'.")],
    *,
    offline: Annotated[bool, typer.Option("--offline", help="Do not connect to the coordinator.")] = False,
    timeout: Annotated[
        float, typer.Option(min=0.1, max=600, help="Seconds that the coordinator has for an answer.")
    ] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look whether this hospital is ready, and say what to mend.

    Keys, permissions, audit log, charter, release, policy, budget, consent, cohort, device, disk, certificate, the
    connection to the coordinator, with its clock, and the log's witnesses. Each line says ok, warn or fail, what was
    found, and how to mend it. Nothing is changed.

    Exit status 0: all ok, or warnings. 6: policy, the charter or a permission forbids taking part. 8: the coordinator
    is not reached, or is another one, or the clocks differ. Else that of the gravest failure.
    """
    from client.node import Node
    from client.preflight import exit_code, preflight

    findings = []
    for finding in preflight(Node.open(node), offline=offline, timeout=timeout):
        findings.append(finding)
        if not as_json:
            mend = f"; {finding.mend}" if finding.mend else ""
            console.say(f"{finding.verdict.value:<4}  {finding.check:<12} {finding.what}{mend}")
    status = exit_code(findings)
    if as_json:
        console.emit_json({"ready": status == 0, "findings": [asdict(finding) for finding in findings]})
    if status:
        raise typer.Exit(status)
