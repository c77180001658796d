"""``fedward charter``: read a charter before it is signed for."""

from pathlib import Path
from typing import Annotated

import typer

from shared.console import emit_json, say

app = typer.Typer(help="The federation's charter: what it says, in plain words.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep ``check`` a command of its own: the group grows."""


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
    if as_json:
        emit_json(facts(found))
        return
    for line in lines(explain(found)):
        say(line)
