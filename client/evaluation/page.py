"""The report as a page: one HTML file without script that asks nobody, readable by its owner alone."""

import base64
from importlib.resources import files
from pathlib import Path

from client.evaluation import charts, words
from client.evaluation.explained import turns_of
from client.evaluation.gallery import INVENTED
from client.evaluation.report import UNTOUCHED, Part
from client.evaluation.run import Report
from shared import page
from shared.files import write_bytes, write_json
from shared.imaging import classical
from shared.imaging.explain.robustness import KINDS, SIZES
from shared.imaging.pictures import CLASS_COLOURS
from shared.imaging.quality.bootstrap import RESAMPLES
from shared.imaging.quality.calibration import BINS
from shared.imaging.quality.measures import MEASURES, is_image_task

PRIVATE = 0o600


def write_report(report: Report, path: Path) -> Path:
    """Write the page to ``path`` and its figures as JSON beside it, both for their owner alone (0600).

    Returns:
        The file of the figures.

    Raises:
        OutputError: They cannot be written.
    """
    beside = path.with_suffix(".json")
    write_json(beside, report.to_json(), mode=PRIVATE)
    write_bytes(path, render(report).encode(), mode=PRIVATE)
    return beside


def render(report: Report) -> str:
    """The page as one HTML document; its policy lets in nothing but its own style and pictures inside it."""
    templates = page.environment("client")
    templates.filters["visible"] = page.visible
    templates.globals.update(
        w=words,
        count=page.count,
        plural=page.plural,
        title=classical.title,
        MEASURES=MEASURES,
        UNTOUCHED=UNTOUCHED,
        KINDS=KINDS,
        SIZES=SIZES,
        data_uri=_data_uri,
    )
    style, style_hash = page.style((files("client") / "templates" / "evaluate.css").read_text("utf-8"))
    task, first = report.task, report.parts[0]
    return templates.get_template("evaluate.html").render(
        report=report,
        task=task,
        main=task.main_metric,
        measure=MEASURES[task.main_metric],
        first=first,
        images=is_image_task(task),
        labels=[model.label for model in report.models],
        definitions=words.measures_of({name: table for part in report.parts for name, table in part.methods.items()}),
        scatters=[charts.scatter(task.main_metric, part.patient_by_patient) for part in report.parts],
        curves=[{label: charts.reliability(curve) for label, curve in part.curve.items()} for part in report.parts],
        classes=_classes(report),
        sparse=_sparse(report),
        turns=turns_of(task),
        windows=sorted({picture.window for picture in report.pictures}),
        part_title=_part_title,
        resamples=RESAMPLES,
        bins=BINS,
        style=style,
        style_hash=style_hash,
    )


def _sparse(report: Report) -> list[list[tuple[str, charts.Sparsification]]]:
    """Sparsification curves of each part, with what they are of; empty where nobody asked or nothing was wrong."""
    parts = report.explanation.figures.parts if report.explanation else ()
    return [
        [(one.method, charts.sparsification(one.curve, one.oracle)) for one in part.sure if one.curve] for part in parts
    ]


def _part_title(report: Report, part: Part) -> str:
    """What the hospitals of a part are called."""
    if part.trained:
        return "Hospitals where a model was trained" if len(part.sites) > 1 else "A hospital where a model was trained"
    if not any(model.sites for model in report.models):
        return "No hospital trained these models" if len(report.models) > 1 else "No hospital trained this model"
    return "Hospitals where no model was trained" if len(part.sites) > 1 else "A hospital where no model was trained"


def _classes(report: Report) -> list[tuple[str, str]]:
    """Names and colours of the classes but background; empty for images."""
    if is_image_task(report.task):
        return []
    from shared.imaging.segment import CLASSES  # noqa: PLC0415  torch: seconds

    pairs = list(zip(CLASSES, CLASS_COLOURS, strict=False))[1:]
    return [(name, "#{:02x}{:02x}{:02x}".format(*colour)) for name, colour in pairs] + [
        ("wrongly given a class", "#{:02x}{:02x}{:02x}".format(*CLASS_COLOURS[INVENTED]))
    ]


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
