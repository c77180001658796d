"""The tables of the run's page as plain values: what the template prints, cell by cell, and what is marked as best."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from markupsafe import Markup

from simulation.record import ARM_ORDER, Metrics, TaskRecord, WireRecord
from simulation.report import charts, words


@dataclass(frozen=True)
class Cell:
    """One figure: its text, its mark (``"home"``: of a local model), its step of shading, and a note below it."""

    text: str
    mark: Literal["", "best", "home"] = ""
    shade: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One row: its heading, a remark beside it, its cells, the strip of the main metric, and a CSS class suffix."""

    title: str
    cells: tuple[Cell, ...]
    remark: str = ""
    strip: Markup | None = None
    kind: str = ""


@dataclass(frozen=True)
class Group:
    """Rows under one heading; an empty heading prints none."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """A table: caption, headings of the figures' columns, and its groups. ``strip`` heads the column of strips."""

    caption: str
    corner: str
    columns: tuple[str, ...]
    groups: tuple[Group, ...]
    strip: str = ""


def arms_of(task: TaskRecord) -> list[str]:
    """The arms that the task ran, known ones first in their fixed order."""
    known = [name for name in ARM_ORDER if name in task.arms]
    return known + [name for name in task.arms if name not in ARM_ORDER]


def metrics_of(task: TaskRecord) -> list[str]:
    """The metrics of the task: the main one first, known ones in their fixed order, then any other."""
    found = dict.fromkeys(
        name for values in [*task.classical.values(), *(arm.all_sites for arm in task.arms.values())] for name in values
    )
    known = [name for name in words.METRIC_ORDER if name in found]
    ordered = dict.fromkeys([task.main_metric, *known, *found])
    return list(ordered)


def best(name: str, values: Iterable[float | None]) -> float | None:
    """The best finite value of the metric, or None where there is none."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if not finite:
        return None
    return max(finite) if words.metric_note(name).higher_better else min(finite)


def best_classical(task: TaskRecord, *, stronger: bool) -> str | None:
    """Name of the best classical method by the main metric, among the survey's or among the stronger comparators."""
    return _best_of(task.classical, task.main_metric, stronger=stronger)


def _best_of(methods: Mapping[str, Metrics], metric: str, *, stronger: bool) -> str | None:
    candidates = {
        name: values[metric]
        for name, values in methods.items()
        if words.is_stronger(name) == stronger and not words.is_untouched(name) and metric in values
    }
    top = best(metric, candidates.values())
    return next((name for name, value in candidates.items() if value == top), None)


def quality(task: TaskRecord) -> Table:
    """Every classical method and every arm, mean over the member sites."""
    names = metrics_of(task)
    rows = [*task.classical.items(), *((name, task.arms[name].all_sites) for name in arms_of(task))]
    tops = {metric: best(metric, (values.get(metric) for _, values in rows)) for metric in names}
    untouched = [n for n in task.classical if words.is_untouched(n)]
    scale = _scale(task, untouched)
    champions = {best_classical(task, stronger=False), best_classical(task, stronger=True)} - {None}

    def row(name: str, values: Metrics, remark: str = "") -> Row:
        cells = tuple(_cell(metric, values.get(metric), tops[metric]) for metric in names)
        strip = charts.strip(scale, values.get(task.main_metric), kind=name if name in task.arms else "classical")
        return Row(words.method_title(name), cells, remark, strip, charts.style(name) if name in task.arms else "")

    def classical(title: str, chosen: Sequence[str]) -> Group:
        return Group(title, tuple(row(n, task.classical[n], "best of these" if n in champions else "") for n in chosen))

    survey = [n for n in task.classical if not words.is_stronger(n) and n not in untouched]
    stronger = [n for n in task.classical if words.is_stronger(n)]
    arms = Group("Trained in this run", tuple(row(name, task.arms[name].all_sites) for name in arms_of(task)))
    groups = [
        classical("Before", untouched),
        classical("Classical methods of the survey", survey),
        classical("Stronger classical comparators", stronger),
        arms,
    ]
    return Table(
        caption=f"{task.title}: every method, mean over the member sites; the best of each column is marked",
        corner="Method",
        columns=tuple(words.metric_note(metric).title for metric in names),
        groups=tuple(group for group in groups if group.rows),
        strip=f"{words.metric_note(task.main_metric).title}: {scale.caption(task.main_metric)}",
    )


def _scale(task: TaskRecord, untouched: Sequence[str]) -> charts.Scale:
    """The axis of the strips: from doing nothing to the best, so that what matters is not squeezed by an outlier.

    Where the record has no untouched input, from the lowest to the highest figure.
    """
    metric = task.main_metric
    figures = [values.get(metric) for values in task.classical.values()]
    figures += [arm.all_sites.get(metric) for arm in task.arms.values()]
    if not untouched:
        return charts.Scale.around(figures)
    return charts.Scale.around([task.classical[untouched[0]].get(metric), best(metric, figures)])


def three_numbers(task: TaskRecord) -> Table:
    """Own site, all sites and unseen sites for every arm, by the main metric (as FLamby's benchmark reports them)."""
    metric = task.main_metric
    arms = [(name, task.arms[name]) for name in arms_of(task)]
    parts = [(name, (arm.own_site or arm.all_sites, arm.all_sites, arm.unseen or {})) for name, arm in arms]
    tops = [best(metric, (values[column].get(metric) for _, values in parts)) for column in range(3)]
    if len(parts) < 2:
        tops = [None] * 3
    rows = tuple(
        Row(
            words.method_title(name),
            (
                *(_cell(metric, values[column].get(metric), tops[column]) for column in range(3)),
                Cell(_optional(task.arms[name].gradients)),
                Cell(_optional(task.arms[name].steps)),
                Cell(_minutes(task.arms[name].cpu_seconds)),
            ),
            kind=charts.style(name),
        )
        for name, values in parts
    )
    return Table(
        caption=f"{task.title}: {words.metric_note(metric).title} at home, over all sites, and where nobody trained",
        corner="Training",
        columns=(
            "At its own site",
            "Over all sites",
            "At unseen sites",
            "Gradients computed",
            "Optimiser steps",
            "CPU minutes",
        ),
        groups=(Group("", rows),),
    )


def per_site(task: TaskRecord, unseen: Sequence[str] = ()) -> Table:
    """The main metric at every site: the best classical methods of that site, then every arm."""
    metric = task.main_metric
    found = {name for values in task.per_site.values() for name in values}
    arms = [name for name in arms_of(task) if name in found]
    kinds = [kind for kind in (False, True) if any(words.is_stronger(name) == kind for name in found - set(arms))]
    rows = []
    for site, values in task.per_site.items():
        methods = {name: figures for name, figures in values.items() if name not in arms}
        champions = [_best_of(methods, metric, stronger=kind) for kind in kinds]
        top = best(metric, (figures.get(metric) for figures in values.values()))
        cells = [
            Cell("")
            if name is None
            else replace(_cell(metric, methods[name].get(metric), top), note=words.classical_title(name))
            for name in champions
        ]
        cells += [_cell(metric, values.get(name, {}).get(metric), top) for name in arms]
        rows.append(Row(site, tuple(cells), _unseen(site, unseen)))
    heads = {False: "Best survey method there", True: "Strongest comparator there"}
    return Table(
        caption=f"{task.title}: {words.metric_note(metric).title} at every site",
        corner="Site",
        columns=(*(heads[kind] for kind in kinds), *(words.method_title(name) for name in arms)),
        groups=(Group("", tuple(rows)),) if rows else (),
    )


def per_site_full(task: TaskRecord, unseen: Sequence[str] = ()) -> Table:
    """Every metric of every method at every site: what :func:`per_site` leaves out, for whoever wants to look it up."""
    names = metrics_of(task)
    groups = tuple(
        Group(
            f"{site}, {_unseen(site, unseen)}" if _unseen(site, unseen) else site,
            tuple(
                Row(words.method_title(name), tuple(_cell(metric, values.get(metric), None) for metric in names))
                for name, values in methods.items()
            ),
        )
        for site, methods in task.per_site.items()
    )
    return Table(
        caption=f"{task.title}: all metrics at every site",
        corner="Method",
        columns=tuple(words.metric_note(metric).title for metric in names),
        groups=groups,
    )


def travel(task: TaskRecord) -> Table | None:
    """How each site's own model does at the other sites; None where no local training ran."""
    matrix, metric = task.local_matrix, task.main_metric
    tried = list(dict.fromkeys(site for values in matrix.values() for site in values))
    if not tried:
        return None
    figures = [values[site].get(metric) for values in matrix.values() for site in values]
    scale = charts.Scale.around(figures)
    rows = []
    for home, values in matrix.items():
        cells = []
        for site in tried:
            value = values.get(site, {}).get(metric)
            cells.append(Cell(words.number(metric, value), "home" if site == home else "", scale.level(value)))
        rows.append(Row(home, tuple(cells)))
    return Table(
        caption=f"{task.title}: {words.metric_note(metric).title} of each site's model at every site (framed: at home)",
        corner="Trained at",
        columns=tuple(tried),
        groups=(Group("", tuple(rows)),),
    )


def curve_numbers(task: TaskRecord) -> Table | None:
    """The figures behind the curves, one row per arm and round; None where nothing was followed."""
    names = metrics_of(task)
    groups = tuple(
        Group(
            words.method_title(name),
            tuple(
                Row(
                    words.count(point.round),
                    tuple(_cell(metric, point.metrics.get(metric), None) for metric in names),
                )
                for point in task.arms[name].curve
            ),
        )
        for name in arms_of(task)
        if task.arms[name].curve
    )
    if not groups:
        return None
    return Table(
        caption=f"{task.title}: the figures behind the curves",
        corner="Round",
        columns=tuple(words.metric_note(metric).title for metric in names),
        groups=groups,
    )


def counts(values: Mapping[str, int], caption: str, corner: str, column: str) -> Table:
    """Counts by name, most frequent first."""
    ordered = sorted(values.items(), key=lambda item: (-item[1], item[0]))
    rows = tuple(Row(words.rule_title(name), (Cell(words.count(value)),)) for name, value in ordered)
    return Table(caption, corner, (column,), (Group("", rows),))


def messages(wire: WireRecord) -> Table:
    """All messages by kind, in the order of a round."""
    order = {kind: place for place, kind in enumerate(words.MESSAGES)}
    rows = tuple(
        Row(
            words.MESSAGES.get(one.kind, one.kind),
            tuple(
                map(
                    Cell,
                    (words.count(one.questions), words.size(one.down), words.count(one.answers), words.size(one.up)),
                )
            ),
            remark=one.kind,
        )
        for one in sorted(wire.kinds, key=lambda one: order.get(one.kind, len(order)))
    )
    columns = ("Questions", "to hospitals", "Answers", "from hospitals")
    return Table("Messages of all runs of this page, by kind", "Message", columns, (Group("", rows),))


def _cell(metric: str, value: float | None, top: float | None) -> Cell:
    return Cell(words.number(metric, value), "best" if top is not None and value == top else "")


def _optional(value: int | None) -> str:
    return words.NOTHING if value is None else words.count(value)


def _unseen(site: str, unseen: Sequence[str]) -> str:
    return "never trained on" if site in unseen else ""


def _minutes(seconds: float | None) -> str:
    return words.NOTHING if seconds is None else f"{seconds / 60:.1f}"
