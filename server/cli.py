"""``fedward server``: who takes part, and what the coordinator's runs came to."""

import json as jsonlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from server.approve_cli import approve
from server.history import HISTORY, VERSION
from server.init_cli import mount as mount_init
from server.link_cli import mount as mount_link
from server.release_cli import mount as mount_release
from shared.console import emit_json, plural, say
from shared.errors import DataError, UsageError

app = typer.Typer(help="The coordinator: take hospitals into a charter, look at runs.", no_args_is_help=True)
mount_init(app)
app.command()(approve)
mount_link(app)
mount_release(app)


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The coordinator's folder, or that of a simulation's.")],
    name: Annotated[str, typer.Argument(metavar="RUN", help="Name of the run.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write loss, figures and traffic by round, for TensorBoard.")
    ] = None,
) -> None:
    """Print what the record of RUN says: per task the rounds, who answered, who did not, and why it ended."""
    from server.runs import checked

    runs = folder / "runs" if (folder / "runs").is_dir() else folder  # a simulation's are in its federation/
    run = runs / checked(name)
    if not run.is_dir():
        raise UsageError(
            f"there is no run {name} in {runs}", hint="give DIR and RUN, as 'fedward server status' has them"
        )
    histories = {str(path.parent.relative_to(run)): _read(path) for path in sorted(run.rglob(HISTORY))}
    if not histories:
        raise DataError(f"{run} holds no {HISTORY}", hint="give the folder of a run")
    if tensorboard is not None:
        from server.curves import write_curves

        write_curves(histories, tensorboard)
    if json:
        emit_json(histories)
        return
    for place, history in histories.items():
        for line in describe(history):
            say(f"{history['task'] if place == '.' else place}: {line}")
    if tensorboard is not None:
        say(f"curves: tensorboard --logdir {tensorboard}")


def describe(history: Mapping[str, Any]) -> list[str]:
    """A history in a few lines for people."""
    rounds = [one for one in history["rounds"] if one["train"]]
    seconds = sum(one["seconds"] for one in history["rounds"])
    head = f"run {history['run']} of {history['federation']}: {history['outcome']}"
    lines = [
        f"{head}, {plural(len(rounds), 'round')} in {seconds:.1f} s"
        + (f"; {history['error']}" if history["error"] else "")
    ]
    lines.append(f"updates were {history['aggregation']}")
    answers: dict[str, int] = {}
    for one in rounds:
        for site in one["train"]["answered"]:
            answers[site] = answers.get(site, 0) + 1
    if answers:
        lines.append("answers: " + ", ".join(f"{site} {count}" for site, count in sorted(answers.items())))
    for one in history["rounds"]:
        for phase in ("train", "evaluation"):
            lines += _trouble(one["round"], phase, one[phase])
    if history["failed"]:
        lines += _trouble(len(history["rounds"]), "last", history["failed"])
    return lines


def _trouble(number: int, name: str, phase: Mapping[str, Any] | None) -> list[str]:
    if phase is None:
        return []
    reasons = [f"{site} did not answer in time" for site in phase["missing"]]
    reasons += [f"{site} refused ({reason})" for site, reason in phase["refused"].items()]
    reasons += [f"{site} was left out ({reason})" for site, reason in phase["dropped"].items()]
    reasons += phase["notes"]
    return [f"round {number}, {name}: {reason}" for reason in reasons]


def _read(path: Path) -> dict[str, Any]:
    try:
        history = jsonlib.loads(path.read_bytes())
        known = history["version"] == VERSION
        if known:
            describe(history)  # a field that is missing shows here
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read", hint="restore it from a copy") from error
    if not known:
        raise DataError(f"{path} was written by another release", hint="show it with that release")
    found: dict[str, Any] = history
    return found
