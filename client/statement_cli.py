"""``fedward node statement``: what this hospital states of its part in a run, for the release of the model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared import console

if TYPE_CHECKING:
    from shared.statement import Statement


def mount(app: typer.Typer) -> None:
    """Add the command to the node's group."""
    app.command("statement")(statement_command)


def statement_command(
    node: Annotated[Path, typer.Argument(metavar="NODE", help="The node's folder, from 'fedward node init'.")],
    run: Annotated[str, typer.Argument(metavar="RUN", help="Name of the run.")],
    *,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Where the statement goes (JSON); nothing in it is secret.")
    ],
    quality: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Your figures on held-out patients by groups (JSON, docs/release.md); small groups are left out.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what the statement says as JSON.")] = False,
) -> None:
    """Write what this hospital states of its part in RUN, signed with its identity key: rounds, what they cost of its
    patients' privacy, the digest of the data set's manifest, and the newest checkpoint of its audit log.

    Read FILE, and send it to the coordinator if you agree: nothing is sent by this command, which reads and writes
    files alone. Whoever holds the charter can check it.

    Exit status 0: written. 2: no node, FILE is there already, this node knows no such run under its charter, or the
    file of --quality is none. 5: FILE cannot be written. 6: a virtual hospital, no charter, or a key that others may
    read. 8: the charter has another key of this hospital, or the endorsement of its log key is damaged. 9: the audit
    log, its checkpoint or the privacy ledger was altered or cannot be written.
    """
    from client.node import Node
    from client.statement import write_statement

    made = write_statement(Node.open(node), run, out, quality=quality)
    if as_json:
        console.emit_json({**made.facts(), "sha256": made.digest})
        return
    for line in lines(made):
        console.say(line)
    console.say(f"{out}: read it, and send it to the coordinator if you agree; nothing was sent")


def lines(statement: "Statement") -> list[str]:
    """A statement for people."""
    found = [f"{statement.site} on run {statement.run} of {statement.federation}, charter {statement.charter}"]
    for one in statement.tasks:
        paid = (
            "no differential privacy, no epsilon"
            if one.delta is None
            else f"{console.plural(one.steps, 'step')} charged, epsilon {one.alone} alone and {one.after} with all "
            f"that was charged before, at delta {one.delta:g}"
        )
        found.append(f"  {one.task}: {console.plural(one.rounds, 'round')}, {paid}")
    if statement.uncovered:
        count = console.plural(statement.uncovered, "round")
        found.append(f"  {count} on these patients without differential privacy, which no epsilon covers")
    found.append(f"  patients in training: {statement.patients or 'not recorded'}")
    found.append(f"  manifest of the data set: {statement.manifest or 'not recorded'}")
    hidden = sum(not one.shown for one in statement.quality)
    found.append(f"  groups of held-out patients: {len(statement.quality) - hidden} shown, {hidden} suppressed")
    found.append(f"  checkpoint of the audit log: {_checkpoint(statement.checkpoint)}")
    found.append(f"  SHA-256 {statement.digest}")
    return found


def _checkpoint(text: str) -> str:
    """A signed note in words: of how many entries, and who put a cosignature under it; nobody's is checked here."""
    from compliance.verify import Note

    if not text:
        return "none was published"
    note = Note.parse(text.encode())
    origin, size = note.text.split("\n")[:2]
    names = sorted({name for name, _, _ in note.signatures} - {origin})
    return f"{console.plural(int(size), 'entry', 'entries')}, cosigned by {', '.join(names) or 'nobody'}"
