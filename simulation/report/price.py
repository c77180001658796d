"""What privacy costs, as the page shows it: the public model, training without noise, and noise of both kinds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from markupsafe import Markup

from simulation.record import Metrics, SweepPoint, TaskRecord
from simulation.report import charts, words
from simulation.report.tables import Cell, Group, Row, Table

STYLES: Final = {"tuned": "tuned", "local": "federated_dp", "shared": "federated_shared", "scratch": "scratch"}
"""The arm whose colour and marker a kind of training has."""
KINDS: Final = ("tuned", "local", "shared", "scratch")


@dataclass(frozen=True)
class Spread:
    """A figure of several repeats: its mean, and the lowest and highest of them."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of at least one value."""
        return cls(fmean(values), min(values), max(values))

    def text(self, metric: str) -> str:
        """As a cell says it: the mean, and the range where there is one."""
        mean = words.number(metric, self.mean)
        if self.low == self.high:
            return mean
        return f"{mean} ({words.number(metric, self.low)} to {words.number(metric, self.high)})"


def table(task: TaskRecord) -> Table | None:
    """Quality at every epsilon; None where no private arm ran."""
    public = task.arms.get("public")
    if not task.sweep and public is None:
        return None
    metrics = [name for name in words.HEADLINE_METRICS if name in task.arms["federated"].all_sites]
    rows = [_row("public", "", [(public.all_sites, public.unseen)], metrics)] if public else []
    for kind, epsilon in _settings(task.sweep):
        chosen = [one for one in task.sweep if (one.kind, one.epsilon) == (kind, epsilon)]
        remark = "" if kind == "tuned" else f"ε = {words.plain(epsilon)}" if epsilon else "noise as the charter says"
        rows.append(_row(STYLES[kind], remark, [(one.all_sites, one.unseen) for one in chosen], metrics))
    heads = [words.metric_note(name).title for name in metrics]
    return Table(
        caption=f"{task.title}: what privacy costs, mean over the member sites (range over the repeats)",
        corner="Training",
        columns=(*heads, *(f"{head}, unseen sites" for head in heads), "Repeats"),
        groups=(Group("", tuple(rows)),),
    )


def chart(task: TaskRecord) -> Markup | None:
    """The main metric over epsilon; None where fewer than two were tried."""
    metric = task.main_metric
    lines = []
    for kind in ("local", "shared"):
        found = {
            float(epsilon): Spread.of(_values(task.sweep, kind, epsilon, metric))
            for each, epsilon in _settings(task.sweep)
            if each == kind and epsilon is not None
        }
        if len(found) > 1:
            points = tuple((epsilon, one.mean) for epsilon, one in sorted(found.items()))
            ranges = tuple((epsilon, one.low, one.high) for epsilon, one in sorted(found.items()))
            lines.append(charts.Line(STYLES[kind], points, ranges))
    if not lines:
        return None
    levels = [charts.Level(name, value) for name, value in _levels(task).items()]
    title = f"{task.title}: {words.metric_note(metric).title} over epsilon"
    return charts.curves(title, metric, lines, levels, unit="ε per patient, this task")


def keys(task: TaskRecord) -> list[tuple[str, Markup]]:
    """The legend of :func:`chart`."""
    kinds = dict.fromkeys(STYLES[one.kind] for one in task.sweep if one.kind in ("local", "shared"))
    found = [(words.method_title(name), charts.key(name)) for name in kinds]
    return found + [(words.method_title(name), charts.key(name, level=True)) for name in _levels(task)]


def _levels(task: TaskRecord) -> Mapping[str, float]:
    metric, levels = task.main_metric, {}
    if "public" in task.arms:
        levels["public"] = task.arms["public"].all_sites[metric]
    if tuned := _values(task.sweep, "tuned", None, metric):
        levels["tuned"] = fmean(tuned)
    return levels


def _settings(sweep: Iterable[SweepPoint]) -> list[tuple[str, float | None]]:
    found = dict.fromkeys((one.kind, one.epsilon) for one in sweep)
    return sorted(found, key=lambda one: (KINDS.index(one[0]), one[1] or 0.0))


def _values(sweep: Iterable[SweepPoint], kind: str, epsilon: float | None, metric: str) -> list[float]:
    return [one.all_sites[metric] for one in sweep if (one.kind, one.epsilon) == (kind, epsilon)]


def _row(name: str, remark: str, parts: Sequence[tuple[Metrics, Metrics | None]], metrics: Sequence[str]) -> Row:
    cells = [Cell(Spread.of([here[metric] for here, _ in parts]).text(metric)) for metric in metrics]
    for metric in metrics:
        away = [unseen[metric] for _, unseen in parts if unseen]
        cells.append(Cell(Spread.of(away).text(metric) if away else words.NOTHING))
    cells.append(Cell(words.count(len(parts)) if name != "public" else words.NOTHING))
    return Row(words.method_title(name), tuple(cells), remark, kind=charts.style(name))
