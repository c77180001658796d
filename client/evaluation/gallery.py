"""The pictures of the report: for patients that a rule chose, what went in, what came out, and what is wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from client.cohort_scale import CT_WINDOW, MR_PERCENTILE
from client.evaluation.data import Site, studies_of
from client.evaluation.models import Model
from client.evaluation.report import Chosen
from client.evaluation.scores import predicted
from shared.imaging import classical
from shared.imaging.images import StudyImages
from shared.imaging.pictures import grayscale, overlay, signed
from shared.imaging.quality.measures import Judge, is_image_task
from shared.imaging.quality.structures import Spot
from shared.imaging.tasks import Task

WINDOWS: Final = (0.05, 0.1, 0.2, 0.4)
"""Where the colours of a difference are full, as a share of the grey window; one of them for all pictures."""
INVENTED: Final = 4
"""The colour of a wrong pixel that is background in truth; other wrong pixels have that of their true class."""
_LESS: Final = "less reference"
_BARS: Final = (100.0, 50.0, 20.0, 10.0, 5.0, 2.0, 1.0)


@dataclass(frozen=True)
class Mark:
    """A circle in a panel, mm from its upper left corner; ``kind`` is ``added`` or ``lost``."""

    x: float
    y: float
    radius: float
    kind: str


@dataclass(frozen=True)
class Panel:
    """One picture of a row.

    Attributes:
        role: ``input``, ``second``, ``classical``, ``model``, ``truth`` or ``error``.
        title: What it is.
        png: Its bytes.
        figure: Main figure of the slice; None where it has none.
        marks: Spots that were added, or that are lost.
        note: What is shown of it, where it is not the output itself.
    """

    role: str
    title: str
    png: bytes
    figure: float | None = None
    marks: tuple[Mark, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """One slice of one patient under all methods.

    Attributes:
        rank: ``worst``, ``median`` or ``best``.
        site: The hospital.
        trained: Whether a model was trained there.
        figure: Main figure of the patient.
        slice: Number of the slice, from 1, and of how many.
        width: Of every panel, mm.
        height: Of every panel, mm.
        bar: Length of the scale bar, mm.
        window: The grey window, in words.
        panels: What hangs side by side.
        errors: What is wrong with the output of the classical method and of each model.
    """

    rank: str
    site: str
    trained: bool
    figure: float
    slice: tuple[int, int]
    width: float
    height: float
    bar: float
    window: str
    panels: tuple[Panel, ...]
    errors: tuple[Panel, ...]


@dataclass(frozen=True)
class _Shown:
    """A chosen slice with what every method makes of it."""

    chosen: Chosen
    trained: bool
    study: StudyImages
    judge: Judge
    outputs: Mapping[str, NDArray[Any]]


def gallery(
    task: Task, models: Sequence[Model], best: str, chosen: Sequence[tuple[Chosen, bool]], sites: Sequence[Site]
) -> tuple[tuple[Picture, ...], float]:
    """The pictures, and the window of their differences.

    Args:
        task: The task.
        models: All models; by the first one the patients were chosen.
        best: Key of the classical method beside it; empty for none.
        chosen: Which slices, and whether the hospital is one that trained.
        sites: The hospitals.
    """
    shown = [_shown(task, models, best, one, sites) for one in chosen]
    window = _window(task, models[0].label, shown)
    return tuple(_picture(task, models, best, one, window) for one in shown), window


def _shown(
    task: Task, models: Sequence[Model], best: str, picked: tuple[Chosen, bool], sites: Sequence[Site]
) -> _Shown:
    chosen, trained = picked
    score = chosen.score
    site = next(one for one in sites if one.name == score.site)
    study, facts = list(studies_of(site, score.patient, task))[score.place]
    outputs = {model.label: predicted(model, site, study)[0] for model in models}
    if best:
        outputs[best] = task.classical()[best](study)
    return _Shown(chosen, trained, study, Judge(task, study, facts.slice_distance), outputs)


def _window(task: Task, label: str, shown: Sequence[_Shown]) -> float:
    """The narrowest window that holds 99 % of the first model's errors on all pictures."""
    if not is_image_task(task) or not shown:
        return WINDOWS[-1]
    errors = [np.abs(one.outputs[label] - task.truth(one.study))[one.chosen.slice].ravel() for one in shown]
    most = float(np.percentile(np.concatenate(errors), 99))
    return next((window for window in WINDOWS if most <= window), WINDOWS[-1])


def _picture(task: Task, models: Sequence[Model], best: str, shown: _Shown, window: float) -> Picture:
    study, index, score = shown.study, shown.chosen.slice, shown.chosen.score
    rows, columns = study.spacing
    _, height, width = study.reference.shape
    made = _images if is_image_task(task) else _classes
    panels, errors = made(task, models, best, shown, window)
    return Picture(
        rank=shown.chosen.rank,
        site=score.site,
        trained=shown.trained,
        figure=shown.chosen.figure,
        slice=(index + 1, len(study)),
        width=width * columns,
        height=height * rows,
        bar=next((bar for bar in _BARS if bar <= width * columns / 3), _BARS[-1]),
        window=grey_window(study.modality),
        panels=panels,
        errors=errors,
    )


def grey_window(modality: str) -> str:
    """Which intensities are black and white."""
    if modality == "CT":
        low, high = CT_WINDOW
        return f"level {(low + high) / 2:g} HU, width {high - low:g} HU"
    return f"from 0 to the {MR_PERCENTILE:g}th percentile of the input series"


def _images(
    task: Task, models: Sequence[Model], best: str, shown: _Shown, window: float
) -> tuple[tuple[Panel, ...], tuple[Panel, ...]]:
    index, truth = shown.chosen.slice, task.truth(shown.study)[shown.chosen.slice]
    scored = shown.chosen.score.scored
    inputs = task.shown(shown.study)[index]
    panels, errors, lost = [Panel("input", "Input", grayscale(inputs, size=truth.shape))], list[Panel](), list[Mark]()
    if inputs.shape == truth.shape:
        errors.append(Panel("error", "Input", signed(inputs - truth, window), note=_LESS))
    for role, name in _methods(models, best):
        image = np.clip(shown.outputs[name][index], 0.0, 1.0)
        spots = shown.judge.spots(shown.outputs[name], index)
        marks = tuple(_mark(spot, shown.study, "added") for spot in spots.added)
        figure = scored[name].slices[index]
        panels.append(Panel(role, classical.title(name), grayscale(image), figure, marks))
        errors.append(Panel("error", classical.title(name), signed(image - truth, window), note=_LESS))
        if name == models[0].label:
            lost = [_mark(spot, shown.study, "lost") for spot in spots.lost]
    panels.append(Panel("truth", "Reference", grayscale(truth), marks=tuple(lost)))
    return tuple(panels), tuple(errors)


def _classes(
    task: Task, models: Sequence[Model], best: str, shown: _Shown, window: float
) -> tuple[tuple[Panel, ...], tuple[Panel, ...]]:
    del window
    index, image, truth = shown.chosen.slice, shown.study.noisy[shown.chosen.slice], task.truth(shown.study)
    scored = shown.chosen.score.scored
    panels, errors = [Panel("input", "Input", grayscale(image))], []
    for role, name in _methods(models, best):
        found = shown.outputs[name][index]
        panels.append(Panel(role, classical.title(name), overlay(image, found), scored[name].slices[index]))
        wrong = np.where(found != truth[index], np.where(truth[index] > 0, truth[index], INVENTED), 0)
        errors.append(Panel("error", classical.title(name), overlay(0.5 * image, wrong), note="wrong pixels"))
    panels.append(Panel("truth", "Reference", overlay(image, truth[index])))
    return tuple(panels), tuple(errors)


def _methods(models: Sequence[Model], best: str) -> list[tuple[str, str]]:
    return ([("classical", best)] if best else []) + [("model", model.label) for model in models]


def _mark(spot: Spot, study: StudyImages, kind: str) -> Mark:
    rows, columns = study.spacing
    return Mark((spot.column + 0.5) * columns, (spot.row + 0.5) * rows, 2.2 * spot.size * columns, kind)
