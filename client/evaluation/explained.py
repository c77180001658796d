"""What a model's answers rest on, on the same test patients: how sure it is, what it looks at, what upsets it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from client.evaluation.data import Site, studies_of
from client.evaluation.models import Model
from client.evaluation.report import Part
from client.evaluation.scores import Progress
from client.policy_file import policy_of
from client.training.device import computing, device
from shared.imaging.explain.calibration import Agreement, agreement, judged
from shared.imaging.explain.network import inputs_of, outputs, scale_of
from shared.imaging.explain.robustness import KINDS, SIZES, perturbed
from shared.imaging.explain.saliency import Field, receptive_field
from shared.imaging.explain.shifts import SHIFTS, shifted
from shared.imaging.explain.uncertainty import TURNS, Spread, dropped, has_dropout, spread, views
from shared.imaging.images import StudyImages
from shared.imaging.metrics import Sums, summarise
from shared.imaging.quality.bootstrap import Estimate, estimate
from shared.imaging.quality.measures import is_image_task
from shared.imaging.tasks import Predictions, Task

UNCHANGED: Final = "unchanged"
_FIELDS: Final = 8  # slices that a receptive field is averaged over
Patient = tuple[str, str]
_What = tuple[str, float | None, str]  # change, its size, and the method under it


@dataclass(frozen=True)
class Sure:
    """One way to get several answers, and how far their spread points to errors.

    Attributes:
        model: Which model; the first where several answer together.
        method: Which model, and what its answers come from.
        main: Main figure of the mean of the answers.
        alone: The same of a single answer: of that model, or of the first where several answer.
        spearman: Rank correlation of uncertainty and error, over patients; None where nothing was wrong.
        ause: Area between the sparsification curve and the best that can be.
        ause_random: That area for a random order.
        curve: The curve, mean over patients.
        oracle: The best curve, mean over patients.
    """

    model: str
    method: str
    main: Estimate
    alone: Estimate
    spearman: Estimate | None
    ause: Estimate | None
    ause_random: Estimate | None
    curve: tuple[float, ...]
    oracle: tuple[float, ...]


@dataclass(frozen=True)
class Tried:
    """One change of the input, and the main figure under it.

    Attributes:
        key: ``unchanged``, a kind of :data:`~shared.imaging.explain.robustness.KINDS` or a name of a shift.
        title: What it is.
        size: Greatest change of a pixel as a share of the range; None for shifts.
        figures: By method, over patients.
    """

    key: str
    title: str
    size: float | None
    figures: Mapping[str, Estimate]


@dataclass(frozen=True)
class PartExplained:
    """Hospitals that belong together, as in :class:`~client.evaluation.report.Part`.

    Attributes:
        trained: Whether a model was trained there.
        sites: Their names.
        sure: How sure the models are.
        attacks: Changes made to do harm, beside random ones; of the middle slice of each study.
        shifts: Other scanners and protocols, of the same slices.
    """

    trained: bool
    sites: tuple[str, ...]
    sure: tuple[Sure, ...]
    attacks: tuple[Tried, ...]
    shifts: tuple[Tried, ...]


@dataclass(frozen=True)
class Explained:
    """All parts, and the receptive field of each model."""

    parts: tuple[PartExplained, ...]
    fields: Mapping[str, Field]


def turns_of(task: Task) -> int:
    """The symmetries that a task's training shows its networks: all for images; for classes heads stay upright."""
    return TURNS if is_image_task(task) else 2


def explain(
    task: Task,
    models: Sequence[Model],
    parts: Sequence[Part],
    sites: Sequence[Site],
    on_progress: Progress = lambda _, __: None,
) -> Explained:
    """Explain models on the patients of a report.

    Args:
        task: The task.
        models: All models.
        parts: Of the report.
        sites: The hospitals, whose logs have that they are read.
        on_progress: Called with the patients done and the patients in all.

    Raises:
        UsageError: captum is not installed, or the task's networks see more than one slice.
        DataError: A cached file is gone or damaged.
    """
    total, done, found, seen = sum(len(site.patients) for site in sites), 0, [], list[NDArray[np.float32]]()
    scale = 1
    for part in parts:
        tally = _Tally(task, models, part.best)
        for site in (one for one in sites if one.name in part.sites):
            for patient in site.patients:
                for study, _ in studies_of(site, patient, task):
                    tally.add((site.name, patient), site, study)
                    if len(seen) < _FIELDS:
                        inputs = inputs_of(task, study)
                        scale = scale_of(inputs, task.truth(study))
                        seen.append(inputs[len(inputs) // 2])
                done += 1
                on_progress(done, total)
        found.append(tally.part(part))
    alike = np.stack([image for image in seen if image.shape == seen[0].shape])
    fields = {model.label: receptive_field(model.network, alike, scale=scale) for model in models}
    return Explained(tuple(found), fields)


class _Tally:
    """Figures patient by patient, as studies come."""

    def __init__(self, task: Task, models: Sequence[Model], best: str) -> None:
        self._task, self._models, self._best = task, models, best
        self._agreements: dict[str, dict[Patient, list[Agreement]]] = defaultdict(lambda: defaultdict(list))
        self._means: dict[tuple[str, str], dict[Patient, Sums]] = defaultdict(dict)
        self._alone: dict[str, dict[Patient, Sums]] = defaultdict(dict)
        self._tried: dict[_What, dict[Patient, Sums]] = defaultdict(dict)

    def add(self, patient: Patient, site: Site, study: StudyImages) -> None:
        """Take in one study of a patient."""
        plan = policy_of(site.node).device
        place = device(plan, virtual=site.node.virtual)
        with computing(plan):
            for model in self._models:
                model.network.to(place)
            self._uncertainty(patient, study)
            middle = _middle(study)
            self._attacks(patient, middle)
            self._shifts(patient, middle)

    def _uncertainty(self, patient: Patient, study: StudyImages) -> None:
        task, truth = self._task, self._task.truth(study)
        for model in self._models:
            _add(self._alone[model.label], patient, task.score(task.predict(model.network, study), study))
        for method, label, found in spreads(task, self._models, study):
            _add(self._means[method, label], patient, task.score(found.predictions, study))
            for index, true in enumerate(truth):
                error, where = judged(true, found.predictions[index])
                one = agreement(found.uncertainty[index], error, where)
                if one is not None:
                    self._agreements[method][patient].append(one)

    def _attacks(self, patient: Patient, study: StudyImages) -> None:
        task, inputs, truth = self._task, inputs_of(self._task, study), self._task.truth(study)
        for model in self._models:
            self._try((UNCHANGED, None, model.label), patient, task.predict(model.network, study), study)
            for kind in KINDS:
                for size in SIZES:
                    changed = perturbed(task, model.network, inputs, truth, kind=kind, size=size)
                    made = outputs(model.network, changed, size=truth.shape[1:], classes=not is_image_task(task))
                    self._try((kind, size, model.label), patient, spread([made]).predictions, study)

    def _shifts(self, patient: Patient, study: StudyImages) -> None:
        task = self._task
        classical = {self._best: task.classical()[self._best]} if self._best else {}
        for method, apply in classical.items():
            self._try((UNCHANGED, None, method), patient, apply(study), study)
        for name, shift in SHIFTS.items():
            if study.modality not in shift.modalities:
                continue
            measured, judge = shifted(study, shift)
            for model in self._models:
                self._try((name, None, model.label), patient, task.predict(model.network, measured), judge)
            for method, apply in classical.items():
                self._try((name, None, method), patient, apply(measured), judge)

    def _try(self, what: _What, patient: Patient, made: Predictions, study: StudyImages) -> None:
        _add(self._tried[what], patient, self._task.score(made, study))

    def part(self, part: Part) -> PartExplained:
        """What all studies so far come to."""
        methods = [*(model.label for model in self._models), *([self._best] if self._best else [])]
        changes = [(UNCHANGED, None, "Unchanged")]
        attacks = [(kind, size, title) for kind, title in KINDS.items() for size in SIZES]
        return PartExplained(
            part.trained,
            part.sites,
            tuple(self._sure(method, label) for method, label in self._means),
            tuple(self._rows([*changes, *attacks], methods[: len(self._models)])),
            tuple(self._rows([*changes, *((name, None, one.title) for name, one in SHIFTS.items())], methods)),
        )

    def _rows(self, changes: Sequence[tuple[str, float | None, str]], methods: Sequence[str]) -> Iterator[Tried]:
        for key, size, title in changes:
            figures = {
                one: self._main(self._tried[key, size, one]) for one in methods if (key, size, one) in self._tried
            }
            if figures:
                yield Tried(key, title, size, figures)

    def _sure(self, method: str, label: str) -> Sure:
        found = self._agreements[method]

        def over(name: str) -> Estimate | None:
            return estimate([float(np.mean([getattr(one, name) for one in own])) for own in found.values()])

        return Sure(
            label,
            method,
            self._main(self._means[method, label]),
            self._main(self._alone[label]),
            over("spearman"),
            over("ause"),
            over("ause_random"),
            _mean_curve(found, "curve"),
            _mean_curve(found, "oracle"),
        )

    def _main(self, patients: Mapping[Patient, Sums]) -> Estimate:
        name = self._task.main_metric
        found = estimate([summarise(self._task.name, sums)[name] for sums in patients.values()])
        assert found is not None  # noqa: S101  # there are patients
        return found


def spreads(task: Task, models: Sequence[Model], study: StudyImages) -> Iterator[tuple[str, str, Spread]]:
    """Every way to get several answers that these models have: what it is called, which model answers alone, and both.

    Views of the image for each model; dropout where a network has it; all models together where there are several.
    """
    inputs, size, classes = inputs_of(task, study), task.truth(study).shape[1:], not is_image_task(task)
    turns = turns_of(task)
    for model in models:
        network, label = model.network, model.label
        yield f"{label}, {turns} views", label, spread(views(network, inputs, size=size, classes=classes, turns=turns))
        if has_dropout(network):
            yield f"{label}, dropout", label, spread(dropped(network, inputs, size=size, classes=classes))
    if len(models) > 1:
        members = (outputs(model.network, inputs, size=size, classes=classes) for model in models)
        yield f"{len(models)} models together", models[0].label, spread(members)


def _mean_curve(found: Mapping[Patient, Sequence[Agreement]], side: str) -> tuple[float, ...]:
    """Over the slices of each patient, then over patients; empty where nothing was wrong."""
    own = [np.mean([getattr(one, side) for one in rows], axis=0) for rows in found.values()]
    return tuple(map(float, np.mean(own, axis=0))) if own else ()


def _middle(study: StudyImages) -> StudyImages:
    """Its middle slice as a study."""
    part = slice(len(study) // 2, len(study) // 2 + 1)
    label = None if study.label is None else study.label[part]
    second = None if study.second is None else study.second[part]
    return replace(study, noisy=study.noisy[part], reference=study.reference[part], label=label, second=second)


def _add(sums: dict[Patient, Sums], patient: Patient, one: Sums) -> None:
    sums[patient] = sums.get(patient, Sums.zero()) + one


def to_json(explained: Explained) -> dict[str, Any]:
    """All figures, without an image or a pseudonym."""

    def of(one: Estimate | None) -> dict[str, Any] | None:
        return None if one is None else {"mean": one.mean, "low": one.low, "high": one.high, "patients": one.n}

    def rows(tried: Sequence[Tried]) -> list[dict[str, Any]]:
        return [
            {
                "change": one.key,
                "title": one.title,
                "size": one.size,
                "figures": {n: of(e) for n, e in one.figures.items()},
            }
            for one in tried
        ]

    return {
        "receptive_field": {
            label: {"half": one.half, "most": one.most, "slices": one.inputs} for label, one in explained.fields.items()
        },
        "parts": [
            {
                "hospitals": "a model was trained there" if part.trained else "no model was trained there",
                "sites": list(part.sites),
                "uncertainty": [
                    {
                        "model": one.model,
                        "method": one.method,
                        "main": of(one.main),
                        "single_answer": of(one.alone),
                        "spearman": of(one.spearman),
                        "ause": of(one.ause),
                        "ause_random": of(one.ause_random),
                        "curve": list(one.curve),
                        "oracle": list(one.oracle),
                    }
                    for one in part.sure
                ],
                "attacks": rows(part.attacks),
                "shifts": rows(part.shifts),
            }
            for part in explained.parts
        ],
    }
