"""``fedward data synthesize``: make the virtual hospitals' images."""

import os
from pathlib import Path
from typing import Annotated

import typer

from shared.console import emit_json, plural, progress, say
from simulation.sites.specs import DEFAULT_SEED, choose_sites


def synthesize_command(
    out: Annotated[Path, typer.Argument(help="Folder to make; an earlier result there is replaced.")],
    *,
    sites: Annotated[str, typer.Option(help="How many sites, or their ids (H1,H7,X1), or 'all'.")] = "8",
    patients: Annotated[int | None, typer.Option(help="Patients per site; each site's own number by default.")] = None,
    size: Annotated[int, typer.Option(help="Rows and columns of an image.")] = 160,
    slices: Annotated[int, typer.Option(help="Slices per series.")] = 8,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = DEFAULT_SEED,
    workers: Annotated[int | None, typer.Option(help="Processes; one per core by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Write synthetic patients of several hospitals as DICOM, with identifiers in their headers."""
    from simulation.sites.synthesize import synthesize  # half a second that --help need not wait for

    with progress(quiet=as_json) as bar:
        task = bar.add_task("making patients", total=None)
        done = synthesize(
            out,
            sites=choose_sites(sites),
            patients=patients,
            size=size,
            slices=slices,
            seed=seed,
            workers=workers if workers is not None else len(os.sched_getaffinity(0)),
            on_progress=lambda count, total: bar.update(task, completed=count, total=total),
        )
    if as_json:
        emit_json(
            {
                "out": str(done.out),
                "seed": done.seed,
                "sites": {s.site: {"patients": s.patients, "studies": s.studies, "files": s.files} for s in done.sites},
            }
        )
        return
    for site in done.sites:
        counts = f"{plural(site.patients, 'patient')}, {plural(site.studies, 'study', 'studies')}"
        say(f"{site.site}: {counts}, {plural(site.files, 'file')}")
    say(f"{plural(done.patients, 'patient')} in {plural(done.files, 'file')} below {done.out}")
