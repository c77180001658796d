"""The public models: networks trained on phantoms of random contrast, with a recipe that makes them again."""

import hashlib
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import safetensors.numpy
import torch
from rich.progress import Progress

from client.training.loop import train_centrally, usable
from shared.errors import FedwardError, UsageError
from shared.files import output_errors, write_bytes, write_json
from shared.imaging.metrics import Sums, summarise
from shared.imaging.public import PUBLIC, weights_file
from shared.imaging.tasks import Task, get_task
from shared.processes import WorkerPool
from shared.weights import weights_of
from simulation import phantoms
from simulation.phantoms import Phantom, draw_phantom
from simulation.sites.atlas import atlas_file

NAME: Final = "public-1"
SEED: Final = 20260201
PATIENTS: Final = 300
HELD_OUT: Final = 30
"""Phantoms after the last trained one: the recipe's own scores are of these."""
NOTICE: Final = "NOTICE.txt"
PACKAGES: Final = ("numpy", "scipy", "scikit-image", "torch", "safetensors", "nilearn", "nibabel")
ORIGIN: Final = (
    "Heads: the ICBM 2009a nonlinear symmetric atlas in the nilearn wheel, warped for every phantom. "
    "Abdomens: implicit functions, no measured atlas. The virtual hospitals of fedward simulate descend from the same "
    "atlas and the same torso family, with other seeds: these weights start nearer to them than to real patients."
)


@dataclass(frozen=True)
class Course:
    """How one task is trained: Adam with its rate on a half cosine.

    Attributes:
        steps: Optimiser steps.
        batch: Patches in a step.
        lr: Learning rate at the first step.
    """

    steps: int
    batch: int
    lr: float


COURSES: Final[Mapping[str, Course]] = MappingProxyType(
    {
        "denoise": Course(steps=5000, batch=8, lr=2e-3),
        "superres": Course(steps=3000, batch=8, lr=2e-3),
        "segment": Course(steps=2600, batch=8, lr=3e-3),
    }
)
"""The tasks that have a public model, with what the shipped ones were trained by."""


@dataclass(frozen=True)
class PublicModel:
    """One task's public weights.

    Attributes:
        task: Name of the task.
        course: How it was trained.
        parameters: Elements of its state.
        data: The safetensors file.
        scores: Figures on held-out phantoms.
    """

    task: str
    course: Course
    parameters: int
    data: bytes
    scores: Mapping[str, float]

    @property
    def sha256(self) -> str:
        """Digest of the file."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def shipped(self) -> bool:
        """Whether these are the very bytes that this release ships."""
        return PUBLIC[NAME].get(self.task) == self.sha256


@dataclass(frozen=True)
class Plan:
    """What to make.

    Attributes:
        tasks: Names out of :data:`COURSES`.
        seed: Seed of phantoms, networks and training.
        patients: Phantoms to train on.
        steps: Steps of every task, or None for those of :data:`COURSES`.
        workers: Processes that make phantoms; training takes one, with one thread.
    """

    tasks: tuple[str, ...]
    seed: int = SEED
    patients: int = PATIENTS
    steps: int | None = None
    workers: int = 1

    def __post_init__(self) -> None:
        for task in self.tasks:
            get_task(task)
            if task not in COURSES:
                raise UsageError(f"{task} has no public model", hint=f"tasks that have: {', '.join(COURSES)}")
        for name, value in (("patients", self.patients), ("steps", self.steps or 1), ("workers", self.workers)):
            if value < 1:
                raise UsageError(f"{name} must be 1 or more, not {value}", hint=f"choose another --{name}")

    @property
    def command(self) -> str:
        """The command that makes the same again."""
        tasks = "" if set(self.tasks) == set(COURSES) else "".join(f" --task {task}" for task in self.tasks)
        steps = "" if self.steps is None else f" --steps {self.steps}"
        return f"fedward pretrain{tasks} --seed {self.seed} --patients {self.patients}{steps}"

    def course(self, task: str) -> Course:
        """How ``task`` is trained."""
        usual = COURSES[task]
        return Course(self.steps or usual.steps, usual.batch, usual.lr)


def pretrain(plan: Plan, out: Path, bar: Progress) -> tuple[PublicModel, ...]:
    """Make phantoms, train every task of ``plan`` on them, and write weights, recipe and notice to ``out``.

    The files are the same for the same plan, machine and versions of the packages. Floating-point sums depend on the
    processor and the library, so another machine may get other bytes: compare its scores with those of the recipe.

    Nothing is written before everything is trained; every file is whole or absent, the recipe last.

    Raises:
        UsageError: ``out`` holds something else.
        DataError: The brain atlas is not installed.
        OutputError: ``out`` cannot be written.
    """
    _check_folder(out)
    atlas_file("t1")  # say that it is missing before anything is started
    people = make_phantoms(plan, bar)
    with _one_thread():
        models = tuple(_train(get_task(task), plan, people, bar) for task in plan.tasks)
    notice = resources.files("shared.imaging").joinpath("weights", NOTICE).read_bytes()
    (out / f"{NAME}.json").unlink(missing_ok=True)  # an earlier recipe must not stand beside new weights
    for model in models:
        write_bytes(out / weights_file(NAME, model.task), model.data)
    write_bytes(out / NOTICE, notice)
    write_json(out / f"{NAME}.json", recipe(plan, people, models))
    return models


def make_phantoms(plan: Plan, bar: Progress) -> tuple[Phantom, ...]:
    """The phantoms of ``plan``, and after them :data:`HELD_OUT` that no model is trained on."""
    count = plan.patients + HELD_OUT
    line = bar.add_task("Phantoms of random contrast", total=count)
    if plan.workers == 1:
        made = []
        for index in range(count):
            made.append(draw_phantom(plan.seed, index))
            bar.advance(line)
        return tuple(made)
    pool = WorkerPool(min(plan.workers, count))
    try:
        futures = [pool.submit(draw_phantom, plan.seed, index) for index in range(count)]
        for future in futures:
            future.add_done_callback(lambda _: bar.advance(line))
        return tuple(future.result() for future in futures)
    except BrokenProcessPool as error:
        raise FedwardError("a worker process died", hint="it may lack memory: use fewer --workers") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _train(task: Task, plan: Plan, people: Sequence[Phantom], bar: Progress) -> PublicModel:
    course = plan.course(task.name)
    line = bar.add_task(f"{task.title}: public model", total=course.steps)
    network = task.network(plan.seed)
    images = [phantom.images for phantom in people]
    train_centrally(
        task,
        network,
        {"phantoms": images[: plan.patients]},
        steps=course.steps,
        batch=course.batch,
        lr=course.lr,
        seed=plan.seed,
        on_step=_advancing(bar, line),
    )
    total = Sums.zero()
    for patient in usable(task, images[plan.patients :]):
        for study in patient.studies:
            total = total + task.score(task.predict(network, study), study)
    state = weights_of(network)
    return PublicModel(
        task=task.name,
        course=course,
        parameters=sum(array.size for array in state.values()),
        data=safetensors.numpy.save(state),
        scores={name: round(value, 4) for name, value in summarise(task.name, total).items()},
    )


def recipe(plan: Plan, people: Sequence[Phantom], models: Sequence[PublicModel]) -> dict[str, Any]:
    """How the weights came about, for people and as JSON: nothing of the time, the user or the folder."""
    return {
        "name": NAME,
        "command": plan.command,
        "origin": ORIGIN,
        "notice": NOTICE,
        "seed": plan.seed,
        "phantoms": {
            "trained_on": dict(sorted(Counter(phantom.kind for phantom in people[: plan.patients]).items())),
            "held_out": dict(sorted(Counter(phantom.kind for phantom in people[plan.patients :]).items())),
            **phantoms.ranges(),
        },
        "tasks": {
            model.task: {
                "file": weights_file(NAME, model.task),
                "sha256": model.sha256,
                "parameters": model.parameters,
                **vars(model.course),
                "optimiser": "Adam, its rate on a half cosine",
                "held_out_phantoms": dict(model.scores),
            }
            for model in models
        },
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "processor": platform.machine(),
        "same_bytes": "on one machine with these versions; not promised across processors or versions",
    }


def _check_folder(out: Path) -> None:
    """Refuse a folder whose content somebody may miss."""
    with output_errors(out):
        if out.exists() and any(out.iterdir()) and not (out / f"{NAME}.json").is_file():
            raise UsageError(f"{out} holds other files", hint="choose a folder that is empty or does not exist yet")


def _advancing(bar: Progress, line: Any) -> Callable[[int], None]:
    return lambda done: bar.update(line, completed=done)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread of torch: sums over several may come in another order, and the weights would not be the same."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
