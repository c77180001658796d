"""``fedward simulate``: a whole federation on this machine."""

import dataclasses
import math
import shlex
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from shared.charter import Charter, TaskPlan
from shared.console import emit_json, plural, progress, say
from shared.errors import UsageError
from shared.imaging.images import StudyImages
from shared.secagg.parameters import MIN_MEMBERS
from simulation.record import EVIDENCE, RunRecord
from simulation.sites.specs import SiteSpec, choose_sites
from simulation.summary import to_summary

if TYPE_CHECKING:
    from simulation.run import Plan

SHIPPED = ("demo", "benchmark", "private")
COMPARE = (
    "Tasks also trained pooled, at each hospital alone, and there from the federated model: names, all or none. "
    "Default: denoise, where the charter has it."
)
PRIVATE = (
    "Charter of the arms that show what privacy costs: a file, a shipped name, or none. "
    "Default: private with a shipped charter; with a file that file, where it asks for privacy."
)
SITES = "Hospitals that train: ids such as H1,H3, or how many; P1,P2,P3 take two contrasts."
EPSILONS = "Guarantees that those arms aim at, such as 1,3,8. Default: the noise that their charter says."
PLAIN = "Updates travel in the clear, and the coordinator sees each of them: only for comparison."
ENGINE = "What runs the hospitals: local, or ray, Flower's own engine (an extra); the models are the same."
AUDIT = (
    "Instead of the run, train with canaries under the privacy settings of the charter's first task, guess who was in, "
    "and write the lower bound on epsilon to OUT/audit.json."
)
RUN, AUDITED = Path("runs/simulation"), Path("runs/audit")
ROOM = 512 << 20  # bytes that the demo's images, models and logs fit into with a margin


def simulate(
    charter: Annotated[
        str, typer.Argument(help="A charter file (TOML), or the name of a shipped one: demo, benchmark, private.")
    ] = "demo",
    out: Annotated[Path, typer.Option(help="Folder of the run; made new.")] = RUN,
    sites: Annotated[str, typer.Option(help=SITES)] = "H1,H3,H6,H7",
    unseen: Annotated[str, typer.Option(help="Hospitals that no model is trained on; 'none' for none.")] = "X1",
    patients: Annotated[int, typer.Option(min=0, help="Patients at each hospital; 0: as the site says.")] = 8,
    size: Annotated[int, typer.Option(min=64, max=512, help="Matrix of the images, pixels.")] = 128,
    slices: Annotated[int, typer.Option(min=1, max=64, help="Slices in a series.")] = 6,
    task: Annotated[list[str] | None, typer.Option(help="Only this task of the charter; may be repeated.")] = None,
    rounds: Annotated[int, typer.Option(min=0, help="Rounds of every task; 0: as the charter says.")] = 0,
    compare: Annotated[str | None, typer.Option(help=COMPARE)] = None,
    private: Annotated[str | None, typer.Option(help=PRIVATE)] = None,
    epsilons: Annotated[str, typer.Option(help=EPSILONS)] = "",
    repeats: Annotated[int, typer.Option(min=1, max=20, help="Trainings of each of those arms.")] = 1,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the charter's seed.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes, one thread each.")] = 2,
    engine: Annotated[str, typer.Option(help=ENGINE)] = "local",
    profile: Annotated[str, typer.Option(help="De-identification profile.")] = "basic",
    plain: Annotated[bool, typer.Option("--plain", help=PLAIN)] = False,
    audit_privacy: Annotated[bool, typer.Option("--audit-privacy", help=AUDIT)] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the summary.")] = False,
) -> None:
    """Run a whole federation of virtual hospitals on this machine.

    Generated DICOM is de-identified at each hospital, and a Flower coordinator trains the charter's tasks with them and
    unmasks nothing but sums. OUT gets report.html, summary.json, the models and every party's audit log. The tasks of
    --private are trained with noise too. An interrupted run goes on when the same command is given again.
    """
    members, levels = choose_sites(sites), _levels(epsilons)
    agreed = _charter(charter, task or [], rounds, seed)
    if audit_privacy:
        _audit(agreed, AUDITED if out == RUN else out, epsilons, engine, overwrite=overwrite, as_json=json)
        return
    from simulation import run  # seconds of imports that neither `fedward --help` nor a typo should cost

    plan = run.Plan(
        charter=agreed,
        members=members,
        unseen=choose_sites(unseen) if unseen != "none" else (),
        patients=patients or None,
        size=size,
        slices=slices,
        compare=_compared(compare, agreed),
        seed=agreed.seed,
        workers=workers,
        profile=profile,
        holdout=0.25,
        out=out,
        command=shlex.join(["fedward", *sys.argv[1:]]),
        plain=plain,
        private=_private(private, charter, agreed, rounds, levels),
        epsilons=levels,
        repeats=repeats,
        engine=engine,
    )
    _check(plan)
    _run(plan, overwrite=overwrite, as_json=json)


def _run(plan: "Plan", *, overwrite: bool, as_json: bool) -> None:
    from simulation import run

    run.room(plan.out, ROOM)
    with run.alone_in(plan.out):
        if run.claim(plan, overwrite=overwrite) and not as_json:
            say(f"going on with the run in {plan.out}")
        with progress(quiet=as_json) as bar:
            record = run.simulate(plan, bar)
        _tell(record, plan.out, as_json=as_json)  # bars that still move would overwrite it


def _read(name: str) -> Charter:
    if name in SHIPPED:
        text = resources.files("simulation").joinpath(f"charters/{name}.toml").read_text(encoding="utf-8")
        return Charter.parse(text, source=f"the shipped charter {name}")
    return Charter.load(Path(name))


def _private(
    name: str | None, chosen: str, agreed: Charter, rounds: int, epsilons: tuple[float, ...]
) -> Charter | None:
    """The charter of the private arms, with those of its tasks that the run trains at all.

    Raises:
        UsageError: It asks for no privacy, or no noise gives one of ``epsilons``: found before anything is made.
    """
    if name is None:
        name = "private" if chosen in SHIPPED else chosen
        if name == chosen and _read(name).privacy.mode == "off":
            return None
    if name == "none":
        if epsilons:
            raise UsageError("--epsilons has no effect with --private none", hint="leave one of them out")
        return None
    charter, trained = _read(name), {plan.name for plan in agreed.tasks}
    if charter.privacy.mode == "off":
        raise UsageError(
            f"{name} trains without differential privacy", hint="name a charter with it, or --private none"
        )
    plans = tuple(plan for plan in charter.tasks if plan.name in trained)
    if rounds:
        plans = tuple(dataclasses.replace(plan, rounds=rounds) for plan in plans)
    from simulation.private import reachable

    made = dataclasses.replace(charter, tasks=plans, seed=agreed.seed) if plans else None
    if made is not None:
        reachable(made, epsilons)
    return made


def _levels(text: str) -> tuple[float, ...]:
    try:
        levels = tuple(float(one) for one in text.split(",") if one.strip())
    except ValueError:
        levels = (math.nan,)
    if not all(0 < one < math.inf for one in levels):
        raise UsageError(f"--epsilons '{text}' are not numbers above 0", hint="separate them by commas: 1,3,8")
    return tuple(dict.fromkeys(levels))


def _audit(charter: Charter, out: Path, epsilons: str, engine: str, *, overwrite: bool, as_json: bool) -> None:
    from simulation.audit_cli import audit_charter

    if epsilons:
        raise UsageError(
            "--epsilons has no effect with --audit-privacy", hint="audit a charter whose noise gives that epsilon"
        )
    if engine != "local":
        raise UsageError("--engine has no effect with --audit-privacy", hint="leave one of them out")
    audit_charter(charter, out, overwrite=overwrite, as_json=as_json)


def _charter(name: str, tasks: list[str], rounds: int, seed: int | None) -> Charter:
    charter = _read(name)
    from shared.imaging.tasks import get_task

    plans: tuple[TaskPlan, ...] = charter.tasks
    for plan in plans:
        get_task(plan.name).network(0, plan.network)
    if tasks:
        for one in tasks:
            get_task(one)
        plans = tuple(charter.task(one) for one in dict.fromkeys(tasks))
    if rounds:
        plans = tuple(dataclasses.replace(plan, rounds=rounds) for plan in plans)
    return dataclasses.replace(charter, tasks=plans, seed=charter.seed if seed is None else seed)


def _compared(text: str | None, charter: Charter) -> frozenset[str]:
    from shared.imaging.tasks import get_task

    names = {plan.name for plan in charter.tasks}
    if text is None:
        return frozenset({"denoise"} & names)
    if text in ("all", "none"):
        return frozenset(names if text == "all" else ())
    wanted = [name.strip() for name in text.split(",")]
    for name in wanted:
        get_task(name)
        if name not in names:
            raise UsageError(
                f"{name} cannot be compared: it is not trained", hint="add it with --task, or leave it out"
            )
    return frozenset(wanted)


def _check(plan: "Plan") -> None:
    """Refuse at once what would only fail after minutes of work.

    Raises:
        UsageError: There is no such profile or engine, a site both trains and is unseen, or a task would have too few
            hospitals or patients.
    """
    from client.deid import Profile
    from shared.imaging.tasks import get_task
    from simulation.federation import check_engine

    Profile.load(plan.profile)
    check_engine(plan.engine)

    both = {site.id for site in plan.members} & {site.id for site in plan.unseen}
    if both:
        raise UsageError(f"{', '.join(sorted(both))} cannot both train and be unseen", hint="take it out of one list")
    for task in plan.charter.tasks:
        able = [site.id for site in plan.members if get_task(task.name).eligible(_blank(site))]
        if not plan.plain and len(able) < MIN_MEMBERS:
            raise UsageError(
                f"{task.name} can be trained at {len(able)} of these sites{_named(able)}, and masked updates "
                f"need {MIN_MEMBERS}: with two, each reads the other's off the sum",
                hint="choose more sites with --sites, other tasks with --task, or give --plain",
            )
        if len(able) < max(1, plan.charter.min_sites):
            raise UsageError(
                f"{task.name} can be trained at {len(able)} of these sites{_named(able)}, and the charter asks for "
                f"{plan.charter.min_sites}",
                hint="choose more sites with --sites, other tasks with --task, or another charter",
            )
    for site in plan.members + plan.unseen:
        count = plan.patients or site.patients
        held = max(round(plan.holdout * count), 1)
        if count < 3 or count - held < plan.charter.min_patients:
            raise UsageError(
                f"{site.id} would have {plural(count, 'patient')}, {held} of them held out, and the charter asks for "
                f"{plan.charter.min_patients} to train on",
                hint="give more --patients: at least 3",
            )


def _named(sites: list[str]) -> str:
    return f" ({', '.join(sites)})" if sites else ""


def _blank(site: SiteSpec) -> StudyImages:
    """What a study of a site is, as a task judges it."""
    empty = np.zeros((1, 1, 1), np.float32)
    second = empty if site.second else None
    return StudyImages(site.protocol.modality, empty, empty, empty.astype(np.uint8), (1.0, 1.0), second)


def _tell(record: RunRecord, out: Path, *, as_json: bool) -> None:
    if as_json:
        emit_json(to_summary(record))
        return
    from client.budget_words import figure

    for task in record.tasks:
        metric = task.main_metric
        federated = task.arms["federated"].all_sites[metric]
        best = max((name for name in task.classical if name != "noisy"), key=lambda name: task.classical[name][metric])
        say(
            f"{task.title}: federated {metric} {federated:.3f}, "
            f"best classical {task.classical[best][metric]:.3f} ({best})"
        )
    for row in record.privacy:
        say(
            f"privacy at {row.site} ({row.noise} noise): epsilon {figure(row.epsilon)} at delta {row.delta:.0e} "
            f"for a {row.unit}"
        )
    verdict = "verified" if record.verified else "NOT verified"
    witnesses = plural(record.witnesses, "witness", "witnesses")
    say(f"audit {verdict}: {plural(record.entries, 'entry', 'entries')}, {witnesses}")
    say(f"{record.seconds:.0f} s; report: {out / 'report.html'}; evidence: {out / EVIDENCE / 'evidence.html'}")
