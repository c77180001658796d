"""The report in words and numbers, and as JSON; no figure is computed here."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from client.evaluation.models import PERSONAL, PUBLISHED, RELEASE, RUN, Model
from client.evaluation.report import UNTOUCHED, Difference, Part, Table
from shared.imaging import classical
from shared.imaging.quality.bootstrap import FEWEST, Estimate
from shared.imaging.quality.measures import MEASURES, Measure
from shared.imaging.tasks import Task

NOTHING: Final = "\N{EN DASH}"
KINDS: Final = {
    RELEASE: "Release, checked",
    PUBLISHED: "Public model, digest pinned",
    RUN: "Model of a run, unsigned",
    PERSONAL: "A hospital’s own, without differential privacy",
}
SHORT: Final = {"psnr": " dB"}
MINUS: Final = "\N{MINUS SIGN}"


def number(name: str, value: float) -> str:
    """A figure as tables show it."""
    measure = MEASURES[name]
    return signed(f"{value * measure.scale:.{measure.decimals}f}")


def signed(text: str) -> str:
    """With the minus sign of print."""
    return text.replace("-", MINUS)


def interval(name: str, found: Estimate) -> str:
    """The interval of a figure; empty where there is none."""
    if found.low is None or found.high is None:
        return ""
    return f"{number(name, found.low)} to {number(name, found.high)}"


def gain(task: Task, found: Estimate) -> str:
    """A mean difference with its sign and unit."""
    name = task.main_metric
    measure = MEASURES[name]
    return signed(f"{found.mean * measure.scale:+.{measure.decimals}f}") + SHORT.get(name, "")


def verdict(task: Task, one: Difference) -> str:
    """What a difference says, in one sentence."""
    found, method, name = one.gain, classical.title(one.classical), task.main_metric
    measure = MEASURES[name]
    title = measure.title.split(",")[0]
    size = f"{abs(found.mean) * measure.scale:.{measure.decimals}f}{SHORT.get(name, '')} of {title}"
    count = f"better in {one.better} of {found.n} {'patient' if found.n == 1 else 'patients'}"
    if found.low is None or found.high is None:
        side = "above" if found.mean > 0 else "below"
        return (
            f"{one.model} is {size} {side} the best classical method, {method}, {count}; "
            f"too few patients for an interval"
        )
    ends = f"95 % interval {interval(name, found)}"
    if found.low > 0:
        return f"{one.model} is better than the best classical method, {method}, by {size}, {ends}, {count}"
    if found.high < 0:
        return f"{one.model} is worse than the best classical method, {method}, by {size}, {ends}, {count}"
    return (
        f"{one.model} and the best classical method, {method}, are not told apart by these patients: "
        f"mean difference {gain(task, found)} of {title}, {ends}, {count}"
    )


def few(patients: int) -> str:
    """Why there is no interval; empty where there is one."""
    if patients >= FEWEST:
        return ""
    return f"Fewer than {FEWEST} patients: too few for an interval."


def measures_of(tables: Mapping[str, Table]) -> list[tuple[str, Measure]]:
    """The measures that any method has, in the order of tables."""
    return [(name, one) for name, one in MEASURES.items() if any(name in table for table in tables.values())]


def best_of(name: str, tables: Mapping[str, Table]) -> frozenset[str]:
    """Which methods have the best mean of a measure, as it is shown; none where most methods share it.

    The input does not count, nor a measure that has no better side.
    """
    better = MEASURES[name].higher_better
    known = {method: table[name].mean for method, table in tables.items() if name in table and method not in UNTOUCHED}
    if better is None or len(known) < 2:
        return frozenset()
    top = number(name, (max if better else min)(known.values()))
    tied = frozenset(method for method, value in known.items() if number(name, value) == top)
    return tied if 2 * len(tied) <= len(known) else frozenset()


def report_json(task: Task, models: Sequence[Model], parts: Sequence[Part], about: Mapping[str, Any]) -> dict[str, Any]:
    """All figures, each a mean over so many patients as it says; no pseudonym and no image."""
    return {
        **about,
        "task": task.name,
        "main": task.main_metric,
        "models": [
            {
                "label": one.label,
                "kind": one.kind,
                "weights_sha256": one.digest,
                "trained_at": sorted(one.sites),
                "origin": one.origin,
                "not_verified": [f"{what}: {detail}" for mark, what, detail in one.checks if mark != "ok"],
            }
            for one in models
        ],
        "measures": {name: asdict(one) for name, one in MEASURES.items()},
        "parts": [_part_json(task, part) for part in parts],
    }


def _part_json(task: Task, part: Part) -> dict[str, Any]:
    name = task.main_metric
    return {
        "hospitals": "a model was trained there" if part.trained else "no model was trained there",
        "sites": list(part.sites),
        "patients": part.patients,
        "studies": part.studies,
        "slices": part.slices,
        "methods": {method: _table(table) for method, table in part.methods.items()},
        "best_classical": part.best or None,
        "differences": [
            {"model": one.model, "less": one.classical, "better_in": one.better, **_estimate(one.gain)}
            for one in part.differences
        ],
        "by_site": {
            site: {"patients": count, name: {method: _estimate(one) for method, one in table.items()}}
            for site, (count, table) in part.by_site.items()
        },
        "groups": {
            grouping: [{"group": one.cell.group, "patients": one.cell.n, name: _table(one.figures)} for one in groups]
            for grouping, groups in part.groups.items()
        },
        "reliability": {label: [asdict(one) if one else None for one in curve] for label, curve in part.curve.items()},
    }


def _table(table: Table) -> dict[str, Any]:
    return {name: _estimate(one) for name, one in table.items()}


def _estimate(one: Estimate) -> dict[str, Any]:
    return {"mean": one.mean, "low": one.low, "high": one.high, "patients": one.n}
