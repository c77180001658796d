"""From the record of a run to its page: no figure is computed here that the record does not hold, only compared."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup

from shared import page
from shared.files import write_bytes
from shared.imaging.pictures import CLASS_COLOURS
from simulation.record import Panel, RunRecord, TaskRecord
from simulation.report import charts, price, tables, words

_PICTURES_OPEN = 3


@dataclass(frozen=True)
class Remark:
    """A line under a fact; ``tone`` (a CSS class) never carries the meaning alone."""

    text: str
    tone: str = ""


@dataclass(frozen=True)
class Fact:
    """One thing that matters: what it is about, the figure, its unit, what to make of it, and where it is shown."""

    label: str
    value: str
    unit: str
    remarks: tuple[Remark, ...]
    anchor: str


@dataclass(frozen=True)
class Chart:
    """A drawing of one metric over rounds."""

    title: str
    drawing: Markup


@dataclass(frozen=True)
class TaskView:
    """One task as the template prints it."""

    record: TaskRecord
    meaning: str
    arms: tuple[str, ...]
    definitions: tuple[words.MetricNote, ...]
    quality: tables.Table
    three_numbers: tables.Table
    per_site: tables.Table
    per_site_full: tables.Table
    travel: tables.Table | None
    curve_numbers: tables.Table | None
    charts: tuple[Chart, ...]
    keys: tuple[tuple[str, Markup], ...]
    price: tables.Table | None
    price_chart: Markup | None
    price_keys: tuple[tuple[str, Markup], ...]
    classes: tuple[tuple[str, str], ...]


def write_report(record: RunRecord, path: Path) -> None:
    """Write the page of ``record`` to ``path``, whole or not at all.

    Raises:
        OutputError: The disk is full, or the folder may not be written.
    """
    write_bytes(path, render(record).encode())


def render(record: RunRecord) -> str:
    """The page as one HTML document that asks the network for nothing.

    Everything it needs is inside it: styles, drawings and pictures (``data:`` URIs). It has no script, and its
    Content-Security-Policy lets no other style and no other source in, so that a name in the data that looks like
    markup stays text.
    """
    templates = page.environment("simulation")
    style, style_hash = page.style((files("simulation") / "templates" / "report.css").read_text("utf-8"))
    templates.globals.update(
        w=words, counts=tables.counts, messages=tables.messages, panel_scores=_panel_scores, data_uri=_data_uri
    )
    return templates.get_template("report.html").render(
        run=record,
        task_facts=[_task_fact(task) for task in record.tasks],
        promises=(_privacy_fact(record), _wire_fact(record), _deid_fact(record), _log_fact(record)),
        tasks=[_task_view(record, task) for task in record.tasks],
        arms=[(name, words.ARMS[name]) for name in words.ARMS if any(name in task.arms for task in record.tasks)],
        style=style,
        style_hash=style_hash,
        task_title={task.name: task.title for task in record.tasks},
        pictures_open=_PICTURES_OPEN,
        hero=next((task for task in record.tasks if task.pictures), None),
    )


def _task_view(record: RunRecord, task: TaskRecord) -> TaskView:
    unseen = [site.id for site in record.unseen]
    drawn, keys = _charts(task)
    return TaskView(
        record=task,
        meaning=words.TASKS.get(task.name, ""),
        arms=tuple(tables.arms_of(task)),
        definitions=tuple(words.metric_note(name) for name in tables.metrics_of(task)),
        quality=tables.quality(task),
        three_numbers=tables.three_numbers(task),
        per_site=tables.per_site(task, unseen),
        per_site_full=tables.per_site_full(task, unseen),
        travel=tables.travel(task),
        curve_numbers=tables.curve_numbers(task),
        charts=drawn,
        keys=keys,
        price=price.table(task),
        price_chart=price.chart(task),
        price_keys=tuple(price.keys(task)),
        classes=tuple(
            (name, "#{:02x}{:02x}{:02x}".format(*colour))
            for name, colour in list(zip(task.classes, CLASS_COLOURS, strict=False))[1:]
        ),
    )


def _charts(task: TaskRecord) -> tuple[tuple[Chart, ...], tuple[tuple[str, Markup], ...]]:
    """Curves of the main metric and its companion, and the legend that they share.

    The levels of what has no curve are over all slices together like the curves, not means over sites like the tables.
    """
    followed = [name for name in tables.arms_of(task) if task.arms[name].curve]
    levels = [
        (name, words.method_title(name), task.together.get(name, {})) for name in task.arms if name not in followed
    ]
    for stronger, style, kind in (
        (False, "classical", "Best survey method"),
        (True, "stronger", "Strongest comparator"),
    ):
        name = tables.best_classical(task, stronger=stronger)
        if name is not None:
            levels.append((style, f"{kind}: {words.classical_title(name)}", task.together.get(name, {})))
    drawn = []
    for metric in tables.metrics_of(task):
        lines = [
            charts.Line(name, tuple((p.round, p.metrics[metric]) for p in task.arms[name].curve if metric in p.metrics))
            for name in followed
        ]
        lines = [line for line in lines if line.points]
        if not lines or metric not in (task.main_metric, *words.HEADLINE_METRICS):
            continue
        held = [charts.Level(name, values[metric]) for name, _, values in levels if metric in values]
        title = words.metric_note(metric).title
        drawn.append(Chart(title, charts.curves(f"{task.title}: {title} over rounds", metric, lines, held)))
    keys = [(words.method_title(name), charts.key(name)) for name in followed]
    keys += [(title, charts.key(name, level=True)) for name, title, _ in levels]
    return tuple(drawn), tuple(keys)


def _task_fact(task: TaskRecord) -> Fact:
    metric = task.main_metric
    note = words.metric_note(metric)
    ours = task.arms["federated"].all_sites[metric]
    remarks = []
    for stronger, kind in ((False, "the best survey method"), (True, "the strongest comparator")):
        name = tables.best_classical(task, stronger=stronger)
        if name is not None:
            theirs = task.classical[name][metric]
            gain = (ours - theirs) if note.higher_better else (theirs - ours)
            word, tone = ("better", "up") if gain > 0 else ("worse", "down")
            amount = f"{words.number(metric, abs(gain))}{note.unit} {word} than" if gain else "equal to"
            remarks.append(
                Remark(f"{amount} {kind}: {words.classical_title(name)}, {words.number(metric, theirs)}", tone)
            )
    for arm, kind in (("federated_dp", "local"), ("federated_shared", "shared")):
        if arm in task.arms:
            figure = words.number(metric, task.arms[arm].all_sites.get(metric))
            start = "the public model tuned" if "public" in task.arms else "trained"  # else it looks better than it is
            remarks.append(Remark(f"{figure}{note.unit}: {start} under patient-level DP, {kind} noise"))
    unit = f"{note.unit.strip()} {note.title.split(',')[0]}".strip() + ", federated"
    return Fact(task.title, words.number(metric, ours), unit, tuple(remarks), f"task-{task.name}")


def _privacy_fact(record: RunRecord) -> Fact:
    if not record.privacy:
        remark = Remark("No model of this run was trained under differential privacy.", "bad")
        return Fact("Patient-level privacy", "none", "", (remark,), "privacy")
    worst = max(record.privacy, key=lambda site: site.epsilon)
    titles = {task.name: task.title for task in record.tasks}
    covered = dict.fromkeys(titles.get(name, name) for site in record.privacy for name in site.tasks)
    return Fact(
        "Patient-level privacy",
        f"ε = {words.bound(worst.epsilon)}",
        f"per {worst.unit}",
        (
            Remark(f"the largest of {words.plural(len(record.privacy), 'guarantee')}, δ = {words.plain(worst.delta)}"),
            Remark(f"covers only the private models of: {', '.join(covered)}"),
        ),
        "privacy",
    )


def _wire_fact(record: RunRecord) -> Fact:
    if record.wire.masked:
        remark = Remark("all came under masks that only their sum takes off", "good")
        return Fact("Updates readable by the coordinator", "none", "", (remark,), "wire")
    remark = Remark("this run was told to send updates without masks", "bad")
    return Fact("Updates readable by the coordinator", "all", "", (remark,), "wire")


def _deid_fact(record: RunRecord) -> Fact:
    deid = record.deid
    held = [(deid.quarantined, "quarantined"), (deid.refused, "refused")]
    remarks = [Remark(f"{words.count(number)} {name}") for number, name in held]
    return Fact(
        "DICOM files de-identified", words.count(deid.released), f"of {words.count(deid.files)}", tuple(remarks), "deid"
    )


def _log_fact(record: RunRecord) -> Fact:
    logs = words.plural(len(record.logs), "audit log")
    if record.verified:
        remark = Remark(f"{logs}, every hash chain verified", "good")
    else:
        failed = [log.owner for log in record.logs if not log.verified]
        remark = Remark(f"not verified: {', '.join(failed) or 'no log was kept'}", "bad")
    return Fact("Actions on record", words.count(record.entries), "entries", (remark,), "record")


def _panel_scores(panel: Panel) -> Sequence[str]:
    shown = []
    for name in words.HEADLINE_METRICS:
        if name in panel.metrics:
            note = words.metric_note(name)
            figure = words.number(name, panel.metrics[name])
            shown.append(f"{figure}{note.unit}" if note.unit else f"{note.title} {figure}")
    return shown


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
