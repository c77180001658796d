"""``fedward pretrain``: make the public starting points again."""

from pathlib import Path
from typing import Annotated

import typer

from shared.console import emit_json, plural, progress, say


def pretrain(
    task: Annotated[
        list[str] | None, typer.Option(help="Only this task: denoise, superres or segment; may be repeated.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for weights, recipe and notice.")] = Path("runs/pretrain"),
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the seed of the shipped weights.")] = None,
    patients: Annotated[int | None, typer.Option(min=1, help="Phantoms to train on; as the shipped ones.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of every task; as the shipped ones.")] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=64, help="Processes that make phantoms. Training takes one, with one thread.")
    ] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print digests and scores.")] = False,
) -> None:
    """Train the public models on synthetic phantoms of random contrast.

    They are what a charter with start = "public-1" begins from. No patient's image is used. OUT gets the weights, how
    they were made, and the atlas's notice; the command says whether they are byte for byte the shipped ones. It needs
    about fifteen minutes of one core; an interrupted run leaves nothing behind.
    """
    from simulation import pretrain as making  # seconds of imports that `fedward --help` should not cost

    plan = making.Plan(
        tasks=tuple(dict.fromkeys(task or making.COURSES)),
        seed=making.SEED if seed is None else seed,
        patients=patients or making.PATIENTS,
        steps=steps,
        workers=workers,
    )
    with progress(quiet=json) as bar:
        models = making.pretrain(plan, out, bar)
    if json:
        emit_json({m.task: {"sha256": m.sha256, "shipped": m.shipped, "scores": dict(m.scores)} for m in models})
        return
    for model in models:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in model.scores.items())
        say(f"{model.task}: {plural(model.parameters, 'parameter')}; on held-out phantoms {figures}")
        same = "the shipped weights, byte for byte" if model.shipped else "not the shipped weights' bytes"
        say(f"{model.task}: SHA-256 {model.sha256}: {same}")
    if not all(model.shipped for model in models):
        say("other settings, versions or processors give other bytes: compare the scores with the shipped recipe")
    say(f"weights, recipe and notice in {out}")
