"""From a model to its files: every graph is held against torch, and every smaller model against the whole one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from client.evaluation.models import PERSONAL, Model
from client.export import fitting, speed
from client.export.graph import (
    Images,
    OnnxNetwork,
    Parity,
    deployed,
    parameters,
    parity,
    require_parity,
    to_onnx,
    widths,
)
from client.export.people import People
from client.export.quantise import LIMITS, quantise
from client.export.speed import Timing
from shared.imaging.images import StudyImages
from shared.imaging.inference import MULTIPLE
from shared.imaging.metrics import Sums, summarise
from shared.imaging.quality.measures import is_image_task
from shared.imaging.superres import SuperResolution
from shared.imaging.tasks import Task

FLOAT, INT8, PRUNED, STUDENT = "float32", "int8", "pruned", "student"
CALIBRATION: Final = 32
"""Slices that set the ranges of an eight-bit model's activations."""
SEARCHED: Final = 24
"""Slices, or a few more, by which its layers are chosen."""
COMPARED: Final = 8
"""Slices by which a graph is held against torch."""
SEED: Final = 1

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Wishes:
    """What is wanted beside the ONNX file.

    Attributes:
        int8: An eight-bit model.
        prune: The share of channels of a pruned model that go; None for no such model.
        distil: A student.
        steps: Optimiser steps of each that is trained.
        rounds: How often every runtime is timed; 0 for not at all.
        force: Write the eight-bit model whatever it loses.
    """

    int8: bool = False
    prune: float | None = None
    distil: bool = False
    steps: int = 2000
    rounds: int = 15
    force: bool = False

    @property
    def fits(self) -> bool:
        """Whether somebody to fit to is needed."""
        return self.int8 or self.distil or self.prune is not None


@dataclass(frozen=True, eq=False)
class Variant:
    """One model that comes out.

    Attributes:
        name: :data:`FLOAT`, :data:`INT8`, :data:`PRUNED` or :data:`STUDENT`.
        graph: Its ONNX file, without metadata.
        network: In torch, with all parameters; of the eight-bit one the network that it was made from.
        parity: How far the graph is from the network; None for the eight-bit one, which is another model.
        parameters: How many.
        figures: On those who were held out; empty where nobody was.
        detail: What else is known, for the JSON.
        loss: What it loses against the whole model, by the figure that decides; 0 where nobody was held out.
        refused: Why it is not written; empty where it is.
        timings: By runtime and place, such as ``torch/1 thread``.
    """

    name: str
    graph: bytes
    network: nn.Module
    parity: Parity | None
    parameters: int
    figures: Mapping[str, float]
    detail: Mapping[str, Any]
    loss: float = 0.0
    refused: str = ""
    timings: Mapping[str, Timing] = field(default_factory=dict)


@dataclass(frozen=True)
class Export:
    """All that comes out of a model.

    Attributes:
        model: The model.
        people: On whom it was fitted and tried.
        variants: The whole model first.
        scale: Pixels out to one pixel in.
        wishes: What was wanted.
    """

    model: Model
    people: People
    variants: tuple[Variant, ...]
    scale: int
    wishes: Wishes

    @property
    def personal(self) -> bool:
        """Whether the files are one hospital's own: they say of its patients what no guarantee bounds."""
        fitted = self.people.patients and any(one.name != FLOAT for one in self.variants)
        return fitted or self.model.kind == PERSONAL


def deciding(task: Task) -> str:
    """The figure by which a smaller model is judged: PSNR, or Dice."""
    return "psnr" if is_image_task(task) else "dice"


def scale_of(task: Task) -> int:
    """Pixels out to one pixel in."""
    return task.factor if isinstance(task, SuperResolution) else 1


def export(model: Model, people: People, wishes: Wishes, on_progress: Progress = lambda *_: None) -> Export:
    """Make all that is wished.

    Args:
        model: The model.
        people: On whom it is fitted and tried; those to fit to may be missing where nothing is fitted.
        wishes: What is wanted.
        on_progress: Called with what is done, how far it is, and how far it goes.

    Raises:
        FedwardError: A graph differs from its network.
        UsageError: The network cannot be pruned so, or has no student.
    """
    task, network = model.task, deployed(model.network)
    maker = _Maker(task, network, people, wishes, on_progress)
    variants = [maker.whole()]
    if wishes.int8:
        variants.append(maker.eight_bit())
    if wishes.prune is not None:
        variants.append(maker.pruned(wishes.prune))
    if wishes.distil:
        variants.append(maker.student())
    found = Export(model, people, tuple(variants), scale_of(task), wishes)
    return _with_timings(found, on_progress) if wishes.rounds else found


class _Maker:
    def __init__(self, task: Task, network: nn.Module, people: People, wishes: Wishes, on_progress: Progress) -> None:
        self._task, self._network, self._people = task, network, people
        self._wishes, self._on_progress = wishes, on_progress
        self._held = people.studies(held_out=True)
        self._compared = inputs(task, self._held or people.studies(held_out=False), COMPARED)
        self._graph, self._figures = b"", dict[str, float]()

    def whole(self) -> Variant:
        """The model as it is."""
        found = self._variant(FLOAT, self._network, {})
        self._graph, self._figures = found.graph, dict(found.figures)
        return found

    def eight_bit(self) -> Variant:
        """With as many convolutions in eight bits as it bears."""
        task, key = self._task, deciding(self._task)
        studies = self._people.studies(held_out=False)
        seen = _some(studies, SEARCHED)

        def score(graph: bytes) -> float:
            return figures(task, OnnxNetwork(graph), seen)[key]

        self._on_progress("Eight-bit model", 0, 1)
        found = quantise(self._graph, inputs(task, studies, CALIBRATION), score, LIMITS[key])
        self._on_progress("Eight-bit model", 1, 1)
        own = figures(task, OnnxNetwork(found.graph), self._held)
        loss, limit = self._figures[key] - own[key], LIMITS[key]
        unit = " dB of PSNR" if key == "psnr" else " of Dice"
        lossy = not loss <= limit and not self._wishes.force
        detail = {
            "layers": found.convolutions,
            "kept_in_float32": list(found.kept),
            "loss_in_search": found.loss,
            "limit": limit,
            "graphs_tried": found.tried,
        }
        return Variant(
            name=INT8,
            graph=found.graph,
            network=self._network,
            parity=None,
            parameters=parameters(self._network),
            figures=own,
            detail=detail | widths(self._network),
            loss=loss,
            refused=f"it loses {loss:.3f}{unit}, more than {limit:g}" if lossy else "",
        )

    def pruned(self, ratio: float) -> Variant:
        """Without its weakest channels, tuned again."""
        small = fitting.pruned(self._network, ratio)
        self._fit("Pruned model", small, fitting.TUNING_RATE)
        return self._variant(PRUNED, small, {"ratio": ratio, "steps": self._wishes.steps})

    def student(self) -> Variant:
        """A smaller one that learnt from it."""
        small = fitting.student_of(self._network, SEED)
        self._fit("Student", small, fitting.STUDENT_RATE)
        return self._variant(STUDENT, small, {"steps": self._wishes.steps})

    def _fit(self, what: str, small: nn.Module, rate: float) -> None:
        steps = self._wishes.steps
        fitting.fit(
            self._task,
            small,
            self._network,
            self._people.fit,
            steps=steps,
            rate=rate,
            seed=SEED,
            on_step=lambda done: self._on_progress(what, done, steps),
        )

    def _variant(self, name: str, network: nn.Module, detail: Mapping[str, Any]) -> Variant:
        graph = to_onnx(network)
        held = parity(network, graph, self._compared)
        require_parity(f"the {name} model", held)
        own = figures(self._task, OnnxNetwork(graph), self._held)
        key = deciding(self._task)
        loss = self._figures[key] - own[key] if own and self._figures else 0.0
        return Variant(name, graph, network, held, parameters(network), own, {**detail, **widths(network)}, loss)


# --- slices -----------------------------------------------------------------------------------------------------------


def inputs(task: Task, studies: Sequence[StudyImages], count: int) -> list[Images]:
    """Some slices as the network gets them, ``[1, c, h, w]`` each, of as many studies as there are, from their middle.

    Borders are repeated up to a multiple of eight pixels, as :mod:`shared.imaging.inference` does.
    """
    found: list[Images] = []
    for number, study in enumerate(studies[:count]):
        stack = task.inputs(study)
        stack = stack[:, None] if stack.ndim == 3 else stack
        own = count // len(studies[:count]) + (number < count % len(studies[:count]))
        places = np.linspace(0, len(stack) - 1, min(own, len(stack)) + 2)[1:-1].round().astype(int)
        _, _, height, width = stack.shape
        edges = ((0, 0), (0, 0), (0, -height % MULTIPLE), (0, -width % MULTIPLE))
        found += [np.pad(stack[place : place + 1], edges, mode="edge").astype(np.float32) for place in places]
    return found


def figures(task: Task, network: nn.Module, studies: Sequence[StudyImages]) -> dict[str, float]:
    """The figures of a network over all slices of some studies; empty where there are none."""
    if not studies:
        return {}
    total = sum((task.score(task.predict(network, study), study) for study in studies), Sums.zero())
    return summarise(task.name, total)


def _some(studies: Sequence[StudyImages], slices: int) -> list[StudyImages]:
    """The first studies that have so many slices together."""
    found: list[StudyImages] = []
    for study in studies:
        if sum(len(one) for one in found) >= slices:
            break
        found.append(study)
    return found


# --- time -------------------------------------------------------------------------------------------------------------


def _with_timings(found: Export, on_progress: Progress) -> Export:
    on_progress("Timing", 0, 1)
    with _threads_as_before():
        networks = {one.name: one.network for one in found.variants if one.name != INT8}
        graphs = {one.name: one.graph for one in found.variants}
        times = speed.timed(speed.works(networks, graphs, scale=found.scale), found.wishes.rounds)
    on_progress("Timing", 1, 1)
    variants = []
    for one in found.variants:
        own = {name.split("/", 1)[1]: time for name, time in times.items() if name.split("/")[0] == one.name}
        variants.append(replace(one, timings=own))
    return replace(found, variants=tuple(variants))


@contextmanager
def _threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
