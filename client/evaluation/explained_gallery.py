"""The pictures of what the first model's answers rest on, for the slices that the report shows anyway."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from client.evaluation.data import Site, studies_of
from client.evaluation.explained import turns_of
from client.evaluation.gallery import INVENTED, WINDOWS, Mark, Panel, Picture
from client.evaluation.models import Model
from client.evaluation.report import Chosen
from client.evaluation.scores import predicted
from shared.imaging.explain.calibration import judged
from shared.imaging.explain.network import inputs_of, scale_of
from shared.imaging.explain.saliency import REGION, attribution
from shared.imaging.explain.uncertainty import spread, views
from shared.imaging.images import StudyImages
from shared.imaging.pictures import grayscale, overlay, signed
from shared.imaging.quality.measures import Judge, is_image_task
from shared.imaging.tasks import Task

SURE: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Where the colour of an uncertainty of images is full, as a share of the grey window; one of them for all pictures."""


@dataclass(frozen=True)
class Why:
    """One slice under the first model.

    Attributes:
        picture: The same slice in the report.
        panels: What hangs side by side.
    """

    picture: Picture
    panels: tuple[Panel, ...]


@dataclass(frozen=True, eq=False)
class _Slice:
    """One slice ``[h, w]``: what went in, at the matrix of what came out, and what is known of that."""

    study: StudyImages
    index: int
    source: NDArray[np.float32]
    output: NDArray[Any]
    truth: NDArray[Any]
    uncertainty: NDArray[np.float32]


def why(
    task: Task,
    models: Sequence[Model],
    chosen: Sequence[tuple[Chosen, bool]],
    pictures: Sequence[Picture],
    sites: Sequence[Site],
) -> tuple[tuple[Why, ...], float, float]:
    """The pictures, the window of their differences and that of their uncertainty.

    Raises:
        UsageError: captum is not installed.
    """
    shown = [_slice(task, models[0], one, sites) for one, _ in chosen]
    window, sure = WINDOWS[-1], 1.0
    if is_image_task(task):
        window = _window(WINDOWS, [np.abs(one.source - one.output) for one in shown])
        sure = _window(SURE, [one.uncertainty for one in shown])
    panels = (tuple(_panels(task, models[0], one, window, sure)) for one in shown)
    return tuple(Why(*one) for one in zip(pictures, panels, strict=True)), window, sure


def _slice(task: Task, model: Model, chosen: Chosen, sites: Sequence[Site]) -> _Slice:
    site = next(one for one in sites if one.name == chosen.score.site)
    study, facts = list(studies_of(site, chosen.score.patient, task))[chosen.score.place]
    index, truth, classes = chosen.slice, task.truth(study), not is_image_task(task)
    output = predicted(model, site, study)[0][index]
    inputs = inputs_of(task, study)[index : index + 1]
    found = spread(views(model.network, inputs, size=truth.shape[1:], classes=classes, turns=turns_of(task)))
    source = study.noisy if classes else Judge(task, study, facts.slice_distance).source
    return _Slice(study, index, source[index], output, truth[index], found.uncertainty[0])


def _window(windows: Sequence[float], maps: Sequence[NDArray[Any]]) -> float:
    """The narrowest window that holds 99 % of all pixels."""
    most = float(np.percentile(np.concatenate([one.ravel() for one in maps]), 99)) if maps else 0.0
    return next((window for window in windows if most <= window), windows[-1])


def _panels(task: Task, model: Model, one: _Slice, window: float, sure: float) -> Iterator[Panel]:
    classes = not is_image_task(task)
    row, column = asked(one.uncertainty, judged(one.truth, one.output)[1])
    yield Panel("input", "Input", grayscale(one.source))
    if one.study.second is not None and inputs_of(task, one.study).ndim == 4:
        yield Panel("second", "Second contrast", grayscale(one.study.second[one.index]))
    if classes:
        yield Panel("model", model.label, overlay(one.source, one.output))
        wrong = np.where(one.output != one.truth, np.where(one.truth > 0, one.truth, INVENTED), 0)
        mistakes = Panel("error", "Wrong pixels", overlay(0.5 * one.source, wrong))
    else:
        yield Panel("model", model.label, grayscale(one.output))
        yield Panel("error", "Taken away", signed(one.source - one.output, window), note="input less output")
        mistakes = Panel("error", "Error", signed(one.output - one.truth, window), note="output less reference")
    rows, columns = one.study.spacing
    mark = Mark((column + 0.5) * columns, (row + 0.5) * rows, (REGION + 1.5) * max(rows, columns), "asked")
    yield Panel("error", "Uncertainty", signed(one.uncertainty, sure), marks=(mark,))
    yield mistakes
    inputs = inputs_of(task, one.study)
    scale = scale_of(inputs, task.truth(one.study))
    channel = int(one.output[row, column]) if classes else 0
    found = attribution(model.network, inputs[one.index], (row, column), scale=scale, channel=channel)
    # Without the root a dot would be all there is to see.
    shares = np.sign(found) * np.sqrt(np.abs(found) / max(float(np.abs(found).max()), 1e-12))
    height, width = one.truth.shape
    of = ("",) if shares.ndim == 2 else (", input", ", second contrast")
    for name, share in zip(of, shares.reshape(-1, *shares.shape[-2:]), strict=True):
        large = share.repeat(scale, axis=0).repeat(scale, axis=1)[:height, :width]
        yield Panel("error", f"What the circle rests on{name}", signed(large, 1.0), marks=(mark,))


def asked(uncertainty: NDArray[np.float32], where: NDArray[np.bool_]) -> tuple[int, int]:
    """The pixel that is asked about: where the model is least sure, over five by five pixels within ``where``."""
    smooth = np.where(where, ndimage.uniform_filter(uncertainty, 2 * REGION + 1), -1.0)
    row, column = np.unravel_index(int(smooth.argmax()), smooth.shape)
    return int(row), int(column)
