"""What every hospital of a run trains without the others, and what a place with everybody's images would."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from client.training.personal import rate_of
from compliance.log import Action
from shared.charter_plans import TaskPlan
from simulation import arms, tables
from simulation.arms import Alone, AtHome, Hospital
from simulation.federation import Federated

if TYPE_CHECKING:
    from simulation.run import Calls, Plan


def train_alone(plan: "Plan", hospitals: Sequence[Hospital], calls: "Calls") -> dict[tuple[str, str], Path]:
    """Weights of pooled and local training by task and arm (``pooled`` or a site), at equal numbers of gradients."""
    jobs: dict[tuple[str, str], Alone] = {}
    for task in (task for task in plan.charter.tasks if task.name in plan.compare):
        able = tables.taking_part(task.name, [one for one in hospitals if one.member])
        steps, folder = task.rounds * task.local_steps, plan.out / "alone" / task.name
        groups = {"pooled": able} | {one.site: [one] for one in able}
        for name, group in groups.items():
            jobs[task.name, name] = Alone(
                plan=task,
                nodes=tuple(one.node for one in group),
                steps=steps * len(group),
                lr=rate_alone(task),
                seed=plan.charter.seed,
                out=folder / f"{name}.safetensors",
            )
    if not jobs:
        return {}
    paths = calls.each("Pooled and local training", Action.TRAIN, arms.train_alone, [(job,) for job in jobs.values()])
    return dict(zip(jobs, paths, strict=True))


def rate_alone(plan: TaskPlan) -> float:
    """Adam's rate of pooled and local training: from weights that are good already, that of a personal model.

    It is half of what random weights take. With it pooled training ends better in every task, and local training as
    well or better (docs/benchmark.md).
    """
    return tables.ALONE_RATE[plan.name] if plan.start == "fresh" else rate_of(plan.name)


def personalise(
    plan: "Plan", hospitals: Sequence[Hospital], federations: Mapping[tuple[str, str], Federated], calls: "Calls"
) -> dict[tuple[str, str], Path]:
    """Weights of each hospital's own model, made from the federated one, by task and arm.

    It takes as many steps at home as local training: a hospital that would have trained alone begins elsewhere.
    """
    jobs = {
        (task.name, tables.OWN["personal"] + one.site): AtHome(
            plan=task,
            node=one.node,
            weights=federations[task.name, "federated"].weights,
            steps=task.rounds * task.local_steps,
            lr=rate_of(task.name),
            seed=plan.charter.seed,
            out=plan.out / "personal" / task.name / f"{one.site}.safetensors",
        )
        for task in plan.charter.tasks
        if task.name in plan.compare
        for one in tables.taking_part(task.name, [one for one in hospitals if one.member])
    }
    paths = calls.each("Personal models", Action.TRAIN, arms.train_at_home, [(job,) for job in jobs.values()])
    return dict(zip(jobs, paths, strict=True))
