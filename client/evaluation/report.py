"""What the scores come to: means over patients with their intervals, differences from the classical methods, groups."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Final

from client.evaluation.data import UNKNOWN
from client.evaluation.scores import StudyScore, by_patient, patient_sums
from shared.imaging.metrics import Sums
from shared.imaging.quality.bootstrap import Estimate, estimate
from shared.imaging.quality.calibration import Bin, reliability
from shared.imaging.quality.measures import MEASURES
from shared.imaging.tasks import Task
from shared.quality import Cell, suppressed

UNTOUCHED: Final = frozenset({"noisy", "masked"})
"""What is the input itself, and no method."""
GROUPINGS: Final[Mapping[str, Callable[[StudyScore], str]]] = {
    "scanner": lambda one: one.facts.scanner,
    "sex": lambda one: one.facts.sex,
    "age band": lambda one: one.facts.age,
}
Table = Mapping[str, Estimate]


@dataclass(frozen=True)
class Difference:
    """A model less a classical method, patient by patient, in the main figure.

    Attributes:
        model: Label.
        classical: Key of the method.
        gain: Mean of the differences; above 0 the model is better.
        better: In how many patients it is.
    """

    model: str
    classical: str
    gain: Estimate
    better: int


@dataclass(frozen=True)
class Group:
    """One group of patients of a part: its cell as it may be shown, and its figures where it may be.

    Attributes:
        cell: With the number of patients, or the word that stands for it.
        figures: By method (the first model and the best classical one): mean and interval of the main figure.
    """

    cell: Cell
    figures: Mapping[str, Estimate]


@dataclass(frozen=True)
class Part:
    """Hospitals that belong together: where the models were trained, or where none of them was.

    Attributes:
        trained: Which of the two.
        sites: Their names.
        patients: How many patients.
        studies: How many studies.
        slices: How many slices.
        methods: By method: all figures.
        best: Key of the classical method with the best mean of the main figure on these very patients; empty for none.
        differences: Each model less that method.
        by_site: By hospital: number of patients, and the main figure by method.
        groups: By grouping.
        curve: By model: reliability; empty for images.
        patient_by_patient: The main figure of the best classical method and of the first model for each patient.
    """

    trained: bool
    sites: tuple[str, ...]
    patients: int
    studies: int
    slices: int
    methods: Mapping[str, Table]
    best: str
    differences: tuple[Difference, ...]
    by_site: Mapping[str, tuple[int, Table]]
    groups: Mapping[str, tuple[Group, ...]]
    curve: Mapping[str, tuple[Bin | None, ...]]
    patient_by_patient: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Chosen:
    """A patient whose picture is shown, by rule: which study and slice of his."""

    rank: str
    score: StudyScore
    slice: int
    figure: float


def part_of(task: Task, models: Sequence[str], scores: Sequence[StudyScore], *, trained: bool) -> Part | None:
    """The figures of some studies; None where there are none."""
    if not scores:
        return None
    sites = tuple(dict.fromkeys(one.site for one in scores))
    everyone = {name: by_patient(task, scores, name) for name in scores[0].scored}
    methods = {name: table(rows.values()) for name, rows in everyone.items()}
    main, best = task.main_metric, best_classical(task, methods)
    pairs = [
        (everyone[best][key][main], row[main])
        for key, row in everyone[models[0]].items()
        if best and key in everyone[best]
    ]
    return Part(
        trained=trained,
        sites=sites,
        patients=len(everyone[models[0]]),
        studies=len(scores),
        slices=sum(one.slices for one in scores),
        methods=methods,
        best=best,
        differences=tuple(_difference(main, label, best, everyone) for label in models) if best else (),
        by_site={site: _at(task, [one for one in scores if one.site == site]) for site in sites},
        groups={name: _groups(task, models, best, scores, name) for name in GROUPINGS},
        curve={label: curve for label in models if (curve := reliability(_total(scores, label)))},
        patient_by_patient=tuple(pairs),
    )


def table(patients: Collection[Mapping[str, float]]) -> dict[str, Estimate]:
    """Each figure of :data:`MEASURES` that any patient has, over patients."""
    found = {name: estimate([row[name] for row in patients if name in row]) for name in MEASURES}
    return {name: one for name, one in found.items() if one is not None}


def best_classical(task: Task, methods: Mapping[str, Table]) -> str:
    """The classical method with the best mean of the main figure; empty where there is none."""
    known = {name: methods[name][task.main_metric].mean for name in task.classical() if name in methods}
    return max((name for name in known if name not in UNTOUCHED), key=known.__getitem__, default="")


def chosen(task: Task, label: str, scores: Sequence[StudyScore]) -> list[Chosen]:
    """The patients with the worst, the median and the best main figure, each once, and the like slice of each.

    Of the worst patient it is the worst slice, of the median patient the median, of the best the best: nobody chose.
    """
    main = task.main_metric
    patients = {key: row[main] for key, row in by_patient(task, scores, label).items()}
    order = sorted(patients, key=lambda key: (patients[key], key))
    found: dict[tuple[str, str], Chosen] = {}
    middle = order[(len(order) - 1) // 2]
    ranks = (("worst", order[0]), ("median", middle), ("best", order[-1])) if len(order) > 1 else (("only", middle),)
    for rank, pick in ranks:
        own = [one for one in scores if (one.site, one.patient) == pick]
        slices = [(value, study, index) for study in own for index, value in enumerate(study.scored[label].slices)]
        values = [value for value, _, _ in slices]
        wanted = min(values) if rank == "worst" else max(values) if rank == "best" else median_low(values)
        _, study, index = next(one for one in slices if one[0] == wanted)
        found.setdefault(pick, Chosen(rank, study, index, patients[pick]))
    return list(found.values())


def quality_cells(task: Task, part: Part, label: str, scores: Sequence[StudyScore]) -> list[Cell]:
    """Every group of a part with its true number of patients, for ``fedward node statement --quality``."""
    return [cell for name in GROUPINGS for cell, _ in _cells(task, label, part.best, scores, name)]


def _difference(
    main: str, label: str, best: str, everyone: Mapping[str, Mapping[tuple[str, str], Mapping[str, float]]]
) -> Difference:
    gains = [row[main] - everyone[best][key][main] for key, row in everyone[label].items()]
    found = estimate(gains)
    assert found is not None  # noqa: S101  # there are patients
    return Difference(label, best, found, sum(gain > 0 for gain in gains))


def _at(task: Task, scores: Sequence[StudyScore]) -> tuple[int, Table]:
    rows = {name: by_patient(task, scores, name) for name in scores[0].scored}
    main = {name: estimate([one[task.main_metric] for one in found.values()]) for name, found in rows.items()}
    patients = len({(one.site, one.patient) for one in scores})
    return patients, {name: one for name, one in main.items() if one is not None}


def _groups(
    task: Task, models: Sequence[str], best: str, scores: Sequence[StudyScore], grouping: str
) -> tuple[Group, ...]:
    cells = _cells(task, models[0], best, scores, grouping)
    if all(cell.group == UNKNOWN for cell, _ in cells):
        return ()
    found = []
    for cell, (_, own) in zip(suppressed(cell for cell, _ in cells), cells, strict=True):
        main = _at(task, own)[1] if cell.shown else {}
        found.append(Group(cell, {name: main[name] for name in (*models, best) if name in main}))
    return tuple(found)


def _cells(
    task: Task, label: str, best: str, scores: Sequence[StudyScore], grouping: str
) -> list[tuple[Cell, list[StudyScore]]]:
    of = GROUPINGS[grouping]
    found = []
    for group in sorted({of(one) for one in scores}):
        own = [one for one in scores if of(one) == group]
        patients, main = _at(task, own)
        ours, theirs = (((task.main_metric, round(main[name].mean, 6)),) if name else () for name in (label, best))
        found.append((Cell(task.name, grouping, group[:64], patients, ours, best, theirs), own))
    return found


def _total(scores: Sequence[StudyScore], label: str) -> Mapping[str, float]:
    return sum(patient_sums(scores, label).values(), start=Sums.zero()).values
