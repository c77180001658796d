"""``fedward audit hold``: legal holds on a record, and whether it may be deleted."""

from pathlib import Path
from typing import Annotated, Final

import typer

from compliance import retention
from compliance.place import Place
from shared.console import emit_json, say

_FOLDER: Final = typer.Argument(help="The folder of a node or a coordinator.")
_WHO: Final = typer.Option("--who", help="The office or person that decides; no patient.")
_WHY: Final = typer.Option("--why", help="The matter, in words without identifiers.")
_JSON: Final = typer.Option("--json", help="Print JSON.")


def mount(app: typer.Typer) -> None:
    """Add the group ``hold``."""
    group = typer.Typer(help="Legal holds: the record is kept for as long as one stands.", no_args_is_help=True)
    group.command("place")(place)
    group.command("lift")(lift)
    group.command("list")(list_holds)
    app.add_typer(group, name="hold")


def place(folder: Annotated[Path, _FOLDER], who: Annotated[str, _WHO], why: Annotated[str, _WHY]) -> None:
    """Place a hold: an entry of the log, with who and why."""
    with Place.open(folder).open_log() as log:
        say(f"hold {retention.place(log, who=who, why=why)} is placed")


def lift(
    folder: Annotated[Path, _FOLDER],
    hold: Annotated[str, typer.Argument(help="Its id, as 'hold list' prints it.")],
    who: Annotated[str, _WHO],
    why: Annotated[str, _WHY],
) -> None:
    """Lift a hold: an entry of the log too."""
    member = Place.open(folder)
    with member.open_log() as log:
        retention.lift(log, member.log, hold, who=who, why=why)
    say(f"hold {hold} is lifted")


def list_holds(folder: Annotated[Path, _FOLDER], json: Annotated[bool, _JSON] = False) -> None:
    """The holds that stand, and whether the record may be deleted."""
    log = Place.open(folder).log
    found = retention.holds(log)
    allowed, why = retention.may_delete(log, log=log)
    if json:
        rows = [{"hold": one.id, "who": one.who, "why": one.why, "since": one.since.isoformat()} for one in found]
        emit_json({"holds": rows, "may_delete": allowed, "because": why})
        return
    for one in found:
        say(f"{one.id} since {one.since:%Y-%m-%d %H:%M} UTC, {one.who}: {one.why}")
    say(f"the record {'may' if allowed else 'must not'} be deleted: {why}")
