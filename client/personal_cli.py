"""``fedward node personalise``: a federated model made this hospital's own."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compliance.told import charter_digits
from shared import console
from shared.errors import UsageError

if TYPE_CHECKING:
    from client.personal_models import PersonalModel

_MODEL = "Folder of a release; or public-1, to try it out, with --task."
_CHARTER = "The release's charter, as a member told you. Default: the node's own."
_QUORUM = "As in 'fedward model verify'; 0 asks for no witness of the release."
_STEPS = "Optimiser steps of each of the two trainings."
_LOOK = "Score the first training on those kept back every so many steps, and take as many steps as were best."


def mount(app: typer.Typer) -> None:
    """Add the command to the node's group."""
    app.command("personalise")(personalise_command)


def personalise_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL)],
    folder: Annotated[Path, typer.Argument(metavar="NODE", help="The node; its training patients are used.")],
    *,
    name: Annotated[str, typer.Option(help="Name of the new model. Default: the task's.")] = "",
    task: Annotated[str | None, typer.Option(help="Which public model: denoise, superres, segment.")] = None,
    charter: Annotated[str | None, typer.Option(metavar="SHA256", help=_CHARTER)] = None,
    quorum: Annotated[int | None, typer.Option(min=0, help=_QUORUM)] = None,
    steps: Annotated[int, typer.Option(min=1, max=100_000, help=_STEPS)] = 120,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Patches in a step.")] = 4,
    lr: Annotated[
        float | None, typer.Option(min=1e-7, max=1.0, help="Learning rate of the first step. Default: the task's.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides who is kept back, and the training.")] = 0,
    look_every: Annotated[int | None, typer.Option(min=1, metavar="STEPS", help=_LOOK)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was made as JSON.")] = False,
) -> None:
    """Train a released model further on this hospital's own patients, and keep it in the node, in personal/NAME.

    It is trained on the training patients who may take part today and mixed with the model that it began from; how far
    is decided on a quarter of them, kept back from a first training. 'fedward evaluate' says whether it is better here
    than the release, 'fedward node enhance' applies it. It has no differential privacy and must not leave the hospital;
    where one of its patients is erased or rectified it is deleted.

    Exit status 0: made. 2: wrong use, or no such model. 4: too few patients, or a damaged cohort. 5: it cannot be
    written. 6: a patient may not take part any more, and nothing was written. 9: the release does not hold, or a record
    cannot be read.
    """
    from client.node import Node
    from client.personal_models import place_of
    from client.personalising import Order, base_of, make_personal

    if lr is not None and math.isnan(lr):  # which is in every range
        raise UsageError("--lr nan is no rate", hint="choose one from 1e-7 to 1")
    node = Node.open(folder)
    told = charter_digits(charter) or (node.charter.sha256 if node.pinned else "")
    base = base_of(model, task=task, charter=told, quorum=quorum)
    order = Order(name or base.task.name, steps, batch, lr, seed, look_every)
    place_of(node, order.name)  # before an hour of training
    with node.open_log() as log, console.progress(quiet=as_json) as bar:
        line = bar.add_task(f"{base.task.title}: personal model", total=2 * steps)
        place, made = make_personal(
            node, log, base, order, on_step=lambda done, total: bar.update(line, completed=done, total=total)
        )
    _tell(place, made, as_json=as_json)


def _tell(place: Path, made: "PersonalModel", *, as_json: bool) -> None:
    if as_json:
        shown = ("task", "base", "base_sha256", "weights_sha256", "mix", "scores", "steps", "warning")
        known = {key: getattr(made, key) for key in shown}
        console.emit_json({**known, "patients": len(made.patients), "folder": str(place)})
        return
    scores = ", ".join(f"{mix}: {score:.4g}" for mix, score in made.scores.items())
    console.say(f"on patients kept back, by the share of training at home: {scores}")
    if made.mix:
        console.say(f"personal model {place}: {made.mix:.0%} of the way from {made.base} to training at home")
    else:
        console.say(f"personal model {place}: training at home gained nothing, so it is {made.base} as it was")
    console.say(f"{made.warning}; whether it is better here: fedward evaluate {place} NODE --against MODEL")
