"""A whole federation on this machine: DICOM of virtual hospitals in, checked models and their record out.

The stages write their results whole or not at all, and a stage whose result is there is not done again: a run that was
interrupted goes on where it stopped when the same command is given again.
"""

import dataclasses
import fcntl
import hashlib
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from rich.progress import Progress, TaskID

from compliance.log import Action, AuditLog, Entry, Outcome
from shared.charter import Charter, PrivacyPlan, TaskPlan
from shared.errors import CharterError, FedwardError, OutputError, UsageError
from shared.files import canonical_json, output_errors, write_json
from shared.imaging.tasks import get_task
from shared.parsing import parse_json
from shared.processes import WorkerPool
from simulation import account, arms, price, private, seen, tables
from simulation.alone import personalise, train_alone
from simulation.arms import Hospital
from simulation.evidence import write_evidence
from simulation.federation import Federated, federate, make_grid, masked
from simulation.private import PrivateArm
from simulation.record import Machine, RunRecord, SeenRecord
from simulation.report import write_report
from simulation.seen import Watch
from simulation.sites.specs import SiteSpec
from simulation.sites.synthesize import synthesize
from simulation.summary import to_summary

Result = TypeVar("Result")

PACKAGES = ("fedward", "flwr", "torch", "opacus", "pydicom", "highdicom", "scikit-image", "numpy")


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        charter: The tasks and how they are trained without differential privacy.
        members: The hospitals that train.
        unseen: Hospitals that no model is trained on.
        patients: Patients at each hospital; None takes the number of its specification.
        size: Matrix of the images, pixels.
        slices: Slices in a series.
        compare: Tasks that are also trained at each hospital alone and pooled.
        private: Tasks and privacy of the arms that show what privacy costs; None for no such arms.
        epsilons: The guarantees that those arms aim at; empty for the noise of ``private``.
        repeats: How often each of them is trained.
        seed: Seed of the images; networks and training take the charter's.
        workers: Processes.
        profile: De-identification profile.
        holdout: Share of each hospital's patients that is kept for evaluation.
        out: Folder of the run.
        command: How the run was started, for the record.
        plain: Whether updates travel in the clear, for comparison.
        engine: What runs the hospitals of the federated arms: ``local`` or ``ray``. The models are the same.
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
    plain: bool = False
    private: Charter | None = None
    epsilons: tuple[float, ...] = ()
    repeats: int = 1
    engine: str = "local"

    def __post_init__(self) -> None:
        for task in self.charter.tasks:
            if task.start == "release":
                raise CharterError(
                    f"{task.name} starts from a release, which no virtual hospital holds",
                    hint="start it fresh or from public weights in a simulation",
                )

    @property
    def digest(self) -> str:
        """Hash of everything that decides the result: a folder holds one run and no other."""
        values: dict[str, Any] = {
            "charter": self.charter.sha256,
            "members": [site.id for site in self.members],
            "unseen": [site.id for site in self.unseen],
            "compare": sorted(self.compare),
            "private": self.private.sha256 if self.private else None,
            "epsilons": list(self.epsilons),
        }
        for name in ("patients", "size", "slices", "seed", "profile", "holdout", "plain", "repeats"):
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
            if not marker.exists():
                raise UsageError(
                    f"{plan.out} is not empty and holds no run of fedward", hint="choose a new folder with --out"
                )
            if _unfinished(marker, plan.digest) and not overwrite:
                return True
            if not overwrite:
                raise UsageError(
                    f"{plan.out} holds another run, or a finished one",
                    hint="choose a new folder with --out, or give --overwrite to replace that run",
                )
            for path in plan.out.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        plan.out.mkdir(parents=True, exist_ok=True)
    _mark(plan, finished=False)
    return False


def _unfinished(marker: Path, digest: str) -> bool:
    """Whether a folder's marker says that it holds the run of that digest, not yet finished."""
    try:
        before = parse_json(marker.read_bytes())
        return bool(before["digest"] == digest and not before["finished"])
    except (ValueError, KeyError, TypeError):
        return False  # damaged: another run, as far as anybody can tell


@contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Keep a second run out of the folder.

    Raises:
        OutputError: One is at work there.
    """
    with output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise OutputError(
                f"another run is at work in {out}", hint="wait for it, or choose another folder"
            ) from None
    try:
        yield
    finally:
        os.close(handle)


def _mark(plan: Plan, *, finished: bool) -> None:
    write_json(plan.out / "run.json", {"digest": plan.digest, "command": plan.command, "finished": finished})


def simulate(plan: Plan, bar: Progress) -> RunRecord:
    """Run ``plan`` and write ``summary.json``, ``report.html``, the models and every party's log below ``plan.out``."""
    started, clock = datetime.now(UTC), time.monotonic()
    hospitals = _hospitals(plan, bar)
    with WorkerPool(plan.workers, prepare=arms.start_worker) as pool, _own_log(plan) as log:
        calls = Calls(pool, bar, log)
        jobs = [(one, plan.profile, plan.charter.purpose, plan.seed, plan.holdout) for one in hospitals]
        prepared = calls.each("De-identify and index", Action.DEIDENTIFY, arms.prepare, jobs)
        patients = {one.site: one.train_patients for one in prepared}
        federations = _federate(plan, hospitals, patients, bar)
        seen_update = _seen(plan, hospitals, calls)
        alone = train_alone(plan, hospitals, calls)
        own = personalise(plan, hospitals, federations, calls)
        tasks = tables.build(plan, hospitals, federations, alone | own, calls)
    record = RunRecord(
        title=f"{plan.charter.id}: {len(plan.members)} virtual hospitals",
        started=started,
        seconds=time.monotonic() - clock,
        seed=plan.seed,
        rounds=max(task.rounds for task in plan.charter.tasks),
        machine=Machine(plan.workers, f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"),
        versions={name: version(name) for name in (*PACKAGES, *(("ray",) if plan.engine == "ray" else ()))},
        sites=tuple(
            account.site(spec, found, member=spec in plan.members)
            for spec, found in zip(_specs(plan), prepared, strict=True)
        ),
        tasks=tasks,
        privacy=price.privacy(plan, hospitals, federations),
        deid=account.deid(prepared),
        logs=tuple(account.logs(plan.out, hospitals)),
        wire=account.wire(federations, seen_update),
        limits=(account.IN_THE_CLEAR, *account.LIMITS) if plan.plain else account.LIMITS,
        charter_sha256=plan.charter.sha256,
        command=plan.command,
    )
    write_json(plan.out / "summary.json", to_summary(record))
    write_report(record, plan.out / "report.html")
    write_evidence(plan.out)
    _mark(plan, finished=True)
    return record


@dataclass(frozen=True)
class Calls:
    """Calls in worker processes, with a bar that counts them and a log that records them."""

    pool: WorkerPool
    bar: Progress
    log: AuditLog

    def each(
        self, title: str, action: Action, function: Callable[..., Result], jobs: Sequence[tuple[Any, ...]]
    ) -> list[Result]:
        """``function(*job)`` for every job, results in the order of ``jobs``; the first error ends them all.

        The simulation's own log says so first: it sees the images of several hospitals, as nobody in a federation can.
        """
        if not jobs:
            return []
        line = self.bar.add_task(title, total=len(jobs))
        with self.log.act(Entry(action, Outcome.STARTED, detail={"what": title, "jobs": len(jobs)})):
            futures = [self.pool.submit(function, *job) for job in jobs]
            for future in futures:
                future.add_done_callback(lambda _: self.bar.advance(line))
            try:
                return [future.result() for future in futures]
            except BrokenProcessPool as error:
                raise FedwardError("a worker process died", hint="it may lack memory: use fewer --workers") from error
            finally:
                for future in futures:
                    future.cancel()


def _own_log(plan: Plan) -> AuditLog:
    """The log of the simulation itself, which no federation has."""
    return AuditLog(plan.out / account.OWN_LOG, site="simulation", purpose=plan.charter.purpose, subject_key=b"")


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


def _federate(
    plan: Plan, hospitals: Sequence[Hospital], patients: Mapping[str, int], bar: Progress
) -> dict[tuple[str, str], Federated]:
    """Every federated arm, by task and name."""
    done: dict[tuple[str, str], Federated] = {}
    members = [one for one in hospitals if one.member]
    watch = Watch()
    with make_grid({one.site: one.node for one in members}, plan.workers, watch, engine=plan.engine) as grid:
        for arm in _arms(plan, members, patients):
            line = bar.add_task(arm.title, total=arm.task.rounds)
            folder = plan.out / "federation" / f"{arm.task.name}-{arm.name}"
            if not done:
                watch.expect(next(iter(arm.nodes)), _seen_round(arm.task), folder)
            done[arm.task.name, arm.name] = federate(
                arm.charter, arm.nodes, grid=grid, folder=folder, on_round=partial(_advance, bar, line), price=arm.price
            )
            bar.update(line, completed=arm.task.rounds)
    return done


@dataclass(frozen=True)
class _Arm:
    """One federated training: of which task, what it is called, and the charter that these nodes pin."""

    task: TaskPlan
    name: str
    title: str
    charter: Charter
    nodes: Mapping[str, Path]
    price: PrivateArm | None = None


def _arms(plan: Plan, members: Sequence[Hospital], patients: Mapping[str, int]) -> Iterator[_Arm]:
    """Each task without differential privacy, then what shows the price of privacy."""
    for task in plan.charter.tasks:
        base, nodes = _base(plan, plan.charter, task, members)
        yield _Arm(task, "federated", f"{get_task(task.name).title}: federated", base, nodes)
    if plan.private is None:
        return
    for arm in private.arms(plan.private, plan.epsilons, plan.repeats, masks=not plan.plain):
        base, nodes = _base(plan, plan.private, arm.task, members)
        together = sum(patients[site] for site in nodes)
        charter = private.charter_of(base, arm, plan.private.privacy, together)
        yield _Arm(arm.task, arm.name, f"{get_task(arm.task.name).title}: {arm.title}", charter, nodes, arm)


def _base(plan: Plan, charter: Charter, task: TaskPlan, members: Sequence[Hospital]) -> tuple[Charter, dict[str, Path]]:
    """``charter`` for one task and without privacy, with the hospitals that can train it as its members."""
    nodes = {one.site: one.node for one in tables.taking_part(task.name, members)}
    off = PrivacyPlan(mode="off", scores="open" if plan.plain else "masked")
    one = dataclasses.replace(charter, tasks=(task,), privacy=off, members=(), masking=None)
    return one if plan.plain else masked(dataclasses.replace(one, masking=charter.masking), nodes), nodes


def _seen(plan: Plan, hospitals: Sequence[Hospital], calls: "Calls") -> SeenRecord | None:
    """One update of the first hospital, beside what the coordinator got; None without masks."""
    task = plan.charter.tasks[0]
    folder = plan.out / "federation" / f"{task.name}-federated"
    masked_numbers = seen.masked_numbers(folder, Charter.load(folder / "charter.toml"))
    if masked_numbers is None:
        return None
    first = tables.taking_part(task.name, [one for one in hospitals if one.member])[0]
    number = _seen_round(task)
    jobs = [(first.node, folder / "charter.toml", task.name, number, seen.started_from(folder))]
    (true,) = calls.each("One update, for its picture", Action.TRAIN, arms.update_again, jobs)
    return seen.record(first.site, task.name, number, true, masked_numbers)


def _seen_round(task: TaskPlan) -> int:
    """The round whose update is shown: not the first, where layers behind one that starts at zero learn nothing."""
    return min(10, task.rounds)


def _advance(bar: Progress, line: TaskID, number: int) -> None:
    bar.update(line, completed=number)


def room(out: Path, needed: int) -> None:
    """Refuse to start where the disk clearly cannot hold the run.

    Raises:
        OutputError: Less than ``needed`` bytes are free.
    """
    place = next(parent for parent in (out, *out.absolute().parents) if parent.exists())
    stat = os.statvfs(place)
    if stat.f_bavail * stat.f_frsize < needed:
        raise OutputError(f"{place} has less than {needed >> 20} MiB free", hint="choose another folder with --out")
