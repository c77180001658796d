"""``fedward node budget``: what was spent of the patients' privacy, how much may be, and what a charter would cost."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared import console
from shared.errors import DataError, UsageError

if TYPE_CHECKING:
    from client.node import Node

_NODE = "The node's folder, from 'fedward node init'."
_JSON = "Print JSON."

app = typer.Typer(
    help="The privacy budget: what is spent, what may be, what a charter would cost.", no_args_is_help=True
)


@app.command("show")
def show_command(
    node: Annotated[Path, typer.Argument(metavar="NODE", help=_NODE)],
    as_json: Annotated[bool, typer.Option("--json", help=_JSON)] = False,
) -> None:
    """Say what was spent of the privacy of this hospital's patients, on what, and how much of the budget is left.

    The ledger is compared with the node's audit log. Nothing is changed.

    Exit status 0: said. 2: no node. 6: a virtual hospital. 9: the ledger or the audit log cannot be read, was altered,
    or the ledger lacks what the log knows.
    """
    from client.budget import standing
    from client.budget_words import standing_json, standing_lines
    from client.node import Node

    found = standing(Node.open(node))
    if as_json:
        console.emit_json(standing_json(found))
        return
    for line in standing_lines(found):
        console.say(line)


@app.command("set")
def set_command(
    node: Annotated[Path, typer.Argument(metavar="NODE", help=_NODE)],
    *,
    epsilon: Annotated[float, typer.Option(help="Largest epsilon of everything that is ever trained here, above 0.")],
    who: Annotated[str, typer.Option(help="Who decided; stands in the ledger and in the audit log.")],
    why: Annotated[str, typer.Option(help="Why; stands there as well.")],
    delta: Annotated[
        float | None,
        typer.Option(help="1e-9 to 1e-5. Default: as before; with --patients the lesser of 1e-5 and 1 / (10 N)."),
    ] = None,
    patients: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10_000_000,
            help="N, the declared number of patients, a round number: it divides noisy sums and is public from then "
            "on. Default: as before; the first time it has to be said.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help=_JSON)] = False,
) -> None:
    """Set the privacy budget of this hospital, for all tasks, runs and federations together.

    Raising and lowering it is recorded with who and why. A budget below what is spent takes nothing back: it refuses
    everything further. Without one, this hospital trains nothing under differential privacy; with one, it trains
    nothing without.

    Exit status 0: set. 2: no node, or figures that no budget has. 6: a virtual hospital. 9: the ledger or the audit log
    is in use, was altered or cannot be written.
    """
    from client.budget import set_budget, standing
    from client.budget_words import standing_json, standing_lines
    from client.charge import Budget
    from client.node import Node
    from client.training.accounting import LARGEST_DELTA, SMALLEST_DELTA, default_delta

    opened = Node.open(node)
    before = standing(opened).budget
    count = patients or (before.patients if before else 0)
    if not count:  # a count that was taken by itself would tell, without noise, how many there are
        raise UsageError(
            "a budget needs a number of patients to divide by, and it becomes public",
            hint="declare a round one with --patients, such as 20 where there are some twenty",
        )
    chosen = delta if delta is not None else before.delta if before and not patients else default_delta(count)
    if not SMALLEST_DELTA <= chosen <= LARGEST_DELTA:
        raise UsageError(
            f"delta {chosen:g} is not from {SMALLEST_DELTA:g} to {LARGEST_DELTA:g}",
            hint="leave out --delta; with less, few rounds would fit: each step uses up 1e-12 of it",
        )
    set_budget(opened, Budget(epsilon, chosen, count), who=who, why=why)
    now = standing(opened)
    if as_json:
        console.emit_json(standing_json(now))
        return
    for line in standing_lines(now):
        console.say(line)


@app.command("rebuild")
def rebuild_command(
    node: Annotated[Path, typer.Argument(metavar="NODE", help=_NODE)],
    *,
    who: Annotated[str, typer.Option(help="Who has it done; stands in the audit log.")],
    why: Annotated[str, typer.Option(help="Why; stands there as well.")],
    as_json: Annotated[bool, typer.Option("--json", help=_JSON)] = False,
) -> None:
    """Charge again what the audit log knows and the privacy ledger lacks, where the ledger is an older copy or gone.

    Put back the newest copy of the ledger first, if there is one. Where it was altered, put it aside: then all that the
    log knows is charged in a new one. Nothing is taken back by it, and nothing is charged twice.

    Exit status 0: done, or nothing was missing. 2: no node, or no reason. 6: a virtual hospital. 9: the ledger or the
    audit log is in use, was altered or cannot be written, or the ledger is none that the log knows.
    """
    from client.budget import standing
    from client.budget_words import standing_json, standing_lines
    from client.node import Node
    from client.rebuild import rebuild

    opened = Node.open(node)
    added = rebuild(opened, who=who, why=why)
    now = standing(opened)
    if as_json:
        console.emit_json({"rebuilt": added, **standing_json(now)})
        return
    console.say(
        f"{console.plural(added, 'line')} charged or set again from the audit log" if added else "nothing lacked"
    )
    for line in standing_lines(now):
        console.say(line)


@app.command("plan")
def plan_command(
    node: Annotated[Path, typer.Argument(metavar="NODE", help=_NODE)],
    charter: Annotated[Path, typer.Argument(metavar="CHARTER", help="Any charter (TOML); it need not be pinned.")],
    *,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Also write a page for people, with the curve.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help=_JSON)] = False,
) -> None:
    """Say what CHARTER would cost this hospital's patients on top of what is spent, before anybody agrees to it.

    For all of its tasks: epsilon after each, how many rounds the budget covers, and how much noise would make the whole
    charter fit. Takes some seconds. Nothing is changed, and nothing is charged.

    Exit status 0: said, whether it fits or not (``covered`` with --json). 2: no node or no charter. 5: the page cannot
    be written. 6: a virtual hospital. 9: the ledger or the audit log cannot be read, was altered, or the ledger lacks
    what the log knows.
    """
    from client.budget import forecast, standing
    from client.budget_page import write_page
    from client.budget_words import forecast_json, forecast_lines
    from client.node import Node
    from shared.charter import Charter

    if page is not None and page.suffix != ".html":
        raise UsageError(f"{page} is no name for a page", hint="choose one that ends with .html")
    opened, asked = Node.open(node), Charter.load(charter)
    now = standing(opened, patients=_in_training(opened) or 1)
    found = forecast(now, asked)
    if page is not None:
        write_page(page, asked, found, now)
    if as_json:
        console.emit_json(forecast_json(asked, found, now))
        return
    for line in forecast_lines(asked, found, now):
        console.say(line)
    if page is not None:
        console.say(f"page for people: {page}")


def _in_training(node: "Node") -> int:
    """Patients in training; 0 where there is no cohort yet."""
    from client.cohort import Split

    try:
        return len(node.cohort.patients(Split.TRAIN))
    except DataError:
        return 0
