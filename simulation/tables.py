"""From models to tables: every arm and every classical method, on the same held-out patients of every hospital."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from client.cohort import Cohort
from compliance.log import Action
from shared.charter import TaskPlan
from shared.console import plural
from shared.imaging.metrics import Sums, summarise
from shared.imaging.tasks import Task, get_task
from simulation import arms
from simulation.arms import Hospital
from simulation.cpu import noted
from simulation.federation import Federated
from simulation.record import ArmRecord, CurvePoint, Metrics, Picture, SweepPoint, TaskRecord

if TYPE_CHECKING:
    from simulation.run import Calls, Plan

# Learning rate of ordinary training (Adam) where no federation is in the way, by task.
ALONE_RATE = {
    **dict.fromkeys(("denoise", "denoise_volume", "denoise_self", "denoise_pair", "masked"), 2e-3),
    **dict.fromkeys(("superres", "superres_gan", "superres4", "superres4_gan"), 2e-3),
    **dict.fromkeys(("segment", "segment_pair"), 3e-3),
}

CLASSES = dict.fromkeys(
    ("segment", "segment_pair"), ("background", "cerebrospinal fluid", "grey matter", "white matter")
)

PRICED = ("public", "tuned", "federated_dp", "federated_shared", "scratch")
"""The arms that show what privacy costs."""
OWN = {"local": "", "personal": "personal-"}
"""The arms with a model for each hospital; the rest of such a model's name is the hospital's id."""
TABLED = ("pooled", "federated", *PRICED)
"""The arms with one model for all sites, as tables have them."""

Scores = Mapping[str, Metrics]
"""Metrics by site."""


def taking_part(task: str, hospitals: Iterable[Hospital]) -> list[Hospital]:
    """Those hospitals whose cohort has studies that the task can use."""
    eligible = get_task(task).eligible
    return [
        one
        for one in hospitals
        if any(eligible(study.blank()) for entry in Cohort.open(one.node / "cohort").entries for study in entry.studies)
    ]


@dataclass(frozen=True)
class _Bench:
    """One task's hospitals and scores, as they are gathered."""

    plan: TaskPlan
    task: Task
    members: Sequence[str]
    unseen: Sequence[str]
    models: Mapping[str, Scores]
    cpu: Mapping[str, float]
    classical: Mapping[str, Scores]
    together: Mapping[str, Metrics]

    def own(self, arm: str) -> dict[str, Scores]:
        """The scores of each hospital's own model of an arm of :data:`OWN`, by hospital; empty where it was not run."""
        names = {site: OWN[arm] + site for site in self.members}
        return {site: self.models[name] for site, name in names.items() if name in self.models}

    def cost(self, *names: str) -> float | None:
        """Processor time of some models together; None where one of them was not measured."""
        return sum(self.cpu[name] for name in names) if set(names) <= set(self.cpu) else None

    def mean(self, scores: Scores, sites: Sequence[str]) -> dict[str, float]:
        """The mean over ``sites`` of each metric: every hospital counts alike, whatever its size."""
        return {name: sum(scores[site][name] for site in sites) / len(sites) for name in scores[sites[0]]}


def build(
    plan: "Plan",
    hospitals: Sequence[Hospital],
    federations: Mapping[tuple[str, str], Federated],
    alone: Mapping[tuple[str, str], Path],
    calls: "Calls",
) -> tuple[TaskRecord, ...]:
    """Score every model and every classical method of a run, and draw the pictures."""
    models = {(task, arm): one.weights for (task, arm), one in federations.items()} | dict(alone) | _public(plan)
    able = {task.name: taking_part(task.name, hospitals) for task in plan.charter.tasks}
    keys = [(task, arm, one) for (task, arm) in models for one in able[task]]
    jobs = [(task, models[task, arm], one.node) for task, arm, one in keys]
    found = calls.each("Held-out patients: models", Action.EVALUATE, arms.score_model, jobs)
    sums: dict[tuple[str, str], dict[str, Sums]] = {key: {} for key in models}
    for (task, arm, one), values in zip(keys, found, strict=True):
        sums[task, arm][one.site] = Sums(values)
    classical = _classical(plan, able, calls)
    sites = {site.id for site in plan.members}
    benches = [
        _Bench(
            plan=task,
            task=get_task(task.name),
            members=[one.site for one in able[task.name] if one.member],
            unseen=[one.site for one in able[task.name] if not one.member],
            models={arm: _metrics(task.name, by_site) for (name, arm), by_site in sums.items() if name == task.name},
            cpu={
                arm: seconds
                for (name, arm), weights in models.items()
                if name == task.name and (seconds := noted(weights)) is not None
            },
            classical={method: _metrics(task.name, by_site) for method, by_site in classical[task.name].items()},
            together=_together(
                task.name,
                classical[task.name] | {arm: by_site for (name, arm), by_site in sums.items() if name == task.name},
                sites,
            ),
        )
        for task in plan.charter.tasks
    ]
    pictures = _pictures(benches, able, models, calls)
    return tuple(_record(bench, federations, pictures[bench.task.name]) for bench in benches)


def _classical(
    plan: "Plan", able: Mapping[str, Sequence[Hospital]], calls: "Calls"
) -> dict[str, dict[str, dict[str, Sums]]]:
    """Additive scores by task, method and site."""
    keys = [(task, one) for task, hospitals in able.items() for one in hospitals]
    jobs = [(plan.out / "classical" / f"{task}-{one.site}.json", task, one.node) for task, one in keys]
    found = calls.each("Held-out patients: classical", Action.EVALUATE, arms.cached_scores, jobs)
    table: dict[str, dict[str, dict[str, Sums]]] = {task: {} for task in able}
    for (task, one), methods in zip(keys, found, strict=True):
        for method, values in methods.items():
            table[task].setdefault(method, {})[one.site] = Sums(values)
    return table


def _metrics(task: str, by_site: Mapping[str, Sums]) -> dict[str, Metrics]:
    return {site: summarise(task, values) for site, values in by_site.items()}


def _together(task: str, table: Mapping[str, Mapping[str, Sums]], members: Collection[str]) -> dict[str, Metrics]:
    """Each method over all held-out slices of the members taken together, as the record of the rounds sums them.

    Where each hospital has a model of its own it is the mean over these.
    """
    whole: dict[str, Metrics] = {
        name: summarise(task, sum((part for site, part in by_site.items() if site in members), Sums.zero()))
        for name, by_site in table.items()
    }
    for arm, before in OWN.items():
        names = [before + site for site in members if before + site in whole]
        if names:
            whole[arm] = _mean([whole.pop(name) for name in names])
    return whole


def _best(bench: _Bench, site: str) -> str:
    """The classical method with the best main metric at a site, the untouched input aside."""
    metric = bench.task.main_metric
    methods = [name for name in bench.classical if name != "noisy"]
    return max(methods, key=lambda name: bench.classical[name][site][metric])


def _pictures(
    benches: Sequence[_Bench],
    able: Mapping[str, Sequence[Hospital]],
    models: Mapping[tuple[str, str], Path],
    calls: "Calls",
) -> dict[str, tuple[Picture, ...]]:
    jobs = [
        (bench.task.name, models[bench.task.name, "federated"], one.node, one.site, _best(bench, one.site))
        for bench in benches
        for one in able[bench.task.name]
    ]
    drawn = calls.each("Pictures", Action.EVALUATE, arms.picture, jobs)
    result: dict[str, tuple[Picture, ...]] = {bench.task.name: () for bench in benches}
    for job, one in zip(jobs, drawn, strict=True):
        if one is not None:
            result[job[0]] += (one,)
    return result


def _record(
    bench: _Bench, federations: Mapping[tuple[str, str], Federated], pictures: tuple[Picture, ...]
) -> TaskRecord:
    name, plan = bench.task.name, bench.plan
    parameters = federations[name, "federated"].parameters
    return TaskRecord(
        name=name,
        title=bench.task.title,
        main_metric=bench.task.main_metric,
        rounds=plan.rounds,
        classical={method: bench.mean(sites, bench.members) for method, sites in bench.classical.items()},
        arms=_arms(bench, federations),
        per_site=_per_site(bench),
        local_matrix={site: {s: scores[s] for s in bench.members} for site, scores in bench.own("local").items()},
        together=bench.together,
        sweep=_sweep(bench, federations),
        pictures=pictures,
        parameters=parameters,
        classes=CLASSES.get(name, ()),
        setup=(
            f"{plural(plan.rounds, 'round')} of {plural(plan.local_steps, 'step')} of "
            f"{plural(plan.batch, 'patch', 'patches')} at each hospital "
            f"with {plan.local_optimizer}, {plan.server_optimizer} at the coordinator; "
            f"{'pooled and local: Adam; ' if bench.own('local') else ''}"
            f"all of them begin at {'random weights' if plan.start == 'fresh' else f'the public weights {plan.start}'}"
        ),
    )


def _arms(bench: _Bench, federations: Mapping[tuple[str, str], Federated]) -> dict[str, ArmRecord]:
    plan, name = bench.plan, bench.task.name
    each = plan.rounds * plan.local_steps
    steps = each * len(bench.members)
    table: dict[str, ArmRecord] = {}
    for arm, before in OWN.items():
        if models := bench.own(arm):
            unseen = [bench.mean(scores, bench.unseen) for scores in models.values()] if bench.unseen else []
            table[arm] = ArmRecord(
                all_sites=_mean([bench.mean(scores, bench.members) for scores in models.values()]),
                own_site=_mean([scores[site] for site, scores in models.items()]),
                unseen=_mean(unseen) if unseen else None,
                # A personal model whose hospital gains nothing by it is trained once and not twice: not counted.
                gradients=each * plan.batch * len(models) if arm == "local" else None,
                steps=each * len(models) if arm == "local" else None,
                cpu_seconds=bench.cost(*(before + site for site in models)),
            )
    for arm in TABLED:
        if arm not in bench.models:
            continue
        run = federations.get((name, arm))
        if arm in PRICED:
            table[arm] = _priced(bench, arm, run)
            continue
        table[arm] = ArmRecord(
            all_sites=bench.mean(bench.models[arm], bench.members),
            unseen=bench.mean(bench.models[arm], bench.unseen) if bench.unseen else None,
            gradients=steps * plan.batch,
            steps=steps,
            seconds=run.seconds if run else None,
            cpu_seconds=bench.cost(arm),
            curve=tuple(CurvePoint(number, values) for number, values in run.curve) if run else (),
        )
    return table


def _priced(bench: _Bench, arm: str, run: Federated | None) -> ArmRecord:
    """An arm that shows what privacy costs; the public model has not been trained here at all."""
    return ArmRecord(
        all_sites=bench.mean(bench.models[arm], bench.members),
        unseen=bench.mean(bench.models[arm], bench.unseen) if bench.unseen else None,
        steps=run.rounds * run.local_steps * len(bench.members) if run else 0,
        gradients=None if run else 0,
        seconds=run.seconds if run else None,
        cpu_seconds=bench.cost(arm),
        curve=tuple(CurvePoint(number, values) for number, values in run.curve) if run else (),
    )


def _sweep(bench: _Bench, federations: Mapping[tuple[str, str], Federated]) -> tuple[SweepPoint, ...]:
    """Every training of the private arms, repeats and all: what a figure with a spread is made of."""
    return tuple(
        SweepPoint(
            kind=run.price.kind,
            epsilon=run.price.epsilon,
            repeat=run.price.repeat,
            all_sites=bench.mean(bench.models[arm], bench.members),
            unseen=bench.mean(bench.models[arm], bench.unseen) if bench.unseen else None,
        )
        for (name, arm), run in federations.items()
        if name == bench.task.name and run.price is not None
    )


def _public(plan: "Plan") -> dict[tuple[str, str], Path]:
    """The public model of every task that has private arms, as it is before anybody trains it."""
    if plan.private is None:
        return {}
    return {
        (task.name, "public"): arms.write_public(
            task.start, task.name, plan.out / "public" / f"{task.name}.safetensors"
        )
        for task in plan.private.tasks
        if task.start != "fresh"
    }


def _per_site(bench: _Bench) -> dict[str, dict[str, Metrics]]:
    table: dict[str, dict[str, Metrics]] = {}
    for site in (*bench.members, *bench.unseen):
        row = {method: sites[site] for method, sites in bench.classical.items()}
        row |= {arm: models[site][site] for arm in OWN if site in (models := bench.own(arm))}
        row |= {arm: bench.models[arm][site] for arm in TABLED if arm in bench.models}
        table[site] = row
    return table


def _mean(parts: Sequence[Metrics]) -> dict[str, float]:
    return {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}
