"""From models and nodes to the report: recorded before an image is read, read once, written for the owner alone."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from client.evaluation import words
from client.evaluation.data import Site, require_anybody, site_of
from client.evaluation.explained import Explained, explain, to_json
from client.evaluation.explained_gallery import Why, why
from client.evaluation.gallery import Picture, gallery
from client.evaluation.models import Model
from client.evaluation.report import Chosen, Part, chosen, part_of, quality_cells
from client.evaluation.scores import Progress, StudyScore, score_all
from client.lineage import Lineage
from client.manifest import index_digest
from client.node import Node
from client.records import read_register
from compliance.log import Action, Entry, Outcome, Scalar
from shared.errors import DataError, UsageError
from shared.imaging.explain.network import require_plain
from shared.imaging.tasks import Task
from shared.quality import Cell


@dataclass(frozen=True)
class Explanation:
    """What the page shows of ``--explain``.

    Attributes:
        figures: Uncertainty, attacks, shifts and receptive fields.
        pictures: The slices of the report once more.
        window: Where the colours of their differences are full.
        sure: Where the colour of their uncertainty is full.
    """

    figures: Explained
    pictures: tuple[Why, ...]
    window: float
    sure: float


@dataclass(frozen=True)
class Report:
    """Everything that the page shows.

    Attributes:
        task: What was evaluated.
        models: The models; by the first one the patients of the pictures were chosen.
        sites: The hospitals, and who of them was looked at.
        everybody: Whether training patients of hospitals that never trained were looked at too.
        parts: Hospitals where a model was trained, and those where none was.
        pictures: Of each part the worst, the median and the best patient.
        window: Where the colours of their differences are full.
        cells: Groups of the first part, for ``fedward node statement --quality``.
        made: When.
        explanation: What the models' answers rest on; None where nobody asked.
    """

    task: Task
    models: tuple[Model, ...]
    sites: tuple[Site, ...]
    everybody: bool
    parts: tuple[Part, ...]
    pictures: tuple[Picture, ...]
    window: float
    cells: tuple[Cell, ...]
    made: datetime
    explanation: Explanation | None = None

    def to_json(self) -> dict[str, Any]:
        """All figures, without an image or a pseudonym."""
        about = {
            "v": 1,
            "made": self.made.isoformat(timespec="seconds"),
            "fedward": _version(),
            "patients": "all" if self.everybody else "held out",
            "left_out": {site.name: dict(site.left_out) for site in self.sites},
        }
        found = words.report_json(self.task, self.models, self.parts, about)
        return found if self.explanation is None else found | {"explained": to_json(self.explanation.figures)}


def evaluate(
    models: Sequence[Model],
    nodes: Sequence[Node],
    *,
    everybody: bool = False,
    explained: bool = False,
    on_progress: Progress = lambda _, __: None,
) -> Report:
    """Evaluate models on the test patients of some hospitals.

    Who is looked at is decided first (:func:`client.evaluation.data.site_of`); then every hospital's audit log has that
    it begins, and only then an image is read (45 CFR 164.312(b), audit controls).

    Args:
        models: All of one task.
        nodes: The hospitals.
        everybody: Training patients too, at hospitals that have trained on none of them.
        explained: Also what the models' answers rest on; the images are read a second time.
        on_progress: Called with the patients done and the patients in all.

    Raises:
        UsageError: Two nodes are of one hospital, or ``everybody`` where there was training; or captum is missing,
            or models for this task cannot be explained.
        DataError: There is nobody to evaluate on, or the cohort is damaged.
        RecordError: The audit log, the register or the lineage does not hold, or cannot be written.
    """
    task = models[0].task
    if explained:
        require_plain(task)
    if len({node.site for node in nodes}) != len(nodes):
        raise UsageError("two of the data sets are of one hospital", hint="name each node once")
    with ExitStack() as stack:
        logs = [stack.enter_context(node.open_log()) for node in nodes]
        sites = tuple(site_of(node, log, task, everybody=everybody) for node, log in zip(nodes, logs, strict=True))
        if everybody:
            _require_untrained(models, sites)
        require_anybody(sites)
        details = [
            stack.enter_context(log.act(_entry(models, site, everybody=everybody)))
            for site, log in zip(sites, logs, strict=True)
            if site.patients
        ]
        scores = score_all(task, models, sites, on_progress)
        _require_studies(task, scores)
        home = {name for model in models for name in model.sites}
        split = {trained: [one for one in scores if (one.site in home) == trained] for trained in (True, False)}
        found = {trained: _part(task, models, own, trained=trained) for trained, own in split.items()}
        parts = tuple(part for part in found.values() if part is not None)
        picked = _picked(task, models[0].label, split)
        pictures, window = gallery(task, models, parts[0].best, picked, sites)
        explanation = None
        if explained:
            figures = explain(task, models, parts, sites, on_progress)
            explanation = Explanation(figures, *why(task, models, picked, pictures, sites))
        for detail, site in zip(details, (one for one in sites if one.patients), strict=True):
            detail["slices"] = sum(one.slices for one in scores if one.site == site.name)
    cells = quality_cells(task, parts[0], models[0].label, split[parts[0].trained])
    made = datetime.now(UTC)
    return Report(task, tuple(models), sites, everybody, parts, pictures, window, tuple(cells), made, explanation)


def _require_studies(task: Task, scores: Sequence[StudyScore]) -> None:
    if not scores:
        raise DataError(
            f"no study of these patients can be used for the task {task.name}",
            hint=f"it needs {' or '.join(sorted(task.modalities))}, and labels to segment or else a reference",
        )


def _part(task: Task, models: Sequence[Model], scores: Sequence[StudyScore], *, trained: bool) -> Part | None:
    return part_of(task, [model.label for model in models], scores, trained=trained)


def _picked(task: Task, label: str, split: Mapping[bool, Sequence[StudyScore]]) -> list[tuple[Chosen, bool]]:
    return [(one, trained) for trained, scores in split.items() if scores for one in chosen(task, label, scores)]


def _require_untrained(models: Sequence[Model], sites: Sequence[Site]) -> None:
    """See that none of the models was trained at a hospital all of whose patients are to be looked at.

    Raises:
        UsageError: One was.
    """
    for model in models:
        if known := sorted(model.sites & {site.name for site in sites}):
            raise UsageError(f"{model.label} was trained at {', '.join(known)}", hint="leave out --all")


def _entry(models: Sequence[Model], site: Site, *, everybody: bool) -> Entry:
    """What the log has before an image is read. It holds the lineage, as every evaluation's does."""
    node = site.node
    facts: dict[str, Scalar] = {
        "task": models[0].task.name,
        "patients": len(site.patients),
        "which": "all" if everybody else "held out",
        "records": read_register(node)[1],
        "dataset": index_digest(node),
        **{f"against_{number}": model.digest for number, model in enumerate(models[1:], start=1)},
    }
    return Entry(
        Action.EVALUATE,
        Outcome.STARTED,
        subject=("model", models[0].digest),
        detail=facts | dict(Lineage(node).head()),
    )


def _version() -> str:
    try:
        return version("fedward")
    except PackageNotFoundError:
        return "not installed"
