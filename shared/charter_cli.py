"""``fedward charter``: begin a charter, and read one before it is signed for."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.console import emit_json, say

if TYPE_CHECKING:
    from shared.charter import Charter

app = typer.Typer(help="The federation's charter: what it says, in plain words.", no_args_is_help=True)


@app.command()
def new(
    charter: Annotated[Path, typer.Argument(metavar="CHARTER", help="The file to write (TOML).")],
    *,
    name: Annotated[str, typer.Option("--id", help="Name of the federation.")],
    purpose: Annotated[str, typer.Option(help="Why data is processed: word for word that of every node.")],
    members: Annotated[int, typer.Option(help="How many hospitals will take part, 3 to 100.")],
    task: Annotated[
        list[str] | None, typer.Option(help="denoise, superres or segment; may be repeated. Default: denoise.")
    ] = None,
) -> None:
    """Write the draft of a charter for real hospitals, with masks and patient-level differential privacy.

    It has no member yet: 'fedward server approve' takes them in, and with the last one it is a charter.

    Exit status 0: written. 2: wrong use, or there is such a file. 5: it cannot be written.
    """
    from shared.charter_draft import draft
    from shared.errors import UsageError
    from shared.files import write_bytes

    if charter.exists():
        raise UsageError(f"there is a file {charter}", hint="choose another name: a charter is never written over")
    chosen = tuple(task or ["denoise"])
    text = draft(file=charter.name, name=name, purpose=purpose, members=members, tasks=chosen)
    write_bytes(charter, text.encode(), replace=False)
    say(f"{charter}: a draft for {members} hospitals; read it, then take them in with 'fedward server approve'")


@app.command()
def check(
    charter: Annotated[Path, typer.Argument(metavar="CHARTER", help="The charter (TOML).")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say in plain words what CHARTER asks for, what the coordinator learns, what is not protected, and what is odd.

    Warnings do not change the exit status: they are for whoever agrees to the charter.

    Exit status 0: it is a charter. 2: it cannot be read, has a wrong entry, or would not protect its members.
    """
    from shared.charter import Charter
    from shared.charter_words import explain, facts, lines

    found = Charter.load(charter)
    _require_networks(found)
    if as_json:
        emit_json(facts(found))
        return
    for line in lines(explain(found)):
        say(line)


def _require_networks(charter: "Charter") -> None:
    """That what every hospital would pin can be trained with this release: tasks, networks, and public weights.

    Raises:
        UsageError: There is no such task or network.
        CharterError: The public weights are not of that network.
    """
    from shared.imaging.start import prepared, shaped
    from shared.imaging.tasks import get_task

    for plan in charter.tasks:
        begin = shaped if plan.start == "release" else prepared  # whether a release fits is known where it lies
        begin(get_task(plan.name), plan, charter.seed)
