"""``fedward evaluate``: how good a model is on a hospital's own test patients, beside the classical methods."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compliance.told import charter_digits
from shared import console
from shared.errors import UsageError

if TYPE_CHECKING:
    from client.evaluation.run import Report

_MODEL = "A release folder, the folder of a run's model, a personal model, or a public one such as public-1."
_DATA = "Nodes of hospitals, or the cohorts in them."
_CHARTER = "SHA-256 of the charter of releases, as a member told you: 32 digits or more."
_QUORUM = "So many hospitals must have cosigned a release's checkpoint; 0: none. Default: over half."
_EXPLAIN = "Also how sure the models are, which pixels an answer rests on, and what upsets them; needs captum."
_ALL = "All patients, of hospitals that have trained on none of them."


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL)],
    data: Annotated[list[Path], typer.Argument(metavar="DATA...", help=_DATA)],
    *,
    against: Annotated[
        list[str] | None, typer.Option(help="Another model to stand beside it; may be repeated.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="The task, for public models, which have several.")] = None,
    everybody: Annotated[bool, typer.Option("--all", help=_ALL)] = False,
    page: Annotated[Path, typer.Option(metavar="FILE.html", help="The page; its figures go beside it as JSON.")] = Path(
        "evaluation.html"
    ),
    quality: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also the figures by group, for 'fedward node statement --quality'."),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help=_EXPLAIN)] = False,
    charter: Annotated[str | None, typer.Option(metavar="SHA256", help=_CHARTER)] = None,
    quorum: Annotated[int | None, typer.Option(min=0, help=_QUORUM)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Report how good a model is on the test patients of a hospital, beside every classical method of its task.

    Only patients who were never trained on are looked at, and of them those who may take part today. The audit log has
    it before an image is read; nothing but the report is written. The page shows images of patients: it is readable by
    its owner alone, and stays in the hospital.

    Exit status 0: reported. 2: no such model, node or task. 4: nobody to evaluate on, or a damaged model or cohort. 5:
    the page cannot be written. 6: others may read a key, or a cohort without its node. 9: a release does not hold, or
    the audit log or a register cannot be read or written.
    """
    _only_reports(page, quality)
    digits = charter_digits(charter)
    from client.evaluation.data import node_of
    from client.evaluation.models import open_models
    from client.evaluation.page import write_report
    from client.evaluation.run import evaluate as evaluated
    from shared.files import write_json

    _require_captum(explain=explain)
    nodes = [node_of(path) for path in data]
    models = open_models([model, *(against or [])], task=task, charter=digits, quorum=quorum)
    with console.progress(quiet=as_json) as bar:
        line = bar.add_task("patients", total=None)
        report = evaluated(
            models,
            nodes,
            everybody=everybody,
            explained=explain,
            on_progress=lambda done, total: bar.update(line, completed=done, total=total),
        )
    figures = write_report(report, page)
    if quality is not None:
        write_json(quality, {"cells": [cell.to_json() for cell in report.cells]}, mode=0o600)
    if as_json:
        console.emit_json(report.to_json())
        return
    _tell(report)
    groups = f"; figures by group, for 'fedward node statement --quality': {quality}" if quality is not None else ""
    console.say(f"page with images of patients, for this hospital alone: {page}; figures: {figures}{groups}")


def _only_reports(page: Path, quality: Path | None) -> None:
    """See that nothing but an earlier report is overwritten: beside NODE/node.html lies what makes the node one."""
    from shared.errors import DataError
    from shared.parsing import load_json

    if page.suffix != ".html":
        raise UsageError(f"{page} is no name for a page", hint="choose one that ends with .html")
    kinds = {page.with_suffix(".json"): {"fedward", "left_out", "measures"}}
    if quality is not None:
        if quality.absolute() in {page.absolute(), page.with_suffix(".json").absolute()}:
            raise UsageError(f"{quality} is the report itself", hint="choose another name for --quality")
        kinds[quality] = {"cells"}
    for path, keys in kinds.items():
        if not path.exists():
            continue
        try:
            found = load_json(path, error=DataError, hint="")
        except DataError:
            found = None
        if not isinstance(found, dict) or not keys <= found.keys():
            raise UsageError(f"{path} is there and is no earlier report", hint="choose another name; nothing was read")


def _require_captum(*, explain: bool) -> None:
    """See that it is there before anything is read, not after."""
    if explain:
        from shared.imaging.explain.saliency import captum

        captum("attr")


def _tell(report: "Report") -> None:
    """One table of the main figures, then what they come to."""
    from client.evaluation import words
    from client.evaluation.report import UNTOUCHED
    from shared.imaging import classical

    for part in report.parts:
        where = ", ".join(part.sites)
        trained = "a model was trained there" if part.trained else "no model was trained there"
        console.say(f"{report.task.title}, {where} ({trained}), {console.plural(part.patients, 'patient')}")
        shown = [*(model.label for model in report.models), part.best, *(n for n in part.methods if n in UNTOUCHED)]
        measures = words.measures_of({name: part.methods[name] for name in shown if name})
        rows = [["", *(measure.title for _, measure in measures)]]
        for method in filter(None, shown):
            table = part.methods[method]
            cells = [words.number(name, table[name].mean) if name in table else words.NOTHING for name, _ in measures]
            rows.append([classical.title(method), *cells])
        widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
        for row in rows:
            first, *rest = (
                cell.ljust(width) if not place else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            console.say("  ".join([first, *rest]).rstrip())
        for one in part.differences:
            console.say(f"{words.verdict(report.task, one)}")
    for site in report.sites:
        for reason, number in sorted(site.left_out.items()):
            console.say(f"{site.name}: {console.plural(number, 'patient')} left out: {reason}")
