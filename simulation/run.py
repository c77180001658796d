"""A whole federation on this machine: DICOM of virtual hospitals in, checked models and their record out.

The stages write their results whole or not at all, and a stage whose result is there is not done again: a run that was
interrupted goes on where it stopped when the same command is given again.
"""

import dataclasses
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from rich.progress import Progress, TaskID

from compliance.log import verify
from shared.charter import Charter, PrivacyPlan, TaskPlan
from shared.errors import OutputError, UsageError
from shared.files import canonical_json, output_errors, write_json
from shared.imaging.tasks import get_task
from shared.processes import WorkerPool
from simulation import arms, tables
from simulation.arms import Alone, Hospital, Prepared
from simulation.federation import Federated, federate, make_grid
from simulation.record import DeidRecord, LogRecord, Machine, RunRecord, SiteRecord, WireRecord, to_summary
from simulation.report import write_report
from simulation.sites.specs import MrProtocol, SiteSpec
from simulation.sites.synthesize import synthesize

Result = TypeVar("Result")

PACKAGES = ("fedward", "flwr", "torch", "opacus", "pydicom", "highdicom", "scikit-image", "numpy")

LIMITS = (
    "All patients are synthetic and descend from one brain atlas and one family of torso shapes, and the noise model "
    "is the one trained on: scores are upper bounds for real images.",
    "Updates are not masked yet: this coordinator sees each hospital's update, its weight and its scores.",
    "The whole federation ran on one machine: no network, no outage and no clock of another party was in play.",
    "Differential privacy covers the training steps of the arm that says so; scores on held-out patients, numbers of "
    "slices and the choice of settings are not covered by it.",
    "The audit logs are chained but not yet witnessed by another party: a chain shows changes inside a log, not a log "
    "that was cut off or replaced as a whole.",
    "Pixels were not searched for burned-in text, only flagged images are held back; heads were not defaced.",
)


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        charter: The tasks and how they are trained; its privacy plan is used by the arm with differential privacy.
        members: The hospitals that train.
        unseen: Hospitals that no model is trained on.
        patients: Patients at each hospital; None takes the number of its specification.
        size: Matrix of the images, pixels.
        slices: Slices in a series.
        compare: Tasks that are also trained at each hospital alone, pooled, and under differential privacy.
        seed: Seed of images, networks and training without differential privacy.
        workers: Processes.
        profile: De-identification profile.
        holdout: Share of each hospital's patients that is kept for evaluation.
        out: Folder of the run.
        command: How the run was started, for the record.
    """

    charter: Charter
    members: tuple[SiteSpec, ...]
    unseen: tuple[SiteSpec, ...]
    patients: int | None
    size: int
    slices: int
    compare: frozenset[str]
    seed: int
    workers: int
    profile: str
    holdout: float
    out: Path
    command: str

    @property
    def digest(self) -> str:
        """Hash of everything that decides the result: a folder holds one run and no other."""
        values: dict[str, Any] = {
            "charter": self.charter.sha256,
            "members": [site.id for site in self.members],
            "unseen": [site.id for site in self.unseen],
            "compare": sorted(self.compare),
        }
        for name in ("patients", "size", "slices", "seed", "profile", "holdout"):
            values[name] = getattr(self, name)
        return hashlib.sha256(canonical_json(values)).hexdigest()


def claim(plan: Plan, *, overwrite: bool) -> bool:
    """Make the run's folder, or find that it holds this very run unfinished. True where an earlier run goes on.

    Raises:
        UsageError: The folder holds something else.
        OutputError: It cannot be written.
    """
    marker = plan.out / "run.json"
    with output_errors(plan.out):
        if plan.out.exists() and any(plan.out.iterdir()):
            before = json.loads(marker.read_bytes()) if marker.exists() else None
            if before is None:
                raise UsageError(
                    f"{plan.out} is not empty and holds no run of fedward", hint="choose a new folder with --out"
                )
            if before["digest"] == plan.digest and not before["finished"] and not overwrite:
                return True
            if not overwrite:
                raise UsageError(
                    f"{plan.out} holds another run, or a finished one",
                    hint="choose a new folder with --out, or give --overwrite to replace that run",
                )
            shutil.rmtree(plan.out)
        plan.out.mkdir(parents=True, exist_ok=True)
    _mark(plan, finished=False)
    return False


def _mark(plan: Plan, *, finished: bool) -> None:
    write_json(plan.out / "run.json", {"digest": plan.digest, "command": plan.command, "finished": finished})


def simulate(plan: Plan, bar: Progress) -> RunRecord:
    """Run ``plan`` and write ``summary.json``, ``report.html``, the models and every party's log below ``plan.out``."""
    started, clock = datetime.now(UTC), time.monotonic()
    hospitals = _hospitals(plan, bar)
    with WorkerPool(plan.workers, prepare=arms.start_worker) as pool:
        calls = Calls(pool, bar)
        jobs = [(one, plan.profile, plan.charter.purpose, plan.seed, plan.holdout) for one in hospitals]
        prepared = calls.each("De-identify and index", arms.prepare, jobs)
        federations = _federate(plan, hospitals, bar)
        alone = _train_alone(plan, hospitals, calls)
        tasks = tables.build(plan, hospitals, federations, alone, calls)
    record = RunRecord(
        title=f"{plan.charter.id}: {len(plan.members)} virtual hospitals",
        started=started,
        seconds=time.monotonic() - clock,
        seed=plan.seed,
        rounds=max(task.rounds for task in plan.charter.tasks),
        machine=Machine(plan.workers, f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"),
        versions={name: version(name) for name in PACKAGES},
        sites=tuple(
            _site(spec, found, member=spec in plan.members) for spec, found in zip(_specs(plan), prepared, strict=True)
        ),
        tasks=tasks,
        privacy=tables.privacy(plan, hospitals, federations),
        deid=_deid(prepared),
        logs=tuple(_log(plan.out, hospitals)),
        wire=_wire(federations),
        limits=LIMITS,
        charter_sha256=plan.charter.sha256,
        command=plan.command,
    )
    write_json(plan.out / "summary.json", to_summary(record))
    write_report(record, plan.out / "report.html")
    _mark(plan, finished=True)
    return record


@dataclass(frozen=True)
class Calls:
    """Calls in worker processes, with a bar that counts them."""

    pool: WorkerPool
    bar: Progress

    def each(self, title: str, function: Callable[..., Result], jobs: Sequence[tuple[Any, ...]]) -> list[Result]:
        """``function(*job)`` for every job, results in the order of ``jobs``; the first error ends them all."""
        line = self.bar.add_task(title, total=len(jobs))
        futures = [self.pool.submit(function, *job) for job in jobs]
        for future in futures:
            future.add_done_callback(lambda _: self.bar.advance(line))
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def _specs(plan: Plan) -> tuple[SiteSpec, ...]:
    return plan.members + plan.unseen


def _hospitals(plan: Plan, bar: Progress) -> tuple[Hospital, ...]:
    """The virtual hospitals, with their images as DICOM."""
    pacs, specs = plan.out / "pacs", _specs(plan)
    if not pacs.exists():
        line = bar.add_task("Virtual hospitals as DICOM", total=None)
        synthesize(
            pacs,
            sites=specs,
            patients=plan.patients,
            size=plan.size,
            slices=plan.slices,
            seed=plan.seed,
            workers=plan.workers,
            on_progress=lambda done, total: bar.update(line, completed=done, total=total),
        )
    members = {site.id for site in plan.members}
    return tuple(Hospital(one.id, pacs / one.id, plan.out / "nodes" / one.id, one.id in members) for one in specs)


def _federate(plan: Plan, hospitals: Sequence[Hospital], bar: Progress) -> dict[tuple[str, str], Federated]:
    """Every federated arm, by task and name."""
    done: dict[tuple[str, str], Federated] = {}
    members = [one for one in hospitals if one.member]
    with make_grid({one.site: one.node for one in members}, plan.workers) as grid:
        for task, private in _federated_arms(plan):
            line = bar.add_task(f"{get_task(task.name).title}: federated{', private' * private}", total=task.rounds)
            arm = "federated_dp" if private else "federated"
            done[task.name, arm] = federate(
                _charter(plan.charter, task, private=private),
                {one.site: one.node for one in tables.taking_part(task.name, members)},
                grid=grid,
                folder=plan.out / "federation" / f"{task.name}-{arm}",
                on_round=partial(_advance, bar, line),
            )
            bar.update(line, completed=task.rounds)
    return done


def _federated_arms(plan: Plan) -> Iterable[tuple[TaskPlan, bool]]:
    """Each task without differential privacy, and each that is compared also with it."""
    for task in plan.charter.tasks:
        yield task, False
        if task.name in plan.compare:
            yield task, True


def _advance(bar: Progress, line: TaskID, number: int) -> None:
    bar.update(line, completed=number)


def _charter(charter: Charter, task: TaskPlan, *, private: bool) -> Charter:
    """The charter of one arm: one task, and privacy on or off."""
    privacy = dataclasses.replace(charter.privacy, mode="patient") if private else PrivacyPlan(mode="off")
    return dataclasses.replace(charter, tasks=(task,), privacy=privacy)


def _train_alone(plan: Plan, hospitals: Sequence[Hospital], calls: Calls) -> dict[tuple[str, str], Path]:
    """Weights of pooled and local training by task and arm (``pooled`` or a site), at equal numbers of gradients."""
    jobs: dict[tuple[str, str], Alone] = {}
    for task in (task for task in plan.charter.tasks if task.name in plan.compare):
        able = tables.taking_part(task.name, [one for one in hospitals if one.member])
        steps, folder = task.rounds * task.local_steps, plan.out / "alone" / task.name
        groups = {"pooled": able} | {one.site: [one] for one in able}
        for name, group in groups.items():
            jobs[task.name, name] = Alone(
                task=task.name,
                nodes=tuple(one.node for one in group),
                steps=steps * len(group),
                batch=task.batch,
                lr=tables.ALONE_RATE[task.name],
                seed=plan.charter.seed,
                out=folder / f"{name}.safetensors",
            )
    if not jobs:
        return {}
    paths = calls.each("Pooled and local training", arms.train_alone, [(job,) for job in jobs.values()])
    return dict(zip(jobs, paths, strict=True))


# --- the record -------------------------------------------------------------------------------------------------------


def _site(spec: SiteSpec, found: Prepared, *, member: bool) -> SiteRecord:
    protocol = spec.protocol
    if isinstance(protocol, MrProtocol):
        contrast = f"{protocol.sequence.name.replace('_', ' ').capitalize()}, TR {protocol.tr:g}, TE {protocol.te:g} ms"
        field, noise = f"{protocol.field:g} T", f"{protocol.noise:.0%} Rician"
    else:
        contrast = f"Abdomen, {protocol.phase.value}"
        field, noise = f"{protocol.kernel.value} kernel", f"{protocol.photons:.0f} photons a view"
    return SiteRecord(
        id=spec.id,
        modality=protocol.modality,
        contrast=contrast,
        field=field,
        noise=noise,
        train_patients=found.train_patients if member else 0,
        held_out_patients=found.held_out_patients,
        studies=found.studies,
        slices=found.slices,
        member=member,
    )


def _added(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            total[name] = total.get(name, 0) + count
    return total


def _deid(prepared: Sequence[Prepared]) -> DeidRecord:
    counts = _added(one.deid for one in prepared)
    name, digest = prepared[0].profile
    return DeidRecord(
        files=counts.get("files", 0),
        released=counts.get("released", 0),
        quarantined=counts.get("quarantined", 0),
        refused=counts.get("refused", 0),
        profile=name,
        profile_sha256=digest,
        reasons=_added(one.reasons for one in prepared),
        rules=_added(one.rules for one in prepared),
    )


def _log(out: Path, hospitals: Sequence[Hospital]) -> Iterable[LogRecord]:
    """Every party's log, checked from its first line to its last; one that does not verify ends the run."""
    paths = {one.site: one.node / "audit" / "log.jsonl" for one in hospitals}
    paths |= {path.parent.name: path / "log.jsonl" for path in sorted((out / "federation").glob("*/audit"))}
    for owner, path in paths.items():
        found = verify(path)
        yield LogRecord(owner, found.entries, verified=True, head=found.head)


def _wire(federations: Mapping[tuple[str, str], Federated]) -> WireRecord:
    runs = list(federations.values())
    return WireRecord(
        down=sum(one.bytes_down for one in runs),
        up=sum(one.bytes_up for one in runs),
        messages=sum(one.messages for one in runs),
        per_round={task: one.bytes_per_answer for (task, arm), one in federations.items() if arm == "federated"},
    )


def finished(out: Path) -> bool:
    """Whether ``out`` holds a run that came to its end."""
    try:
        return bool(json.loads((out / "run.json").read_bytes())["finished"])
    except (OSError, ValueError, KeyError):
        return False


def room(out: Path, needed: int) -> None:
    """Refuse to start where the disk clearly cannot hold the run.

    Raises:
        OutputError: Less than ``needed`` bytes are free.
    """
    place = next(parent for parent in (out, *out.absolute().parents) if parent.exists())
    stat = os.statvfs(place)
    if stat.f_bavail * stat.f_frsize < needed:
        raise OutputError(f"{place} has less than {needed >> 20} MiB free", hint="choose another folder with --out")
