"""On whom an export is calibrated, fitted and tried: phantoms that any installation can draw, or a hospital's patients.

Files that were fitted to phantoms say no more of patients than the model did, whatever guarantee that has: no patient
is looked at (post-processing: Dwork and Roth 2014, proposition 2.1). Files that were fitted to a hospital's own
patients are that hospital's own, without differential privacy, and must not leave.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from typing import Final, Protocol

from client.cohort import Split
from client.eligible import eligible
from client.evaluation.data import Site, require_anybody
from client.training.loop import usable
from compliance.log import AuditLog
from shared.errors import DataError, UsageError
from shared.imaging.images import PatientImages, StudyImages
from shared.imaging.tasks import Task

SEED: Final = 20260801
"""Of the phantoms: another than that of the public models, so that none of them was trained on."""
FITTED, HELD_OUT = 24, 8
"""Phantoms to fit to, and others to try on, that the task can use."""

Progress = Callable[[int, int], None]


class _Phantom(Protocol):
    @property
    def images(self) -> PatientImages:
        """The images."""


@dataclass(frozen=True)
class People:
    """Those who are looked at; each has at least one study that the task can use.

    Attributes:
        fit: For calibration, fine-tuning and distillation.
        held_out: For the figures; none of ``fit``.
        fitted_to: What ``fit`` are, in words.
        tried_on: What ``held_out`` are, in words.
        patients: Whether ``fit`` are patients.
    """

    fit: tuple[PatientImages, ...]
    held_out: tuple[PatientImages, ...]
    fitted_to: str
    tried_on: str
    patients: bool

    def studies(self, *, held_out: bool) -> list[StudyImages]:
        """All studies of one side."""
        return [study for one in (self.held_out if held_out else self.fit) for study in one.studies]


NOBODY: Final = People((), (), "nothing", "nothing", patients=False)


def phantoms_here() -> Callable[[int, int], _Phantom] | None:
    """What draws a phantom from a seed and a number, where the room that can is installed."""
    for point in entry_points(group="fedward.phantoms"):
        try:
            draw: Callable[[int, int], _Phantom] = point.load()
        except ModuleNotFoundError:
            continue
        return draw
    return None


def phantoms(task: Task, *, fit: int, on_progress: Progress = lambda _, __: None) -> People:
    """Phantoms, the same ones in every export; none of a public model's.

    Args:
        task: What they must be fit for.
        fit: How many to fit to.
        on_progress: Called with the phantoms drawn and those wanted.

    Returns:
        Those; :data:`NOBODY` where none is wanted to fit to and the task can use none, such as one of two contrasts.

    Raises:
        UsageError: This installation cannot draw any.
        DataError: What they are made from is missing, or the task can use none of them to fit to.
    """
    draw = phantoms_here()
    if draw is None:
        raise UsageError(
            "this installation draws no phantoms: the simulation is not installed",
            hint="install fedward[simulation], or take the node's own patients: --data NODE --own-patients",
        )
    found: list[PatientImages] = []
    for number in range(4 * (fit + HELD_OUT)):
        if len(found) == fit + HELD_OUT:
            break
        found += usable(task, [draw(SEED, number).images])
        on_progress(len(found), fit + HELD_OUT)
    if not fit and not found:
        return NOBODY
    if len(found) < HELD_OUT + min(fit, 1):
        raise DataError(
            f"no phantom can be used for the task {task.name}",
            hint="take the node's own patients: --data NODE --own-patients",
        )
    return People(
        tuple(found[HELD_OUT:]), tuple(found[:HELD_OUT]), "synthetic phantoms", "synthetic phantoms", patients=False
    )


@dataclass(frozen=True)
class Chosen:
    """Who of a node is looked at, before an image is read.

    Attributes:
        site: The node and its test patients.
        train: Training patients; empty where no patient is fitted to.
    """

    site: Site
    train: tuple[str, ...]


def choose(log: AuditLog, site: Site, task: Task, *, own: bool) -> Chosen:
    """Those who may take part today, by the index and the register alone.

    Raises:
        DataError: There is no test patient, or no training patient where ``own``.
        RecordError: The register does not hold.
    """
    require_anybody([site])
    if not own:
        return Chosen(site, ())
    listed = [
        one.key
        for one in site.cohort.entries
        if one.split is Split.TRAIN and any(study.modality in task.modalities for study in one.studies)
    ]
    train = eligible(listed, site.node, log=log)
    if not train:
        raise DataError(
            "no training patient of this node may take part today",
            hint="leave out --own-patients, or see 'fedward node consent' (docs/consent.md)",
        )
    return Chosen(site, train)


def patients(task: Task, chosen: Chosen, instead: People | None) -> People:
    """The images of those who were chosen.

    Args:
        task: The task.
        chosen: Who.
        instead: Phantoms to fit to; None where it is the node's own patients.

    Raises:
        DataError: A cached file is gone or damaged, or no study can be used.
    """
    site = chosen.site
    held = _judged(task, usable(task, [site.cohort.load(key) for key in site.patients]))
    if not held:
        raise DataError(
            f"no study of the test patients can be used for the task {task.name}",
            hint=f"it needs {' or '.join(sorted(task.modalities))}, and labels to segment or else a reference series",
        )
    tried = f"test patients of {site.name}"
    if instead is not None:
        return replace(instead, held_out=tuple(held), tried_on=tried)
    fit = usable(task, [site.cohort.load(key) for key in chosen.train])
    if not fit:
        raise DataError(f"no study of the training patients can be used for {task.name}", hint="take phantoms")
    return People(tuple(fit), tuple(held), f"training patients of {site.name}", tried, patients=True)


def _judged(task: Task, people: list[PatientImages]) -> list[PatientImages]:
    """Those studies that say how good a network is, and who has one."""
    kept = [replace(one, studies=tuple(filter(task.judged, one.studies))) for one in people]
    return [one for one in kept if one.studies]
